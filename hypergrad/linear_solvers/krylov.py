"""Solvers that are optimal in a Krylov space span{b, A b, A² b, ...}."""

from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
from jax import lax

from hypergrad.linear_solvers.base import LinearSolver, check, dot, normalise, stop_at


@final
@dataclass(frozen=True)
class CG(LinearSolver):
    """Conjugate gradients: x_k minimises ‖x − x*‖_A over span{b, A b, ..., A^(k−1) b}.

    α = rᵀr / pᵀA p,  x ← x + α p,  r' = r − α A p,  p ← r' + (r'ᵀr' / rᵀr) p (Hestenes
    and Stiefel 1952). It stops where pᵀA p <= 0, and says so. (lineax has the method;
    its singularity test is in absolute units that grow with n, so that in float32 it
    gives NaN for 200,000 unknowns, or for A of order 1e-6.)

    Attributes:
      max_iterations: products with A at most.
      tolerance: stop at ‖r‖ <= tolerance · ‖b‖; None for ε^(3/4) (2e-12 in float64,
        6e-6 in float32). Below rounding, ε, there is nothing to be gained.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> solution = hg.CG().solve(lambda v: jnp.array([1.0, 4.0]) * v, jnp.ones(2))
      >>> print(solution.x.round(4), solution.iterations)
      [1.   0.25] 2
    """

    max_iterations: int = 100
    tolerance: float | None = None

    def __post_init__(self):
        check(self)

    @property
    def symmetric_only(self):
        """True."""
        return True

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """At most `max_iterations` products."""
        stop = stop_at(self.tolerance, b.dtype, weight)
        return _conjugate_gradients(matvec, b, stop, self.max_iterations)


@final
@dataclass(frozen=True)
class NormalCG(LinearSolver):
    """Conjugate gradients on the normal equations AᵀA x = Aᵀb, for any invertible A.

    The condition number is squared: more iterations than `GMRES`, but four vectors of
    memory whatever their number.

    Attributes:
      max_iterations: products with A, and as many with Aᵀ, at most.
      tolerance: as in `CG`, for the residual of the normal equations.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> a = jnp.array([[0.0, 2.0], [-1.0, 0.0]])
      >>> b = jnp.array([2.0, 3.0])
      >>> print(hg.NormalCG().solve(lambda v: a @ v, b, symmetric=False).x.round(4))
      [-3.  1.]
    """

    max_iterations: int = 200
    tolerance: float | None = None

    def __post_init__(self):
        check(self)

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """Conjugate gradients with two products an iteration."""
        adjoint = (
            matvec if symmetric else lambda v: jax.linear_transpose(matvec, b)(v)[0]
        )
        unit, norm, largest = normalise(adjoint(b))
        x, iterations, _ = _conjugate_gradients(
            lambda v: adjoint(matvec(v)),
            unit,
            stop_at(self.tolerance, b.dtype, weight),
            self.max_iterations,
        )
        return x * norm * largest, iterations, jnp.inf


@final
@dataclass(frozen=True)
class GMRES(LinearSolver):
    """x_k minimises ‖b − A x‖ over span{b, A b, ..., A^(k−1) b}, for any invertible A.

    Arnoldi's basis, orthogonalised twice, and one Givens rotation a step (Saad and
    Schultz 1986), restarted from the residual when the basis is full.

    Attributes:
      max_iterations: products with A at most, those of the restarts aside.
      restart: m, vectors in the basis, which is the memory; without a restart before n
        the solution is exact in at most n steps.
      tolerance: as in `CG`.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> a = jnp.array([[0.0, 2.0], [-1.0, 0.0]])
      >>> b = jnp.array([2.0, 3.0])
      >>> print(hg.GMRES().solve(lambda v: a @ v, b, symmetric=False).x.round(4))
      [-3.  1.]
    """

    max_iterations: int = 100
    restart: int = 30
    tolerance: float | None = None

    def __post_init__(self):
        check(self, "restart")

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """Cycles of `restart` products, until one of them gains nothing."""
        stop = stop_at(self.tolerance, b.dtype, weight)
        size = min(self.restart, self.max_iterations, b.size)

        def unfinished(carry):
            _, r, i, gained = carry
            return (i < self.max_iterations) & (jnp.linalg.norm(r) > stop) & gained

        def cycle(carry):
            x, r, i, _ = carry
            limit = jnp.minimum(size, self.max_iterations - i)
            step, steps = _arnoldi_cycle(matvec, r, stop, size, limit)
            rest = b - matvec(x + step)
            gained = jnp.linalg.norm(rest) < jnp.linalg.norm(r)
            x, rest = jnp.where(gained, x + step, x), jnp.where(gained, rest, r)
            return x, rest, i + steps, gained

        start = (jnp.zeros_like(b), b, jnp.int32(0), jnp.asarray(True))
        x, _, i, _ = lax.while_loop(unfinished, cycle, start)
        return x, i, jnp.inf


