"""Solvers of A x = b, where A is known by its products alone.

Values with one function, `solve(matvec, b) -> Solution`. What all share is written
once, in `LinearSolver`: vectors are pytrees; b is scaled to unit length first, so that
b = 1e-20 in float32 is as good as b = 1, and b = 0 gives exactly 0; a solve may start
from a guess; the residual is computed from A and the x returned, never from the
recursion that led there. A failed solve is data (its residual), not an exception.

| value             | A                        | products with A          |
|-------------------|--------------------------|--------------------------|
| `CG`              | symmetric, positive      | about √κ log 1/tolerance |
| `NormalCG`        | invertible               | about 2κ log 1/tolerance |
| `GMRES`           | invertible               | at most n without restart|
| `Neumann`         | spectrum in Re > 0       | about κ log 1/tolerance  |
| `Nystrom`         | symmetric, nearly rank r | r                        |
| `Dense`           | invertible               | n, and n² numbers kept   |
| `IdentityInverse` | nearly a multiple of I   | none                     |
"""

from typing import Any

from hypergrad.linear_solvers.approximate import (
    Dense,
    IdentityInverse,
    Neumann,
    Nystrom,
    spectral_radius,
)
from hypergrad.linear_solvers.base import LinearSolver, Solution
from hypergrad.linear_solvers.krylov import CG, GMRES, NormalCG

SOLVERS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (CG, NormalCG, GMRES, Neumann, Nystrom, Dense, IdentityInverse)
}
"""Every linear solver by name, for configs."""

__all__ = [
    "CG",
    "GMRES",
    "SOLVERS",
    "Dense",
    "IdentityInverse",
    "LinearSolver",
    "Neumann",
    "NormalCG",
    "Nystrom",
    "Solution",
    "spectral_radius",
]
