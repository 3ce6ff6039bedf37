"""The VGG networks with batch normalisation of two papers, at any width.

x ← a(norm(conv_3×3(x))) for each width of a block, then the largest of 2 × 2;
y = W x + b after all blocks, or dropout and rectified layers before it
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.data.sources import ImageSet, load
from experiments.papers.images import Images, images
from hypergrad.models import BatchNorm, Conv, Dropout, StatefulModel, from_nnx
from hypergrad.typing import Key

Blocks = tuple[tuple[int, ...], ...]
VGG11: Blocks = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16: Blocks = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


class Pictures(NamedTuple):
    """Images [n, H, W, C], in [0, 1]: the first rows for training, others held out."""

    shape: tuple[int, ...]
    num_classes: int
    train: Images
    held: Images


def pictures(source: ImageSet, num_train: int, num_held: int) -> Pictures:
    """Training rows from the first on, and the rows after them."""
    every, shape = images(source), load(source).train.inputs.shape[1:]
    every = every._replace(inputs=every.inputs.reshape(-1, *shape))
    return Pictures(
        shape,
        int(every.labels.max()) + 1,
        every.rows(0, num_train),
        every.rows(num_train, num_train + num_held),
    )


class VGG(nnx.Module):
    """[B, H, W, C] ↦ [B, classes].

    Args:
        image_shape: (H, W, C).
        blocks: widths of the convolutions of each block.
        hidden: widths of rectified layers after them, dropout before each.
        dropout: its rate.
        num_classes: outputs.
        centre, scale: images are (x − centre) / scale first.
        rngs: the streams.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        blocks: Blocks,
        hidden: tuple[int, ...],
        dropout: float,
        num_classes: int,
        centre: float,
        scale: float,
        *,
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        built = []
        for widths in blocks:
            block = []
            for wide in widths:
                conv = Conv(channels, wide, 3, kernel_init=init, rngs=rngs)
                block.append(nnx.List([conv, BatchNorm(wide)]))
                channels = wide
            built.append(nnx.List(block))
            height, width = max(height // 2, 1), max(width // 2, 1)
        self.blocks = nnx.List(built)
        sizes = (height * width * channels, *hidden, num_classes)
        self.layers = nnx.List(
            nnx.Linear(a, b, kernel_init=_uniform, bias_init=_uniform_of(a), rngs=rngs)
            for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.dropout, self.rate = Dropout(rngs=rngs), dropout
        self.centre, self.scale = centre, scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        x = (x - self.centre) / self.scale
        for block in self.blocks:
            for conv, norm in block:
                x = jax.nn.relu(norm(conv(x)))
            x = largest(x)
        x = x.reshape(len(x), -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = jax.nn.relu(layer(self.dropout(x, self.rate)))
        return last(x)


def largest(x: jax.Array) -> jax.Array:
    """The largest of each 2 × 2 pixels; an odd last line is left out, a single kept."""
    for axis in (1, 2):
        pairs = x.shape[axis] // 2
        if pairs:
            x = jax.lax.slice_in_dim(x, 0, 2 * pairs, axis=axis)
            x = x.reshape(*x.shape[:axis], pairs, 2, *x.shape[axis + 1 :]).max(axis + 1)
    return x


def _uniform(key, shape, dtype=jnp.float32):
    return _uniform_of(shape[0])(key, shape, dtype)


def _uniform_of(fan_in):
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@functools.cache  # Equal networks share one compilation.
def vgg(*args, **kwargs) -> StatefulModel:
    """`VGG` as pure functions."""
    return from_nnx(lambda rngs: VGG(*args, rngs=rngs, **kwargs))


@functools.cache
def moved(shift: int, flip: bool):
    """A change of images [B, H, W, C]: whole pixels either way, and left for right."""

    def change(key: Key, images: jax.Array) -> jax.Array:
        corners, sides = jax.random.split(key)
        padding = ((0, 0), (shift, shift), (shift, shift), (0, 0))
        padded = jnp.pad(images, padding)
        count, height, width, channels = images.shape
        places = jax.random.randint(corners, (count, 2), 0, 2 * shift + 1)

        def crop(image, place):
            starts = (place[0], place[1], jnp.zeros_like(place[0]))
            return jax.lax.dynamic_slice(image, starts, (height, width, channels))

        cut = jax.vmap(crop)(padded, places)
        if not flip:
            return cut
        turned = jax.random.bernoulli(sides, 0.5, (count, 1, 1, 1))
        return jnp.where(jnp.broadcast_to(turned, cut.shape), cut[:, :, ::-1], cut)

    return change
