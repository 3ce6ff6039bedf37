"""Momentum in fixed point: a map of integers that has an exact inverse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import hypergrad.estimators.reversible_arithmetic as exact
from hypergrad.estimators.base import estimator_key
from hypergrad.estimators.heavy_ball import HeavyBall
from hypergrad.typing import HParams


@dataclass(frozen=True)
class Grid:
    """Numbers below 2^integer_bits as integers: multiples of 2^-(bits−2−integer_bits).

    One bit is the sign, and one is spare, so that no sum of two overflows.
    """

    bits: int
    integer_bits: int

    @property
    def dtype(self):
        """int32 or int64."""
        if self.bits == 64 and jax.dtypes.canonicalize_dtype("int64") != "int64":
            raise ValueError(
                "Reversible.bits must be 32 without JAX's x64 mode, got 64: turn on "
                "jax_enable_x64 or use bits=32"
            )
        return jnp.int32 if self.bits == 32 else jnp.int64

    @property
    def _unit(self) -> float:
        return 2.0 ** (self.integer_bits + 2 - self.bits)

    def round(self, x) -> tuple[jax.Array, jax.Array]:
        """(the nearest integers, whether any x was beyond the grid or no number)."""
        inside = jnp.abs(x) < 2.0**self.integer_bits
        units = jnp.round(jnp.where(inside, x, 0) / self._unit)
        return units.astype(self.dtype), ~jnp.all(inside)

    def float(self, units, dtype) -> jax.Array:
        """The numbers that the integers stand for."""
        return units.astype(dtype) * jnp.asarray(self._unit, dtype)

    def outside(self, units) -> jax.Array:
        """Whether any has reached the spare bit, shape ()."""
        return jnp.any(jnp.abs(units) >= 1 << (self.bits - 2))

    def numerator(self, gamma) -> jax.Array:
        """N of γ = n/d, d = 2^(bits/2)."""
        return jnp.round(gamma * 2.0 ** (self.bits // 2)).astype(self.dtype)

    def quotient(self, numerator, dtype) -> jax.Array:
        """n/d."""
        return numerator.astype(dtype) * jnp.asarray(2.0 ** -(self.bits // 2), dtype)


class Rounded(NamedTuple):
    """Weights and velocity as integers, and all that rounding has dropped so far."""

    w: jax.Array
    v: jax.Array
    stacks: exact.Stacks

    def differing_bits(self, start: "Rounded") -> jax.Array:
        """How many bits differ from a start whose stacks are empty, shape ()."""
        bits = self.stacks.fill + exact.WORD * self.stacks.depth
        for a, b in ((self.w, start.w), (self.v, start.v)):
            bits += jax.lax.population_count(a ^ b).astype(jnp.int32)
        return jnp.sum(bits, dtype=jnp.int32)


class Faults(NamedTuple):
    """What has gone wrong on the way, shapes ()."""

    out_of_range: jax.Array
    bad_momentum: jax.Array

    def __or__(self, other: "Faults") -> "Faults":
        """Either's."""
        return Faults(*(a | b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class RoundedHeavyBall:
    """v' = ⌊γ v⌉ + ⌊G_t(w)⌉, w' = w + ⌊β v'⌉, and its inverse.

    Attributes:
      ball: the training.
      hparams: λ.
      grid: the fixed point.
      smallest_momentum: the least γ.
    """

    ball: HeavyBall
    hparams: HParams
    grid: Grid
    smallest_momentum: float

    def start(self) -> tuple[Rounded, Faults]:
        """(w_0, v_0) rounded, nothing dropped yet."""
        (w, far), (v, farther) = map(self.grid.round, self.ball.start(self.hparams))
        capacity = exact.capacity(self.ball.problem.num_steps, self.smallest_momentum)
        stacks = exact.Stacks.empty(w.size, capacity)
        return Rounded(w, v, stacks), Faults(far | farther, jnp.asarray(False))

    def step(self, s: Rounded, t) -> tuple[Rounded, Faults]:
        """From t to t + 1."""
        n, bad, beta = self._factors(t)
        v, stacks = exact.multiply(s.v, n, self._dither(t), s.stacks)
        push, far = self._force(s.w, t)
        v = v + push
        move, farther = self.grid.round(beta * self._float(v))
        w = s.w + move
        out = far | farther | self.grid.outside(w) | self.grid.outside(v)
        return Rounded(w, v, stacks), Faults(out, bad)

    def undo(self, s: Rounded, t) -> Rounded:
        """From t + 1 to t."""
        n, _, beta = self._factors(t)
        w = s.w - self.grid.round(beta * self._float(s.v))[0]
        v = s.v - self._force(w, t)[0]
        v, stacks = exact.divide(v, n, self._dither(t), s.stacks)
        return Rounded(w, v, stacks)

    def floats(self, s: Rounded) -> tuple[jax.Array, jax.Array]:
        """(w, v) as numbers."""
        return self._float(s.w), self._float(s.v)

    def used(self, gamma, beta) -> tuple[jax.Array, jax.Array]:
        """(n/d, β): the factors after rounding."""
        return self.grid.quotient(self._numerator(gamma)[0], gamma.dtype), beta

    def _float(self, units):
        return self.grid.float(units, self.ball.dtype)

    def _numerator(self, gamma):
        """(n within its limits, whether it had to be brought there)."""
        n = self.grid.numerator(gamma)
        least = self.grid.numerator(jnp.asarray(self.smallest_momentum, gamma.dtype))
        one = self.grid.numerator(jnp.ones((), gamma.dtype))
        return jnp.clip(n, least, one), jnp.any((n < least) | (n > one))

    # One routine each for both directions. From one fusion to the next XLA may round
    # differently; the barriers keep the neighbours out.

    def _factors(self, t):
        t = jax.lax.optimization_barrier(t)
        gamma, beta = self.ball.factors(self.hparams, t)
        return jax.lax.optimization_barrier((*self._numerator(gamma), beta))

    def _force(self, w, t):
        w, t = jax.lax.optimization_barrier((w, t))
        force = self.ball.force(self.hparams, self._float(w), t)
        return jax.lax.optimization_barrier(self.grid.round(force))

    def _dither(self, t):
        return exact.dither(estimator_key(self.ball.key, t), self.grid.dtype)


def sweep(
    body: Callable[[Any, jax.Array], Any], carry, after, num_steps: int, length: int
):
    """`body` for t = 0, ..., T − 1, and `after` once every `length` steps."""

    def segment(i, carry):
        first, last = _segment(i, num_steps, length)
        carry = jax.lax.fori_loop(first, last, lambda t, c: body(c, t), carry)
        return after(carry)

    return _segments(segment, carry, num_steps, length)


def sweep_back(
    body: Callable[[Any, jax.Array], Any], carry, before, num_steps: int, length: int
):
    """`body` for t = T − 1, ..., 0, and `before` where `sweep` had its `after`."""
    count = -(-num_steps // length)

    def segment(i, carry):
        first, last = _segment(count - 1 - i, num_steps, length)
        return jax.lax.fori_loop(
            0, last - first, lambda k, c: body(c, last - 1 - k), before(carry)
        )

    return _segments(segment, carry, num_steps, length)


def _segment(i, num_steps, length):
    first = i * length
    return first, jnp.minimum(first + length, num_steps)


def _segments(segment, carry, num_steps, length):
    count = jnp.asarray(-(-num_steps // length), jnp.int32)
    return jax.lax.fori_loop(jnp.zeros((), jnp.int32), count, segment, carry)
