"""What searches by a Gaussian process share: the log of trials, warm-up, refits."""

import abc
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad.searchers.acquisition import CANDIDATES, Predict, believed_batch
from hypergrad.searchers.base import Searcher, check_positive, starts
from hypergrad.searchers.features import filled, standardise
from hypergrad.space import Space
from hypergrad.typing import Key, PyTree


@dataclass(frozen=True)
class ProcessSearch(Searcher):
    """Starting points while warming up, then the argmax of EI under a process.

    A subclass says what its process is: `fit` and `surrogate`. Its state is a
    NamedTuple with the padded log `cube` [n, d] and `values` [n], `num_told`, the
    process's `params` and the `key`.
    """

    batch: int = 1
    warmup: int = 8
    refit_every: int = 8
    num_candidates: int = 512
    fit_steps: int = 30
    jitter: float = 1e-4

    def __post_init__(self):
        for name in ("batch", "warmup", "refit_every", "num_candidates", "fit_steps"):
            check_positive(name, getattr(self, name))
        if not self.jitter > 0:
            raise ValueError(f"jitter must be positive; got {self.jitter}")

    @abc.abstractmethod
    def fit(self, space: Space, state: PyTree) -> PyTree:
        """The parameters of most evidence, given the state's trials."""

    @abc.abstractmethod
    def surrogate(
        self,
        space: Space,
        state: PyTree,
        cube: jax.Array,
        targets: jax.Array,
        count: jax.Array,
    ) -> Predict:
        """The process conditioned on trials, the last of which may be believed."""

    def ask(self, space: Space, state: PyTree) -> tuple[jax.Array, PyTree]:
        """Starting points while warming up, then the points of most expected gain."""

        def warm():
            return starts(space, state.key, state.num_told + jnp.arange(self.batch))

        def model():
            key = jax.random.fold_in(state.key, CANDIDATES)
            return self._propose(space, state, jax.random.fold_in(key, state.num_told))

        return jax.lax.cond(state.num_told < self.warmup, warm, model), state

    def tell(
        self,
        space: Space,
        state: PyTree,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> PyTree:
        """Append the trials; refit when due."""
        del grads
        before, count = state.num_told, state.num_told + len(coords)
        cube = jax.vmap(space.to_cube)(coords).astype(state.cube.dtype)
        cube = jax.lax.dynamic_update_slice(state.cube, cube, (before, 0))
        values = values.astype(state.values.dtype)
        values = jax.lax.dynamic_update_slice(state.values, values, (before,))
        told = state._replace(cube=cube, values=values, num_told=count)

        passed = count // self.refit_every > before // self.refit_every
        due = (count >= self.warmup) & (passed | (before < self.warmup))
        params = jax.lax.cond(due, lambda: self.fit(space, told), lambda: state.params)
        return told._replace(params=params)

    def _propose(self, space: Space, state: PyTree, key: Key) -> jax.Array:
        cube = believed_batch(
            space,
            lambda *trials: self.surrogate(space, state, *trials),
            state.cube,
            standardise(state.values, filled(state.values, state.num_told)),
            state.num_told,
            key,
            self.batch,
            self.num_candidates,
        )
        return jax.vmap(space.from_cube)(cube)
