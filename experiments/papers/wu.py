"""The noisy quadratic of Wu, Ren, Liao and Grosse (2018), on short-horizon bias.

SGD with rate α on ½ Σ_i h_i θ_i², whose gradients h_i (θ_i + noise of variance s_i²)
move the second moments A_i = E θ_i² exactly by

    A_i ← (1 − α h_i)² A_i + (α h_i)² s_i²          loss ½ Σ_i h_i A_i

Three schedules α_0 ... α_{T−1}: the greedy one makes the loss after the very next step
least; the best single rate; the best of all, by L-BFGS on log α_t with hypergradients.
In one dimension, or where all h_i are equal, the greedy one is the best of all:

    greedy  α_t = Σ h² A_t / Σ h³ (A_t + s²)         d = 1:  α_t = A_t / (h (A_t + s²))

Where the h_i differ, the last loss has many minima: a rate far above 2 / h may pay if
later steps undo the harm. `stable` keeps rates where no step does any.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.paper import Curve, Measured, Panel, Paper, Steps, curve, paper

SAME = 1e-9  # relative difference of two ends of L-BFGS that are one minimum
Positive = Annotated[float, Field(gt=0)]
Slope = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""log rates -> (F, dF/dlog rates)."""


class Quadratic(NamedTuple):
    """h and s², [d] each."""

    curvatures: jax.Array
    noise: jax.Array

    def step(self, moments: jax.Array, rate: jax.Array) -> jax.Array:
        """A after a step."""
        kept, added = 1.0 - rate * self.curvatures, rate * self.curvatures
        return kept**2 * moments + added**2 * self.noise

    def loss(self, moments: jax.Array) -> jax.Array:
        """½ Σ h A."""
        return 0.5 * jnp.sum(self.curvatures * moments)

    def greedy(self, moments: jax.Array) -> jax.Array:
        """The rate that makes the loss after the next step least."""
        h = self.curvatures
        return jnp.sum(h**2 * moments) / jnp.sum(h**3 * (moments + self.noise))


