"""Random changes of the data whose strengths are hyperparameters.

    x' = change(x, strength · u)       base noise u drawn first, from the key alone

So x' has a derivative in the strength along each path, and strength 0 is the identity.
Images are [B, H, W, C], every image of a batch draws its own u, and what lies outside
of an image is zero: moved images fade to zero within one pixel of their edge.

Moved images are interpolated bilinearly, which has a kink where a position is an
integer, as every position is at strength 0. The derivative there is that of the side
to which the position moves as the strength grows: at 0, where a search may begin, it is
the right derivative. It is not the left one, and a strength is never negative.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hypergrad.typing import Key

Strength = float | Array
"""A scalar, at least 0, taken in the type of the data; for one an example, use vmap."""


def shift(key: Key, images: Array, fraction: Strength) -> Array:
    """Images moved by fraction · (u_1 H, u_2 W) pixels, u uniform in [−1, 1]².

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        fraction: the largest shift, as a share of height and width.

    Raises:
        ValueError: no images [B, H, W, C] of floats, or the fraction is no scalar.

    >>> images = jnp.arange(1.0, 4.0).reshape(1, 1, 3, 1)
    >>> print(shift(jax.random.key(0), images, 0.0).ravel())
    [1. 2. 3.]
    """
    images = _images(images)
    u = _symmetric(key, images, 2)
    rows, cols = _grid(images)

    def positions(fraction):
        moves = fraction * u
        return (
            rows[None] - moves[:, :1] * rows.size,
            cols[None] - moves[:, 1:] * cols.size,
        )

    return _separable(images, *_places(positions, _of(images, fraction)))


def rescale(key: Key, images: Array, strength: Strength) -> Array:
    """Images magnified about their centre by exp(strength · u), u uniform in [−1, 1].

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        strength: logarithm of the largest magnification.

    Raises:
        ValueError: no images [B, H, W, C] of floats, or the strength is no scalar.

    >>> print(rescale(jax.random.key(0), jnp.ones((1, 1, 3, 1)), 0.0).ravel())
    [1. 1. 1.]
    """
    images = _images(images)
    u, axes = _symmetric(key, images, 1), _grid(images)

    def positions(strength):
        inverse = jnp.exp(-strength * u)
        return tuple(_middle(axis) + inverse * _centred(axis)[None] for axis in axes)

    return _separable(images, *_places(positions, _of(images, strength)))


def rotate(key: Key, images: Array, angle: Strength) -> Array:
    """Images turned about their centre by angle · u, u uniform in [−1, 1].

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        angle: the largest turn, in radians.

    Raises:
        ValueError: no images [B, H, W, C] of floats, or the angle is no scalar.

    >>> print(rotate(jax.random.key(0), jnp.ones((1, 1, 3, 1)), 0.0).ravel())
    [1. 1. 1.]
    """
    images = _images(images)
    u, (rows, cols) = _symmetric(key, images, 1), _grid(images)
    y, x = _centred(rows)[None, :, None], _centred(cols)[None, None]

    def positions(angle):
        turn = (angle * u)[:, :, None]
        return (
            _middle(rows) + jnp.cos(turn) * y + jnp.sin(turn) * x,
            _middle(cols) - jnp.sin(turn) * y + jnp.cos(turn) * x,
        )

    return _bilinear(images, *_places(positions, _of(images, angle)))


def brighten(key: Key, images: Array, strength: Strength) -> Array:
    """Images times 1 + strength · u, u uniform in [−1, 1]; nothing is clipped.

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        strength: the largest relative change.

    Raises:
        ValueError: no images [B, H, W, C] of floats, or the strength is no scalar.

    >>> print(brighten(jax.random.key(0), jnp.ones((1, 1, 3, 1)), 0.0).ravel())
    [1. 1. 1.]
    """
    images = _images(images)
    factors = 1 + _of(images, strength) * _symmetric(key, images, 1)
    return images * factors[:, :, None, None]


def add_noise(key: Key, x: Array, strength: Strength) -> Array:
    """X + strength · ε with ε standard normal, one for each entry.

    Args:
        key: draws ε.
        x: floats of any shape.
        strength: standard deviation, in units of x.

    Raises:
        ValueError: x holds no floats, or the strength is no scalar.

    >>> print(add_noise(jax.random.key(0), jnp.ones(3), 0.0))
    [1. 1. 1.]
    """
    x = floats("x", x)
    return x + _of(x, strength) * jax.random.normal(key, x.shape, x.dtype)


def mixup(
    key: Key, x: Array, targets: Array, strength: Strength
) -> tuple[Array, Array]:
    """(1 − s u) (x, targets) + s u (those of a partner), u uniform in [0, 1].

    The partners are a permutation of the batch. Strength 1 is mixup with the weights of
    a Beta(1, 1); a smaller one leaves every example at least the share 1 − s.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, mixup: beyond empirical risk
    minimization (2018).

    Args:
        key: draws partners and u, one for each example.
        x: inputs [B, ...], floats.
        targets: probabilities of the classes, or real targets, [B, ...].
        strength: s in [0, 1].

    Raises:
        ValueError: x or targets hold no floats, or the strength is no scalar.

    >>> x, targets = jnp.arange(2.0), jax.nn.one_hot(jnp.arange(2), 2)
    >>> mixed, _ = mixup(jax.random.key(2), x, targets, 0.5)
    >>> print(mixed)
    [0.49784148 0.7456451 ]
    """
    x = floats("x", x)
    targets = floats("targets (jax.nn.one_hot(labels, C) for classes)", targets)
    partner_key, weight_key = jax.random.split(key)
    partner = jax.random.permutation(partner_key, x.shape[0])
    weight = _of(x, strength) * jax.random.uniform(weight_key, x.shape[:1], x.dtype)

    def mix(values):
        w = weight.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
        return values + w * (values[partner] - values)

    return mix(x), mix(targets)


class _Places(NamedTuple):
    """Positions on an axis, and the pixel below each: both of the same shape.

    The cell from `below` to `below + 1` is the one that a position is in, or, where it
    is an integer, the one that it moves into.
    """

    positions: Array
    below: Array


def _places(
    positions: Callable[[Array], tuple[Array, ...]], strength: Array
) -> list[_Places]:
    """The places of rows and columns at a strength."""
    found = jax.jvp(positions, (strength,), (jnp.ones_like(strength),))
    return [
        _Places(p, jnp.where(motion < 0, jnp.ceil(p) - 1, jnp.floor(p)))
        for p, motion in zip(*found, strict=True)
    ]


def _separable(images: Array, rows: _Places, cols: _Places) -> Array:
    """Images at the places rows[b, i], cols[b, j], as two products of matrices.

    Three times as fast to differentiate as a gather, and at home on a TPU.
    """
    height, width = _grid(images)
    return jnp.einsum(
        "bik,bklc,bjl->bijc",
        _tents(rows, height),
        images,
        _tents(cols, width),
        precision=jax.lax.Precision.HIGHEST,
    )


def _tents(places: _Places, pixels: Array) -> Array:
    """Weights max(0, 1 − |position − pixel|), [b, i, pixels].

    The two pixels of the cell have 1 − (p − k) and 1 + (p − (k + 1)), whose slopes sum
    to zero; the slopes of relu and |·| do not where a position is an integer.
    """
    below, pixels = places.below[:, :, None], pixels[None, None]
    distance = places.positions[:, :, None] - pixels
    weights = 1 - jnp.where(pixels <= below, distance, -distance)
    outside = jnp.abs(pixels - below - 0.5) > 1
    return jnp.where(outside, 0, weights)  # NaN is not outside: it stays NaN.


def _bilinear(images: Array, rows: _Places, cols: _Places) -> Array:
    """Images at any places rows[b, i, j], cols[b, i, j], from four neighbours."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    batch = jnp.arange(images.shape[0])[:, None, None]

    def neighbour(places, size):
        # From −1 outwards all is zero, so no position need lie further out.
        first = jnp.clip(places.below.astype(jnp.int32), -1, size - 1) + 1
        return first, (jnp.clip(places.positions, -1, size) + 1 - first)[..., None]

    top, below = neighbour(rows, images.shape[1])
    left, right = neighbour(cols, images.shape[2])

    def row(i):
        return (1 - right) * padded[batch, i, left] + right * padded[batch, i, left + 1]

    return (1 - below) * row(top) + below * row(top + 1)


