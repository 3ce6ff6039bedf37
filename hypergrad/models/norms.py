"""Normalisation over a batch, a row or groups of features."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

Norm = Literal["none", "batch", "layer", "group"]


def make_norm(
    name: Norm, num_features: int, *, rngs: nnx.Rngs
) -> Callable[[jax.Array], jax.Array]:
    """The norm of this name over the last axis, of `num_features`.

    `group` takes 8 groups, or their greatest common divisor with the features.

    Raises:
      ValueError: there is no norm of this name.
    """
    match name:
        case "none":
            return _identity
        case "batch":
            return BatchNorm(num_features)
        case "layer":
            return nnx.LayerNorm(num_features, use_fast_variance=False, rngs=rngs)
        case "group":
            return nnx.GroupNorm(
                num_features,
                math.gcd(num_features, 8),
                use_fast_variance=False,
                rngs=rngs,
            )
    raise ValueError(f"norm must be one of none, batch, layer, group; got {name!r}")


def _identity(x: jax.Array) -> jax.Array:
    return x


class BatchNorm(nnx.Module):
    """y = γ (x − μ) / √(σ² + ε) + β: μ, σ² of the batch in training, averages in eval.

    Over all axes but the last, with the biased variance (Ioffe & Szegedy 2015). In
    train mode each call also moves the averages,

        m ← c m + (1 − c) μ,   v ← c v + (1 − c) σ²,   from m = 0 and v = 1,

    which are model state, carried in `InnerState`. What that means for dF/dλ: the outer
    loss sees the averages after T steps, hence the weights of *all* steps; `Reverse`,
    `Forward` and the others that see the whole state differentiate through them, so
    that dF/dλ is that of the model as it is evaluated. Estimators that hold the model
    state leave that part out, and say so (they are doubtful, or refuse). The averages
    remember about 1 / (1 − c) steps and still hold the share c^T of their start: c is
    to suit the T of the problem (0.9 for T from about 30, where flax's 0.99 would want
    300).

    Args:
      num_features: the size of the last axis.
      momentum: c in [0, 1).
      epsilon: ε; also bounds the derivative where a feature is constant.

    Example:
      >>> import jax.numpy as jnp
      >>> BatchNorm(1)(jnp.array([[1.0], [3.0]])).round(3).tolist()
      [[-1.0], [1.0]]
    """

    def __init__(self, num_features: int, momentum: float = 0.9, epsilon: float = 1e-5):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False  # what train() and eval() set

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] ↦ the same shape."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
            centred = x - jnp.broadcast_to(mean, x.shape)
        else:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes)
            centred = x - jnp.broadcast_to(mean, x.shape)
            # Not E x² − (E x)², which cancels in float32.
            var = jnp.mean(jnp.square(centred), axes)
            self._move(self.mean, mean)
            self._move(self.var, var)
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        scaled = centred * jnp.broadcast_to(scale, x.shape)
        return scaled + jnp.broadcast_to(self.bias[...], x.shape)

    def _move(self, average: nnx.BatchStat, new: jax.Array) -> None:
        old = average[...]
        average.set_value(self.momentum * old + (1 - self.momentum) * new)
