"""Convolutional networks, plain and residual."""

import jax
import jax.numpy as jnp
from flax import nnx

from hypergrad.models.layers import (
    Activation,
    Conv,
    Dropout,
    check_sizes,
    flatten,
    nonlinearity,
)
from hypergrad.models.norms import Norm, make_norm
from hypergrad.typing import Scalar


class CNN(nnx.Module):
    """x_{i+1} = dropout(a(norm(conv_i(x_i)))), y = flat(x_depth) W + b.

    Each convolution has the same filters, kernel and stride, and so each divides height
    and width by the stride, rounding up.

    Args:
      image_shape: (H, W, C).
      filters: channels of each convolution.
      depth: number of convolutions.
      kernel: size of each.
      stride: of each.
      out_features: of the output [B, out_features].
      activation: relu, tanh, gelu or silu.
      norm: none, batch, layer or group, of the channels.
      rngs: the streams.

    Raises:
      ValueError: a size is no positive int, or there is no such activation or norm.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> model = CNN((8, 8, 1), 4, 2, 3, 2, 10, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((5, 8, 8, 1))).shape
      (5, 10)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        filters: int,
        depth: int,
        kernel: int,
        stride: int,
        out_features: int,
        activation: Activation = "relu",
        norm: Norm = "none",
        *,
        rngs: nnx.Rngs,
    ):
        check_sizes(filters=filters, depth=depth, out_features=out_features)
        height, width, channels = image_shape
        layers = []
        for _ in range(depth):
            layers.append(
                _ConvLayer(
                    channels, filters, kernel, stride, activation, norm, rngs=rngs
                )
            )
            height, width = -(-height // stride), -(-width // stride)
            channels = filters
        self.layers = nnx.List(layers)
        self.head = nnx.Linear(height * width * filters, out_features, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar = 0.0) -> jax.Array:
        """[B, H, W, C] ↦ [B, out_features]."""
        for layer in self.layers:
            x = layer(x, dropout)
        return self.head(flatten(x))


class ResidualCNN(nnx.Module):
    """x_{i+1} = x_i + conv(dropout(a(norm(conv(a(norm(x_i))))))), y = mean(x) W + b.

    A convolution with the stride first, then blocks that keep the shape, with the
    activation before the convolution (He et al. 2016), and at the end the mean over
    height and width of a(norm(x)).

    Args:
      image_shape: (H, W, C).
      filters: channels.
      depth: number of blocks, of two convolutions each.
      kernel: size of each convolution.
      stride: of the first convolution.
      out_features: of the output [B, out_features].
      activation: relu, tanh, gelu or silu.
      norm: none, batch, layer or group, of the channels.
      rngs: the streams.

    Raises:
      ValueError: a size is no positive int, or there is no such activation or norm.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> model = ResidualCNN((8, 8, 1), 4, 2, 3, 2, 10, norm="batch", rngs=nnx.Rngs(0))
      >>> model(jnp.ones((5, 8, 8, 1))).shape
      (5, 10)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        filters: int,
        depth: int,
        kernel: int,
        stride: int,
        out_features: int,
        activation: Activation = "relu",
        norm: Norm = "none",
        *,
        rngs: nnx.Rngs,
    ):
        check_sizes(filters=filters, depth=depth, out_features=out_features)
        self.activation = nonlinearity(activation)
        self.stem = Conv(image_shape[2], filters, kernel, stride, rngs=rngs)
        self.blocks = nnx.List(
            _Block(filters, kernel, activation, norm, rngs=rngs) for _ in range(depth)
        )
        self.norm = make_norm(norm, filters, rngs=rngs)
        self.head = nnx.Linear(filters, out_features, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar = 0.0) -> jax.Array:
        """[B, H, W, C] ↦ [B, out_features]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, dropout)
        x = self.activation.function(self.norm(x))
        return self.head(jnp.mean(x, (1, 2)))


class _ConvLayer(nnx.Module):
    """dropout(a(norm(conv(x))))."""

    def __init__(
        self,
        in_features: int,
        filters: int,
        kernel: int,
        stride: int,
        activation: Activation,
        norm: Norm,
        *,
        rngs: nnx.Rngs,
    ):
        self.activation = nonlinearity(activation)
        init = self.activation.kernel_init
        self.conv = Conv(
            in_features, filters, kernel, stride, kernel_init=init, rngs=rngs
        )
        self.norm = make_norm(norm, filters, rngs=rngs)
        self.dropout = Dropout(rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar) -> jax.Array:
        x = self.activation.function(self.norm(self.conv(x)))
        return self.dropout(x, dropout)


class _Block(nnx.Module):
    """x + conv(dropout(a(norm(conv(a(norm(x)))))))."""

    def __init__(
        self,
        filters: int,
        kernel: int,
        activation: Activation,
        norm: Norm,
        *,
        rngs: nnx.Rngs,
    ):
        self.activation = nonlinearity(activation)
        self.norm = make_norm(norm, filters, rngs=rngs)
        self.inner = _ConvLayer(
            filters, filters, kernel, 1, activation, norm, rngs=rngs
        )
        self.outer = Conv(filters, filters, kernel, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar) -> jax.Array:
        y = self.activation.function(self.norm(x))
        return x + self.outer(self.inner(y, dropout))
