"""Adam's direction as papers have written it, where they part from each other.

m ← b1 m + (1 − b1) g,            m̂ = m / (1 − b1^t)
v ← b2 v + (1 − b2) g²,           v̂ = v / (1 − b2^t)
direction = m̂ / (√v̂ + eps)       or √v̂ + eps / √(1 − b2^t), as PyTorch 0.3 had it
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdamState(NamedTuple):
    """Steps done, and the two moments."""

    steps: jax.Array
    mean: optax.Updates
    square: optax.Updates


def adam(
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: float = 1e-8,
    *,
    start: float = 0.0,
    idle: int = 0,
    late_eps: bool = False,
) -> optax.GradientTransformation:
    """Adam's direction; multiply it by −α.

    Args:
        b1: decay of the mean; may be differentiated, and so may b2.
        b2: decay of the square.
        eps: what is added to the root.
        start: v before the first step.
        idle: steps with a gradient of 0 that have been made before the first.
        late_eps: eps is divided by √(1 − b2^t), as it is where √v + eps is corrected.
    """

    def moment(b, old, new):
        return jax.tree.map(lambda m, g: b * m + (1.0 - b) * g, old, new)

    def init(params):
        square = jax.tree.map(lambda p: jnp.full_like(p, start * b2**idle), params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.full((), idle, jnp.int32), zeros, square)

    def update(updates, state, params=None):
        del params
        t = (state.steps + 1).astype(jnp.result_type(float))
        mean = moment(b1, state.mean, updates)
        square = moment(b2, state.square, jax.tree.map(jnp.square, updates))
        added = eps / jnp.sqrt(1.0 - b2**t) if late_eps else eps

        def direction(m, v):
            return m / (1.0 - b1**t) / (jnp.sqrt(v / (1.0 - b2**t)) + added)

        moved = jax.tree.map(direction, mean, square)
        return moved, AdamState(state.steps + 1, mean, square)

    return optax.GradientTransformation(init, update)
