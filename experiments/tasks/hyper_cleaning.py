"""Data hyper-cleaning: which labels are wrong, found by a weight for each training row.

    w_T(λ): T steps on (1/n) Σ_i λ_i loss(w; x_i, y_i),   F = loss of w_T on clean rows

with λ in [0, 1]^n and, if asked for, Σ λ <= total. A softmax regression is trained by
full-batch gradient descent from zero; rows of hardly any weight count as removed.

Source: Franceschi et al., Forward and reverse gradient-based hyperparameter
optimization (2017), section 5.1.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.registry import register
from experiments.supervised.networks import AnyNetwork, Perceptron
from experiments.supervised.task import Count, Source, Supervised
from experiments.tasks.images import image_source
from hypergrad.projections import CappedSimplex

SHOWN = 12  # images in a picture


@register("hyper_cleaning")
class HyperCleaning(Supervised):
    """Options of the task, beside those of `Supervised`.

    Attributes:
        source: the data set; "digits" needs no file.
        total: R, the most that the weights may sum to; none by default.
        threshold: a row of less weight counts as removed.
    """

    source: ImageSet = "digits"
    total: Annotated[float, Field(gt=0)] | None = None
    threshold: Annotated[float, Field(gt=0, le=1)] = 1e-3
    model: AnyNetwork = Perceptron(depth=0)
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("example_weights",)
    fixed: dict[str, float] = {"rate": 1.0, "momentum": 0.0, "init_scale": 0.0}
    batch_size: Annotated[int, Field(ge=0)] = 0
    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.5
    num_train: Count = 400
    num_valid: Count = 200

    @model_validator(mode="after")
    def _total_is_of_weights(self):
        if self.total is not None and "example_weights" not in self.tune:
            raise ValueError("total is that of example_weights, which tune leaves out")
        return self

    def data(self) -> Source:
        """Images [n, height, width, channels] in [0, 1]."""
        return image_source(self.source)

    def space(self) -> hg.Space:
        """The hyperparameters of `tune`; the weights in their set."""
        entries = dict(super().space().entries)
        weights = entries.get("example_weights")
        if self.total is not None and isinstance(weights, hg.Linear):
            entries["example_weights"] = dataclasses.replace(
                weights,
                default=min(1.0, self.total / self.num_train),
                constraint=CappedSimplex(self.total),
            )
        return hg.Space(entries)

    def validation(self, seed: int):
        """Metrics of the validation rows, and how well wrong labels were found."""
        return self._with_removed(seed, super().validation(seed))

    def test(self, seed: int):
        """Metrics of the test rows, and how well wrong labels were found."""
        return self._with_removed(seed, super().test(seed))

    def pictures(self, seed, hparams):
        """The training rows of the least weight."""
        weights = np.asarray(hparams.get("example_weights", 1.0))
        if np.ptp(weights) == 0:
            return {}
        least = np.argsort(weights)[:SHOWN]
        return {"rows of the least weight": self.splits(seed).train.inputs[least]}

    def _with_removed(self, seed: int, metrics):
        if "example_weights" not in self.tune:
            return metrics
        train = self.splits(seed).train
        wrong = jnp.asarray(train.targets != train.truth)
        retrained = self._retrained(seed, metrics)

        def all_metrics(state, hparams):
            kept = hparams["example_weights"] >= self.threshold
            found = f1(removed=~kept, wrong=wrong)
            return {**metrics(state, hparams), **found, **retrained(hparams, kept)}

        return all_metrics

    def _retrained(self, seed: int, metrics):
        """Metrics of weights trained on the rows that were kept, and validation."""
        others = tuple(name for name in self.tune if name != "example_weights")
        update = {"fit_on": "both", "tune": others, "total": None}
        problem = self.model_copy(update=update).problem(seed)

        def retrained(hparams, kept):
            rows = jnp.concatenate([kept, jnp.ones(self.num_valid, bool)])
            weights = rows * (rows.size / jnp.sum(rows))
            hparams = {**hparams, "example_weights": weights}
            found = metrics(hg.train(problem, hparams, jax.random.key(seed)), hparams)
            return {f"{name}_retrained": value for name, value in found.items()}

        return retrained


def f1(*, removed, wrong):
    """Precision p and recall r of a set of rows, and 2pr/(p + r); 0/0 is 0.

    Args:
        removed: bool [n], rows taken for wrong.
        wrong: bool [n], those that are.

    >>> found = f1(removed=jnp.array([True, True, False]), wrong=jnp.array([True] * 3))
    >>> print({name: round(float(value), 3) for name, value in found.items()})
    {'removed': 2.0, 'precision': 1.0, 'recall': 0.667, 'f1': 0.8}
    """
    hits, taken, there = (
        jnp.sum(x.astype(float)) for x in (removed & wrong, removed, wrong)
    )
    return {
        "removed": taken,
        "precision": hits / jnp.maximum(taken, 1.0),
        "recall": hits / jnp.maximum(there, 1.0),
        "f1": 2.0 * hits / jnp.maximum(taken + there, 1.0),
    }
