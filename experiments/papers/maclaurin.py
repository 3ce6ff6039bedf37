"""What the experiments of Maclaurin, Duvenaud and Adams (2015) share, quirks included.

Their reversible arithmetic multiplies velocities by n/65536, n = ⌊65536 γ + 1⌋, and
everything else by γ itself; without that rounding losses differ by 5e-5. Here the
rounding has derivative 1, so that hypergradients are those of the rounded map; theirs
take γ for n/65536 on the way back and are off by 1e-4 to 5e-4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

_DENOMINATOR = 65536.0

Factor = Callable[[jax.Array], jax.Array | optax.Updates]
"""step -> a number, or one a leaf of the weights."""


class MomentumState(NamedTuple):
    """Steps done and velocity."""

    step: jax.Array
    velocity: optax.Updates


def momentum(
    alpha: Factor, gamma: Factor, *, rounded: bool = True
) -> optax.GradientTransformation:
    """The optimiser v ← γ_t v − (1 − γ_t) g,  w ← w + α_t v, of the new velocity.

    Args:
        alpha: α_t.
        gamma: γ_t.
        rounded: multiply v by the n/65536 of their fixed-point arithmetic.
    """

    def init(params):
        still = jax.tree.map(jnp.zeros_like, params)
        return MomentumState(jnp.zeros((), jnp.int32), still)

    def update(updates, state, params=None):
        del params
        decay, rate = (_each(fn(state.step), updates) for fn in (gamma, alpha))

        def accelerate(g, v, slope):
            return (_rounded(g) if rounded else g) * v - (1.0 - g) * slope

        velocity = jax.tree.map(accelerate, decay, state.velocity, updates)
        moves = jax.tree.map(jnp.multiply, rate, velocity)
        return moves, MomentumState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


def _each(factor, grads):
    """One factor a leaf."""
    leaves, structure = jax.tree.flatten(grads)
    if jax.tree.structure(factor) == structure:
        return factor
    return jax.tree.unflatten(structure, [factor] * len(leaves))


def _rounded(gamma):
    """n/65536, with the derivative of γ."""
    fraction = jnp.floor(_DENOMINATOR * gamma + 1.0) / _DENOMINATOR
    return gamma + jax.lax.stop_gradient(fraction - gamma)
