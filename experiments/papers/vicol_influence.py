"""Influence balancing of Vicol, Metz and Sohl-Dickstein (2021), after Tallec (2017).

    s ← A s + θ v,   A = (I + shift) / 2,   v = (+1, ..., +1, −1, ..., −1)

θ pushes p of n units up and the others down. Only s_1 is judged, by ½ (s_1 − 1)², and
what a push does reaches it from unit i after i steps: the first p steps say that θ
raises s_1, and all of them together that it lowers it,

    s_1 → (I − A)^{-1} v |_1 θ = 2 (2p − n) θ = −6 θ      θ* = −1/6 for n = 23, p = 10

One training never ends, and θ moves every K steps. Where an estimator sees all of the
past and s follows at once, θ − θ* shrinks by 1 − 36 η a call.
"""

from typing import Annotated, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.tuning import tuned

UNITS, POSITIVE = 23, 10
Count = Annotated[int, Field(ge=1)]


@paper("vicol2021_influence")
class InfluenceBalancing(Paper):
    """Options.

    Attributes:
        units: n.
        positive: p.
        start: θ before the first call.
        outer: the optimiser of θ.
        num_calls: how often it moves.
        horizon: steps of the training after which the loss is looked at, and those of
            an estimator that trains from start to end.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Loss of a long training", ("loss",), "call", "½ (s_1 − 1)²", "y"),
    )

    units: Count = UNITS
    positive: Annotated[int, Field(ge=0)] = POSITIVE
    start: float = 0.5
    outer: hg.Outer = hg.Outer("sgd", learning_rate=1e-4, clip=float("inf"))
    num_calls: Count = 3000
    horizon: Count = 500

    @model_validator(mode="after")
    def _is_felt(self) -> Self:
        if self.positive > self.units or 2 * self.positive == self.units:
            raise ValueError(
                "positive is at most units, and not the half of them, for then θ does "
                f"nothing; got {self.positive} of {self.units}"
            )
        return self

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """theta, the last; last_loss: at it; loss over calls."""
        long = influence_balancing(
            self.horizon, units=self.units, positive=self.positive
        )
        endless = long
        if isinstance(estimator, hg.OnlineEstimator):
            window = estimator.steps(long)
            endless = long.replace(
                num_steps=self.num_calls * window, outer_every=window
            )
        key = jax.random.key(seed)
        found = tuned(
            endless,
            estimator,
            jnp.asarray(self.start),
            self.outer.transformation(),
            self.num_calls,
            key,
            report,
        )
        theta = np.asarray(found.path)
        losses = jax.vmap(lambda theta: hg.unroll(long, theta, key)[0])(theta)
        return Measured(
            numbers=numbers(theta=theta[-1], last_loss=losses[-1]),
            curves={"loss": curve(losses, found.calls)},
        )


def influence_balancing(
    num_steps: int,
    outer_every: int | None = None,
    *,
    units: int = UNITS,
    positive: int = POSITIVE,
) -> hg.Problem:
    """The problem with λ = θ, from s = 1.

    Args:
        num_steps: T.
        outer_every: where losses fall; None for the last step alone.
        units: n.
        positive: p.
    """
    signs = np.where(np.arange(units) < positive, 1.0, -1.0)
    matrix = 0.5 * (np.eye(units) + np.eye(units, k=1))
    return hg.Problem.from_step(
        start=lambda theta, tick: jnp.ones_like(tick.data[1]),
        step=lambda theta, s, tick: tick.data[0] @ s + theta * tick.data[1],
        outer_at=lambda theta, s, tick: 0.5 * (s[0] - 1.0) ** 2,
        data=(jnp.asarray(matrix), jnp.asarray(signs)),
        num_steps=num_steps,
        outer_every=outer_every,
    )
