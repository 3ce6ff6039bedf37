"""The other solvers: a series, a sketch, the whole matrix, and no matrix at all."""

from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
from jax import Array, lax

from hypergrad.linear_solvers.base import (
    LinearSolver,
    Matvec,
    check,
    dot,
    needed,
    stop_at,
)
from hypergrad.typing import Scalar


@final
@dataclass(frozen=True)
class Neumann(LinearSolver):
    """x = α Σ_k (I − α A)^k b, the truncated series of A⁻¹ b (Lorraine et al. 2020).

    It converges where every eigenvalue a of A has |1 − α a| < 1. With `scale=None`, α
    is 1 / ρ(A), the spectral radius ρ being found by power iteration, which is enough
    for a positive definite A; where A is not known to be symmetric, α is at most 1,
    which is enough for A = I − J with ρ(J) < 1. The last term is the residual, so that
    a series that does not converge shows.

    Attributes:
      max_iterations: products with A in the series.
      scale: α; None to find it.
      power_iterations: products with A to find it.
      tolerance: as in `CG`.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> solver = hg.Neumann(max_iterations=3, scale=0.5)  # 1 − 0.5³ of the solution
      >>> solution = solver.solve(lambda v: v, jnp.ones(2))
      >>> print(solution.x.round(4), solution.residual.round(4), solution.iterations)
      [0.875 0.875] 0.125 3
    """

    max_iterations: int = 100
    scale: float | None = None
    power_iterations: int = 20
    tolerance: float | None = None

    def __post_init__(self):
        check(self, "power_iterations")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"Neumann.scale must be > 0 or None, got {self.scale}")

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """The partial sums: x ← x + α r, r ← r − α A r."""
        stop = stop_at(self.tolerance, b.dtype, weight)
        alpha = jnp.asarray(self.scale or 0.0, b.dtype)
        if self.scale is None:
            v = jax.random.normal(needed(key, self), b.shape, b.dtype)
            radius = spectral_radius(matvec, v, self.power_iterations)
            alpha = 1 / radius if symmetric else jnp.minimum(1, 1 / radius)

        def unfinished(carry):
            _, r, i = carry
            return (i < self.max_iterations) & (jnp.linalg.norm(r) > stop)

        def term(carry):
            x, r, i = carry
            return x + alpha * r, r - alpha * matvec(r), i + 1

        start = (jnp.zeros_like(b), b, jnp.int32(0))
        x, _, i = lax.while_loop(unfinished, term, start)
        return x, i, jnp.inf


@final
@dataclass(frozen=True)
class Nystrom(LinearSolver):
    """x = (A_r + ρ I)⁻¹ b with A_r = C W⁺ Cᵀ from r random columns C = A[:, K] of A.

    W = C[K, :]; by Woodbury x = (b − C (ρ W + CᵀC)⁺ Cᵀ b) / ρ (Hataya and Yamada 2023).
    No iteration: r products side by side, and then two thin matrices for any b. The
    pseudo-inverse cuts eigenvalues below rounding, so that a small ρ gives no NaN in
    float32. The residual is that of A itself: ρ and what r columns leave out show.

    Attributes:
      rank: r; the memory is r vectors.
      rho: ρ > 0.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> a, b = jnp.ones((3, 3)), jnp.ones(3)  # of rank 1: b / (3 + ρ)
      >>> solver = hg.Nystrom(rank=1, rho=1.0)
      >>> print(solver.solve(lambda v: a @ v, b, key=jax.random.key(0)).x.round(4))
      [0.25 0.25 0.25]
    """

    rank: int = 10
    rho: float = 1e-2

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"Nystrom.rank must be >= 1, got {self.rank}")
        if not self.rho > 0:
            raise ValueError(f"Nystrom.rho must be > 0, got {self.rho}")

    @property
    def symmetric_only(self):
        """True."""
        return True

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """`rank` products."""
        rank = min(self.rank, b.size)
        chosen = jax.random.permutation(needed(key, self), b.size)[:rank]
        rows = jax.nn.one_hot(chosen, b.size, dtype=b.dtype)
        columns = jax.vmap(matvec)(rows)  # Cᵀ
        core = self.rho * columns[:, chosen] + dot(columns, columns.T)
        mu, q = jnp.linalg.eigh((core + core.T) / 2)
        keep = mu > rank * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(mu))
        inverse = jnp.where(keep, 1 / jnp.where(keep, mu, 1), 0)
        inner = dot(q, inverse * dot(q.T, dot(columns, b)))
        return (b - dot(inner, columns)) / self.rho, rank, jnp.inf


@final
@dataclass(frozen=True)
class Dense(LinearSolver):
    """x = A⁻¹ b with A written out, column by column, and factored: small n only.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> print(hg.Dense().solve(lambda v: 4.0 * v, jnp.ones(2)).x.round(4))
      [0.25 0.25]
    """

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """One product for each unknown, side by side."""
        matrix = jax.vmap(matvec)(jnp.eye(b.size, dtype=b.dtype)).T
        return jnp.linalg.solve(matrix, b), b.size, jnp.inf


@final
@dataclass(frozen=True)
class IdentityInverse(LinearSolver):
    """x = α b, as if A were I / α: no product at all (Luketina et al. 2016).

    With α the rate of plain gradient descent this is one step of it; with α = 0 nothing
    is left but the direct part of a hypergradient. Its residual says how wrong it is.

    Attributes:
      scale: α >= 0.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> solution = hg.IdentityInverse(0.5).solve(lambda v: 4.0 * v, jnp.ones(1))
      >>> print(solution.x.round(4), solution.residual.round(4))
      [0.5] 1.0
    """

    scale: float = 1.0

    def __post_init__(self):
        if not self.scale >= 0:
            raise ValueError(f"IdentityInverse.scale must be >= 0, got {self.scale}")

    def solve_unit(self, matvec, b, weight, key, symmetric):
        """No product."""
        return self.scale * b, 0, jnp.inf


def spectral_radius(matvec: Matvec, v: Array, num_iterations: int) -> Scalar:
    """The largest |eigenvalue| of A, from below if A = Aᵀ, by v ← A v / ‖A v‖."""

    def multiply(_, carry):
        v, _ = carry
        product = matvec(v)
        size = jnp.linalg.norm(product)
        return product / jnp.where(size > 0, size, 1), size

    start = (v / jnp.linalg.norm(v), jnp.zeros((), v.dtype))
    _, radius = lax.fori_loop(0, num_iterations, multiply, start)
    return radius
