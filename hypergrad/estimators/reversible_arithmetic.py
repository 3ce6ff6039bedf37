"""Integers times a fraction, losing nothing: what rounding drops goes on a stack.

For γ = n/d, d = 2^(bits/2), and a dither 0 <= u < d,

    v' = ⌊(n v + u) / d⌋

sends k = 1 or 2 integers v to the same v' where γ >= ½ (up to ⌈1/γ⌉ where it is less).
Which of the k it was is kept on the weight's own stack of bits: none where k = 1, one
where k = 2. With u drawn afresh at each multiplication, v' is γ v rounded without bias
and k = 2 comes with probability 2(1 − γ), whatever v. Maclaurin et al. (2015) push
v mod d and pop a number below n, which keeps log₂(1/γ) bits but puts noise of up to n
units into v'; here the noise is one unit, for 2(1 − γ) <= 1.39 log₂(1/γ) bits.

Products have twice the bits of an integer; they are done by halves, so that int32 needs
no int64.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

WORD = 32
"""Bits of one word of a stack."""


class Stacks(NamedTuple):
    """One stack of bits a weight: a register of two words over a column of words.

    Attributes:
      low: (n,) uint32, the newest bits.
      high: (n,) uint32, those before them.
      fill: (n,) int32, how many bits the register holds, < 64.
      depth: (n,) int32, how many words the register has spilled.
      words: (capacity, n) uint32, the spilled words, oldest first.
    """

    low: jax.Array
    high: jax.Array
    fill: jax.Array
    depth: jax.Array
    words: jax.Array

    @classmethod
    def empty(cls, n: int, capacity: int) -> "Stacks":
        """Stacks of `capacity` words below the register."""
        none, zero = jnp.zeros(n, jnp.uint32), jnp.zeros(n, jnp.int32)
        return cls(none, none, zero, zero, jnp.zeros((capacity, n), jnp.uint32))

    @property
    def overflown(self) -> jax.Array:
        """Whether a word found no room, shape ()."""
        return jnp.any(self.depth > self.words.shape[0])

    def push(self, index: jax.Array, width: jax.Array) -> "Stacks":
        """Put `width` < 32 bits, the number `index`, on top."""
        width = width.astype(jnp.uint32)
        # Shifts in two parts, since a shift by all 32 bits is undefined.
        carried = (self.low >> 1) >> (31 - width)
        return self._replace(
            low=(self.low << width) | index.astype(jnp.uint32),
            high=(self.high << width) | carried,
            fill=self.fill + width.astype(jnp.int32),
        )

    def pop(self, width: jax.Array) -> tuple[jax.Array, "Stacks"]:
        """Take the `width` newest bits off: (index, stacks)."""
        width = width.astype(jnp.uint32)
        index = self.low & _ones(width)
        carried = (self.high << 1) << (31 - width)
        rest = self._replace(
            low=(self.low >> width) | carried,
            high=self.high >> width,
            fill=self.fill - width.astype(jnp.int32),
        )
        return index, rest

    def spill(self) -> "Stacks":
        """Move the oldest word out of every register that holds one or more."""
        full = self.fill >= WORD
        extra = jnp.where(full, self.fill - WORD, 0).astype(jnp.uint32)
        word = (self.low >> extra) | ((self.high << 1) << (31 - extra))
        # A row beyond the last one is dropped: not full, or no room (`overflown`).
        row = jnp.where(full, self.depth, self.words.shape[0])
        column = jnp.arange(row.size, dtype=jnp.int32)
        return Stacks(
            jnp.where(full, self.low & _ones(extra), self.low),
            jnp.where(full, 0, self.high),
            jnp.where(full, self.fill - WORD, self.fill),
            self.depth + full,
            self.words.at[row, column].set(word, mode="drop"),
        )

    def fetch(self) -> "Stacks":
        """Move a word back into every register that holds less than one."""
        short = (self.fill < WORD) & (self.depth > 0)
        column = jnp.arange(short.size, dtype=jnp.int32)
        row = jnp.where(short, self.depth - 1, 0)
        word = jnp.where(short, self.words.at[row, column].get(mode="clip"), 0)
        fill = jnp.where(short, self.fill, 0).astype(jnp.uint32)
        return Stacks(
            self.low | (word << fill),
            self.high | ((word >> 1) >> (31 - fill)),
            jnp.where(short, self.fill + WORD, self.fill),
            self.depth - short,
            self.words,
        )


def multiply(v, numerator, dither, stacks: Stacks) -> tuple[jax.Array, Stacks]:
    """⌊(n v + u) / d⌋, with what it drops pushed.

    Args:
      v: (n,) int32 or int64.
      numerator: like v, 1 <= numerator <= d.
      dither: u, unsigned of as many bits as v, shape (), below d.
      stacks: where the dropped bits go.
    """
    half, mask, n = _halves(v, numerator)
    low = (v & mask.astype(v.dtype)).astype(mask.dtype)
    product = low * n + dither  # <= d² − 1: fits
    scaled = (v >> half) * numerator + (product >> half).astype(v.dtype)
    rest = product & mask  # n v + u = d v' + rest
    index = (mask - rest) // n  # how many greater v have the same v'
    count = index + rest // n + 1
    return scaled, stacks.push(index, _width(count))


def divide(scaled, numerator, dither, stacks: Stacks) -> tuple[jax.Array, Stacks]:
    """The v that `multiply` took, exactly; its bits are popped."""
    half, mask, n = _halves(scaled, numerator)
    # The greatest v with n v + u <= d v' + d − 1, for v' = a n + b.
    a = jnp.floor_divide(scaled, numerator)
    b = (scaled - a * numerator).astype(mask.dtype)
    dividend = (b << half) + (mask - dither)
    quotient = dividend // n
    rest = mask - (dividend - quotient * n)
    index, stacks = stacks.pop(_width(rest // n + 1))
    top = (a << half) + quotient.astype(scaled.dtype)
    return top - index.astype(scaled.dtype), stacks


def widest(smallest: float) -> int:
    """The most bits one multiplication by γ >= `smallest` can push."""
    return (math.ceil(1 / smallest) - 1).bit_length()


def expected_bits(smallest: float) -> float:
    """The mean number of bits one multiplication by γ = `smallest` pushes."""
    # A fraction f of the v' has ⌊1/γ⌋ + 1 preimages, and the others ⌊1/γ⌋.
    fewer = math.floor(1 / smallest)
    f = 1 / smallest - fewer
    bits = (1 - f) * fewer * (fewer - 1).bit_length()
    return smallest * (bits + f * (fewer + 1) * fewer.bit_length())


def capacity(num_steps: int, smallest: float) -> int:
    """Words a stack needs for `num_steps` multiplications by γ >= `smallest`.

    The mean and eight standard deviations, and never more than the worst case.
    """
    most, mean = widest(smallest) * num_steps, expected_bits(smallest) * num_steps
    likely = mean + 8 * math.sqrt(mean * max(1, widest(smallest))) + WORD
    return max(1, math.ceil(min(most, likely) / WORD))


def dither(key, dtype) -> jax.Array:
    """A uniform u, 0 <= u < d, for integers of `dtype`."""
    bits = jnp.iinfo(dtype).bits
    unsigned = jnp.uint32 if bits == 32 else jnp.uint64
    return jax.random.bits(key, (), unsigned) >> jnp.asarray(bits // 2, unsigned)


def _halves(v, numerator):
    bits = jnp.iinfo(v.dtype).bits
    unsigned = jnp.uint32 if bits == 32 else jnp.uint64
    mask = jnp.asarray((1 << bits // 2) - 1, unsigned)
    return bits // 2, mask, numerator.astype(unsigned)


def _width(count):
    """Bits that tell `count` things apart."""
    last = (count - 1).astype(jnp.uint32)
    return WORD - jax.lax.clz(last)


def _ones(width):
    """`width` < 32 ones."""
    return (jnp.ones_like(width) << width) - 1
