"""Random changes of the data whose strengths are hyperparameters.

    x' = change(x, strength · u)       base noise u drawn first, from the key alone

So x' has a derivative in the strength along each path, and strength 0 is the identity.
Images are [B, H, W, C], every image of a batch draws its own u, and what lies outside
of an image is zero: moved images fade to zero within one pixel of their edge.

Moved images are interpolated bilinearly, which has a kink where a position is an
integer. Derivatives hold everywhere else; at strength 0 every position is one, and the
slope found there is that of one side: begin a search at a positive strength.
"""

import jax
import jax.numpy as jnp
from jax import Array

from hypergrad.typing import Key

Strength = float | Array
"""A scalar, at least 0, taken in the type of the data."""


def shift(key: Key, images: Array, fraction: Strength) -> Array:
    """Images moved by fraction · (u_1 H, u_2 W) pixels, u uniform in [−1, 1]².

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        fraction: the largest shift, as a share of height and width.

    Raises:
        ValueError: the images are not [B, H, W, C] of floats.

    >>> images = jnp.arange(1.0, 4.0).reshape(1, 1, 3, 1)
    >>> print(shift(jax.random.key(0), images, 0.0).ravel())
    [1. 2. 3.]
    """
    images = _images(images)
    moves = _of(images, fraction) * _symmetric(key, images, 2)
    rows, cols = _grid(images)
    return _separable(
        images,
        rows[None] - moves[:, :1] * rows.size,
        cols[None] - moves[:, 1:] * cols.size,
    )


def rescale(key: Key, images: Array, strength: Strength) -> Array:
    """Images magnified about their centre by exp(strength · u), u uniform in [−1, 1].

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        strength: logarithm of the largest magnification.

    Raises:
        ValueError: the images are not [B, H, W, C] of floats.

    >>> print(rescale(jax.random.key(0), jnp.ones((1, 1, 3, 1)), 0.0).ravel())
    [1. 1. 1.]
    """
    images = _images(images)
    inverse = jnp.exp(-_of(images, strength) * _symmetric(key, images, 1))
    rows, cols = (
        _middle(axis) + inverse * _centred(axis)[None] for axis in _grid(images)
    )
    return _separable(images, rows, cols)


def rotate(key: Key, images: Array, angle: Strength) -> Array:
    """Images turned about their centre by angle · u, u uniform in [−1, 1].

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        angle: the largest turn, in radians.

    Raises:
        ValueError: the images are not [B, H, W, C] of floats.

    >>> print(rotate(jax.random.key(0), jnp.ones((1, 1, 3, 1)), 0.0).ravel())
    [1. 1. 1.]
    """
    images = _images(images)
    turn = (_of(images, angle) * _symmetric(key, images, 1))[:, :, None]
    rows, cols = _grid(images)
    y, x = _centred(rows)[None, :, None], _centred(cols)[None, None]
    return _bilinear(
        images,
        _middle(rows) + jnp.cos(turn) * y + jnp.sin(turn) * x,
        _middle(cols) - jnp.sin(turn) * y + jnp.cos(turn) * x,
    )


def brighten(key: Key, images: Array, strength: Strength) -> Array:
    """Images times 1 + strength · u, u uniform in [−1, 1]; nothing is clipped.

    Args:
        key: draws u.
        images: [B, H, W, C], floats.
        strength: the largest relative change.

    Raises:
        ValueError: the images are not [B, H, W, C] of floats.

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
        ValueError: x holds no floats.

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
        ValueError: x or targets hold no floats.

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


def _separable(images: Array, rows: Array, cols: Array) -> Array:
    """Images at the positions rows[b, i], cols[b, j], as two products of matrices.

    Bilinear weights are tents, max(0, 1 − |position − pixel|), one factor for each
    axis. Three times as fast to differentiate as a gather, and at home on a TPU.
    """
    height, width = _grid(images)
    down = jax.nn.relu(1 - jnp.abs(rows[:, :, None] - height[None, None]))
    across = jax.nn.relu(1 - jnp.abs(cols[:, :, None] - width[None, None]))
    return jnp.einsum("bik,bklc,bjl->bijc", down, images, across)


def _bilinear(images: Array, rows: Array, cols: Array) -> Array:
    """Images at any positions rows[b, i, j], cols[b, i, j], from four neighbours."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = images.shape[1:3]
    # From −1 outwards all is zero, so no position need lie further out.
    rows, cols = jnp.clip(rows, -1, height) + 1, jnp.clip(cols, -1, width) + 1
    top = jnp.clip(jnp.floor(rows).astype(jnp.int32), 0, height)
    left = jnp.clip(jnp.floor(cols).astype(jnp.int32), 0, width)
    below, right = (rows - top)[..., None], (cols - left)[..., None]
    batch = jnp.arange(images.shape[0])[:, None, None]

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
