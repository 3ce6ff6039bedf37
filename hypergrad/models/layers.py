"""The layers that the networks share."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hypergrad import convolutions
from hypergrad.dropout import dropout
from hypergrad.models.norms import Norm, make_norm
from hypergrad.typing import Scalar

Activation = Literal["relu", "tanh", "gelu", "silu"]


class Nonlinearity(NamedTuple):
    """An elementwise function, and the variance of w · √fan_in that suits it."""

    function: Callable[[jax.Array], jax.Array]
    gain: float

    @property
    def kernel_init(self) -> nnx.Initializer:
        """Normal, cut off at two deviations, with variance gain / fan_in."""
        return nnx.initializers.variance_scaling(
            self.gain, "fan_in", "truncated_normal"
        )


_NONLINEARITIES = {
    "relu": Nonlinearity(jax.nn.relu, 2.0),
    "tanh": Nonlinearity(jnp.tanh, 1.0),
    "gelu": Nonlinearity(jax.nn.gelu, 2.0),
    "silu": Nonlinearity(jax.nn.silu, 2.0),
}


def nonlinearity(name: Activation) -> Nonlinearity:
    """The one of this name, or a `ValueError` that lists them."""
    return choose("activation", name, _NONLINEARITIES)


def choose(argument: str, name: str, options: dict):
    """`options[name]`, or a `ValueError` that lists them."""
    if name not in options:
        raise ValueError(f"{argument} must be one of {list(options)}, got {name!r}")
    return options[name]


def check_sizes(**sizes: int) -> None:
    """Raise a `ValueError` for the first that is no Python int >= 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a Python int >= 1, got {size!r}")


class Embedding(nnx.Module):
    """A learned vector for each token: tokens [...] to vectors [..., features].

    In the dtype of its weights: flax's own rounds float64 weights to float32.
    """

    def __init__(self, num_tokens: int, features: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.embedding = nnx.Param(init(rngs.params(), (num_tokens, features)))
        self.num_tokens = num_tokens

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[...] to [..., features]."""
        return jnp.take(self.embedding[...], tokens, axis=0)


class Dropout(nnx.Module):
    """Dropout at a rate that may be a hyperparameter, in train mode only.

    A draw of its own at every call, from the stream `dropout`; the relaxation that
    makes it differentiable in the rate is that of `hypergrad.dropout`. The Python
    number 0.0 costs nothing.

    Args:
      rngs: the streams.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> float(Dropout(rngs=nnx.Rngs(0))(jnp.ones(()), 0.0))
      1.0
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.stream = rngs["dropout"].fork()
        self.deterministic = False

    def __call__(self, x: jax.Array, rate: float | Scalar) -> jax.Array:
        """X with entries dropped at this rate, of the same mean."""
        if self.deterministic or (isinstance(rate, float) and rate == 0.0):
            return x
        return dropout(self.stream(), x, rate)


class Conv(nnx.Module):
    """y_hw = Σ_ijc x_{sh+i, sw+j, c} k_ijc + b with zero padding, output ⌈H / s⌉.

    Patches and one matrix product: on CPU several times faster than the native
    convolution, and under vmap over kernels more so; it keeps k² / s² times the input.

    Args:
      in_features: channels of x [B, H, W, C].
      out_features: F, channels of y [B, ⌈H / s⌉, ⌈W / s⌉, F].
      kernel_size: k; the weight `kernel` has shape [k, k, C, F].
      stride: s.
      kernel_init: of the kernel.
      rngs: the streams.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> Conv(3, 4, 3, 2, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 5, 3))).shape
      (1, 3, 3, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        stride: int = 1,
        *,
        kernel_init: nnx.Initializer = nnx.initializers.lecun_normal(),
        rngs: nnx.Rngs,
    ):
        check_sizes(kernel_size=kernel_size, stride=stride)
        shape = (kernel_size, kernel_size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """The convolution of [B, H, W, C]."""
        kernel = self.kernel[...]
        size, _, _, out_features = kernel.shape
        y = patches(x, size, self.stride) @ kernel.reshape(-1, out_features)
        return y + jnp.broadcast_to(self.bias[...], y.shape)


def patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """[B, H, W, C] ↦ [B, ⌈H / s⌉, ⌈W / s⌉, k² C], zeros outside; ordered (i, j, c)."""
    window, strides = (size, size), (stride, stride)
    pads = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return convolutions.patches(x, window, strides, (1, 1))


class Dense(nnx.Module):
    """Activation(norm(x W + b)), then dropout: a hidden layer of a perceptron."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: Activation,
        norm: Norm,
        *,
        rngs: nnx.Rngs,
    ):
        self.activation = nonlinearity(activation)
        init = self.activation.kernel_init
        self.linear = nnx.Linear(in_features, out_features, kernel_init=init, rngs=rngs)
        self.norm = make_norm(norm, out_features, rngs=rngs)
        self.dropout = Dropout(rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar) -> jax.Array:
        """[..., in] ↦ [..., out]."""
        x = self.activation.function(self.norm(self.linear(x)))
        return self.dropout(x, dropout)


def flatten(x: jax.Array) -> jax.Array:
    """[B, ...] ↦ [B, the product of the rest]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
