"""Models as pairs of pure functions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypergrad.typing import Key, Weights


class Model(NamedTuple):
    """`init(key) -> weights` and `apply(weights, x) -> y`."""

    init: Callable[[Key], Weights]
    apply: Callable[[Weights, jax.Array], jax.Array]


def mlp(
    sizes: Sequence[int], activation: Callable[[jax.Array], jax.Array] = jnp.tanh
) -> Model:
    """X ↦ W_L a(W_{L-1} ... a(W_1 x + b_1) ... ) + b_L, a multilayer perceptron.

    Args:
      sizes: widths from input to output, at least two.
      activation: elementwise a.

    Returns:
      A `Model`; weights are a tuple of `{"kernel": [in, out], "bias": [out]}`, kernels
      normal with variance 1 / in, biases zero; `apply` maps [..., in] to [..., out].

    Raises:
      ValueError: fewer than two sizes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = mlp([3, 8, 2])
      >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3))).shape
      (5, 2)
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must name input and output widths, got {list(sizes)}")

    def init(key: Key) -> Weights:
        keys = jax.random.split(key, len(sizes) - 1)
        return tuple(
            {
                "kernel": jax.random.normal(k, (fan_in, fan_out)) * fan_in**-0.5,
                "bias": jnp.zeros(fan_out),
            }
            for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
        )

    def apply(weights: Weights, x: jax.Array) -> jax.Array:
        *hidden, last = weights
        for layer in hidden:
            x = activation(_dense(layer, x))
        return _dense(last, x)

    return Model(init, apply)


def _dense(layer, x: jax.Array) -> jax.Array:
    y = x @ layer["kernel"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)
