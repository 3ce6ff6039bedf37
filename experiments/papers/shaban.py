"""The toy of Shaban, Cheng, Hatch and Boots (2019), on truncated back-propagation.

    f(w) = ‖w‖² + 10 ‖sin w‖²     g(w, λ) = (w − λ)ᵀ G (w − λ) / 2,   G = diag(1, 1/2)

after T steps w ← w − γ ∂g/∂w. With A = I − γG every part of it is known:

    dF/dλ = (I − A^T) ∇f(w_T)     of the last K steps alone: h_K = (I − A^K) ∇f(w_T)

so that the relative error is below (1 − γ min G)^K, and both point downhill. With a λ_τ
for each step, h_K is the sum of the last K of dF/dλ_τ: one sweep gives it at every K,
and `Reverse(window=K)` has to give the same.
"""

from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, paper


@paper("shaban2019_toy")
class ShabanToy(Paper):
    """Options.

    Attributes:
        curvatures: the diagonal of G.
        rate: γ.
        num_steps: T.
        hparams: λ, as many numbers as G has.
        windows: those K at which `Reverse(window=K)` is run.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel(
            "Truncated back-propagation",
            ("relative_error", "bound"),
            "window K",
            "‖dF/dλ − h‖ / ‖dF/dλ‖",
            log="y",
        ),
        Panel("Downhill at every K", ("cosine",), "window K", "cos(dF/dλ, h)", "x"),
    )

    curvatures: tuple[float, ...] = (1.0, 0.5)
    rate: Annotated[float, Field(gt=0)] = 0.1
    num_steps: Annotated[int, Field(ge=2)] = 100
    hparams: tuple[float, ...] = (2.0, 2.0)
    windows: tuple[int, ...] = (1, 5, 10, 20, 40, 60, 80, 99)

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Relative errors, their bound and the cosine over K.

        worst: the largest error over its bound. gap: the largest relative difference
        of `Reverse(window=K)` from the sum of K terms.
        """
        if len(self.hparams) != len(self.curvatures):
            raise ValueError(
                f"hparams and curvatures are as long; got {len(self.hparams)} and "
                f"{len(self.curvatures)}"
            )
        if not all(1 <= window <= self.num_steps for window in self.windows):
            raise ValueError(
                f"windows are from 1 to num_steps ({self.num_steps}); got "
                f"{self.windows}"
            )
        problem, key = self.problem(), jax.random.key(seed)
        hparams = jnp.array(self.hparams)
        whole = np.asarray(hg.hypergrad(problem, estimator)(hparams, key))
        table = jnp.broadcast_to(hparams, (self.num_steps, hparams.size))
        terms = np.asarray(hg.hypergrad(problem, hg.Reverse())(table, key))
        parts = np.cumsum(terms[::-1], axis=0)  # parts[K - 1] is h_K
        windowed = []
        for done, window in enumerate(self.windows):
            part = hg.hypergrad(problem, hg.Reverse(window=window))(hparams, key)
            windowed.append(np.asarray(part))
            report(done + 1, len(self.windows))

        every = np.arange(1, self.num_steps + 1)
        at = np.array(self.windows, int) - 1
        errors, bound = _relative(parts, whole), self.contraction**every
        cut = slice(-1)  # nothing is at K = T
        lengths = np.linalg.norm(parts, axis=1) * np.linalg.norm(whole)
        cosines = parts @ whole / lengths
        gaps = [_relative(a, b) for a, b in zip(windowed, parts[at], strict=True)]
        return Measured(
            numbers={
                "worst": float(np.max(errors / bound)),
                "least_cosine": float(np.min(cosines)),
                "gap": float(np.max(gaps, initial=0.0)),
            },
            curves={
                "relative_error": curve(errors[cut], every[cut]),
                "bound": curve(bound[cut], every[cut]),
                "cosine": curve(cosines, every),
            },
        )

    @property
    def contraction(self) -> float:
        """1 − γ min G, the slowest factor of A."""
        return 1.0 - self.rate * min(self.curvatures)

    def problem(self) -> hg.Problem:
        """The training; λ may be one [d], or one for each step [T, d]."""
        rate = self.rate

        def inner_loss_at(hp, w, tick):
            centre = hp[tick.t] if hp.ndim == 2 else hp
            return 0.5 * jnp.sum(tick.data * (w - centre) ** 2)

        return hg.Problem.from_step(
            start=lambda hp, tick: jnp.zeros_like(tick.data),
            step=lambda hp, w, tick: (
                w - rate * jax.grad(inner_loss_at, argnums=1)(hp, w, tick)
            ),
            outer_at=lambda hp, w, tick: outer_loss(w),
            inner_loss_at=inner_loss_at,
            num_steps=self.num_steps,
            data=jnp.array(self.curvatures),
        )


def outer_loss(w: jax.Array) -> jax.Array:
    """f, a bowl with ripples."""
    return jnp.sum(w**2) + 10.0 * jnp.sum(jnp.sin(w) ** 2)


def _relative(parts, whole) -> np.ndarray:
    """‖part − whole‖ / ‖whole‖ along the last axis."""
    parts = np.reshape(parts, (-1, whole.shape[-1]))
    difference = np.linalg.norm(parts - whole, axis=-1)
    return difference / np.linalg.norm(whole, axis=-1)
