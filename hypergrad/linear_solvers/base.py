"""What a linear solver is: what all of them share, and their arithmetic."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from hypergrad import tree
from hypergrad.typing import Key, PyTree, Scalar

Matvec: TypeAlias = Callable[[Array], Array]


class Solution(NamedTuple):
    """What a solver found, and how good it is.

    Attributes:
      x: like b.
      residual: ‖b − A x‖ / ‖b‖, shape (); 0 where b = 0.
      iterations: steps of the method that led to x, an int32 scalar.
      curvature: the smallest pᵀA p / pᵀp met, shape (): not above 0 where A is not
        positive definite; +∞ from a solver that looks at none.
    """

    x: PyTree
    residual: Scalar
    iterations: Array
    curvature: Scalar


class LinearSolver(ABC):
    """An immutable value; `solve` is a pure function."""

    @property
    def symmetric_only(self) -> bool:
        """Whether it needs A = Aᵀ."""
        return False

    @abstractmethod
    def solve_unit(
        self, matvec: Matvec, b: Array, weight: Scalar, key: Key | None, symmetric: bool
    ) -> tuple[Array, Any, Any]:
        """Solve for a vector b [n] of unit length (or 0); called by `solve` alone.

        Args:
          matvec: v [n] -> A v [n].
          b: the right-hand side, what a guess has explained being taken away.
          weight: ‖b‖ before it was scaled, in units of the caller's right-hand side:
            `weight` · ‖b − A x‖ is what a tolerance is compared to.
          key: for solvers that draw.
          symmetric: whether A = Aᵀ is known.

        Returns:
          `(x, iterations, curvature)`.
        """

    def solve(
        self,
        matvec: Callable[[PyTree], PyTree],
        b: PyTree,
        *,
        x0: PyTree | None = None,
        key: Key | None = None,
        symmetric: bool = True,
    ) -> Solution:
        """Solve A x = b.

        Args:
          matvec: v -> A v, linear; v and A v are like b.
          b: pytree of float32 or float64 arrays.
          x0: a guess, like b; passed over where 0 is a better one.
          key: needed by `Nystrom`, and by `Neumann` without a scale.
          symmetric: whether A = Aᵀ is known.

        Raises:
          ValueError: b has 16-bit leaves, A is not known to be symmetric where it must
            be, or a key is missing.
        """
        if self.symmetric_only and not symmetric:
            raise ValueError(
                f"{self} solves symmetric systems, and this one is not known to be "
                "symmetric: use GMRES(), NormalCG(), Neumann() or Dense()"
            )
        refuse_sixteen_bits("b", b)
        vector, unravel = tree.ravel(b)

        def flat(v):
            return tree.ravel(matvec(unravel(v)))[0].astype(v.dtype)

        unit, norm, largest = normalise(vector)
        guess, rest = jnp.zeros_like(unit), unit
        if x0 is not None:
            guess = tree.ravel(x0)[0] / largest / norm
            rest = unit - flat(guess)
            useful = jnp.linalg.norm(rest) <= jnp.linalg.norm(unit)
            guess, rest = jnp.where(useful, guess, 0), jnp.where(useful, rest, unit)

        unit_rest, rest_norm, rest_largest = normalise(rest)
        weight = rest_norm * rest_largest
        found, iterations, curvature = self.solve_unit(
            flat, unit_rest, weight, key, symmetric
        )
        x = guess + weight * found
        x = jnp.where(jnp.any(vector != 0), x, 0)
        return Solution(
            unravel(x * norm * largest),
            jnp.linalg.norm(unit - flat(x)),
            jnp.asarray(iterations, jnp.int32),
            jnp.asarray(curvature, vector.dtype),
        )


def dot(a, b):
    """The matrix product a b in full precision on every device."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def normalise(v):
    """(v / ‖v‖, ‖v‖ / max |v|, max |v|): two factors, for neither to underflow."""
    largest = jnp.max(jnp.abs(v))
    largest = jnp.where(largest == 0, 1, largest)
    norm = jnp.linalg.norm(v / largest)
    norm = jnp.where(norm == 0, 1, norm)
    return v / largest / norm, norm, largest


def stop_at(tolerance, dtype, weight):
    """The length of the scaled residual at which to stop: never below rounding."""
    eps = float(jnp.finfo(dtype).eps)
    tolerance = eps**0.75 if tolerance is None else tolerance
    return jnp.maximum(jnp.asarray(tolerance, dtype) / weight, eps)


def refuse_sixteen_bits(name: str, values: PyTree) -> None:
    """Raise a `ValueError` where a leaf is too coarse for what is done with it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        if jnp.finfo(jnp.result_type(leaf)).bits < 32:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}, in "
                "which a linear solve or a difference is noise: keep it (or the "
                "weights that it belongs to) in float32 and cast it where it is used"
            )


def needed(key, solver):
    """The key, or a `ValueError` where there is none."""
    if key is None:
        raise ValueError(f"{solver} draws random numbers: pass solve(..., key=)")
    return key


def check(solver, *more):
    """Raise a `ValueError` where a count is below 1 or a tolerance below 0."""
    name = type(solver).__name__
    for field in ("max_iterations", *more):
        if getattr(solver, field) < 1:
            got = getattr(solver, field)
            raise ValueError(f"{name}.{field} must be >= 1, got {got}")
    if solver.tolerance is not None and not solver.tolerance >= 0:
        raise ValueError(f"{name}.tolerance must be >= 0, got {solver.tolerance}")
