"""Training in stretches: what is stopped can go on, perhaps with another λ.

    s_{t+1} = step(λ_t, s_t),   λ_t = the λ of the stretch that step t lies in

Where the outer loss is a sum over steps, F after t steps is the sum of its terms up to
t. A training that is cut into stretches of one λ ends where the whole one does.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar
from hypergrad.unroll import add_outer, check_step, loop, zero_outer


class Progress(NamedTuple):
    """Where a training stands.

    Attributes:
      state: s_t.
      total: the outer terms so far, Σ outer; 0 where only the last counts.
    """

    state: PyTree
    total: Scalar


def begin(problem: Problem, hparams: HParams, key: Key) -> Progress:
    """s_0, and no outer term yet."""
    state = problem.start(hparams, key)
    check_step(problem, hparams, state, key)
    return Progress(state, zero_outer(problem, hparams, state, key))


def train_stretch(
    problem: Problem,
    hparams: HParams,
    progress: Progress,
    first: int | jax.Array,
    num_steps: int,
    key: Key,
) -> tuple[Scalar, Progress]:
    """F after first + num_steps steps, of which the last `num_steps` are trained here.

    Args:
      problem: the problem.
      hparams: λ of this stretch.
      progress: after `first` steps, from `begin` or an earlier stretch.
      first: may be traced.
      num_steps: static.
      key: the run's key, the same for all its stretches.

    Returns:
      `(value, progress)`.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> key = jax.random.key(0)
      >>> value, progress = train_stretch(
      ...     problem, 2.0, begin(problem, 2.0, key), 0, 2, key)
      >>> print(value, train_stretch(problem, 5.0, progress, 2, 1, key)[0])
      4.0 20.0
    """

    def one_step(progress, t):
        return _step(problem, hparams, progress, t, key)

    progress = loop(one_step, progress, num_steps, first=first)
    return _value(problem, hparams, progress, first + num_steps, key), progress


def train_lineage(
    problem: Problem, stages: HParams, ends: jax.Array, key: Key
) -> tuple[Scalar, PyTree]:
    """F and s_T of one training whose λ changes: stage r holds up to step ends[r].

    Args:
      problem: the problem.
      stages: λ of each stage, stacked: [R, ...].
      ends: [R], ascending; the last is T.
      key: the run's key; a fresh one shows what the lineage is worth.

    Returns:
      `(value, state)`.
    """

    def hparams_at(t):
        return jax.tree.map(lambda x: x[jnp.searchsorted(ends, t, "right")], stages)

    def one_step(progress, t):
        return _step(problem, hparams_at(t), progress, t, key)

    end = problem.num_steps
    progress = begin(problem, hparams_at(0), key)
    progress = loop(one_step, progress, end)
    value = _value(problem, hparams_at(end - 1), progress, end, key)
    return value, progress.state


def _step(problem, hparams, progress, t, key) -> Progress:
    state, total = problem.step(hparams, progress.state, t, key), progress.total
    if problem.outer_every is not None:
        total = add_outer(problem, hparams, state, total, t + 1, key)
    return Progress(state, total)


def _value(problem, hparams, progress, t, key) -> Scalar:
    if problem.outer_every is None:
        return problem.outer(hparams, progress.state, t, key)
    return progress.total


class HasParents(Protocol):
    """Trials in stretches: `Jobs`, or the `Trials` of a study."""

    @property
    def coords(self) -> Any:
        """Their z [n, d]."""
        ...

    @property
    def parents(self) -> Any:
        """The trial that each goes on with, or −1: [n]."""
        ...

    @property
    def steps(self) -> Any:
        """Where each stops: [n]."""
        ...


class Lineage(NamedTuple):
    """The stretches of one training: `coords` z [R, d] hold up to step `ends` [R]."""

    coords: np.ndarray
    ends: np.ndarray


def lineage(trials: HasParents, trial: int) -> Lineage:
    """From the start of training to `trial`; one stretch, if all have one z.

    A λ that has changed on the way must be trained again as it was, with
    `train_lineage`: its last stretch is not what reached F.
    """
    parents, chain = np.asarray(trials.parents), [trial]
    while parents[chain[0]] >= 0:
        chain.insert(0, int(parents[chain[0]]))
    coords, ends = np.asarray(trials.coords)[chain], np.asarray(trials.steps)[chain]
    if (coords == coords[:1]).all():
        return Lineage(coords[-1:], ends[-1:])
    return Lineage(coords, ends)