def _conjugate_gradients(matvec, b, stop, max_iterations):
    def unfinished(carry):
        *_, square, i, curvature = carry
        return (i < max_iterations) & (square > stop**2) & (curvature > 0)

    def step(carry):
        x, r, p, square, i, curvature = carry
        product = matvec(p)
        bend = jnp.sum(p * product)
        curvature = jnp.minimum(curvature, bend / jnp.sum(p * p))
        alpha = jnp.where(bend > 0, square / jnp.where(bend > 0, bend, 1), 0)
        x, r = x + alpha * p, r - alpha * product
        new_square = jnp.sum(r * r)
        p = r + (new_square / square) * p
        return x, r, p, new_square, i + 1, curvature

    square, infinity = jnp.sum(b * b), jnp.asarray(jnp.inf, b.dtype)
    start = (jnp.zeros_like(b), b, b, square, jnp.int32(0), infinity)
    x, _, _, _, i, curvature = lax.while_loop(unfinished, step, start)
    return x, i, curvature


def _arnoldi_cycle(matvec, r, stop, size, limit):
    """The x in the Krylov space of r that minimises ‖r − A x‖, and its dimension.

    A V_k = V_{k+1} H_k with orthonormal rows of `basis` as V; `rotation` turns H into
    the upper triangle `triangle`, and ‖r‖ e_1 into the right-hand side.
    """
    length = jnp.linalg.norm(r)

    def unfinished(carry):
        _, rotation, _, j = carry
        return (j < limit) & (length * jnp.abs(rotation[j, 0]) > stop)

    def extend(carry):
        basis, rotation, triangle, j = carry
        w = matvec(basis[j])
        before = jnp.linalg.norm(w)
        column = jnp.zeros(size + 1, r.dtype)
        for _ in range(2):  # once is not enough in floating point
            overlap = dot(basis, w)
            w, column = w - dot(overlap, basis), column + overlap
        after = jnp.linalg.norm(w)
        new = after > jnp.finfo(r.dtype).eps * before
        after = jnp.where(new, after, 0)
        basis = basis.at[j + 1].set(w / jnp.where(new, after, 1) * new)
        column = dot(rotation, column.at[j + 1].set(after))

        a, b = column[j], column[j + 1]
        radius = jnp.hypot(a, b)
        cos = jnp.where(radius > 0, a / jnp.where(radius > 0, radius, 1), 1)
        sin = jnp.where(radius > 0, b / jnp.where(radius > 0, radius, 1), 0)
        upper, lower = rotation[j], rotation[j + 1]
        rotation = rotation.at[j].set(cos * upper + sin * lower)
        rotation = rotation.at[j + 1].set(cos * lower - sin * upper)
        column = column.at[j].set(radius)
        return basis, rotation, triangle.at[:, j].set(column[:size]), j + 1

    basis = jnp.zeros((size + 1, r.size), r.dtype)
    basis = basis.at[0].set(r / jnp.where(length > 0, length, 1))
    eye = jnp.eye(size + 1, dtype=r.dtype)
    start = (basis, eye, jnp.zeros((size, size), r.dtype), jnp.int32(0))
    basis, rotation, triangle, steps = lax.while_loop(unfinished, extend, start)

    def substitute(k, y):
        i = size - 1 - k
        pivot = triangle[i, i]
        value = (length * rotation[i, 0] - jnp.sum(triangle[i] * y)) / jnp.where(
            pivot != 0, pivot, 1
        )
        return y.at[i].set(jnp.where((i < steps) & (pivot != 0), value, 0))

    y = lax.fori_loop(0, size, substitute, jnp.zeros(size, r.dtype))
    return dot(y, basis[:-1]), steps
