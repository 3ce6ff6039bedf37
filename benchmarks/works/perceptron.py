"""W1 and Wide: a perceptron trained by momentum, T + 2 hyperparameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.programs import Program, of_estimator
from benchmarks.works.base import FORWARD, Work, flat_arrays, floats, history_bytes
from benchmarks.works.data import Split, batch_table
from hypergrad.batches import IndexTable
from hypergrad.estimators import Estimator, Value
from hypergrad.models import mlp
from hypergrad.problem import Problem
from hypergrad.schedules import Table
from hypergrad.typing import HParams

RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-4


@dataclass(frozen=True)
class CrossEntropy:
    """The mean of −log p(label), λ apart; equal ones are traced once."""

    sizes: tuple[int, ...]

    def __call__(self, weights, hparams, batch):
        """`(weights, hparams, (inputs, labels)) -> scalar`."""
        inputs, labels = batch
        logits = mlp(self.sizes, jnp.tanh).apply(weights, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses)


def optimizer(hparams: HParams) -> optax.GradientTransformation:
    """Momentum: v' = γ v + g + decay w, w' = w − rate_t v'."""
    return optax.chain(
        optax.add_decayed_weights(hparams["decay"]),
        optax.sgd(Table(hparams["rates"]), momentum=hparams["momentum"]),
    )


def hyperparameters(steps: int) -> dict[str, jax.Array]:
    """T learning rates, momentum and weight decay."""
    return {
        "rates": floats(np.full(steps, RATE)),
        "momentum": floats(MOMENTUM),
        "decay": floats(DECAY),
    }


def problem_of(
    sizes: Sequence[int], split: Split, table: np.ndarray, steps: int
) -> Problem:
    """The training of an MLP of these widths on a table of batches."""
    loss = CrossEntropy(tuple(sizes))
    return Problem(
        init=lambda key, hp: mlp(sizes).init(key),
        inner_loss=loss,
        outer_loss=loss,
        optimizer=optimizer,
        train=split.train,
        valid=split.valid,
        num_steps=steps,
        batches=IndexTable(jnp.asarray(table)),
    )


def make_work(
    name: str,
    title: str,
    sizes: Sequence[int],
    split: Split,
    steps: int,
    batch_size: int,
    contenders: Mapping[str, Estimator],
    reference: str,
    tolerance: float,
) -> Work:
    """The work of an MLP of these widths.

    Args:
      name: of the work.
      title: of the work.
      sizes: widths from input to output.
      split: the data.
      steps: T.
      batch_size: rows a step.
      contenders: estimators by name.
      reference: the contender whose hypergradient counts as right.
      tolerance: see `Work`.
    """
    table = batch_table(len(split.train[1]), steps, batch_size)
    problem = problem_of(sizes, split, table, steps)
    hparams, key = hyperparameters(steps), jax.random.key(0)
    programs: dict[str, Program] = {
        label: of_estimator(problem, estimator, hparams, key)
        for label, estimator in {FORWARD: Value(), **contenders}.items()
    }
    return Work(
        name,
        title,
        programs,
        reference,
        tolerance,
        steps,
        history_bytes=history_bytes(problem, hparams, key),
        peers={
            "torch, forward training": "plain_torch:perceptron_forward",
            "plain torch": "plain_torch:perceptron",
            "TorchOpt MetaSGD": "with_torchopt:perceptron",
            "higher": "with_higher:perceptron",
        },
        arrays={
            **flat_arrays("weights", problem.start(hparams, key).weights),
            **flat_arrays("hparams", hparams),
            **flat_arrays("train", split.train),
            **flat_arrays("valid", split.valid),
            "batches": table,
        },
        problem=problem,
        hparams=hparams,
        key=key,
    )
