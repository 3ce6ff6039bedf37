"""A training set that is learned: Maclaurin, Duvenaud and Adams (2015), section 3.3.

    F(λ) = ℓ(w_T, 10,000 real images),   v ← γ v − (1 − γ) ∇ℓ(w, λ),   w ← w + α v

λ holds all pixels of ten images, one of each class, and the log of an L2 coefficient.
They start as noise; logistic regression on them alone is trained from the same weights
each time, and F descends by plain steps, λ ← λ − dF/dλ.
"""

import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet, load
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.descent import descend
from experiments.papers.images import Images
from experiments.papers.maclaurin import (
    Arithmetic,
    as_weights,
    drawn_start,
    judge,
    mean_nll,
    momentum,
    num_weights,
    stacked,
)
from hypergrad import Problem
from hypergrad.typing import HParams


@paper("maclaurin2015_learned_data")
class MaclaurinLearnedData(Paper):
    """Options.

    Attributes:
        source: whose images F and the test are of; the mean image is subtracted.
        num_images: learned ones; number i is of class i mod 10.
        num_valid: rows of F, the first.
        num_test: rows of the test, the last.
        num_steps: T.
        alpha, gamma: α and γ of every step.
        log_scale: log of the standard deviation of the weights at the start.
        l2: where the coefficient of Σ w² starts.
        pixel_scale: standard deviation of the pixels at the start.
        arithmetic: of the velocities.
        learning_rate: of the outer gradient descent.
        num_outer_steps: trainings.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("After training", ("valid_loss", "test_loss"), "outer step", "loss"),
        Panel("Test error", ("test_error",), "outer step", "share of images"),
    )

    source: ImageSet = "mnist"
    num_images: Annotated[int, Field(ge=1)] = 10
    num_valid: Annotated[int, Field(ge=1)] = 10_000
    num_test: Annotated[int, Field(ge=1)] = 10_000
    num_steps: Annotated[int, Field(ge=1)] = 20
    alpha: float = 1.0
    gamma: float = 0.9
    log_scale: float = -4.0
    l2: Annotated[float, Field(gt=0)] = 0.01
    pixel_scale: float = 0.01
    arithmetic: Arithmetic = "published"
    learning_rate: float = 1.0
    num_outer_steps: Annotated[int, Field(ge=1)] = 40

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """valid_loss, test_loss, test_error: after each training.

        smallest_pixel, largest_pixel, l2: as learned, before the last training.
        size: standard deviation of learned pixels in that of real ones, likewise.
        """
        valid, test = self._rows()
        sizes = (valid.inputs.shape[1], int(valid.labels.max()) + 1)
        problem = self._problem(sizes, valid, seed)
        losses = judge(hg.models.mlp(sizes).apply)
        both = hg.value_and_hypergrad(problem, estimator, has_aux=True)
        unseen, tested, path = test.batch(), [], []

        def objective(hparams: HParams, step: int):
            (value, info), slope = both(hparams, jax.random.key(seed))
            tested.append(losses(info.state.weights, unseen))
            path.append(hparams)
            return value, slope

        found = descend(
            objective,
            self._start(sizes[0], seed),
            optax.sgd(self.learning_rate),
            self.num_outer_steps,
            report,
        )
        last = path[-1]
        images = np.asarray(last["images"])
        shape = (self.num_images, *load(self.source).train.inputs.shape[1:])
        test_loss, test_error = zip(*tested, strict=True)
        return Measured(
            numbers=numbers(
                smallest_pixel=images.min(),
                largest_pixel=images.max(),
                l2=np.exp(last["log_l2"]),
                size=images.std() / valid.inputs.std(),
            ),
            curves={
                "valid_loss": curve(found.values),
                "test_loss": curve(test_loss),
                "test_error": curve(test_error),
            },
            pictures={"Learned images": images.reshape(shape).mean(axis=-1).tolist()},
        )

    def _rows(self) -> tuple[Images, Images]:
        """Validation and test."""
        rows = stacked(self.source, centred=True)
        total = len(rows.labels)
        if self.num_valid + self.num_test > total:
            raise ValueError(
                f"num_valid and num_test are {self.num_valid} and {self.num_test}, and "
                f"{self.source} has {total} rows: --set paper.num_valid and so on"
            )
        return rows.rows(0, self.num_valid), rows.rows(total - self.num_test, total)

    def _problem(self, sizes: tuple[int, int], valid: Images, seed: int) -> Problem:
        """F. Training rows are labels; their images are λ."""
        apply, scale = hg.models.mlp(sizes).apply, math.exp(self.log_scale)
        labels = jnp.arange(self.num_images, dtype=jnp.int32) % sizes[-1]

        def inner_loss(weights, hp, labels, context):
            loss = mean_nll(apply, weights, (hp["images"], labels))
            decay = hg.l2(weights, 2.0 * jnp.exp(hp["log_l2"]))
            return loss + decay, context.model_state

        def outer_loss(weights, hp, batch, context):
            return mean_nll(apply, weights, batch), context.model_state

        return Problem.with_context(
            init=lambda key, hp, start: (as_weights(start, sizes), ()),
            inner_loss=inner_loss,
            outer_loss=outer_loss,
            optimizer=lambda hp: momentum(
                lambda t: self.alpha, lambda t: self.gamma, self.arithmetic
            ),
            train=labels,
            valid=valid.batch(),
            num_steps=self.num_steps,
            given=scale * drawn_start(seed, num_weights(sizes)),
        )

    def _start(self, pixels: int, seed: int) -> HParams:
        """λ before it is learned."""
        random = np.random.RandomState(seed)  # noqa: NPY002
        noise = self.pixel_scale * random.randn(self.num_images, pixels)
        return {"images": jnp.asarray(noise), "log_l2": jnp.log(jnp.asarray(self.l2))}
