"""A hyperparameter: an array within bounds, and the coordinate to search it in.

Rates live on a logarithmic scale, momenta on a logistic one: in its coordinate z,
equal steps of λ matter about equally, so that search may be Euclidean.
"""

import abc
from dataclasses import KW_ONLY, dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hypergrad.projections import Box, Constraint, ProbabilitySimplex

# Relative width, in coordinates, by which rounding may leave the bounds or a set.
SLACK = 1e-5


@dataclass(frozen=True)
class Hyperparameter(abc.ABC):
    """A real array in [low, high]^shape with the coordinate in which it is searched.

    Attributes:
        low: smallest value of each entry.
        high: largest value of each entry.
        shape: shape of the array; () is a scalar, an integer n is (n,).
        default: where every search begins: a number, or nested tuples that broadcast
            to `shape`; None is the middle of the range in coordinates.
    """

    low: float
    high: float
    _: KW_ONLY
    shape: tuple[int, ...] = ()
    default: float | tuple | None = None

    def __post_init__(self):
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        object.__setattr__(self, "shape", shape)
        if any(not isinstance(n, int) or n < 1 for n in shape):
            raise ValueError(f"shape must hold positive integers; got {shape}")
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            raise ValueError(
                f"low and high must be finite; got low={self.low}, high={self.high}"
            )
        if not self.low < self.high:
            raise ValueError(
                f"low must be below high; got low={self.low}, high={self.high}"
            )
        self._check_domain()
        with jax.ensure_compile_time_eval():
            low, high = self.coord_bounds()
            if not (jnp.isfinite(low) & jnp.isfinite(high) & (low < high)):
                raise ValueError(
                    f"low and high must differ, and be finite as coordinates, in "
                    f"{low.dtype}; got low={self.low} and high={self.high}, which are "
                    f"{low} and {high}"
                )
        if self.default is None:
            return
        object.__setattr__(self, "default", _nested(np.asarray(self.default, float)))
        try:
            default = np.broadcast_to(np.asarray(self.default), shape)
        except ValueError as error:
            raise ValueError(
                f"default must broadcast to shape {shape}; got {self.default}"
            ) from error
        if not np.all((self.low <= default) & (default <= self.high)):
            raise ValueError(
                f"default must lie in [{self.low}, {self.high}]; got {self.default}"
            )
        with jax.ensure_compile_time_eval():
            coord = self.default_coord()
            if not np.allclose(coord, self.project(coord), rtol=SLACK, atol=SLACK):
                raise ValueError(
                    f"default must satisfy the constraint; got {self}. Leave it out "
                    f"for the point nearest to the middle of the range"
                )

    @abc.abstractmethod
    def _check_domain(self) -> None:
        """Raise ValueError where the bounds leave the domain of the coordinate."""

    @abc.abstractmethod
    def to_coord(self, value: Array) -> Array:
        """The coordinate z of a value λ, elementwise."""

    @abc.abstractmethod
    def from_coord(self, coord: Array) -> Array:
        """The value λ of a coordinate z, inverse of `to_coord`."""

    def project(self, coord: Array) -> Array:
        """Nearest point to z whose value is allowed."""
        low, high = self.coord_bounds()
        return jnp.clip(coord, low, high)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=int))

    def coord_bounds(self) -> tuple[Array, Array]:
        """The bounds as coordinates (a, b), two scalars."""
        return self.to_coord(floats(self.low)), self.to_coord(floats(self.high))

    def default_coord(self) -> Array:
        """The default as a coordinate, shape `shape`."""
        if self.default is not None:
            return self.to_coord(jnp.broadcast_to(floats(self.default), self.shape))
        low, high = self.coord_bounds()
        return self.project(jnp.full(self.shape, 0.5 * (low + high)))


