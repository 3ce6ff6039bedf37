"""A study: ask for coordinates, estimate there, tell the searcher; again and again.

The loop is a scan, so a whole study is one compiled program; cut into rounds, it can be
watched, recorded and resumed, and gives the same numbers. Where the space has choices
the loop is in Python, and each distinct choice is a program of its own.
"""

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.api import HypergradWarning
from hypergrad.by_choice import map_by_choice, once_per_choice
from hypergrad.estimators import Estimator, Target, Value
from hypergrad.problem import Problem
from hypergrad.runner import Execution, Loop, evaluate
from hypergrad.searchers import Searcher
from hypergrad.space import Space
from hypergrad.typing import HParams, Key, PyTree


class Trials(NamedTuple):
    """What was tried, in order: n trials.

    Attributes:
      coords: z [n, d].
      values: F [n].
      grad_norms: ‖dF/dz‖₂ [n], NaN if unknown.
      doubtful: whether the estimator doubts its estimate [n].
    """

    coords: jax.Array
    values: jax.Array
    grad_norms: jax.Array
    doubtful: jax.Array


class TrainingKeys(ABC):
    """Which key the training of trial i uses; the same for every searcher."""

    @abstractmethod
    def of(self, key: Key, trials: jax.Array) -> Key:
        """The keys of trials [n], from the study's key."""


@dataclass(frozen=True)
class FreshKeys(TrainingKeys):
    """A new key for each trial: the search sees E F over keys, through noise."""

    def of(self, key, trials):
        """`fold_in(key, i)`."""
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(trials)


@dataclass(frozen=True)
class SameKey(TrainingKeys):
    """One key for all: F is deterministic, and may be fitted to that key."""

    def of(self, key, trials):
        """`fold_in(key, 0)`, whatever i."""
        return jax.vmap(lambda _: jax.random.fold_in(key, 0))(trials)


TRAINING_KEYS: dict[str, type] = {cls.__name__: cls for cls in (FreshKeys, SameKey)}
"""Both by name, for configs."""


@functools.partial(
    jax.jit,
    static_argnames=(
        "space",
        "searcher",
        "estimator",
        "num_rounds",
        "execution",
        "training_keys",
    ),
)
def advance(
    problem: Problem,
    space: Space,
    searcher: Searcher,
    estimator: Estimator,
    state: PyTree,
    key: Key,
    num_rounds: int,
    *,
    first: int | jax.Array = 0,
    execution: Execution = Loop(),
    training_keys: TrainingKeys = SameKey(),
) -> tuple[PyTree, Trials]:
    """`num_rounds` rounds of ask, estimate, tell, as one program.

    Args:
      problem: the problem.
      space: its space.
      searcher: proposes and learns.
      estimator: gives F and, if the searcher needs it, dF/dλ.
      state: the searcher's state.
      key: the study's key for training.
      num_rounds: static.
      first: how many trials have been done before.
      execution: how the trainings of one round are laid out.
      training_keys: which key each trial trains with.

    Returns:
      `(state, trials)`, with num_rounds · searcher.batch trials.

    Raises:
      ValueError: the space has choices, which one problem cannot make, or the searcher
        is on the host.
    """
    if space.has_choices:
        raise ValueError(
            "problem must be a function {name: option} -> Problem where the space has "
            f"choices, {list(space.discrete)}; got a Problem, which would be the same "
            "for every option: use search, or advance_by_choice"
        )
    if searcher.on_host:
        raise ValueError(
            f"searcher must be one that a program can hold; got {searcher}, which asks "
            "on the host: use search, or advance_by_choice"
        )

    def one_round(state, i):
        coords, state = searcher.ask(space, state)
        trials = first + i * searcher.batch + jnp.arange(searcher.batch)
        keys = training_keys.of(key, trials)
        values, grads, doubtful = evaluate(
            problem, space, estimator, coords, keys, execution
        )
        state = searcher.tell(space, state, coords, values, grads)
        return state, Trials(coords, values, _norms(values, grads), doubtful)

    state, rounds = jax.lax.scan(one_round, state, jnp.arange(num_rounds))
    return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rounds)


