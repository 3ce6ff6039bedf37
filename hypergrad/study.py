"""A study: ask for coordinates, estimate there, tell the searcher; again and again.

The loop is a scan, so a whole study is one compiled program; cut into rounds, it can be
watched, recorded and resumed, and gives the same numbers. Where the space has choices
the loop is in Python, and each distinct choice is a program of its own.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.api import HypergradWarning
from hypergrad.by_choice import map_by_choice, once_per_choice
from hypergrad.estimators import Estimator, Target, Value
from hypergrad.problem import Problem
from hypergrad.runner import Execution, Loop, evaluate
from hypergrad.searchers import Searcher
from hypergrad.searchers.partial import PartialSearch
from hypergrad.space import Space
from hypergrad.stretches import Stretches, search_in_stretches
from hypergrad.training_keys import FreshKeys as FreshKeys
from hypergrad.training_keys import SameKey as SameKey
from hypergrad.training_keys import TrainingKeys as TrainingKeys
from hypergrad.trials import StudyResult as StudyResult
from hypergrad.trials import Trials as Trials
from hypergrad.trials import best_index as best_index
from hypergrad.trials import in_stretches, whole
from hypergrad.trials import ranking as ranking
from hypergrad.typing import Key, PyTree

_ONE_PROBLEM = (
    "problem must be a function {{name: option}} -> Problem where the space has "
    "choices, {}; got a Problem, which would be the same for every option: use "
    "search, or advance_by_choice"
)


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
        raise ValueError(_ONE_PROBLEM.format(list(space.discrete)))
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
        steps = jnp.full(searcher.batch, problem.num_steps)
        return state, whole(coords, values, grads, doubtful, steps)

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

    Raises:
      ValueError: the searcher trains in stretches.
    """
    if isinstance(searcher, PartialSearch):
        raise ValueError(
            f"searcher must train every trial to the end; got {searcher}, which trains "
            "in stretches: use search"
        )
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
            steps = np.full(len(rows), problem.num_steps)
            args = coords[rows], keys[rows], execution
            return _evaluate(problem, space, estimator, *args), steps

        found, steps = map_by_choice(run, space, coords, width)
        values, grads, doubtful = found
        state = tell(searcher, space, state, coords, values, grads)
        done.append(whole(coords, values, grads, doubtful, steps))
    return state, jax.tree.map(lambda *rows: jnp.concatenate(rows), *done)


def _host_ask(searcher, space, state):
    return searcher.ask(space, state)


def _host_tell(searcher, space, state, coords, values, grads):
    return searcher.tell(space, state, coords, values, grads)


_ask = jax.jit(_host_ask, static_argnums=(0, 1))
_tell = jax.jit(_host_tell, static_argnums=(0, 1))
_evaluate = jax.jit(evaluate, static_argnums=(1, 2, 5))


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
    if isinstance(searcher, PartialSearch) and not isinstance(estimator, Value):
        raise ValueError(
            f"{type(searcher).__name__} trains in stretches, for F alone; got "
            f"{estimator}: leave out estimator"
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
      num_trials: estimates to spend; rounded down to whole rounds of the searcher. A
        `PartialSearch` spends as many trainings' worth of steps, on more trials.
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
    if isinstance(searcher, PartialSearch):
        problems = _by_choice(problem, space)
        arguments = space, train_key, execution, training_keys
        stretches = Stretches(problems, *arguments)
        log = search_in_stretches(stretches, searcher, num_trials, search_key)
        return StudyResult(space, in_stretches(log))
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
    problems = _by_choice(problem, space)
    if space.has_choices or searcher.on_host:
        return functools.partial(advance_by_choice, problems)
    return functools.partial(advance, problems({}))


def _by_choice(
    problem: Problem | Callable[[dict[str, Any]], Problem], space: Space
) -> Callable[[dict[str, Any]], Problem]:
    """{name: option} -> problem, made once for each."""
    if isinstance(problem, Problem):
        if space.has_choices:
            raise ValueError(_ONE_PROBLEM.format(list(space.discrete)))
        return lambda _: problem
    if not callable(problem):
        raise ValueError(f"problem must be a Problem, or give one; got {problem!r}")
    return once_per_choice(problem)
