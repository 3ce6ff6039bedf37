"""Multilayer perceptrons."""

import jax
from flax import nnx

from hypergrad.models.layers import Activation, Dense, check_sizes, flatten
from hypergrad.models.norms import Norm
from hypergrad.typing import Scalar


class MLP(nnx.Module):
    """x_{i+1} = dropout(a(norm(x_i W_i + b_i))), y = x_depth W + b.

    Weights are `layers` 0, 1, ..., each {"linear": {"kernel", "bias"}} and, with a norm
    that has weights, "norm"; and `head`.

    Args:
      in_features: the product of the input's axes but the first; it is flattened.
      width: of each hidden layer.
      depth: number of hidden layers; 0 for a linear model.
      out_features: of the output [B, out_features].
      activation: relu, tanh, gelu or silu.
      norm: none, batch, layer or group.
      rngs: the streams.

    Raises:
      ValueError: a size is no positive int, or there is no such activation or norm.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> MLP(8, 16, 2, 3, rngs=nnx.Rngs(0))(jnp.ones((5, 2, 4))).shape
      (5, 3)
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        depth: int,
        out_features: int,
        activation: Activation = "tanh",
        norm: Norm = "none",
        *,
        rngs: nnx.Rngs,
    ):
        check_sizes(in_features=in_features, width=width, out_features=out_features)
        if not isinstance(depth, int) or depth < 0:
            raise ValueError(f"depth must be a Python int >= 0, got {depth!r}")
        sizes = [in_features] + [width] * depth
        self.layers = nnx.List(
            Dense(fan_in, width, activation, norm, rngs=rngs) for fan_in in sizes[:-1]
        )
        self.head = nnx.Linear(sizes[-1], out_features, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar = 0.0) -> jax.Array:
        """[B, ...] ↦ [B, out_features]."""
        x = flatten(x)
        for layer in self.layers:
            x = layer(x, dropout)
        return self.head(x)
