"""What the works on digits share: a classifier's training, and what peers get of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.works.base import flat_arrays
from benchmarks.works.data import Split
from hypergrad.batches import IndexTable
from hypergrad.estimators import Estimator, Reverse
from hypergrad.gradients import Plain
from hypergrad.models import Model
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key
from hypergrad.unroll import EveryStep, NoCheckpoint, Segments

# One line a contender: estimators, whatever checkpointing and inner gradient they have.
CONTENDERS: dict[str, Estimator] = {
    "Reverse(EveryStep, Mixed)": Reverse(EveryStep()),
    "Reverse(EveryStep, Plain)": Reverse(EveryStep(), gradient=Plain()),
    "Reverse(NoCheckpoint, Mixed)": Reverse(NoCheckpoint()),
    "Reverse(NoCheckpoint, Plain)": Reverse(NoCheckpoint(), gradient=Plain()),
    "Reverse(Segments, Mixed)": Reverse(Segments()),
}


@dataclass(frozen=True)
class CrossEntropy:
    """The mean of −log p(label), λ apart."""

    apply: Any

    def __call__(self, weights, hparams, batch):
        """`(weights, hparams, (inputs, labels)) -> scalar`."""
        inputs, labels = batch
        losses = optax.softmax_cross_entropy_with_integer_labels(
            self.apply(weights, inputs), labels
        )
        return jnp.mean(losses)


def problem_of(
    model: Model,
    optimizer: Callable[[HParams], optax.GradientTransformation],
    split: Split,
    steps: int,
    *,
    table: np.ndarray | None = None,
    batch_size: int | None = None,
) -> Problem:
    """The training of a classifier.

    Args:
      model: of the classifier.
      optimizer: from λ.
      split: the data.
      steps: T.
      table: rows of each step, that a peer can replay, or
      batch_size: of rows drawn by the key.
    """
    loss = CrossEntropy(model.apply)
    return Problem(
        init=lambda key, hp: model.init(key),
        inner_loss=loss,
        outer_loss=loss,
        optimizer=optimizer,
        train=split.train,
        valid=split.valid,
        num_steps=steps,
        batch_size=batch_size,
        batches=None if table is None else IndexTable(jnp.asarray(table)),
    )


def split_arrays(split: Split) -> dict[str, np.ndarray]:
    """The data as peers get them."""
    return {**flat_arrays("train", split.train), **flat_arrays("valid", split.valid)}


def training_arrays(
    problem: Problem, hparams: HParams, key: Key, split: Split, table: np.ndarray
) -> dict[str, np.ndarray]:
    """All that a peer needs for the same training."""
    return {
        **flat_arrays("weights", problem.start(hparams, key).weights),
        **flat_arrays("hparams", hparams),
        **split_arrays(split),
        "batches": table,
    }
