"""Forward mode along random directions: an unbiased hypergradient from few jvps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax

from hypergrad import tree
from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Info,
    Target,
    estimator_key,
    objective_of_floats,
)
from hypergrad.typing import Key
from hypergrad.unroll import unroll


class Directions(ABC):
    """A distribution of independent coordinates u_j with E u_j = 0 and E u_j² = 1."""

    @abstractmethod
    def draw(self, key: Key, shape: tuple[int, ...], dtype) -> jax.Array:
        """Samples of u."""

    @property
    @abstractmethod
    def fourth_moment(self) -> float:
        """κ = E u_j⁴, upon which the variance depends."""


@dataclass(frozen=True)
class Gaussian(Directions):
    """u ~ N(0, I): κ = 3."""

    def draw(self, key, shape, dtype):
        """Standard normal."""
        return jax.random.normal(key, shape, dtype)

    @property
    def fourth_moment(self):
        """3."""
        return 3.0


@dataclass(frozen=True)
class Rademacher(Directions):
    """u_j = ±1: κ = 1, the smallest variance there is."""

    def draw(self, key, shape, dtype):
        """Random signs."""
        return jax.random.rademacher(key, shape, dtype)

    @property
    def fourth_moment(self):
        """1."""
        return 1.0


@dataclass(frozen=True)
class RandomDirections(Estimator):
    """ĝ = 1/m Σ_i (dF/dλ · u_i) u_i, with random u_i and forward-mode dF/dλ · u_i.

    E[u uᵀ] = I makes it unbiased (Baydin et al. 2022, "Gradients without
    backpropagation"). With κ = E u_j⁴ and g = dF/dλ of d coordinates,

        Var ĝ_j = (‖g‖² + (κ − 2) g_j²) / m,   E‖ĝ − g‖² = (d + κ − 2) ‖g‖² / m.

    Computes: dF/dλ.
    Bias:     none.
    Variance: (d + 1) ‖g‖² / m with `Gaussian()`, (d − 1) ‖g‖² / m with `Rademacher()`.
    Memory:   m + 1 inner states, whatever T.
    Time:     about (1 + 2 m) T inner steps.

    Attributes:
      num_directions: m.
      directions: their distribution, `Rademacher()` or `Gaussian()`.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> signs = hg.RandomDirections(num_directions=1)  # exact where d = 1
      >>> hg.hypergrad(problem, signs)(2.0, jax.random.key(0))
      Array(12., dtype=float32)
    """

    num_directions: int = 1
    directions: Directions = Rademacher()

    def __post_init__(self):
        if self.num_directions < 1:
            raise ValueError(
                "RandomDirections.num_directions must be >= 1, got "
                f"{self.num_directions}"
            )

    @property
    def target(self) -> Target:
        """dF/dλ."""
        return Target.OBJECTIVE

    @property
    def unbiased(self) -> bool:
        """Over the directions."""
        return True

    def estimate(self, problem, hparams, state, key):
        """One training with m tangents."""
        run, floats, restore = objective_of_floats(
            lambda hparams: unroll(problem, hparams, key), hparams
        )
        vector, unravel = tree.ravel(floats)
        m = self.num_directions
        shape = (m, vector.size)
        directions = self.directions.draw(estimator_key(key), shape, vector.dtype)

        def slope_along(direction):
            value, slope, end = jax.jvp(
                lambda v: run(unravel(v)), (vector,), (direction,), has_aux=True
            )
            return slope, value, end

        slopes, value, end = jax.vmap(slope_along, out_axes=(0, None, None))(directions)
        gradient = (slopes[:, None] * directions).sum(0) / m
        hypergrad = restore(unravel(gradient.astype(vector.dtype)))
        return Estimate(value, hypergrad, Info(end)), state