@paper("wu2018_noisy_quadratic")
class NoisyQuadratic(Paper):
    """Options.

    Attributes:
        curvatures: the least and the largest h; between them logarithms are spaced
            evenly.
        dimension: how many h there are.
        noise: s², or s² h with `flat_is_noisy`.
        flat_is_noisy: θ_i then has the noise `noise` / h_i.
        second_moment: A before training.
        num_steps: T.
        stable: no rate is above 2 / max h.
        max_iterations: of L-BFGS, which is started at the best single rate and at the
            greedy schedule; where the second ends lower, it is kept.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel(
            "Loss while training",
            ("greedy_loss", "fixed_loss", "optimal_loss"),
            "step",
            "½ Σ h A",
            log="y",
        ),
        Panel(
            "Schedules",
            ("greedy_rate", "fixed_rate", "optimal_rate"),
            "step",
            "α",
            log="y",
        ),
    )

    curvatures: tuple[Positive, Positive] = (1.0, 1.0)
    dimension: Annotated[int, Field(ge=1)] = 1
    noise: Annotated[float, Field(ge=0)] = 1.0
    flat_is_noisy: bool = False
    second_moment: Positive = 4.0
    num_steps: Annotated[int, Field(ge=1)] = 50
    stable: bool = False
    max_iterations: Annotated[int, Field(ge=1)] = 3000

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        low, high = self.curvatures
        if low > high or (self.dimension == 1 and low != high):
            raise ValueError(
                "curvatures are the least and the largest, equal where dimension is 1; "
                f"got {low} and {high} for dimension {self.dimension}"
            )
        return self

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Last losses, late rates and curves of the three schedules.

        ratio: greedy over optimal. rate_gap: how far the optimal rates are from the
        greedy ones. start_gap: how far apart the two starts of L-BFGS end, relative.
        """
        objective = hg.objective(self.problem(), estimator)
        key = jax.random.key(seed)
        slope = jax.jit(jax.value_and_grad(lambda logs: objective(logs, key)))

        def of_all(logs):
            value, hypergrad = slope(jnp.asarray(logs))
            return float(value), np.asarray(hypergrad, float)

        def of_one(log):
            value, hypergrad = of_all(np.repeat(log, self.num_steps))
            return value, np.sum(hypergrad, keepdims=True)

        greedy = self.greedy()
        _, single = self._least(of_one, np.log(np.mean(greedy, keepdims=True)))
        report(1, 3)
        fixed = np.repeat(single, self.num_steps)
        ends = []
        for done, start in enumerate((fixed, np.log(greedy))):
            ends.append(self._least(of_all, start))
            report(done + 2, 3)
        (first, optimal), (second, other) = ends
        if second < first * (1.0 - SAME):
            optimal = other

        schedules = {"greedy": greedy, "fixed": np.exp(fixed)}
        schedules["optimal"] = np.exp(optimal)
        found, lines = {"start": self.losses(greedy)[0]}, {}
        for name, rates in schedules.items():
            own, drawn = self._look(name, rates)
            found, lines = found | own, lines | drawn
        found["ratio"] = found["greedy"] / found["optimal"]
        found["rate_gap"] = np.max(np.abs(schedules["optimal"] - greedy))
        found["start_gap"] = abs(first - second) / min(first, second)
        numbers = {name: float(number) for name, number in found.items()}
        return Measured(numbers=numbers, curves=lines)

    def quadratic(self) -> Quadratic:
        """Its curvatures and noise."""
        h = jnp.geomspace(*self.curvatures, self.dimension)
        noise = jnp.full_like(h, self.noise)
        return Quadratic(h, noise / h if self.flat_is_noisy else noise)

    def problem(self) -> hg.Problem:
        """A as the state, log α_t as λ."""
        moment = self.second_moment

        def step(hp, moments, tick):
            return tick.data.step(moments, jnp.exp(hp[tick.t]))

        return hg.Problem.from_step(
            start=lambda hp, tick: jnp.full_like(tick.data.noise, moment),
            step=step,
            outer_at=lambda hp, moments, tick: tick.data.loss(moments),
            num_steps=self.num_steps,
            data=self.quadratic(),
        )

    def greedy(self) -> np.ndarray:
        """The greedy schedule, [T]."""
        quadratic = self.quadratic()

        def step(moments, _):
            rate = quadratic.greedy(moments)
            return quadratic.step(moments, rate), rate

        moments = jnp.full_like(quadratic.noise, self.second_moment)
        rates = jax.lax.scan(step, moments, None, length=self.num_steps)[1]
        return np.asarray(rates, float)

    def losses(self, rates: np.ndarray) -> np.ndarray:
        """The loss before each step and after the last, [T + 1]."""
        quadratic = self.quadratic()

        def step(moments, rate):
            moments = quadratic.step(moments, rate)
            return moments, quadratic.loss(moments)

        moments = jnp.full_like(quadratic.noise, self.second_moment)
        after = jax.lax.scan(step, moments, jnp.asarray(rates))[1]
        return np.append(quadratic.loss(moments), after)

    def _look(self, name, rates) -> tuple[dict[str, float], dict[str, Curve]]:
        """What is told of one schedule."""
        losses, late = self.losses(rates), rates[self.num_steps // 2 :]
        return (
            {name: losses[-1], f"{name}_late_rate": np.mean(late)},
            {f"{name}_loss": curve(losses), f"{name}_rate": curve(rates)},
        )

    def _least(self, slope: Slope, start: np.ndarray) -> tuple[float, np.ndarray]:
        """Where L-BFGS ends."""
        from scipy.optimize import minimize

        most = np.log(2.0 / max(self.curvatures)) if self.stable else None
        found = minimize(
            slope,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(None, most)] * len(start),
            options={
                "maxiter": self.max_iterations,
                "maxfun": 10 * self.max_iterations,
                "maxcor": 50,
                "ftol": 0.0,
                "gtol": 1e-14,
            },
        )
        return float(found.fun), found.x
