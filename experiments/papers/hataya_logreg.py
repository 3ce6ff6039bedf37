"""The logistic regression of the examples of Hataya and Yamada (2023).

A hundred L2 coefficients, one a weight, move along the implicit hypergradient

    dF/dλ = −diag(w) v,   H v = ∇_w F,   H the inner Hessian,

with H⁻¹ from a few products: conjugate gradients, a Neumann series, or random columns
(Nystrom). Training begins at w = 0 each time; V ← 0.9 V + dF/dλ, λ ← max(λ − V, 1e-8).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers import grazzi_regression as regression
from experiments.papers.descent import descend


@paper("hataya2023_logreg")
class HatayaLogisticRegression(Paper):
    """Options.

    Attributes:
        source: "synthetic" as in the paper, or rows of a data set.
        num_rows: of training and validation together; the first half trains.
        dimension: weights, and hyperparameters, of synthetic rows.
        rate: η of the inner gradient descent.
        num_steps: T.
        start: where every coefficient starts.
        least: what they are clamped to from below.
        outer: the outer optimiser.
        num_outer_steps: trainings.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss", ("loss",), "outer step", "F", log="x"),
        Panel("Learned L2 coefficients, largest first", ("l2",), "", "λ", log="y"),
    )

    source: regression.Source = "synthetic"
    num_rows: int = 1000
    dimension: int = 100
    rate: float = 0.1
    num_steps: int = 100
    start: float = 1.0
    least: float = 1e-8
    outer: hg.Outer = hg.Outer("momentum", learning_rate=1.0, clip=float("inf"))
    num_outer_steps: int = 1000

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """loss: F, the first training being number 1.

        finite: the share of finite losses; explained: 1 where all are, or where the
        first that is not follows a λ beyond 2/η.
        """
        halves = regression.drawn(self.source, self.num_rows, self.dimension, seed)
        problem = regression.problem(halves, self.rate, self.num_steps)
        key, count = jax.random.key(seed), self.num_outer_steps
        both = hg.value_and_hypergrad(problem, estimator)

        def objective(hparams, step):
            # A key of its own each time: Nystrom draws other columns, as theirs does.
            return both(hparams, jax.random.fold_in(key, step))

        largest: list[float] = []
        found = descend(
            objective,
            jnp.full(halves.num_weights, self.start),
            self.outer.transformation(),
            count,
            report,
            project=regression.at_least(self.least),
            look=lambda step, hparams: largest.append(float(jnp.max(hparams))),
        )
        values = jnp.array(found.values)
        finite = jnp.isfinite(values)
        # Gradient descent of rate η on a curvature above 2/η diverges.
        first = count if bool(jnp.all(finite)) else int(jnp.argmin(finite))
        explained = first == count or largest[first] > 2.0 / self.rate
        return Measured(
            numbers=numbers(finite=jnp.mean(finite), explained=explained),
            curves={
                "loss": curve(values, range(1, count + 1)),
                "l2": curve(-jnp.sort(-jnp.asarray(found.hparams))),
            },
        )
