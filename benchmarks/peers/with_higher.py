"""higher's differentiable optimisers, their settings overridden at each step."""

import higher
import torch

from benchmarks.peers.plain_torch import B2, EPS
from benchmarks.peers.program import Job, Program
from benchmarks.peers.torch_models import (
    Training,
    convolutional_training,
    hypergradient_program,
    perceptron_training,
)


def perceptron(job: Job) -> Program:
    """W1 and Wide by the differentiable counterpart of `torch.optim.SGD`."""
    return hypergradient_program(perceptron_training(job), sgd)


def convolutional(job: Job) -> Program:
    """W2 by the differentiable counterpart of `torch.optim.Adam`."""
    return hypergradient_program(convolutional_training(job), adam)


def sgd(training: Training, hparams, steps: int):
    """Rate, momentum and decay overridden with tensors."""

    def settings(t):
        return {
            "lr": [hparams["rates"][t]],
            "momentum": [hparams["momentum"]],
            "weight_decay": [hparams["decay"]],
        }

    weights = training.fresh_weights()
    optimizer = torch.optim.SGD(weights, lr=1.0, momentum=0.5, weight_decay=1.0)
    return _trained(training, weights, optimizer, settings, steps)


def adam(training: Training, hparams, steps: int):
    """Rate, b1 and decay overridden with tensors."""

    def settings(t):
        return {
            "lr": [hparams["rate"]],
            "betas": [(hparams["b1"], B2)],
            "weight_decay": [hparams["decay"]],
            # higher adds eps before it corrects the bias, and everyone else after.
            "eps": [EPS * (1 - B2 ** (t + 1)) ** 0.5],
        }

    weights = training.fresh_weights()
    optimizer = torch.optim.Adam(weights, lr=1.0, weight_decay=1.0)
    return _trained(training, weights, optimizer, settings, steps)


def _trained(training, weights, optimizer, settings, steps):
    differentiable = higher.optim.get_diff_optim(optimizer, weights)
    for t in range(steps):
        loss = training.batch_loss(weights, t)
        weights = differentiable.step(loss, params=weights, override=settings(t))
    return weights
