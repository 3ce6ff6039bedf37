"""Data poisoning of Engstrom et al. (2025): a few images that spoil a training.

    λ ← clip(λ + η sign(dF/dλ), 0, 1),   F(λ) = validation loss after training on λ

λ are pixels of the first training images, whose labels stay what they were.
"""

import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Steps, curve, paper
from experiments.papers.descent import descend, estimated
from experiments.papers.engstrom import Count, Training
from experiments.papers.images import Images

_ATTACK, _NOISE, _FRESH = 1000, 1, 2  # what keys are folded with


@paper("engstrom2025_poisoning")
class Poisoning(Training):
    """Options beside those of the training.

    Attributes:
        num_poisons: how many of the training images are the attacker's.
        num_steps: T.
        num_outer_steps: of the attack.
        pixel_step: η.
        fresh_keys: other initial weights and batches at each outer step; without them
            the poison is made for one training.
        num_retrainings: with fresh keys, of which accuracies are means.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss", ("loss",), "outer step", "F(λ)"),
        Panel("One training", ("accuracy",), "outer step", "accuracy on validation"),
    )

    num_poisons: Count = 10
    num_steps: Count = 100
    num_outer_steps: Count = 30
    pixel_step: float = 0.05
    fresh_keys: bool = True
    num_retrainings: Annotated[int, Field(ge=1, le=_ATTACK - _FRESH)] = 5

    def batch_loss(self, losses, hparams, batch):
        """The mean, λ in place of the rows that the attacker owns."""
        inputs, labels, row = batch
        count = len(hparams)
        owned = hparams[jnp.minimum(row, count - 1)]
        return jnp.mean(
            losses(jnp.where((row < count)[:, None], owned, inputs), labels)
        )

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """loss: F; accuracy: of one key. test_NAME: on all rows that are left."""
        if self.num_poisons > self.num_train:
            raise ValueError(
                f"num_poisons ({self.num_poisons}) exceeds num_train ({self.num_train})"
            )
        key, (problem, model) = jax.random.key(seed), self.problem(self.num_steps)
        train, valid, test = self.rows()
        clean, seen = jnp.asarray(train.inputs[: self.num_poisons], float), []

        trained = jax.jit(hg.train)

        def accuracy(hparams, key, rows: Images) -> float:
            weights = trained(problem, hparams, key).weights
            guesses = jnp.argmax(model.apply(weights, rows.inputs), 1)
            return float(np.mean(guesses == rows.labels))

        def look(step: int, hparams: jax.Array) -> None:
            seen.append(accuracy(hparams, key, valid))

        def uphill(hparams, step):
            own = jax.random.fold_in(key, _ATTACK + step) if self.fresh_keys else key
            value, slope = estimated(problem, estimator, own)(hparams, step)
            return value, -jnp.sign(slope)

        found = descend(
            uphill,
            clean,
            optax.sgd(self.pixel_step),
            self.num_outer_steps,
            report,
            project=lambda hparams: jnp.clip(hparams, 0.0, 1.0),
            look=look,
        )
        noise = jax.random.uniform(jax.random.fold_in(key, _NOISE), clean.shape)
        variants = {"clean": clean, "noise": noise, "poisoned": found.hparams}
        keys = [
            jax.random.fold_in(key, _FRESH + i) for i in range(self.num_retrainings)
        ]
        numbers = {
            f"test_{name}": float(np.mean([accuracy(rows, own, test) for own in keys]))
            for name, rows in variants.items()
        }
        return Measured(
            numbers=numbers,
            curves={"loss": curve(found.values), "accuracy": curve(seen)},
            pictures=pictures(clean=clean, poisoned=found.hparams),
        )


def pictures(**rows: jax.Array) -> dict[str, list]:
    """Rows of pixels as images, where they are square."""
    return {
        name: np.asarray(each).reshape(-1, side, side).tolist()
        for name, each in rows.items()
        if (side := math.isqrt(each.shape[1])) ** 2 == each.shape[1]
    }
