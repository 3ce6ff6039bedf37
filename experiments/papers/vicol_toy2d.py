"""The toy regression of Vicol, Metz and Sohl-Dickstein (2021): a rate for 100 steps.

    f(x) = √(x_0² + 5) − √5 + sin²(x_1) e^(−5 x_0²) + ¼ |x_1 − 100|
    x ← x − α_t ∇f,   α_t = (1 − t/T) e^θ0 + (t/T) e^θ1,   F(θ) = Σ_{t ≤ T} f(x_t)

from x = (1, 1). Along x_0 = 0, where f is least, the way up to x_1 = 100 is barred by
ripples. Rates that leap over them pay late in a training; through K of its T steps θ
sees the next ripple alone.
"""

from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.tuning import tuned

Count = Annotated[int, Field(ge=1)]
START = (float(np.log(0.01)), float(np.log(0.01)))


@paper("vicol2021_toy2d")
class ToyRegression(Paper):
    """Options.

    Attributes:
        start: θ before the first call.
        num_steps: T.
        outer: the optimiser of θ.
        num_calls: how often it moves.
        grid: from where to where θ0 and θ1 go on the grid of best rates.
        spacing: of the grid.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Objective of a whole training", ("objective",), "call", "F(θ)", "x"),
        Panel("Log of the first rate", ("theta0",), "call", "θ0", "x"),
        Panel("Log of the last rate", ("theta1",), "call", "θ1", "x"),
    )

    start: tuple[float, float] = START
    num_steps: Count = 100
    outer: hg.Outer = hg.Outer("adam", learning_rate=1e-2, b1=0.99, clip=float("inf"))
    num_calls: Count = 20_000
    grid: tuple[float, float] = (-5.0, 5.0)
    spacing: Annotated[float, Field(gt=0)] = 0.25

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """start, last: F; objective and θ over calls; the best of the grid."""
        problem, key = toy_regression(self.num_steps), jax.random.key(seed)
        found = tuned(
            problem,
            estimator,
            jnp.asarray(self.start),
            self.outer.transformation(),
            self.num_calls,
            key,
            report,
            looks=400,
        )
        low, high = self.grid
        axis = np.arange(low, high + 0.5 * self.spacing, self.spacing)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        path = np.asarray(found.path)
        objective = jax.vmap(lambda theta: hg.unroll(problem, theta, key)[0])
        everywhere = jnp.asarray(np.concatenate([path, grid]))
        values, of_grid = np.split(np.asarray(objective(everywhere)), [len(path)])
        best = int(np.nanargmin(of_grid))
        return Measured(
            numbers=numbers(
                start=values[0],
                last=values[-1],
                grid_best=of_grid[best],
                grid_theta0=grid[best, 0],
                grid_theta1=grid[best, 1],
            ),
            curves={
                "objective": curve(values, found.calls),
                "theta0": curve(path[:, 0], found.calls),
                "theta1": curve(path[:, 1], found.calls),
            },
        )


def toy_regression(num_steps: int = 100) -> hg.Problem:
    """The problem with λ = (θ0, θ1); its data are t / T."""

    def step(theta, x, tick):
        part, (first, last) = tick.data[tick.t], jnp.exp(theta)
        return x - ((1.0 - part) * first + part * last) * jax.grad(height)(x)

    return hg.Problem.from_step(
        start=lambda theta, tick: jnp.ones_like(theta),
        step=step,
        outer_at=lambda theta, x, tick: height(x),
        data=np.arange(num_steps) / num_steps,
        num_steps=num_steps,
        outer_every=1,
    )


def height(x: jax.Array) -> jax.Array:
    """F."""
    ripples = jnp.sin(x[1]) ** 2 * jnp.exp(-5.0 * x[0] ** 2)
    valley = jnp.sqrt(x[0] ** 2 + 5.0) - jnp.sqrt(5.0)
    return valley + ripples + 0.25 * jnp.abs(x[1] - 100.0)
