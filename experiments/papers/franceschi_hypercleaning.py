"""Data hyper-cleaning of Franceschi, Donini, Frasconi and Pontil (2017), section 5.1.

    w_T(λ): T steps on (1/n) Σ_i λ_i ℓ(w; x_i, y_i),   F(λ) = mean ℓ of clean rows
    min F over λ in [0, 1]^n with Σ λ <= R

Half of the labels are wrong. Rows whose λ ends below a threshold are removed, and a
softmax regression is trained on what is kept and the clean rows. Two other choices of
rows bound it: all of them, and those that are known to be right.
"""

from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.descent import descend, estimated
from experiments.papers.images import Images, images
from experiments.tasks.hyper_cleaning import f1

NUM_CLASSES = 10

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Rows(NamedTuple):
    """Three parts of an image set; `wrong` says which labels of `train` are."""

    train: Images
    valid: Images
    test: Images
    wrong: np.ndarray


@paper("franceschi2017_hypercleaning")
class HyperCleaning(Paper):
    """Options.

    Attributes:
        source: the images; training, validation and test rows follow each other.
        skip: rows before them; 5,000 in the authors' loader, which puts the first last.
        num_train, num_valid, num_test: how many.
        noise: part of the training labels that are changed to another class.
        keep: rows of the final training: those that λ keeps, all, or the right ones.
        share: R/n.
        num_steps: T, of every training by λ.
        rate: of the final training's descent; that by λ takes n/R times as much, for
            the weights are R/n in the mean.
        final_steps: of the final training; the authors' code takes 2,000 of rate 0.1.
        outer: the optimiser of λ, which starts at R/n and is projected at each step.
        num_outer_steps: its steps.
        threshold: a row of less weight is removed.
        final: rows of the final training count as `kept` or not, or, as in the authors'
            code, `weighted` by λ, the clean ones by max λ, at 1/max λ times the rate.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss", ("loss",), "outer step", "F(λ)"),
        Panel("Wrong labels found", ("f1_curve",), "outer step", "F1"),
        Panel("Rows removed", ("removed_curve",), "outer step", "rows"),
    )

    source: ImageSet = "mnist"
    skip: Annotated[int, Field(ge=0)] = 0
    num_train: Count = 5_000
    num_valid: Count = 5_000
    num_test: Count = 10_000
    noise: Annotated[float, Field(gt=0, lt=1)] = 0.5
    keep: Literal["learned", "all", "right"] = "learned"
    share: Annotated[float, Field(gt=0, le=1)] = 0.3
    num_steps: Count = 100
    rate: Positive = 0.3
    final_steps: Count = 700
    outer: hg.Outer = hg.Outer("adam", learning_rate=0.01, clip=float("inf"))
    num_outer_steps: Count = 100
    threshold: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    final: Literal["kept", "weighted"] = "kept"

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """accuracy: of test rows, in percent; f1 and so on: of the rows removed."""
        rows = self.rows(seed)
        if self.keep != "learned":
            ones = np.ones(self.num_train)
            weights = jnp.asarray(ones if self.keep == "all" else ~rows.wrong)
            report(1, 1)
            accuracy = self.accuracy(rows, weights >= self.threshold, weights)
            return Measured(numbers=numbers(accuracy=accuracy))
        rate = self.rate / self.share
        problem = self.problem(rows.train, rows.valid, rate, self.num_steps)
        found, wrong = [], jnp.asarray(rows.wrong)

        def look(step, weights):
            found.append(f1(removed=weights < self.threshold, wrong=wrong))

        start = jnp.full(self.num_train, self.share)
        within = hg.CappedSimplex(self.share * self.num_train)
        descent = descend(
            estimated(problem, estimator, jax.random.key(seed)),
            start,
            self.outer.transformation(),
            self.num_outer_steps,
            report,
            project=lambda x: within.project(x, 0.0, 1.0),
            look=look,
        )
        weights = descent.hparams
        accuracy = self.accuracy(rows, weights >= self.threshold, weights)
        return Measured(
            numbers=numbers(accuracy=accuracy, sum=jnp.sum(weights), **found[-1]),
            curves={
                "loss": curve(descent.values),
                "f1_curve": curve([each["f1"] for each in found]),
                "removed_curve": curve([each["removed"] for each in found]),
            },
        )

    def rows(self, seed: int) -> Rows:
        """Consecutive rows of the source; the seed chooses labels and changes them."""
        data, sizes = images(self.source), (self.num_train, self.num_valid)
        first, second = self.skip + np.cumsum(sizes)
        train = data.rows(self.skip, first)
        rng, num_classes = np.random.default_rng(seed), NUM_CLASSES
        wrong = np.zeros(self.num_train, bool)
        wrong[rng.permutation(self.num_train)[: int(self.num_train * self.noise)]] = 1
        shift = rng.integers(1, num_classes, size=self.num_train)
        labels = np.where(wrong, (train.labels + shift) % num_classes, train.labels)
        return Rows(
            train._replace(labels=labels.astype(train.labels.dtype)),
            data.rows(first, second),
            data.rows(second, second + self.num_test),
            wrong,
        )

    def problem(
        self, train: Images, valid: Images, rate: float, num_steps: int
    ) -> hg.Problem:
        """Softmax regression by full-batch descent; λ weighs the training rows.

        Args:
            train: rows with a λ_i each.
            valid: rows of the outer loss.
            rate: of the descent.
            num_steps: T.
        """
        classes, pixels = NUM_CLASSES, valid.inputs.shape[1]
        return hg.Problem(
            # [classes, pixels]: products with it are twice as fast as with the other.
            init=lambda key, hp: (jnp.zeros((classes, pixels)), jnp.zeros(classes)),
            inner_loss=lambda w, hp, batch: hg.weighted_mean(losses(w, batch), hp),
            outer_loss=lambda w, hp, batch: jnp.mean(losses(w, batch)),
            optimizer=lambda hp: optax.sgd(rate),
            train=train.batch(),
            valid=valid.batch(),
            num_steps=num_steps,
        )

    def accuracy(self, rows: Rows, kept: jax.Array, weights: jax.Array) -> jax.Array:
        """Percent of test rows that are right after the final training.

        Args:
            rows: the data.
            kept: [n], which training rows there are.
            weights: [n], λ.
        """
        pairs = zip(rows.train, rows.valid, strict=True)
        both = Images(*(np.concatenate(pair) for pair in pairs))
        rate = self.rate
        if self.final == "weighted":
            largest = jnp.max(weights)
            weights = jnp.concatenate([weights, jnp.full(self.num_valid, largest)])
            rate = rate / float(largest)
        else:
            weights = jnp.concatenate([kept, jnp.ones(self.num_valid, bool)])
            weights = weights * (weights.size / jnp.sum(weights))  # of the kept
        problem = self.problem(both, rows.valid, rate, self.final_steps)
        state = hg.train(problem, weights, jax.random.key(0))
        inputs, labels = rows.test.batch()
        right = jnp.argmax(logits(state.weights, inputs), axis=1) == labels
        return 100.0 * jnp.mean(right)


def logits(weights, inputs: jax.Array) -> jax.Array:
    """[n, classes]."""
    kernel, bias = weights
    return inputs @ kernel.T + bias[None]


def losses(weights, batch) -> jax.Array:
    """Cross-entropy of each row."""
    inputs, labels = batch
    return hg.cross_entropy(logits(weights, inputs), labels)
