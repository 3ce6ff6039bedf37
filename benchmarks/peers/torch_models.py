"""Weights, losses and leaves in torch, shared by the torch peers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.program import Job, Outcome, Program, tried

torch.set_num_threads(1)

Weights = list[Tensor]
Forward = Callable[[Sequence[Tensor], Tensor], Tensor]


class Training(NamedTuple):
    """Everything of a work but how its optimiser is differentiated.

    Attributes:
      weights: w_0, leaves.
      forward: `(weights, inputs) -> logits`.
      train: all training inputs and labels.
      valid: those of the outer loss.
      batches: rows of each step.
      hparams: λ by name.
    """

    weights: Weights
    forward: Forward
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    batches: Tensor
    hparams: dict[str, Tensor]

    def batch_loss(self, weights: Sequence[Tensor], t: int) -> Tensor:
        """The loss of step t's batch."""
        inputs, labels = (part[self.batches[t]] for part in self.train)
        return functional.cross_entropy(self.forward(weights, inputs), labels)

    def outer_loss(self, weights: Sequence[Tensor]) -> Tensor:
        """The loss of the validation rows."""
        inputs, labels = self.valid
        return functional.cross_entropy(self.forward(weights, inputs), labels)

    def leaves(self, differentiated: Sequence[str]) -> dict[str, Tensor]:
        """Fresh λ; only the named ones require a gradient."""
        return {
            name: value.clone().requires_grad_(name in differentiated)
            for name, value in self.hparams.items()
        }

    def fresh_weights(self) -> Weights:
        """w_0 anew, requiring gradients."""
        return [w.clone().requires_grad_() for w in self.weights]


Train = Callable[[Training, dict[str, Tensor], int], Sequence[Tensor]]
"""`(training, λ, steps) -> w_T` with its graph."""


def perceptron_training(job: Job) -> Training:
    """W1 and Wide."""
    return _training(job, [_tensor(w) for w in job.group("weights").values()], _mlp)


def convolutional_training(job: Job) -> Training:
    """W2: kernels and images in torch's own layout, so that nothing is paid at run."""
    named = job.group("weights")
    weights = []
    for layer in ("first", "second"):
        kernel = _tensor(named[f"{layer}/kernel"])  # height, width, in, out
        weights += [
            _tensor(named[f"{layer}/bias"]),
            kernel.permute(3, 2, 0, 1).contiguous(),
        ]
    dense = _tensor(named["dense/kernel"])
    channels = weights[-1].shape[0]
    side = round((len(dense) / channels) ** 0.5)
    # Rows of the dense kernel in the order of (channel, height, width).
    dense = dense.reshape(side, side, channels, -1).permute(2, 0, 1, 3)
    weights += [_tensor(named["dense/bias"]), dense.reshape(channels * side**2, -1)]
    training = _training(job, weights, _cnn)

    def images(part):
        return part[0].permute(0, 3, 1, 2).contiguous(), part[1]

    return training._replace(train=images(training.train), valid=images(training.valid))


def hypergradient_program(
    training: Training, train: Train, notes: Sequence[str] = (), probe_steps: int = 2
) -> Program:
    """F and dF/dλ by reverse mode, for the hyperparameters that the library lets.

    Args:
      training: the work.
      train: the library's training.
      notes: what a reader should know.
      probe_steps: length of the trainings that find out what is differentiated.
    """

    def gradients(names, steps):
        hparams = training.leaves(names)
        value = training.outer_loss(train(training, hparams, steps))
        found = torch.autograd.grad(
            value, [hparams[name] for name in names], allow_unused=True
        )
        return value, dict(zip(names, found, strict=True))

    steps = len(training.batches)
    names = list(training.hparams)
    unsupported = tried(
        names, lambda name: gradients([name], min(probe_steps, steps))[1][name]
    )
    supported = [name for name in names if name not in unsupported]

    def run():
        value, found = gradients(supported, steps)
        return Outcome(value.item(), {n: g.numpy() for n, g in found.items()})

    return Program(run, unsupported, notes)


def forward_program(training: Training, train: Train) -> Program:
    """F alone: the training as torch's own user writes it."""

    def run(steps=len(training.batches)):
        weights = train(training, training.leaves(()), steps)
        with torch.no_grad():
            return Outcome(training.outer_loss(weights).item(), {})

    run(1)  # what torch loads when it is first used is not the training's memory
    return Program(run, notes=("no hypergradient",))


def _training(job: Job, weights: Weights, forward: Forward) -> Training:
    def rows(name):
        inputs, labels = job.group(name).values()
        return _tensor(inputs), torch.as_tensor(labels).long()

    hparams = {name: _tensor(array) for name, array in job.group("hparams").items()}
    batches = torch.as_tensor(job.arrays["batches"]).long()
    return Training(weights, forward, rows("train"), rows("valid"), batches, hparams)


def _tensor(array) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def _mlp(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    # Handed over in the order bias, kernel, layer by layer.
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for number, (bias, kernel) in enumerate(pairs):
        x = x @ kernel + bias
        if number < len(pairs) - 1:
            x = torch.tanh(x)
    return x


def _cnn(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    for bias, kernel in (weights[:2], weights[2:4]):
        x = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
        x = functional.max_pool2d(x, 2)
    return x.flatten(1) @ weights[5] + weights[4]
