"""Random search, and the same with a low-discrepancy sequence."""

from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import PlannedSearch, starts
from hypergrad.space import Space
from hypergrad.typing import Key


@final
@dataclass(frozen=True)
class RandomSearch(PlannedSearch):
    """Trial i is uniform in the cube: `space.sample(fold_in(key, i))`.

    Reference: Bergstra and Bengio, Random Search for Hyper-Parameter Optimization
    (2012).

    >>> RandomSearch(batch=4)
    RandomSearch(batch=4)
    """

    def plan(self, space: Space, num_trials: int, key: Key) -> jax.Array:
        """Independent draws."""
        return starts(space, key, jnp.arange(1, num_trials))


_BITS = 30


@final
@dataclass(frozen=True)
class SobolSearch(PlannedSearch):
    """Trial i is x_{i-1} ⊕ s: Sobol's sequence under a random digital shift.

    The sequence x is a constant of the dimension; its binary digits are flipped where
    those of s are set, and s is drawn once from the key. The shift keeps the even
    spread (the points stay a digital net) and makes each point uniform, so that seeds
    are replicates. The spread is best when num_trials - 1 is a power of two.

    Reference: Owen, Randomly permuted (t,m,s)-nets and (t,s)-sequences (1995).

    >>> SobolSearch()
    SobolSearch(batch=1)
    """

    def plan(self, space: Space, num_trials: int, key: Key) -> jax.Array:
        """Build the sequence on the host as integers; shift it where the key is."""
        digits = jnp.asarray(_sobol_digits(space.dim, num_trials - 1))
        shift = jax.random.bits(key, (space.dim,), jnp.uint32) >> (32 - _BITS)
        cube = ((digits ^ shift[None]).astype(float) + 0.5) / 2.0**_BITS
        return jax.vmap(lambda u: space.project(space.from_cube(u)))(cube)


def _sobol_digits(dim: int, num_points: int) -> np.ndarray:
    """Sobol's first points as integers of `_BITS` binary digits, [num_points, dim]."""
    # Imported here: scipy.stats takes most of a second, and no other searcher needs it.
    from scipy.stats import qmc

    power = max(num_points - 1, 0).bit_length()
    sequence = qmc.Sobol(dim, scramble=False, bits=_BITS).random_base2(power)
    return (sequence[:num_points] * 2**_BITS).astype(np.uint32)
