"""Theorem 4.1 of Micaelli and Storkey (2021), on sharing hypergradients over steps.

The hypergradient of step t is μ_t plus noise of variance σ², independent from step to
step; μ_t drifts by ε a step. Windows of W steps share their mean, and its mean square
distance from μ_t is

    σ² / W + ε² (W² − 1) / 12          least at W³ ≈ 6 σ² / ε²

Such hypergradients are those of F(λ) = Σ_t λ_t (ε t + σ ξ_t) with one ξ_t ~ N(0, 1) for
each step of a training: `ForwardSharing` averages them itself, any other estimator's
are averaged here.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper

_SIDE_BY_SIDE = 250  # trainings
_TINY = 1e-30  # a standard error that is nothing to speak of, and not 0


@paper("micaelli2021_theorem")
class SharingTheorem(Paper):
    """Options.

    Attributes:
        sigma: σ.
        drift: ε.
        num_steps: T.
        windows: each W, which divides T.
        num_trainings: each with noise of its own.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel(
            "Hypergradients shared over W steps",
            ("error",),
            "window W",
            "mean square error",
            log="xy",
        ),
        Panel(
            "Distance from the theorem",
            ("apart",),
            "window W",
            "standard errors",
            log="x",
        ),
    )

    sigma: Annotated[float, Field(ge=0)] = 0.5
    drift: Annotated[float, Field(ge=0)] = 0.01
    num_steps: Annotated[int, Field(ge=1)] = 100
    windows: tuple[int, ...] = (1, 2, 5, 10, 20, 25, 50, 100)
    num_trainings: Annotated[int, Field(ge=2)] = 2000

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Error over W, and apart: its distance from the theorem in standard errors.

        standard_errors: the largest distance. best_window: W of the least error. Of
        each training the mean over steps is taken; a standard error is that of the mean
        over trainings, and rounding is allowed for.
        """
        if not all(w >= 1 and self.num_steps % w == 0 for w in self.windows):
            raise ValueError(
                f"windows divide num_steps ({self.num_steps}); got {self.windows}"
            )
        keys = jax.random.split(jax.random.key(seed), self.num_trainings)
        errors, standard_errors = [], []
        for done, window in enumerate(self.windows):
            each = self.errors(estimator, window, keys)
            error = np.std(each, ddof=1) / np.sqrt(self.num_trainings)
            errors.append(np.mean(each))
            standard_errors.append(error + 1e-6 * np.mean(each) + _TINY)
            report(done + 1, len(self.windows))
        expected = [self.theorem(window) for window in self.windows]
        apart = np.abs(np.subtract(errors, expected)) / standard_errors
        return Measured(
            numbers=numbers(
                standard_errors=np.max(apart),
                best_window=self.windows[int(np.argmin(errors))],
            ),
            curves={
                "error": curve(errors, self.windows),
                "apart": curve(apart, self.windows),
            },
        )

    def theorem(self, window: int) -> float:
        """σ² / W + ε² (W² − 1) / 12."""
        return self.sigma**2 / window + self.drift**2 * (window**2 - 1) / 12

    def errors(self, estimator: Any, window: int, keys: jax.Array) -> np.ndarray:
        """Of each training, the mean over steps of (ĝ_t − μ_t)²."""
        shares = isinstance(estimator, hg.ForwardSharing)
        if shares:
            estimator = dataclasses.replace(estimator, window=window)
        slopes = hg.hypergrad(self.problem(), estimator)
        hparams = jnp.zeros(self.num_steps)
        drift = self.drift * jnp.arange(self.num_steps)

        def error(key):
            found = slopes(hparams, key)
            shared = found if shares else share(found, window)
            return jnp.mean((shared - drift) ** 2)

        return np.asarray(jax.lax.map(error, keys, batch_size=_SIDE_BY_SIDE))

    def problem(self) -> hg.Problem:
        """F, with ε and σ as its data."""
        return hg.Problem.from_step(
            start=lambda hp, tick: jnp.zeros_like(tick.data[0]),
            step=_add,
            outer_at=lambda hp, total, tick: total,
            num_steps=self.num_steps,
            data=(jnp.array(self.drift), jnp.array(self.sigma)),
        )


def _add(hparams, total, tick):
    drift, sigma = tick.data
    noise = jax.random.normal(tick.step_key, dtype=total.dtype)
    return total + hparams[tick.t] * (drift * tick.t + sigma * noise)


def share(table: jax.Array, window: int) -> jax.Array:
    """The mean of each `window` rows in place of them."""
    means = jnp.mean(table.reshape(-1, window), axis=1)
    return jnp.repeat(means, window)
