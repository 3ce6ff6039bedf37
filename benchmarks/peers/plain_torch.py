"""Torch without a library on top: functional updates and `create_graph=True`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.peers.program import Job, Program
from benchmarks.peers.torch_models import (
    Training,
    convolutional_training,
    forward_program,
    hypergradient_program,
    perceptron_training,
)

B2, EPS = 0.999, 1e-8


def perceptron(job: Job) -> Program:
    """W1 and Wide."""
    return hypergradient_program(perceptron_training(job), momentum)


def perceptron_forward(job: Job) -> Program:
    """W1 and Wide without a hypergradient, by `torch.optim.SGD`."""
    return forward_program(perceptron_training(job), by_optim_sgd)


def convolutional(job: Job) -> Program:
    """W2."""
    return hypergradient_program(convolutional_training(job), adam)


def convolutional_forward(job: Job) -> Program:
    """W2 without a hypergradient, by `torch.optim.Adam`."""
    return forward_program(convolutional_training(job), by_optim_adam)


def momentum(training: Training, hparams, steps: int) -> Sequence[Tensor]:
    """Momentum: v' = γ v + g + decay w, w' = w − rate_t v'."""
    weights = training.fresh_weights()
    velocity = [torch.zeros_like(w) for w in weights]
    for t in range(steps):
        grads = _gradients(training, weights, t)
        velocity = [
            hparams["momentum"] * v + g + hparams["decay"] * w
            for v, g, w in zip(velocity, grads, weights, strict=True)
        ]
        rate = hparams["rates"][t]
        weights = [w - rate * v for w, v in zip(weights, velocity, strict=True)]
    return weights


def adam(training: Training, hparams, steps: int) -> Sequence[Tensor]:
    """Adam on g + decay w, b1 a tensor."""
    rate, b1, decay = (hparams[name] for name in ("rate", "b1", "decay"))
    weights = training.fresh_weights()
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    for t in range(steps):
        grads = _gradients(training, weights, t)
        grads = [g + decay * w for g, w in zip(grads, weights, strict=True)]
        first = [b1 * m + (1 - b1) * g for m, g in zip(first, grads, strict=True)]
        second = [B2 * v + (1 - B2) * g * g for v, g in zip(second, grads, strict=True)]
        scale, root = 1 - b1 ** (t + 1), (1 - B2 ** (t + 1)) ** 0.5
        weights = [
            w - rate / scale * m / (_root(v) / root + EPS)
            for w, m, v in zip(weights, first, second, strict=True)
        ]
    return weights


def by_optim_sgd(training: Training, hparams, steps: int) -> Sequence[Tensor]:
    """The same training by torch's own optimiser."""
    weights = training.fresh_weights()
    optimizer = torch.optim.SGD(
        weights,
        momentum=hparams["momentum"].item(),
        weight_decay=hparams["decay"].item(),
    )
    rates = hparams["rates"].tolist()
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = rates[t]
        _optim_step(training, optimizer, weights, t)
    return weights


def by_optim_adam(training: Training, hparams, steps: int) -> Sequence[Tensor]:
    """The same training by torch's own optimiser."""
    weights = training.fresh_weights()
    optimizer = torch.optim.Adam(
        weights,
        lr=hparams["rate"].item(),
        betas=(hparams["b1"].item(), B2),
        weight_decay=hparams["decay"].item(),
    )
    for t in range(steps):
        _optim_step(training, optimizer, weights, t)
    return weights


def _optim_step(training, optimizer, weights, t):
    optimizer.zero_grad()
    training.batch_loss(weights, t).backward()
    optimizer.step()


def _gradients(training, weights, t):
    loss = training.batch_loss(weights, t)
    return torch.autograd.grad(loss, weights, create_graph=True)


def _root(v: Tensor) -> Tensor:
    # √v has an infinite derivative at 0, where a dead unit's second moment stays.
    return torch.where(v > 0, v, 1.0).sqrt() * (v > 0)
