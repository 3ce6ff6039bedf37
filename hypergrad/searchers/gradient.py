"""Gradient search: several projected descents along the hypergradient."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import optax

from hypergrad.searchers.base import (
    Searcher,
    check_continuous,
    check_gradient,
    check_positive,
    start,
)
from hypergrad.searchers.dealing import dealt, num_combinations
from hypergrad.searchers.descent import (
    Best,
    Descent,
    Waiting,
    begin,
    descend,
    hold,
    hopeful,
    wait,
    where,
)
from hypergrad.searchers.outer import Outer
from hypergrad.space import Space
from hypergrad.typing import Key


class GradientState(NamedTuple):
    """One row per start, beside the key and the numbers of steps done and planned.

    `waiting` and `age` (steps since it began) are of the descent that a start is in
    now, of which `num_begun` have been begun in all.
    """

    coords: jax.Array
    best: Best
    optimizer: optax.OptState
    scale: jax.Array
    waiting: Waiting
    age: jax.Array
    num_begun: jax.Array
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

    With `patience`, a start whose best F has not fallen by 1/1000 of itself in so many
    steps, or that has never been finite, begins anew as the next start would: at a
    fresh random point, with the next combination of choices, and its step decays over
    what then remains of the budget.

    Args:
        outer: the optimiser of the coordinates.
        starts: number of independent descents, and so of points per ask.
        patience: steps without improvement before a start begins anew; None: never.

    >>> search = GradientSearch(Outer("adam", learning_rate=0.1), starts=4)
    >>> search.batch
    4
    """

    needs_gradient: ClassVar[bool] = True
    outer: Outer = Outer()
    starts: int = 4
    patience: int | None = None
    batch: int = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        check_positive("starts", self.starts)
        if self.patience is not None:
            check_positive("patience", self.patience)
        object.__setattr__(self, "batch", self.starts)

    def init(self, space: Space, num_trials: int, key: Key) -> GradientState:
        """Place the starts."""
        check_continuous(space)
        coords = dealt(space, key, jnp.arange(self.starts))
        waiting = hopeful(coords.dtype)
        return GradientState(
            **self._begin(coords)._asdict(),
            waiting=jax.tree.map(lambda x: jnp.full(self.starts, x), waiting),
            age=jnp.zeros(self.starts, int),
            num_begun=jnp.full((), self.starts),
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
        grads = check_gradient(self, grads)
        trials = Best(coords, values.astype(coords.dtype), grads)
        descents = Descent(state.coords, state.best, state.optimizer, state.scale)
        # All of what is left belongs to a descent: its progress ends at 1.
        rest = state.num_steps - state.num_done
        decay = self.outer.decay(state.age / (state.age + rest))

        def step(descent: Descent, trial: Best, decay: jax.Array):
            return descend(space, self.outer, descent, trial, decay)

        descents, lost = jax.vmap(step)(descents, trials, decay)
        waiting = jax.vmap(wait)(state.waiting, descents.best.value)
        state = state._replace(
            **descents._asdict(),
            waiting=waiting,
            age=state.age + 1,
            num_done=state.num_done + 1,
        )
        if self.patience is None:
            return self._draw_lost(space, state, lost)
        return self._begin_anew(space, state, lost | (waiting.steps >= self.patience))

    def describe(self, space: Space, num_trials: int) -> str:
        """The trials, and through how many combinations of choices they descend."""
        check_continuous(space)
        text = super().describe(space, num_trials)
        if not space.has_choices:
            return text
        total = num_combinations(space)
        return f"{text}; descends in {min(total, self.starts)} of {total} combinations"

    def _begin(self, coords: jax.Array) -> Descent:
        return jax.vmap(lambda z: begin(self.outer, z))(coords)

    def _draw_lost(
        self, space: Space, state: GradientState, lost: jax.Array
    ) -> GradientState:
        """New random points for the lost, with their choices."""
        indices = self.starts * state.num_done + jnp.arange(self.starts)

        def draw(lost, index, coords, optimizer):
            drawn = hold(space, start(space, state.key, index), coords)
            unused = self.outer.transformation().init(drawn)
            return where(lost, (drawn, unused), (coords, optimizer))

        coords, optimizer = jax.vmap(draw)(lost, indices, state.coords, state.optimizer)
        return state._replace(coords=coords, optimizer=optimizer)

    def _begin_anew(
        self, space: Space, state: GradientState, given_up: jax.Array
    ) -> GradientState:
        """The next starts for those that gave up."""
        indices = state.num_begun + jnp.cumsum(given_up) - 1
        descents = self._begin(dealt(space, state.key, indices))
        waiting = jax.vmap(lambda _: hopeful(state.coords.dtype))(given_up)
        fresh = (*descents, waiting, jnp.zeros_like(state.age))
        now = (*state[: len(Descent._fields)], state.waiting, state.age)
        chosen = jax.vmap(where)(given_up, fresh, now)
        fields = (*Descent._fields, "waiting", "age")
        return state._replace(
            **dict(zip(fields, chosen, strict=True)),
            num_begun=state.num_begun + jnp.sum(given_up),
        )