def advance_by_choice(
    problems: Callable[[dict[str, Any]], Problem],
    space: Space,
    searcher: Searcher,
    estimator: Estimator,
    state: PyTree,
    key: Key,
    num_rounds: int,
    *,
    first: int = 0,
    execution: Execution = Loop(),
    training_keys: TrainingKeys = SameKey(),
) -> tuple[PyTree, Trials]:
    """`advance` with a problem for each choice: a loop in Python over programs.

    Ask and tell are one program each (none, if the searcher is on the host), and each
    distinct choice is one more for each number of rows that `map_by_choice` gives it:
    one under `Loop`, few under others.

    Args:
      problems: choices -> problem; the same object for equal choices, as by
        `once_per_choice`, for a problem made anew is compiled anew.
      space: its space, with choices or without.
      searcher: proposes and learns.
      estimator: gives F and, if the searcher needs it, dF/dλ.
      state: the searcher's state.
      key: the study's key for training.
      num_rounds: rounds to do.
      first: how many trials have been done before.
      execution: how the trainings of equal choices in one round are laid out.
      training_keys: which key each trial trains with.

    Returns:
      `(state, trials)`, with num_rounds · searcher.batch trials.
    """
    ask, tell = (_host_ask, _host_tell) if searcher.on_host else (_ask, _tell)
    # Without choices all rows of a round have one program, however they are laid out.
    width = searcher.batch
    if space.has_choices:
        width = execution.width(searcher.batch)
    done = []
    for i in range(num_rounds):
        coords, state = ask(searcher, space, state)
        trials = first + i * searcher.batch + jnp.arange(searcher.batch)
        keys = training_keys.of(key, trials)

        def run(choices, rows, coords=coords, keys=keys):
            problem = problems(choices)
            return _evaluate(
                problem, space, estimator, coords[rows], keys[rows], execution
            )

        values, grads, doubtful = map_by_choice(run, space, coords, width)
        state = tell(searcher, space, state, coords, values, grads)
        done.append(Trials(coords, values, _norms(values, grads), doubtful))
    return state, jax.tree.map(lambda *rows: jnp.concatenate(rows), *done)


def _host_ask(searcher, space, state):
    return searcher.ask(space, state)


def _host_tell(searcher, space, state, coords, values, grads):
    return searcher.tell(space, state, coords, values, grads)


_ask = jax.jit(_host_ask, static_argnums=(0, 1))
_tell = jax.jit(_host_tell, static_argnums=(0, 1))
_evaluate = jax.jit(evaluate, static_argnums=(1, 2, 5))


