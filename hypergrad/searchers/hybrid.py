"""Hybrid search: descents race, and a model says where the next ones begin."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp

from hypergrad.searchers.base import (
    Searcher,
    check_continuous,
    check_gradient,
    check_positive,
)
from hypergrad.searchers.dealing import dealt
from hypergrad.searchers.descent import (
    Best,
    Descent,
    Waiting,
    begin,
    descend,
    hopeful,
    wait,
    where,
)
from hypergrad.searchers.outer import Outer
from hypergrad.searchers.proposals import BayesianProposals, Proposals
from hypergrad.space import Space
from hypergrad.typing import Key


class Slot(NamedTuple):
    """One of the descents under way: its age in steps, and its row of the record."""

    descent: Descent
    waiting: Waiting
    age: jax.Array
    row: jax.Array


class HybridState(NamedTuple):
    """The slots, and a record of all descents begun, one row each.

    Attributes:
        slots: what each slot does now, stacked [s].
        begun: where each descent began, z [n, d].
        record: the best F of each [n, r] by age rung · 2^r, or so far.
        num_begun: descents begun in all.
        key: the searcher's.
        num_done: steps done.
        num_steps: steps planned.
    """

    slots: Slot
    begun: jax.Array
    record: jax.Array
    num_begun: jax.Array
    key: Key
    num_done: jax.Array
    num_steps: jax.Array


@final
@dataclass(frozen=True)
class HybridSearch(Searcher):
    """Descents z ← project(z − η · direction(dF/dz)) that race for the budget.

    As many as `descents` are under way at once, one step each per ask. At the ages
    rung, 2 rung, 4 rung, ... a descent goes on only if its best F is among the best
    `keep` of what all descents begun so far had reached at that age (one that gave up
    counts with what it had); else it gives up, and its slot begins a new one. So it
    does too where F has not fallen by 1/1000 of itself for `patience` steps although
    the step was cut, and where it was never finite. This is asynchronous successive
    halving, over descents: those that lead get the rest of the budget.

    A descent that stalls first goes back to its best point with a quarter of its step
    and a fresh optimiser, and gives up when its step is below 1/16 of the first.

    Descent 0 begins at the default, and `proposals` say where the others do, and in
    which combination of choices; within a descent choices are held.

    Args:
        outer: the optimiser of the coordinates.
        descents: how many are under way at once, and so the points per ask.
        rung: steps before a descent is first judged.
        keep: the share that goes on, in (0, 1].
        patience: steps without improvement before a descent has stalled.
        proposals: where descents begin.

    Reference: Li et al., A System for Massively Parallel Hyperparameter Tuning (2020),
    in its stopping variant, here over descents instead of trainings.

    >>> HybridSearch(descents=2, rung=4).batch
    2
    """

    needs_gradient: ClassVar[bool] = True
    outer: Outer = Outer()
    descents: int = 1
    rung: int = 5
    keep: float = 1 / 3
    patience: int = 5
    proposals: Proposals = BayesianProposals()
    batch: int = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name in ("descents", "rung", "patience"):
            check_positive(name, getattr(self, name))
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be a share in (0, 1]; got {self.keep}")
        object.__setattr__(self, "batch", self.descents)

    def init(self, space: Space, num_trials: int, key: Key) -> HybridState:
        """Begin the first descents, with room for one per rung and slot."""
        check_continuous(space)
        num_steps = -(-num_trials // self.descents)
        room = self.descents * (1 + math.ceil(num_steps / self.rung))
        first = jnp.arange(self.descents)
        coords = dealt(space, key, first)
        levels = 1 + max(0, math.ceil(math.log2(num_steps / self.rung)))
        return HybridState(
            slots=self._begin(coords, first),
            begun=jnp.zeros((room, space.dim), coords.dtype).at[first].set(coords),
            record=jnp.full((room, levels), jnp.inf, coords.dtype),
            num_begun=jnp.full((), self.descents),
            key=key,
            num_done=jnp.zeros((), int),
            num_steps=jnp.full((), num_steps),
        )

    def ask(self, space: Space, state: HybridState) -> tuple[jax.Array, HybridState]:
        """Where each slot's descent stands."""
        del space
        return state.slots.descent.coords, state

    def tell(
        self,
        space: Space,
        state: HybridState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> HybridState:
        """One step of each descent; those that fall behind make room for new ones."""
        grads = check_gradient(self, grads)
        trials = Best(coords, values.astype(coords.dtype), grads)
        rest = state.num_steps - state.num_done

        def step(slot: Slot, trial: Best):
            decay = self.outer.decay(slot.age / (slot.age + rest))
            descent, lost = descend(space, self.outer, slot.descent, trial, decay)
            waiting = wait(slot.waiting, descent.best.value)
            slot = slot._replace(descent=descent, waiting=waiting, age=slot.age + 1)
            return self._retreat(space, slot, decay), lost

        slots, lost = jax.vmap(step)(state.slots, trials)
        record = self._recorded(state.record, slots)
        known = jnp.minimum(state.num_begun, len(record))
        behind = jax.vmap(lambda slot: self._is_behind(record, known, slot))(slots)
        given_up = lost | behind | (slots.descent.scale < 1.0 / 16.0)
        state = state._replace(slots=slots, record=record, num_done=state.num_done + 1)
        return jax.lax.cond(
            jnp.any(given_up),
            lambda: self._begin_anew(space, state, given_up),
            lambda: state,
        )

    def _begin(self, coords: jax.Array, rows: jax.Array) -> Slot:
        def one(coords, row):
            descent = begin(self.outer, coords)
            return Slot(descent, hopeful(coords.dtype), jnp.zeros((), int), row)

        return jax.vmap(one)(coords, rows)

    def _retreat(self, space: Space, slot: Slot, decay: jax.Array) -> Slot:
        """If it has stalled: from its best point again, with a quarter of the step."""
        descent, best = slot.descent, slot.descent.best
        anew = descent._replace(
            optimizer=self.outer.transformation().init(best.coords),
            scale=0.25 * descent.scale,
        )
        anew, _ = descend(space, self.outer, anew, best, decay)
        waiting = slot.waiting._replace(steps=jnp.zeros_like(slot.waiting.steps))
        retreated = slot._replace(descent=anew, waiting=waiting)
        return where(slot.waiting.steps >= self.patience, retreated, slot)

    def _recorded(self, record: jax.Array, slots: Slot) -> jax.Array:
        """The best F so far, at all ages not yet passed."""
        rows = slots.row
        ages = self.rung * 2 ** jnp.arange(record.shape[1])
        open_ = ages[None] >= slots.age[:, None]
        best = jnp.broadcast_to(slots.descent.best.value[:, None], open_.shape)
        return record.at[rows].set(jnp.where(open_, best, record[rows]))

    def _is_behind(self, record: jax.Array, known: jax.Array, slot: Slot) -> jax.Array:
        """Whether it is of an age to be judged, and not among the best."""
        ages = self.rung * 2 ** jnp.arange(record.shape[1])
        better = jnp.sum(record < slot.descent.best.value, 0)
        return jnp.any((ages == slot.age) & (better >= self.keep * known))

    def _begin_anew(
        self, space: Space, state: HybridState, given_up: jax.Array
    ) -> HybridState:
        """New descents in the slots that gave up, the first of what is proposed."""
        order = jnp.maximum(jnp.cumsum(given_up) - 1, 0)
        known = jnp.minimum(state.num_begun, len(state.begun))
        coords = self.proposals.propose(
            space,
            state.key,
            state.num_begun + jnp.arange(self.descents),
            state.begun,
            state.record[:, 0],
            known,
        )[order]
        free = self._free_rows(state, given_up)[order]
        slots = jax.vmap(where)(given_up, self._begin(coords, free), state.slots)
        # A row out of reach is written nowhere.
        rows = jnp.where(given_up, free, len(state.begun))
        return state._replace(
            slots=slots,
            begun=state.begun.at[rows].set(coords, mode="drop"),
            record=state.record.at[rows].set(jnp.inf, mode="drop"),
            num_begun=state.num_begun + jnp.sum(given_up),
        )

    def _free_rows(self, state: HybridState, given_up: jax.Array) -> jax.Array:
        """Rows for as many descents as there are slots: unused, then the oldest.

        Where many are lost at once the record is full, and the row of one that is still
        under way is not to be overwritten.
        """
        room = len(state.begun)
        held = jnp.where(given_up, room, state.slots.row)
        taken = jnp.zeros(room, bool).at[held].set(True, mode="drop")
        turn = (jnp.arange(room) - state.num_begun) % room
        return jnp.argsort(jnp.where(taken, room, 0) + turn)[: self.descents]
