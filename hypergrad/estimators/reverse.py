"""Reverse-mode differentiation of the unrolled training."""

import dataclasses
from dataclasses import dataclass

import jax

from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Info,
    Target,
    objective_of_floats,
)
from hypergrad.gradients import InnerGradient, Mixed, Plain
from hypergrad.unroll import Checkpoint, EveryStep, unroll


@dataclass(frozen=True)
class Reverse(Estimator):
    """dF/dλ = Σ_t (∂outer_t/∂λ + (∂outer_t/∂s_t)(ds_t/dλ)), swept from T to 0.

    With the adjoint a_T = ∂outer_T/∂s_T and a_t = (∂s_{t+1}/∂s_t)ᵀ a_{t+1} +
    ∂outer_t/∂s_t, dF/dλ = Σ_t (∂s_{t+1}/∂λ)ᵀ a_{t+1} + direct terms (Maclaurin et al.
    2015, Franceschi et al. 2017); the inner gradient's own derivative is by
    `Mixed`.

    Computes: dF/dλ, exactly; with `window=K`, the part of it that passes through the
              last K states only (Shaban et al. 2019).
    Bias:     none; with a window, truncation, below (1 − αμ)^K relative near a
              minimum of curvature μ reached with rate α.
    Variance: none beyond that of F over keys.
    Memory:   that of `checkpoint`, see `hypergrad.unroll`; K for T with a window.
    Time:     3 to 5 T inner steps, by `checkpoint`.

    Attributes:
      checkpoint: which states are kept and which are computed again.
      window: K, the number of last steps to differentiate; None for all T.
      gradient: the inner gradient's derivative rule, `Mixed()` or `Plain()`.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> hg.hypergrad(problem, hg.Reverse(window=1))(2.0, jax.random.key(0))  # λ² only
      Array(4., dtype=float32)
    """

    checkpoint: Checkpoint = EveryStep()
    window: int | None = None
    gradient: InnerGradient = Mixed()

    def __post_init__(self):
        if self.window is not None and self.window < 1:
            raise ValueError(f"Reverse.window must be >= 1 or None, got {self.window}")

    @property
    def target(self) -> Target:
        """dF/dλ, or the windowed derivative."""
        return Target.OBJECTIVE if self.window is None else Target.WINDOW

    @property
    def exact(self) -> bool:
        """Whether nothing is truncated."""
        return self.window is None

    def twice_differentiable(self):
        """The same with an inner gradient that JAX differentiates in any mode."""
        if not self.exact:
            return None
        return dataclasses.replace(self, gradient=Plain())

    def estimate(self, problem, hparams, state, key):
        """One training and one sweep back."""

        def objective(hparams):
            return unroll(
                problem,
                hparams,
                key,
                checkpoint=self.checkpoint,
                gradient=self.gradient,
                window=self.window,
            )

        run, floats, restore = objective_of_floats(objective, hparams)
        (value, end), hypergrad = jax.value_and_grad(run, has_aux=True)(floats)
        return Estimate(value, restore(hypergrad), Info(end)), state
