"""Convex sets for hyperparameters, and the Euclidean projections onto them.

Every set here is a box cut by at most one plane, so every projection is a clip
after a shift:

    argmin_p |p - x|²  subject to  low <= p <= high  and  Σ p = total
        =  clip(x - τ, low, high)   with the τ for which the sum is right.
"""

import abc
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

# Bisection halves a bracket of width O(|x|): enough for float64; the exact formula
# that follows it repairs the last bits.
_HALVINGS = 60


def project_box(x: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """The p nearest to x in {low <= p <= high}, which is clip(x, low, high).

    >>> print(project_box(jnp.array([-1.0, 0.5]), 0.0, 1.0))
    [0.  0.5]
    """
    return jnp.clip(x, low, high)


@jax.jit  # an eager call would otherwise compile its loop anew each time
def project_sum(
    x: ArrayLike, total: ArrayLike, low: ArrayLike, high: ArrayLike
) -> Array:
    """The p nearest to x in {low <= p <= high, Σ p = total}: clip(x - τ, low, high).

    Σ clip(x - τ) falls with τ: bisection finds which entries are strictly inside the
    box, and on those τ is linear in x, so it is solved for exactly. That last formula
    also carries the exact derivative of the projection.

    Args:
        x: point to project, any shape; the sum runs over all entries.
        total: value of the sum, between x.size * low and x.size * high.
        low: lower bound of each entry.
        high: upper bound of each entry.
    """
    x = jnp.asarray(x)
    fixed = jax.lax.stop_gradient(x)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = bracket
        middle = 0.5 * (below + above)
        too_much = jnp.sum(jnp.clip(fixed - middle, low, high)) > total
        return (
            jnp.where(too_much, middle, below),
            jnp.where(too_much, above, middle),
        )

    bracket = (jnp.min(fixed) - high, jnp.max(fixed) - low)
    below, above = jax.lax.fori_loop(0, _HALVINGS, halve, bracket)
    shift = 0.5 * (below + above)

    shifted = fixed - shift
    inside = (shifted > low) & (shifted < high)
    at_bounds = jnp.sum(jnp.where(inside, 0.0, jnp.clip(shifted, low, high)))
    num_inside = jnp.maximum(jnp.sum(inside), 1)
    exact = (jnp.sum(jnp.where(inside, x, 0.0)) + at_bounds - total) / num_inside
    shift = jnp.where(jnp.any(inside), exact, shift)
    return jnp.clip(x - shift, low, high)


def project_simplex(x: ArrayLike) -> Array:
    """The p nearest to x in the probability simplex {p >= 0, Σ p = 1}.

    Source: Held, Wolfe and Crowder, Validation of subgradient optimization (1974).

    >>> print(project_simplex(jnp.array([2.0, 1.5, -3.0])))
    [0.75 0.25 0.  ]
    """
    return project_sum(x, 1.0, 0.0, 1.0)


def project_capped(x: ArrayLike, total: float) -> Array:
    """The p nearest to x in the capped box {0 <= p <= 1, Σ p <= total}.

    The set of data hyper-cleaning in Franceschi et al., Forward and Reverse
    Gradient-Based Hyperparameter Optimization (2017).

    >>> print(project_capped(jnp.array([2.0, 0.75, 0.5]), 2.0))
    [1.    0.625 0.375]
    """
    return CappedSimplex(total).project(jnp.asarray(x), 0.0, 1.0)


class Constraint(abc.ABC):
    """A convex set, cut out of the box [low, high]ⁿ of a hyperparameter."""

    @abc.abstractmethod
    def project(self, x: Array, low: float, high: float) -> Array:
        """Nearest point to x of the set within the box."""

    @abc.abstractmethod
    def check(self, size: int, low: float, high: float) -> None:
        """Raise ValueError where the set is empty in a box of `size` entries."""


@final
@dataclass(frozen=True)
class Box(Constraint):
    """{low <= x <= high}: no more than the bounds."""

    def project(self, x: Array, low: float, high: float) -> Array:
        """clip(x, low, high)."""
        return project_box(x, low, high)

    def check(self, size: int, low: float, high: float) -> None:
        """A box with low < high is never empty."""


@final
@dataclass(frozen=True)
class ProbabilitySimplex(Constraint):
    """{low <= x <= high, Σ x = 1}."""

    def project(self, x: Array, low: float, high: float) -> Array:
        """Shift and clip until the sum is one."""
        return project_sum(x, 1.0, low, high)

    def check(self, size: int, low: float, high: float) -> None:
        """The sum of one must lie between those of the two corners."""
        if not size * low <= 1.0 <= size * high:
            raise ValueError(f"{size} entries in [{low}, {high}] cannot sum to 1")


@final
@dataclass(frozen=True)
class CappedSimplex(Constraint):
    """{low <= x <= high, Σ x <= total}."""

    total: float

    def project(self, x: Array, low: float, high: float) -> Array:
        """The clipped point if its sum is small enough, else the face Σ x = total."""
        clipped = project_box(x, low, high)
        on_face = project_sum(x, self.total, low, high)
        return jnp.where(jnp.sum(clipped) <= self.total, clipped, on_face)

    def check(self, size: int, low: float, high: float) -> None:
        """The smallest corner must obey the cap."""
        if size * low > self.total:
            raise ValueError(
                f"{size} entries of at least {low} cannot sum to at most {self.total}"
            )
