"""Many trainings at once: their estimates, what they cost, training afresh."""

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.api import check, estimate
from hypergrad.estimators import Estimator, Target, Value
from hypergrad.execution import Chunk, Execution, Loop, Vmap
from hypergrad.problem import Problem
from hypergrad.sharding import Shard
from hypergrad.space import Space
from hypergrad.typing import HParams, Key, PyTree
from hypergrad.unroll import train

EXECUTIONS: dict[str, type] = {
    "loop": Loop,
    "chunk": Chunk,
    "vmap": Vmap,
    "shard": Shard,
}
"""Every execution by name, for configs."""


class Evaluations(NamedTuple):
    """F [n], dF/dz [n, d] (None without hypergradient), and which are doubtful [n]."""

    values: jax.Array
    grads: jax.Array | None
    doubtful: jax.Array


def evaluate(
    problem: Problem,
    space: Space,
    estimator: Estimator,
    coords: jax.Array,
    keys: Key,
    execution: Execution = Loop(),
) -> Evaluations:
    """F and its estimated gradient at each of n coordinates, each with its key.

    Args:
      problem: the problem.
      space: maps coordinates z to λ.
      estimator: any estimator (an online one runs a whole training with λ held);
        `Value()` for F alone.
      coords: [n, d].
      keys: n keys, one for each training.
      execution: how the n trainings are laid out.

    Returns:
      `Evaluations`, with gradients in coordinates: (dλ/dz)ᵀ dF/dλ.

    Raises:
      ValueError: the estimator does not apply to the problem, with the reason.
    """
    check(problem, estimator)
    chex.assert_shape(coords, (None, space.dim))
    chex.assert_axis_dimension(keys, 0, len(coords))

    def one(trial):
        z, key = trial
        hparams, pull_back = jax.vjp(space.from_coords, z)
        result, _ = estimator.estimate(problem, hparams, (), key)
        doubtful = jnp.asarray(result.info.doubtful)
        if estimator.target is Target.NOTHING:
            return Evaluations(result.value, None, doubtful)
        return Evaluations(result.value, pull_back(result.hypergrad)[0], doubtful)

    return execution.map(one, (coords, keys))


@functools.partial(jax.jit, static_argnames=("score", "execution"))
def retrain(
    problem: Problem,
    hparams: HParams,
    keys: Key,
    score: Callable[[PyTree, HParams], PyTree],
    execution: Execution = Loop(),
) -> PyTree:
    """`score(state, hparams)` after training with λ from each of n keys.

    Args:
      problem: the problem.
      hparams: λ, the same for every key.
      keys: n keys, none of which the search has seen.
      score: pure function `(inner state after training, hparams) -> pytree`.
      execution: how the n trainings are laid out.

    Returns:
      The scores, stacked along a leading axis of n.
    """
    return execution.map(lambda key: score(train(problem, hparams, key), hparams), keys)


def cost_multiple(
    problem: Problem,
    estimator: Estimator,
    hparams: HParams,
    key: Key,
    repeats: int = 5,
) -> float:
    """Time of one estimate in inner trainings, rounded up to the next half.

    The two are timed in turn, after compilation; the ratio is of the medians. Measure
    it once and write it down: a budget must not depend on a clock.

    Args:
      problem: the problem.
      estimator: the estimator to price.
      hparams: λ.
      key: the run's key.
      repeats: timed rounds.

    Returns:
      A multiple of one half, at least 1.

    Raises:
      ValueError: several processes share their programs.
    """
    _check_one_clock("cost_multiple", "measure it in one process and give its number")
    ratio = median_time_ratio(
        lambda: estimate(problem, estimator, hparams, (), key)[0].value,
        lambda: estimate(problem, Value(), hparams, (), key)[0].value,
        repeats,
    )
    return max(1.0, math.ceil(2 * ratio) / 2)


def choose_execution(
    problem: Problem,
    space: Space,
    estimator: Estimator,
    key: Key,
    num_trials: int,
    repeats: int = 3,
) -> Execution:
    """The fastest layout for `num_trials` trainings, measured.

    `Loop`, `Chunk` and `Vmap` are tried, and `Shard` where there are several devices.

    Args:
      problem: the problem.
      space: its space.
      estimator: the estimator to run.
      key: the run's key.
      num_trials: trainings side by side (the searcher's batch, or the fresh keys).
      repeats: timed rounds.

    Returns:
      An execution; `Loop()` without measuring where there is one training only.

    Raises:
      ValueError: several processes share their programs.
    """
    if num_trials == 1:
        return Loop()
    _check_one_clock("choose_execution", "name the execution")
    coords = tree.as_arrays(space.to_coords(space.defaults()))
    coords = jnp.tile(coords, (num_trials, 1))
    keys = jax.random.split(key, num_trials)
    candidates = [Loop(), Vmap(), *(Chunk(n) for n in (4,) if n < num_trials)]
    if jax.device_count() > 1:
        candidates.append(Shard())
    run = jax.jit(evaluate, static_argnums=(1, 2, 5))

    def timed(execution):
        start = time.perf_counter()
        jax.block_until_ready(run(problem, space, estimator, coords, keys, execution))
        return time.perf_counter() - start

    for execution in candidates:
        timed(execution)  # compile
    rounds = [[timed(execution) for execution in candidates] for _ in range(repeats)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return candidates[medians.index(min(medians))]


def _check_one_clock(name: str, remedy: str) -> None:
    if (count := jax.process_count()) > 1:
        raise ValueError(
            f"{name} reads a clock, and those of {count} processes differ: they would "
            f"run different programs and wait for each other for ever; {remedy}"
        )


def median_time_ratio(fn: Callable, reference: Callable, repeats: int) -> float:
    """Median time of `fn()` over that of `reference()`, run in turn once compiled."""

    def timed(call):
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    for call in (fn, reference):
        timed(call)  # compile
    rounds = [(timed(fn), timed(reference)) for _ in range(repeats)]
    times, references = zip(*rounds, strict=True)
    return statistics.median(times) / statistics.median(references)
