"""Gradient search: several projected descents along the hypergradient."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hypergrad.searchers.base import Searcher, check_positive, start, starts
from hypergrad.searchers.outer import Outer
from hypergrad.space import Space
from hypergrad.typing import Key

# Tags the order of choices apart from the starting points fold_in(key, index).
_ORDER = 2**31 - 2
# Above this many combinations of choices they are drawn instead of dealt.
_MAX_DEALT = 2**16


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

    A choice has no derivative, so each start has one combination of choices and keeps
    it. The starts go through all combinations, the default's first and the others in an
    order drawn from the key, before one comes again; whichever is the first in its
    combination begins at the default λ, so that options are compared on equal terms.
    (Of more than 2^16 combinations each start draws one.)

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
        _check_continuous(space)
        coords = starts(space, key, jnp.arange(self.starts))
        if space.has_choices:
            coords = _deal(space, key, coords)
        best = Best(
            coords, jnp.full(self.starts, jnp.inf, coords.dtype), jnp.zeros_like(coords)
        )
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
            trial = trial._replace(
                grad=_hold(space, trial.grad, jnp.zeros_like(trial.grad))
            )
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
            after, optimizer = _where(lost, (drawn, unused), (moved, optimizer))
            return _hold(space, after, trial.coords), optimizer, best, scale

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

    def describe(self, space: Space, num_trials: int) -> str:
        """The trials, and through how many combinations of choices they descend."""
        _check_continuous(space)
        text = super().describe(space, num_trials)
        if not space.has_choices:
            return text
        total = _num_combinations(space)
        return f"{text}; descends in {min(total, self.starts)} of {total} combinations"


def _deal(space: Space, key: Key, coords: jax.Array) -> jax.Array:
    """Give each of the starts [s, d] a combination, and the first of each default λ."""
    total = _num_combinations(space)
    default = space.to_coords(space.defaults())
    index = np.arange(len(coords))
    coords = jnp.where(
        (index < total)[:, None] & ~space.is_choice, default[None], coords
    )
    if total > _MAX_DEALT:
        return coords
    sizes = tuple(len(choice.options) for choice in space.discrete.values())
    defaults = [c.index(c.default_option) for c in space.discrete.values()]
    first = int(np.ravel_multi_index(defaults, sizes))
    others = jax.random.permutation(jax.random.fold_in(key, _ORDER), total - 1)
    others = others + (others >= first)
    order = jnp.concatenate([jnp.full(1, first), others])[index % total]
    options = jnp.stack(jnp.unravel_index(order, sizes), axis=1)
    columns = np.flatnonzero(space.is_choice)
    return coords.at[:, columns].set(options.astype(coords.dtype))


def _hold(space: Space, moved: jax.Array, held: jax.Array) -> jax.Array:
    """`moved` [d], but `held` where a coordinate is a choice."""
    return jnp.where(space.is_choice, held, moved) if space.has_choices else moved


def _num_combinations(space: Space) -> int:
    return math.prod(len(choice.options) for choice in space.discrete.values())


def _check_continuous(space: Space) -> None:
    if not space.continuous:
        raise ValueError(
            f"space must have a continuous hyperparameter to descend in; got choices "
            f"only, {list(space.discrete)}; use GridSearch or another search by values"
        )


def _where(condition: jax.Array, yes, no):
    """`jnp.where` of two trees by one scalar."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
