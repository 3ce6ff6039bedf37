"""Searches that do not train every λ to the end: their log is of stretches of training.

A stretch goes on with the training of an earlier trial, its parent, or begins one, and
stops after `steps` of T steps, where F is evaluated. Its fidelity is steps / T, and its
cost the steps that it adds, over T. What is asked next is a function of the log alone,
so a study that a checkpoint resumes goes on identically, and no clock has a say.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import Searcher, check_positive, start
from hypergrad.space import Space
from hypergrad.typing import Key


class Jobs(NamedTuple):
    """n stretches of training.

    Attributes:
      coords: z [n, d].
      parents: the trial whose training each goes on with, −1 for none: int [n].
      steps: training steps done when each stops, in 1..T: int [n].
    """

    coords: np.ndarray
    parents: np.ndarray
    steps: np.ndarray

    @property
    def firsts(self) -> np.ndarray:
        """The step at which each begins, where parents are among these: [n]."""
        return np.where(self.parents < 0, 0, self.steps[self.parents])

    @property
    def roots(self) -> np.ndarray:
        """The trial that began the training each is a part of: [n]."""
        roots = np.arange(len(self.parents))
        for trial, parent in enumerate(self.parents):
            if parent >= 0:  # Parents come before their children.
                roots[trial] = roots[parent]
        return roots


class PartialState(NamedTuple):
    """The log, with room for n trials, and the sizes of the study.

    Attributes:
      coords: z [n, d].
      parents: [n].
      steps: [n].
      asks: the first trial of the ask that each came from [n].
      values: F [n]; what is not finite has diverged.
      num_asked: how many trials are known or asked for; `num_told`: known.
      num_steps: T.
      budget: training steps that the study may spend.
      key: the searcher's.
    """

    coords: np.ndarray
    parents: np.ndarray
    steps: np.ndarray
    asks: np.ndarray
    values: np.ndarray
    num_asked: np.ndarray
    num_told: np.ndarray
    num_steps: np.ndarray
    budget: np.ndarray
    key: Key

    @property
    def jobs(self) -> Jobs:
        """All trials that are known or asked for."""
        n = int(self.num_asked)
        return Jobs(self.coords[:n], self.parents[:n], self.steps[:n])

    @property
    def waiting(self) -> np.ndarray:
        """The trials that are asked for and not yet known."""
        return np.arange(int(self.num_told), int(self.num_asked))


class Log(NamedTuple):
    """The m trials that an ask may learn from.

    Attributes:
      jobs: what they were.
      values: F [m].
      left: training steps that the budget has left.
      num_steps: T.
      key: the searcher's, equal at each ask.
    """

    jobs: Jobs
    values: np.ndarray
    left: int
    num_steps: int
    key: Key

    @property
    def costs(self) -> np.ndarray:
        """Training steps of each: [m]."""
        return self.jobs.steps - self.jobs.firsts

    def begin(self, space: Space, count: int, steps: int) -> Jobs:
        """`count` new trainings: the next of the starting points, 0 the default."""
        begun = int(np.sum(self.jobs.parents < 0))
        points = [_start(space, self.key, begun + i) for i in range(count)]
        coords = np.asarray(points).reshape(count, space.dim)
        return Jobs(coords, np.full(count, -1), np.full(count, steps))

    def go_on(self, trials: np.ndarray, steps: int) -> Jobs:
        """The trainings of these trials, up to `steps`."""
        return Jobs(self.jobs.coords[trials], trials, np.full(len(trials), steps))

    def best(self, trials: np.ndarray, count: int) -> np.ndarray:
        """The `count` of these trials with the least F; one that diverged is none."""
        finite = trials[np.isfinite(self.values[trials])]
        return finite[np.argsort(self.values[finite], kind="stable")][:count]


@dataclass(frozen=True)
class PartialSearch(Searcher):
    """A search over stretches of training, within a budget of num_trials · T steps.

    `ask` returns coordinates as every searcher's does, but as many as it likes, none
    once the budget is spent; `state.jobs` has how long each of them is to be trained,
    and from where. What would overspend the budget is not asked for.
    """

    on_host: ClassVar[bool] = True

    @abc.abstractmethod
    def boundaries(self, num_steps: int) -> tuple[int, ...]:
        """The steps at which a stretch may stop, ascending; the last is T."""

    @abc.abstractmethod
    def propose(self, space: Space, log: Log) -> Jobs:
        """The next stretches, in the order in which they are to be paid for."""

    def init(
        self, space: Space, num_trials: int, key: Key, num_steps: int = 0
    ) -> PartialState:
        """An empty log for as many steps as `num_trials` trainings of `num_steps`."""
        check_positive("num_trials", num_trials)
        check_positive("num_steps", num_steps)
        budget = num_trials * num_steps
        room = budget // int(np.diff((0, *self.boundaries(num_steps))).min())
        dtype = jnp.zeros(()).dtype
        return PartialState(
            coords=np.zeros((room, space.dim), dtype),
            parents=np.full(room, -1),
            steps=np.zeros(room, int),
            asks=np.zeros(room, int),
            values=np.zeros(room, dtype),
            num_asked=np.zeros((), int),
            num_told=np.zeros((), int),
            num_steps=np.full((), num_steps),
            budget=np.full((), budget),
            key=key,
        )

    def ask(self, space: Space, state: PartialState) -> tuple[jax.Array, PartialState]:
        """The next coordinates [b, d], with what they are to do in the state."""
        told = int(state.num_told)
        jobs = state._replace(num_asked=told).jobs
        left = int(state.budget - np.sum(jobs.steps - jobs.firsts))
        num_steps = int(state.num_steps)
        log = Log(jobs, state.values[:told], left, num_steps, state.key)
        new = self.propose(space, log)
        every = join(jobs, new)
        paid = np.cumsum((every.steps - every.firsts)[told:]) <= left
        end = told + int(np.sum(paid))
        arrays = {
            name: _written(getattr(state, name), told, rows[paid])
            for name, rows in new._asdict().items()
        }
        arrays["asks"] = _written(state.asks, told, np.full(end - told, told))
        state = state._replace(num_asked=np.full((), end), **arrays)
        return jnp.asarray(state.coords[told:end]), state

    def tell(
        self,
        space: Space,
        state: PartialState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> PartialState:
        """Append F of what was asked for, all of it, to the log."""
        del space, coords, grads
        if len(values) != len(state.waiting):
            raise ValueError(
                f"values must be those of the {len(state.waiting)} trials that were "
                f"asked for; got {len(values)}"
            )
        told = _written(state.values, int(state.num_told), np.asarray(values))
        return state._replace(values=told, num_told=state.num_asked)

    def describe(self, space: Space, num_trials: int) -> str:
        """One sentence on what so many trials, each a stretch, will be."""
        told = super().describe(space, num_trials)
        return told.replace(
            f"{num_trials} trials", f"{num_trials} stretches of training"
        )


def join(*parts: Jobs) -> Jobs:
    """One after another."""
    return Jobs(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def rungs(num_steps: int, eta: int, count: int) -> tuple[int, ...]:
    """T / η^(count − 1), ..., T / η, T, rounded to whole steps, each once.

    >>> rungs(81, eta=3, count=5)
    (1, 3, 9, 27, 81)
    """
    steps = (max(1, round(num_steps / eta**k)) for k in range(count))
    return tuple(sorted(set(steps)))


def _written(array: np.ndarray, first: int, rows: np.ndarray) -> np.ndarray:
    """A copy with `rows` at `first`: a state that was handed out stays what it was."""
    array = np.array(array)
    array[first : first + len(rows)] = rows
    return array


_start = jax.jit(start, static_argnums=0)
