"""The logistic regression of the examples of Grazzi et al. (2020).

Twenty L2 coefficients, one a weight, move along the derivative of F through the last K
of T steps of gradient descent:  V ← 0.9 V + dF/dλ,  λ ← max(λ − V, 1e-8).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers import grazzi_regression as regression
from experiments.papers.descent import descend, estimated


@paper("grazzi2020_logreg")
class GrazziLogisticRegression(Paper):
    """Options.

    Attributes:
        source: "synthetic" as in the paper, or rows of a data set.
        num_rows: of training and validation together.
        dimension: weights, and hyperparameters, of synthetic rows.
        rate: η of the inner gradient descent.
        num_steps: T.
        start: where every coefficient starts.
        least: what they are clamped to from below.
        outer: the outer optimiser.
        num_outer_steps: trainings.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss after training", ("loss",), "outer step", "F"),
        Panel("First training", ("inner_loss",), "inner step", "inner loss"),
        Panel("Learned L2 coefficients, largest first", ("l2",), "", "λ", log="y"),
    )

    source: regression.Source = "synthetic"
    num_rows: int = 1000
    dimension: int = 20
    rate: float = 0.1
    num_steps: int = 100
    start: float = 1.0
    least: float = 1e-8
    outer: hg.Outer = hg.Outer("momentum", learning_rate=1.0, clip=float("inf"))
    num_outer_steps: int = 1000

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """loss: F at each outer step; inner_loss: of the first training, each step."""
        halves = regression.shuffled(self.source, self.num_rows, self.dimension, seed)
        problem = regression.problem(halves, self.rate, self.num_steps)
        key = jax.random.key(seed)
        hparams = jnp.full(halves.num_weights, self.start)
        found = descend(
            estimated(problem, estimator, key),
            hparams,
            self.outer.transformation(),
            self.num_outer_steps,
            report,
            project=regression.at_least(self.least),
        )
        l2 = jnp.asarray(found.hparams)
        return Measured(
            numbers={**numbers(clamped=jnp.sum(l2 <= self.least))},
            curves={
                "loss": curve(found.values),
                "inner_loss": curve(regression.inner_losses(problem, hparams, key)),
                "l2": curve(-jnp.sort(-l2)),
            },
        )
