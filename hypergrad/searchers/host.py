"""Searchers that live in Python: another library's, or one whose shapes change.

Their state is the log of trials itself, nothing hidden: whatever they need is made anew
from it at each ask, so that a study which a checkpoint resumes goes on identically.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import Searcher, check_positive
from hypergrad.space import Space
from hypergrad.typing import Key


class HostState(NamedTuple):
    """The log: room for n trials, of which the first `num_told` are known.

    Attributes:
      coords: z [n, d].
      values: F [n]; what is not finite has diverged.
      num_told: how many trials are known.
      key: the searcher's.
    """

    coords: np.ndarray
    values: np.ndarray
    num_told: np.ndarray
    key: Key


class Known(NamedTuple):
    """The m trials that an ask may learn from: z [m, d] and F [m]."""

    coords: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class HostSearch(Searcher):
    """A search whose next points are a Python function of the trials so far.

    Trial 0 is the default, as in every study.

    Args:
        batch: points per ask.
    """

    on_host: ClassVar[bool] = True
    batch: int = 1

    def __post_init__(self):
        check_positive("batch", self.batch)

    @abc.abstractmethod
    def propose(
        self, space: Space, known: Known, count: int, num_trials: int, seed: int
    ) -> np.ndarray:
        """The next `count` points, z [count, d].

        Args:
            space: where they lie.
            known: all trials so far, the default among them.
            count: how many points.
            num_trials: of the whole study, rounded up to whole asks.
            seed: of the study, equal at each ask; for a random number of this ask
                alone, seed with (seed, len(known.values)).
        """

    def init(self, space: Space, num_trials: int, key: Key) -> HostState:
        """An empty log."""
        room = -(-num_trials // self.batch) * self.batch
        dtype = jnp.zeros(()).dtype
        coords, values = np.zeros((room, space.dim), dtype), np.zeros(room, dtype)
        return HostState(coords, values, np.zeros((), np.int32), key)

    def ask(self, space: Space, state: HostState) -> tuple[jax.Array, HostState]:
        """The default first, then what the search proposes."""
        num_told = int(state.num_told)
        known = Known(
            np.asarray(state.coords[:num_told], float),
            np.asarray(state.values[:num_told], float),
        )
        seed = int(jax.random.bits(state.key, dtype=jnp.uint32))
        count, first = self.batch, []
        if num_told == 0:
            count, first = count - 1, [np.asarray(space.to_coords(space.defaults()))]
        points = np.zeros((0, space.dim))
        if count:
            points = self.propose(space, known, count, len(state.values), seed)
        dtype = state.coords.dtype
        coords = jnp.asarray(np.concatenate([*(f[None] for f in first), points]), dtype)
        return jax.vmap(space.project)(coords), state

    def tell(
        self,
        space: Space,
        state: HostState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> HostState:
        """Append to the log."""
        del space, grads
        log, told, start = (
            np.array(state.coords),
            np.array(state.values),
            int(state.num_told),
        )
        log[start : start + len(coords)] = np.asarray(coords)
        told[start : start + len(values)] = np.asarray(values)
        return state._replace(
            coords=log, values=told, num_told=state.num_told + np.int32(len(values))
        )
