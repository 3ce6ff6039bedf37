"""Learnable schedules: pytrees whose leaves are hyperparameters, called as optax does.

    schedule(t) -> η_t          optax.sgd(schedule)          jax.grad with respect to it

A schedule of optax closes over Python numbers and branches on some of them; here every
number is a leaf, may be traced, and has a derivative, lengths included (as floats). So
a schedule may be a hyperparameter itself, or be built of some inside `optimizer`:

    optimizer=lambda hp: optax.sgd(PiecewiseLinear(hp["knots"], num_steps=400))

They compose: `Warmup(Cosine(0.1, 0.0, 400), 20.0)`, `Exp(Basis(coefficients, 400))`.
Counts may be integers or floats, scalar or arrays; the result has their shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Number = float | Array
"""A leaf: integers will do where no derivative is wanted."""


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constant:
    """η_t = value.

    >>> print(Constant(0.5)(7))
    0.5
    """

    value: Number

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        return jnp.full_like(_time(count, self.value), self.value)


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential:
    """η_t = initial · rate^(t / num_steps), with rate > 0.

    >>> print(Exponential(1.0, 0.5, num_steps=10)(20))
    0.25
    """

    initial: Number
    rate: Number
    num_steps: Number = 1

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        t = _time(count, self.initial, self.rate, self.num_steps)
        return self.initial * self.rate ** (t / self.num_steps)


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cosine:
    """η_t = final + (initial - final) ½ (1 + cos(π t / num_steps)), then final.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts
    (2017).

    >>> print(Cosine(1.0, 0.5, num_steps=10)(jnp.array([0, 5, 10, 15])))
    [1.   0.75 0.5  0.5 ]
    """

    initial: Number
    final: Number
    num_steps: Number

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        t = _time(count, self.initial, self.final, self.num_steps)
        progress = jnp.clip(t / self.num_steps, 0.0, 1.0)
        # 1 + cos(2a) = 2 cos²(a): exactly 1 and, to rounding squared, 0 at the ends.
        weight = jnp.cos(0.5 * jnp.pi * progress) ** 2
        return self.final + (self.initial - self.final) * weight


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PiecewiseLinear:
    """Linear interpolation of k knots, equally spaced over steps 0 ... num_steps - 1.

    Attributes:
        knots: values at the knots, [k]; one knot is a constant.
        num_steps: length of the training, in steps; later ones keep the last knot.

    >>> print(PiecewiseLinear(jnp.array([0.0, 1.0, 0.5]), 9)(jnp.arange(0, 9, 2)))
    [0.   0.5  1.   0.75 0.5 ]
    """

    knots: Array
    num_steps: Number

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        knots = _vector("knots", self.knots)
        last = knots.size - 1
        span = jnp.maximum(self.num_steps - 1, 1)
        place = jnp.clip(_time(count, knots, self.num_steps) * (last / span), 0.0, last)
        left = jnp.clip(jnp.floor(place).astype(int), 0, max(last - 1, 0))
        right = jnp.minimum(left + 1, last)
        return knots[left] + (place - left) * (knots[right] - knots[left])


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Table:
    """η_t = values[t]: a number for each step, the last one for any beyond.

    Attributes:
        values: [T], or [T, L] for a number a step and layer (see `scale_layers`).

    >>> print(Table(jnp.array([0.5, 0.25]))(jnp.arange(3)))
    [0.5  0.25 0.25]
    """

    values: Array

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        values = jnp.asarray(self.values)
        if values.ndim != 2 or values.size == 0:
            values = _vector("values", values)
        return values[jnp.clip(jnp.asarray(count).astype(int), 0, len(values) - 1)]


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Basis:
    """η_t = Σ_j coefficients_j cos(π j (t + ½) / num_steps), a truncated cosine series.

    The first coefficient is the mean over the training. Any other basis B [T, k] is
    `Table(B @ coefficients)`; `Exp` keeps the schedule positive.

    >>> print(Basis(jnp.array([0.5, 0.0]), num_steps=10)(3))
    0.5
    """

    coefficients: Array
    num_steps: Number

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        coefficients = _vector("coefficients", self.coefficients)
        phase = jnp.pi * (_time(count, coefficients, self.num_steps) + 0.5)
        order = jnp.arange(coefficients.size, dtype=phase.dtype)
        waves = jnp.cos(jnp.multiply.outer(phase / self.num_steps, order))
        return waves @ coefficients


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exp:
    """η_t = exp(schedule(t)): positive, and interpolated geometrically.

    >>> knots = jnp.log(jnp.array([1.0, 0.25]))
    >>> print(Exp(PiecewiseLinear(knots, num_steps=3))(1).round(2))
    0.5
    """

    schedule: Callable[[ArrayLike], Array]

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        return jnp.exp(self.schedule(count))


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Warmup:
    """η_t = schedule(0) t / num_steps, then schedule(t - num_steps).

    Attributes:
        schedule: any of this file.
        num_steps: length of the rise; a float has a derivative, 0 means none.

    >>> print(Warmup(Constant(1.0), num_steps=4)(jnp.arange(6)))
    [0.   0.25 0.5  0.75 1.   1.  ]
    """

    schedule: Callable[[ArrayLike], Array]
    num_steps: Number

    def __call__(self, count: ArrayLike) -> Array:
        """η at step t = count."""
        t = _time(count, self.num_steps)
        rising = t < self.num_steps
        # Where t is past the rise its length may be 0, which must not be divided by.
        rise = jnp.where(rising, t / jnp.where(rising, self.num_steps, 1.0), 1.0)
        return rise * self.schedule(jnp.maximum(t - self.num_steps, 0.0))


def _time(count: ArrayLike, *leaves: ArrayLike) -> Array:
    """Count in the float type of the leaves, so that float32 leaves stay float32."""
    return jnp.asarray(count, jnp.result_type(float, *leaves))


def _vector(name: str, values: ArrayLike) -> Array:
    values = jnp.asarray(values)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"{name} must be a non-empty vector; got shape {values.shape}. "
            f"A single number is Constant(value)"
        )
    return values
