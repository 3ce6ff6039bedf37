"""A study of stretches: trains them, and remembers where each training stands.

Equally long stretches of one ask are one program, whichever step they begin at.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.by_choice import map_by_choice
from hypergrad.execution import Execution, Loop
from hypergrad.partial import Progress, begin, train_stretch
from hypergrad.problem import Problem
from hypergrad.searchers.partial import Jobs, PartialSearch, PartialState
from hypergrad.space import Space
from hypergrad.training_keys import SameKey, TrainingKeys
from hypergrad.typing import Key


@dataclass(frozen=True)
class Begin:
    """The program that begins k trainings, at coords [k, d] with keys [k]."""

    space: Space
    execution: Execution

    def __call__(self, problem: Problem, coords: jax.Array, keys: Key) -> Progress:
        """The k `Progress` values, stacked."""

        def one(trial):
            z, key = trial
            return begin(problem, self.space.from_coords(z), key)

        return self.execution.map(one, (coords, keys))


@dataclass(frozen=True)
class GoOn:
    """The program that goes on with k trainings for `num_steps` steps."""

    space: Space
    execution: Execution
    num_steps: int

    def __call__(
        self,
        problem: Problem,
        coords: jax.Array,
        keys: Key,
        progress: Progress,
        firsts: jax.Array,
    ) -> tuple[jax.Array, Progress]:
        """(F [k], progress)."""

        def one(trial):
            z, key, progress, first = trial
            hparams = self.space.from_coords(z)
            return train_stretch(problem, hparams, progress, first, self.num_steps, key)

        return self.execution.map(one, (coords, keys, progress, firsts))


def _compiled(program: Begin | GoOn, *args):
    return _call(program, *args)


_call = jax.jit(lambda program, *args: program(*args), static_argnums=0)


@dataclass
class Bank:
    """Inner states by trial, within a number of bytes.

    Attributes:
      max_bytes: the oldest states are given up beyond it.
    """

    max_bytes: int = 2**30
    progress: dict[int, Progress] = field(default_factory=dict)
    num_bytes: int = 0

    def put(self, trial: int, progress: Progress) -> None:
        """Keep where a trial stopped."""
        if trial not in self.progress:
            self.num_bytes += _num_bytes(progress)
        self.progress[trial] = progress

    def shrink(self) -> None:
        """Give up the oldest states until the others fit."""
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= _num_bytes(self.progress.pop(next(iter(self.progress))))


@dataclass
class Stretches:
    """Trains the stretches of a study, and keeps where its trainings stand.

    What it keeps is a cache: a training that is not in it, after a resume or for want
    of room, is done again from the log, at no cost in the study's budget. It then has
    the same numbers, to the last bit.

    Attributes:
      problem_of: choices -> problem; the same object for equal choices.
      space: of the study.
      key: of the study's trainings; a training's own is that of the trial it began as.
      execution: how equally long stretches of one ask are laid out.
      training_keys: which key each trial trains with.
      call: `call(program, *args)` runs a `Begin` or a `GoOn`, compiled.
      kept: where the trainings stand, by trial.
    """

    problem_of: Callable[[dict[str, Any]], Problem]
    space: Space
    key: Key
    execution: Execution = Loop()
    training_keys: TrainingKeys = SameKey()
    call: Callable[..., Any] = _compiled
    kept: Bank = field(default_factory=Bank)

    @property
    def num_steps(self) -> int:
        """T, which all choices share."""
        return self.problem_of(self.space.default_choices()).num_steps

    def values(self, state: PartialState) -> np.ndarray:
        """F of the trials that wait for it."""
        values = self._train(state, state.waiting)
        self.kept.shrink()
        return values

    def _train(self, state: PartialState, trials: np.ndarray) -> np.ndarray:
        """F of trials of one ask, after what has been lost of their parents."""
        jobs, parents = state.jobs, state.parents[trials]
        lost = sorted({int(p) for p in parents if p >= 0} - set(self.kept.progress))
        for ask in np.unique(state.asks[lost]):
            (again,) = np.nonzero(state.asks[: len(jobs.steps)] == ask)
            # Side by side the last bits may depend on how many there are.
            if self.execution.width(len(again)) == 1:
                again = np.intersect1d(again, lost)
            self._train(state, again)
        lengths = jobs.steps[trials] - jobs.firsts[trials]
        kinds = np.stack([parents < 0, lengths], axis=1)
        values = np.zeros(len(trials))
        for kind in np.unique(kinds, axis=0):
            (group,) = np.nonzero((kinds == kind).all(axis=1))
            values[group] = self._train_alike(jobs, trials[group], int(kind[1]))
        return values

    def _train_alike(self, jobs: Jobs, trials: np.ndarray, length: int) -> jax.Array:
        """Stretches of one length that all begin a training, or all go on."""
        firsts, roots = jobs.firsts[trials], jobs.roots[trials]

        def run(choices, rows):
            problem = self._checked(self.problem_of(choices), jobs.steps[trials[rows]])
            coords = jnp.asarray(jobs.coords[trials[rows]])
            keys = self.training_keys.of(self.key, jnp.asarray(roots[rows]))
            parents = jobs.parents[trials[rows]]
            if parents[0] < 0:
                program = Begin(self.space, self.execution)
                progress = self.call(program, problem, coords, keys)
            else:
                progress = _stacked(*(self.kept.progress[int(p)] for p in parents))
            program = GoOn(self.space, self.execution, length)
            arrays = coords, keys, progress, jnp.asarray(firsts[rows])
            values, progress = self.call(program, problem, *arrays)
            for row, trial in enumerate(trials[rows]):
                if jobs.steps[trial] < problem.num_steps:
                    self.kept.put(int(trial), _row(progress, row))
            return values

        width = self.execution.width(len(trials))
        coords = jnp.asarray(jobs.coords[trials])
        return map_by_choice(run, self.space, coords, width)

    def _checked(self, problem: Problem, steps: np.ndarray) -> Problem:
        if problem.num_steps != self.num_steps:
            raise ValueError(
                "problem must have one num_steps for all choices, where trainings are "
                f"stopped early; got {self.num_steps} and {problem.num_steps}"
            )
        if problem.outer_every is not None and min(steps) < problem.outer_every:
            raise ValueError(
                f"outer_every ({problem.outer_every}) must not exceed the first step "
                f"at which F is evaluated, {min(steps)}: there it has no term yet; "
                "lower outer_every, or the number of rungs or rounds"
            )
        return problem


def search_in_stretches(
    stretches: Stretches, searcher: PartialSearch, num_trials: int, key: Key
) -> PartialState:
    """A whole study in stretches: ask, train, tell until the budget is spent.

    Args:
      stretches: trains.
      searcher: proposes.
      num_trials: the budget, in trainings of T steps.
      key: the searcher's.

    Returns:
      The searcher's last state: its log.
    """
    space = stretches.space
    state = searcher.init(space, num_trials, key, stretches.num_steps)
    while True:
        coords, state = searcher.ask(space, state)
        if len(coords) == 0:
            return state
        values = stretches.values(state)
        state = searcher.tell(space, state, coords, jnp.asarray(values))


def _num_bytes(progress: Progress) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(progress))


def _stack(*progress: Progress) -> Progress:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *progress)


_stacked: Callable[..., Progress] = jax.jit(_stack)
_row = jax.jit(lambda progress, i: jax.tree.map(lambda x: x[i], progress))
