"""What a Gaussian process sees of trials: features of their points, tamed targets."""

import math
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.choices import Choice
from hypergrad.space import Entry, Space

# Above this many coordinates a length-scale each is more than a study can learn.
_MAX_OWN_LENGTHS = 30


def features(space: Space, cube: jax.Array) -> jax.Array:
    """What the process sees of points [n, d]: an unordered choice as one-hot / √2.

    Equal options are then at distance 0 and different ones at distance 1.
    """
    if not any(map(_is_unordered, space.discrete.values())):
        return cube
    columns, start = [], 0
    for _, entry in space.entries:
        piece = cube[:, start : start + entry.size]
        if _is_unordered(entry):
            count = len(entry.options)
            index = entry.project(count * piece[:, 0] - 0.5).astype(int)
            piece = jax.nn.one_hot(index, count, dtype=cube.dtype) / math.sqrt(2)
        columns.append(piece)
        start += entry.size
    return jnp.concatenate(columns, axis=1)


def groups(space: Space) -> tuple[int, ...]:
    """The index of each feature's length-scale; an unordered choice has one."""
    shared = space.dim > _MAX_OWN_LENGTHS
    found: list[int] = []
    for _, entry in space.entries:
        first = found[-1] + 1 if found else 0
        if _is_unordered(entry):
            found += [first] * len(entry.options)
        else:
            found += [first if shared else first + i for i in range(entry.size)]
    return tuple(found)


def continuous_features(space: Space) -> np.ndarray:
    """The features that are continuous coordinates, along which F has a slope."""
    found, start = [], 0
    for _, entry in space.entries:
        width = len(entry.options) if _is_unordered(entry) else entry.size
        if not isinstance(entry, Choice):
            found += range(start, start + width)
        start += width
    return np.array(found, int)


class Targets(NamedTuple):
    """Values as a process sees them.

    Attributes:
        values: y [n], of mean 0 and variance 1; 0 where masked.
        unit: how much of F is one of y; 0 where there is nothing to tell apart.
        whole: which values were neither masked nor tamed, [n]: of these
            dy = dF / unit, of the others the slope is lost.
    """

    values: jax.Array
    unit: jax.Array
    whole: jax.Array


def tame(values: jax.Array, mask: jax.Array) -> Targets:
    """(F − mean)/deviation of the unmasked values, [n], after taming the diverged ones.

    A value that is not finite becomes the worst finite one. Then all are cut off at
    median + 3 (median − best): one loss of 1e30 would make all others look equal.

    >>> values = jnp.array([1.0, 2.0, 3.0, 1e30, jnp.nan, 0.0])
    >>> targets = tame(values, jnp.arange(6) < 5)
    >>> print(targets.values.round(2), targets.whole)
    [-1.38 -0.75 -0.13  1.12  1.12  0.  ] [ True  True  True False False False]
    """
    usable = mask & jnp.isfinite(values)
    values = values / 16.0  # so that no range of finite values overflows
    ordered = jnp.sort(jnp.where(usable, values, jnp.inf))
    last = jnp.maximum(jnp.sum(usable) - 1, 0)
    best, median, worst = ordered[0], ordered[last // 2], ordered[last]
    spread = median - best
    fence = jnp.where(spread > 0, jnp.minimum(worst, median + 3.0 * spread), worst)

    # Scaled to [0, 1] before anything is squared.
    tamed = jnp.minimum(jnp.where(usable, values, fence), fence) - best
    tamed = jnp.where(mask & (fence > best), tamed / (fence - best), 0.0)
    count = jnp.maximum(jnp.sum(mask), 1)
    centered = jnp.where(mask, tamed - jnp.sum(tamed) / count, 0.0)
    deviation = jnp.sqrt(jnp.sum(centered * centered) / count)
    return Targets(
        values=centered / jnp.where(deviation > 0, deviation, 1.0),
        unit=16.0 * (deviation * (fence - best)),
        whole=usable & (values <= fence),
    )


def standardise(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The targets of `tame` alone, [n].

    >>> print(standardise(jnp.array([1.0, 2.0, 3.0]), jnp.full(3, True)).round(2))
    [-1.22  0.    1.22]
    """
    return tame(values, mask).values


def filled(buffer: jax.Array, count: jax.Array) -> jax.Array:
    """Mask [n] of the first `count` rows."""
    return jnp.arange(len(buffer)) < count


def _is_unordered(entry: Entry) -> TypeGuard[Choice]:
    return isinstance(entry, Choice) and not entry.ordered
