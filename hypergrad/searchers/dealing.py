"""Starting points of descents, dealt through all combinations of choices."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import starts
from hypergrad.space import Space
from hypergrad.typing import Key

# Tags the order of choices apart from the starting points fold_in(key, index).
_ORDER = 2**31 - 2
# Above this many combinations of choices they are drawn instead of dealt.
_MAX_DEALT = 2**16


def dealt(space: Space, key: Key, indices: jax.Array) -> jax.Array:
    """Where the descents of these indices [n] begin: z [n, d].

    Without choices these are `starts`. Else descent i has combination i of the choices,
    modulo their number, the default's first and the others in an order drawn from the
    key; whichever is the first in its combination begins at the default λ.
    """
    coords = starts(space, key, indices)
    if not space.has_choices:
        return coords
    total = num_combinations(space)
    default = space.to_coords(space.defaults())
    coords = jnp.where(
        (indices < total)[:, None] & ~space.is_choice[None], default[None], coords
    )
    if total > _MAX_DEALT:
        return coords
    sizes = tuple(len(choice.options) for choice in space.discrete.values())
    defaults = [c.index(c.default_option) for c in space.discrete.values()]
    first = int(np.ravel_multi_index(defaults, sizes))
    others = jax.random.permutation(jax.random.fold_in(key, _ORDER), total - 1)
    others = others + (others >= first)
    order = jnp.concatenate([jnp.full(1, first), others])[indices % total]
    options = jnp.stack(jnp.unravel_index(order, sizes), axis=1)
    columns = np.flatnonzero(space.is_choice)
    return coords.at[:, columns].set(options.astype(coords.dtype))


def num_combinations(space: Space) -> int:
    """How many combinations its choices have; 1 without choices."""
    return math.prod(len(choice.options) for choice in space.discrete.values())
