"""Gradient search: several projected descents along the hypergradient."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import optax

from hypergrad.searchers.base import Searcher, check_positive, start, starts
from hypergrad.searchers.outer import Outer
from hypergrad.space import Space
from hypergrad.typing import Key


class Best(NamedTuple):
    """The best finite trial of a start: z [d], F (∞ before any) and dF/dz [d]."""

    coords: jax.Array
    value: jax.Array
    grad: jax.Array


class GradientState(NamedTuple):
    """One row per start, beside the key and the numbers of steps done and planned."""

    coords: jax.Array
    best: Best
    optimizer: optax.OptState
    scale: jax.Array
    key: Key
    num_done: jax.Array
    num_steps: jax.Array


@final
@dataclass(frozen=True)
class GradientSearch(Searcher):
    """z ← project(z − η · direction(dF/dz)), from `starts` points at once.

    Start 0 is the default, start i is `space.sample(fold_in(key, i))`; one ask gives
    all of them. Where a value or gradient is not finite the start has left the region
    in which training converges. It then steps again from its best finite point, by the
    gradient known there, with a fresh optimiser and half its step from then on. A start
    that has never been finite draws a new random point instead.

    Args:
        outer: the optimiser of the coordinates.
        starts: number of independent descents, and so of points per ask.

    >>> search = GradientSearch(Outer("adam", learning_rate=0.1), starts=4)
    >>> search.batch
    4
    """

    needs_gradient: ClassVar[bool] = True
    outer: Outer = Outer()
    starts: int = 4
    batch: int = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        check_positive("starts", self.starts)
        object.__setattr__(self, "batch", self.starts)

    def init(self, space: Space, num_trials: int, key: Key) -> GradientState:
        """Place the starts."""
        coords = starts(space, key, jnp.arange(self.starts))
        best = Best(coords, jnp.full(self.starts, jnp.inf), jnp.zeros_like(coords))
        return GradientState(
            coords=coords,
            best=best,
            optimizer=jax.vmap(self.outer.transformation().init)(coords),
            scale=jnp.ones(self.starts),
            key=key,
            num_done=jnp.zeros((), int),
            num_steps=jnp.full((), -(-num_trials // self.starts)),
        )

    def ask(
        self, space: Space, state: GradientState
    ) -> tuple[jax.Array, GradientState]:
        """Where each descent stands."""
        del space
        return state.coords, state

    def tell(
        self,
        space: Space,
        state: GradientState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> GradientState:
        """One step of each descent."""
        if grads is None:
            raise ValueError(
                "grads must be dF/dz [batch, d]; got None. GradientSearch needs an "
                "estimator that gives a hypergradient, such as Reverse()"
            )
        tx = self.outer.transformation()
        decay = self.outer.decay(state.num_done / state.num_steps)
        fresh = self.starts * (state.num_done + 1) + jnp.arange(self.starts)

        def step(trial: Best, best: Best, optimizer, scale, index):
            ok = jnp.isfinite(trial.value) & jnp.all(jnp.isfinite(trial.grad))
            best = _where(ok & (trial.value < best.value), trial, best)
            lost = ~jnp.isfinite(best.value)

            here = _where(ok, trial, best)
            unused = tx.init(here.coords)
            optimizer = _where(ok, optimizer, unused)
            scale = jnp.where(ok | lost, scale, 0.5 * scale)
            updates, optimizer = tx.update(here.grad, optimizer, here.coords)
            moved = space.project(here.coords + decay * scale * jnp.asarray(updates))

            drawn = start(space, state.key, index)
            after = _where(lost, (drawn, unused), (moved, optimizer))
            return *after, best, scale

        trials = Best(coords, values.astype(coords.dtype), grads)
        moved, optimizer, best, scale = jax.vmap(step)(
            trials, state.best, state.optimizer, state.scale, fresh
        )
        return state._replace(
            coords=moved,
            best=best,
            optimizer=optimizer,
            scale=scale,
            num_done=state.num_done + 1,
        )


def _where(condition: jax.Array, yes, no):
    """`jnp.where` of two trees by one scalar."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