@final
@dataclass(frozen=True)
class Log(Hyperparameter):
    """z = log λ, for scales over several decades: rates, decays.

    >>> print(Log(1e-4, 1.0).from_coord(jnp.log(0.01)).round(4))
    0.01
    """

    def _check_domain(self) -> None:
        if not self.low > 0:
            raise ValueError(f"Log needs low > 0; got low={self.low}")

    def to_coord(self, value: Array) -> Array:
        """Log λ."""
        return jnp.log(value)

    def from_coord(self, coord: Array) -> Array:
        """Exp z."""
        return jnp.exp(coord)


@final
@dataclass(frozen=True)
class Logit(Hyperparameter):
    """z = log(λ / (1 - λ)), for fractions that crowd at 0 or 1: momentum, dropout.

    >>> print(Logit(0.1, 0.999).to_coord(jnp.array(0.5)))
    0.0
    """

    def _check_domain(self) -> None:
        if not (self.low > 0 and self.high < 1):
            raise ValueError(
                f"Logit needs 0 < low and high < 1; got low={self.low}, "
                f"high={self.high}"
            )

    def to_coord(self, value: Array) -> Array:
        """Log λ - log(1 - λ)."""
        return jnp.log(value) - jnp.log1p(-value)

    def from_coord(self, coord: Array) -> Array:
        """1 / (1 + exp(-z))."""
        return jax.nn.sigmoid(coord)


@final
@dataclass(frozen=True)
class Softplus(Hyperparameter):
    """z = log(exp λ - 1): logarithmic near zero, linear above one.

    >>> print(Softplus(0.01, 10.0).from_coord(jnp.array(0.0)).round(4))
    0.6931
    """

    def _check_domain(self) -> None:
        if not self.low > 0:
            raise ValueError(f"Softplus needs low > 0; got low={self.low}")

    def to_coord(self, value: Array) -> Array:
        """λ + log(1 - exp(-λ)), which does not overflow."""
        return value + jnp.log(-jnp.expm1(-value))

    def from_coord(self, coord: Array) -> Array:
        """Log(1 + exp z)."""
        return jax.nn.softplus(coord)


@final
@dataclass(frozen=True)
class Linear(Hyperparameter):
    """z = λ; alone in taking a constraint, for which value and coordinate must agree.

    >>> from hypergrad.projections import CappedSimplex
    >>> weights = Linear(0.0, 1.0, shape=4, constraint=CappedSimplex(2.0))
    >>> print(weights.project(jnp.ones(4)))
    [0.5 0.5 0.5 0.5]
    """

    _: KW_ONLY
    constraint: Constraint = Box()

    def _check_domain(self) -> None:
        self.constraint.check(self.size, self.low, self.high)

    def to_coord(self, value: Array) -> Array:
        """λ itself."""
        return value

    def from_coord(self, coord: Array) -> Array:
        """The coordinate itself."""
        return coord

    def project(self, coord: Array) -> Array:
        """Nearest point of the constraint set within the bounds."""
        return self.constraint.project(coord, self.low, self.high)


@final
@dataclass(frozen=True)
class Simplex(Hyperparameter):
    """A point on the probability simplex: low <= λ, Σ λ = 1, and z = λ.

    The coordinate is the point itself with the Euclidean projection, not its logits:
    it is unique, and the faces, where entries are exactly zero, can be reached.

    >>> print(Simplex(shape=4).default_coord())
    [0.25 0.25 0.25 0.25]
    """

    low: float = 0.0
    high: float = 1.0

    def _check_domain(self) -> None:
        ProbabilitySimplex().check(self.size, self.low, self.high)

    def to_coord(self, value: Array) -> Array:
        """λ itself."""
        return value

    def from_coord(self, coord: Array) -> Array:
        """The coordinate itself."""
        return coord

    def project(self, coord: Array) -> Array:
        """Nearest point of the simplex within the bounds."""
        return ProbabilitySimplex().project(coord, self.low, self.high)


def floats(value: ArrayLike | tuple) -> Array:
    """An array of the default float type."""
    return jnp.asarray(value, jnp.result_type(float))


def _nested(array: np.ndarray) -> float | tuple:
    """Nested tuples, which hash."""
    return tuple(map(_nested, array)) if array.ndim else float(array)