def _grid(images: Array) -> tuple[Array, Array]:
    """The positions of rows and of columns, in the type of the images."""
    height, width = images.shape[1:3]
    return jnp.arange(height, dtype=images.dtype), jnp.arange(width, dtype=images.dtype)


def _middle(axis: Array) -> float:
    return (axis.size - 1) / 2


def _centred(axis: Array) -> Array:
    return axis - _middle(axis)


def _symmetric(key: Key, images: Array, count: int) -> Array:
    """Uniform in [−1, 1], [B, count]."""
    shape = (images.shape[0], count)
    return jax.random.uniform(key, shape, images.dtype, -1.0, 1.0)


def _of(x: Array, strength: Strength) -> Array:
    """The strength in the type of x."""
    if shape := jnp.shape(strength):
        raise ValueError(
            f"strength (or fraction, angle) must be a scalar, got shape {shape}: for "
            "one an example, jax.vmap over keys, examples and strengths"
        )
    return jnp.asarray(strength, x.dtype)


def floats(name: str, x: Array) -> Array:
    """X as an array, refused where it holds no floats."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must hold floats, got {x.dtype}: convert it first")
    return x


def _images(images: Array) -> Array:
    images = floats("images", images)
    if images.ndim != 4:
        raise ValueError(
            f"images must be [B, H, W, C], got shape {images.shape}: add the axis of "
            "channels or of the batch"
        )
    return images
