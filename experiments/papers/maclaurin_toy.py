"""The toy of figure 1 of Maclaurin, Duvenaud and Adams (2015).

    f(w) = 800 σ((100 (w_1 − w_0²)² + (1 − w_0)² + 200 w_0) / 500)

A step size and a momentum decay for each of T steps are learned, through f after the
last, by momentum with damping: V ← 0.9 V − 0.1 dF/dλ, λ ← λ + 0.01 V.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, paper
from experiments.papers.descent import descend, estimated
from experiments.papers.maclaurin import Arithmetic, momentum


@paper("maclaurin2015_fig1_toy")
class MaclaurinToy(Paper):
    """Options.

    Attributes:
        start: w_0 and w_1 before training.
        num_steps: T.
        log_alpha: where every log α_t starts.
        gamma: where every γ_t starts; its logit is learned.
        arithmetic: of the velocities.
        outer: the outer optimiser.
        num_outer_steps: trainings.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("f after training", ("loss",), "outer step", "f"),
        Panel("Learned step sizes", ("alpha",), "step of training", "α"),
    )

    start: tuple[float, float] = (1.4, 3.9)
    num_steps: int = 50
    log_alpha: float = -4.5
    gamma: float = 0.99
    arithmetic: Arithmetic = "published"
    outer: hg.Outer = hg.Outer("momentum", learning_rate=0.001, clip=float("inf"))
    num_outer_steps: int = 3

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """loss: f after training, at each outer step."""
        problem = hg.Problem(
            init=lambda key, hp: jnp.array(self.start),
            inner_loss=lambda w, hp, batch: height(w),
            outer_loss=lambda w, hp, batch: height(w),
            optimizer=lambda hp: momentum(
                lambda t: jnp.exp(hp["log_alpha"][t]),
                lambda t: jax.nn.sigmoid(hp["logit_gamma"][t]),
                self.arithmetic,
            ),
            train=jnp.zeros(1),
            valid=jnp.zeros(1),
            num_steps=self.num_steps,
        )
        ones = jnp.ones(self.num_steps)
        hparams = {
            "log_alpha": self.log_alpha * ones,
            "logit_gamma": jnp.log(self.gamma / (1.0 - self.gamma)) * ones,
        }
        found = descend(
            estimated(problem, estimator, jax.random.key(seed)),
            hparams,
            self.outer.transformation(),
            self.num_outer_steps,
            report,
        )
        alpha = jnp.exp(found.hparams["log_alpha"])
        return Measured(curves={"loss": curve(found.values), "alpha": curve(alpha)})


def height(w: jax.Array) -> jax.Array:
    """f, a valley along w_1 = w_0² that slopes."""
    y, x = w
    valley = 100.0 * (x - y**2) ** 2 + (1.0 - y) ** 2
    return 800.0 * jax.nn.sigmoid((valley + 200.0 * y) / 500.0)