def _norms(values: jax.Array, grads: jax.Array | None) -> jax.Array:
    if grads is None:
        return jnp.full(values.shape, jnp.nan, values.dtype)
    return jnp.linalg.norm(grads, axis=1).astype(values.dtype)


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
      space: where it searched.
      trials: all trials in order.
    """

    space: Space
    trials: Trials

    @property
    def best(self) -> int:
        """Index of the best finite trial (0 if none is finite)."""
        return best_index(np.asarray(self.trials.values))

    @property
    def best_value(self) -> float:
        """F of the best trial."""
        return float(self.trials.values[self.best])

    @property
    def best_hparams(self) -> HParams:
        """λ of the best trial."""
        return self.space.from_coords(self.trials.coords[self.best])

    @property
    def best_choices(self) -> dict[str, Any]:
        """The options of the best trial; {} in a space without choices."""
        return self.space.choices(self.trials.coords[self.best])

    @property
    def best_so_far(self) -> np.ndarray:
        """[n]: smallest finite F among the first i + 1 trials (∞ before any)."""
        return np.minimum.accumulate(_diverged_last(np.asarray(self.trials.values)))


def best_index(values: np.ndarray) -> int:
    """The smallest finite value; diverged runs never win."""
    return int(np.argmin(_diverged_last(values)))


def ranking(values: np.ndarray) -> np.ndarray:
    """Indices from the best value to the worst, diverged runs last: [n]."""
    return np.argsort(_diverged_last(values), stable=True)


def _diverged_last(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)


def num_rounds(searcher: Searcher, space: Space, num_trials: int) -> int:
    """Rounds that fit `num_trials`, no more than the searcher has a use for.

    The last may be filled only in part: a plan of 6 trials needs two rounds of 4.

    Raises:
      ValueError: not even one fits, since a budget is never overspent.
    """
    whole = num_trials // searcher.batch * searcher.batch
    if whole < 1:
        raise ValueError(
            f"num_trials ({num_trials}) must pay for one round of "
            f"{type(searcher).__name__}, which is {searcher.batch} trials: raise "
            "it, or lower the searcher's batch (starts)"
        )
    return math.ceil(searcher.num_trials(space, whole) / searcher.batch)


def check_pair(searcher: Searcher, estimator: Estimator) -> None:
    """Raise a `ValueError` if the searcher cannot work with the estimator."""
    if searcher.needs_gradient and estimator.target is Target.NOTHING:
        raise ValueError(
            f"{type(searcher).__name__} needs a hypergradient, and {estimator} gives "
            "none: pass estimator=Reverse() or Forward()"
        )


def search(
    problem: Problem | Callable[[dict[str, Any]], Problem],
    space: Space,
    searcher: Searcher,
    *,
    estimator: Estimator = Value(),
    num_trials: int,
    key: Key,
    execution: Execution = Loop(),
    training_keys: TrainingKeys = SameKey(),
) -> StudyResult:
    """Search for the λ (and choices) with the least F in `num_trials` estimates.

    Without choices the whole study is one compiled program, unless the searcher is on
    the host; with choices there is one for each distinct choice that the searcher
    proposes, or a few, if `execution` lays trainings side by side (see
    `map_by_choice`).

    Train the winner again with fresh keys (`hypergrad.retrain`) before believing it.

    Args:
      problem: the problem; where the space has choices, a function of their options,
        {name: option} -> problem, which is called once for each distinct choice.
      space: hyperparameters with their bounds; trial 0 is its default.
      searcher: a value of `hypergrad.searchers`.
      estimator: needs a hypergradient if the searcher does; an online one trains from
        start to end with each λ, and `hypergrad.online` is where λ moves meanwhile.
      num_trials: estimates to spend; rounded down to whole rounds of the searcher.
      key: splits into the searcher's and the trainings' key.
      execution: how the trainings of one round are laid out.
      training_keys: `SameKey()`: F is one deterministic function. `FreshKeys()`: every
        trial trains with a key of its own, which many hyperparameters cannot be
        fitted to.

    Returns:
      A `StudyResult`. Warns (`HypergradWarning`) if there were doubtful estimates.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: s,
      ...     outer_at=lambda hp, s, tick: (hp["x"] - 2.0) ** 2, num_steps=1)
      >>> space = hg.Space({"x": hg.Linear(0.0, 4.0, default=1.0)})
      >>> descent = hg.GradientSearch(hg.Outer("sgd", learning_rate=0.25), starts=1)
      >>> study = hg.search(problem, space, descent, estimator=hg.Forward(),
      ...                   num_trials=20, key=jax.random.key(0))
      >>> round(float(study.best_hparams["x"]), 3)
      2.0
    """
    check_pair(searcher, estimator)
    search_key, train_key = jax.random.split(key)
    rounds = num_rounds(searcher, space, num_trials)
    state = searcher.init(space, rounds * searcher.batch, search_key)
    _, trials = _loop(problem, space, searcher)(
        space,
        searcher,
        estimator,
        state,
        train_key,
        rounds,
        execution=execution,
        training_keys=training_keys,
    )
    if count := int(trials.doubtful.sum()):
        warnings.warn(
            f"{estimator} doubts {count} of {len(trials.values)} estimates of this "
            "search: call value_and_hypergrad at such a trial to see why",
            HypergradWarning,
            stacklevel=2,
        )
    return StudyResult(space, trials)


def _loop(problem: Problem | Callable[[dict[str, Any]], Problem], space, searcher):
    """The loop that serves the problem, which it has as its first argument."""
    if not (isinstance(problem, Problem) or callable(problem)):
        raise ValueError(f"problem must be a Problem, or give one; got {problem!r}")
    if isinstance(problem, Problem):
        if space.has_choices or not searcher.on_host:
            return functools.partial(advance, problem)
        return functools.partial(advance_by_choice, lambda _: problem)
    if not (space.has_choices or searcher.on_host):
        return functools.partial(advance, problem({}))
    return functools.partial(advance_by_choice, once_per_choice(problem))
