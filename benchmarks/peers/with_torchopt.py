"""TorchOpt's differentiable optimisers, on a module as its documentation has it.

Weight decay is not handed to the optimiser, whose `alpha=weight_decay` takes numbers
only: it enters the loss as decay/2 ‖w‖², which is the same training.
"""

import torch
import torchopt
from torch import nn

from benchmarks.peers.plain_torch import B2, EPS
from benchmarks.peers.program import Job, Program
from benchmarks.peers.torch_models import (
    Training,
    convolutional_training,
    hypergradient_program,
    perceptron_training,
)

_NOTE = "decay as a term of the loss"


class Holder(nn.Module):
    """The weights as a module's parameters, which TorchOpt replaces at each step."""

    def __init__(self, weights):
        super().__init__()
        self._count = len(weights)
        for number, w in enumerate(weights):
            self.register_parameter(f"w{number}", nn.Parameter(w.clone()))

    def weights(self) -> list[torch.Tensor]:
        """In the order they were given."""
        return [getattr(self, f"w{number}") for number in range(self._count)]


def perceptron(job: Job) -> Program:
    """W1 and Wide by `MetaSGD`."""
    return hypergradient_program(perceptron_training(job), meta_sgd, (_NOTE,))


def convolutional(job: Job) -> Program:
    """W2 by `MetaAdam`."""
    return hypergradient_program(convolutional_training(job), meta_adam, (_NOTE,))


def meta_sgd(training: Training, hparams, steps: int):
    """The rates as a schedule of the step's number."""
    holder = Holder(training.weights)
    optimizer = torchopt.MetaSGD(
        holder,
        lr=lambda count: hparams["rates"][count],
        momentum=_number(hparams["momentum"]),
    )
    return _trained(training, holder, optimizer, hparams["decay"], steps)


def meta_adam(training: Training, hparams, steps: int):
    """Rate and b1 as the optimiser's arguments."""
    holder = Holder(training.weights)
    optimizer = torchopt.MetaAdam(
        holder,
        lr=hparams["rate"],
        betas=(_number(hparams["b1"]), B2),
        eps=EPS,
        eps_root=1e-16,  # without one the derivative of √0 is infinite
    )
    return _trained(training, holder, optimizer, hparams["decay"], steps)


def _trained(training, holder, optimizer, decay, steps):
    for t in range(steps):
        weights = holder.weights()
        squares = sum(w.square().sum() for w in weights)
        optimizer.step(training.batch_loss(weights, t) + 0.5 * decay * squares)
    return holder.weights()


def _number(value: torch.Tensor):
    return value if value.requires_grad else value.item()
