"""The online loop that papers share: λ moves at every call, while training goes on."""

from typing import NamedTuple

import jax
import numpy as np
import optax

import hypergrad as hg
from experiments.paper import Steps
from hypergrad import Problem, tree
from hypergrad.typing import HParams, Key

_PIECES = 20  # of a run, each one program; progress is told between them


class Tuned(NamedTuple):
    """Where `hg.tune` has led.

    Attributes:
        hparams: λ after the last call.
        calls: at which of them λ is in `path`: 0, ..., the number of calls.
        path: like λ with a leading axis, λ before each of `calls`.
    """

    hparams: HParams
    calls: np.ndarray
    path: HParams


def tuned(
    problem: Problem,
    estimator: hg.Estimator,
    hparams: HParams,
    outer: optax.GradientTransformation,
    num_calls: int,
    key: Key,
    report: Steps,
    *,
    looks: int = 100,
) -> Tuned:
    """`hg.tune`, with `looks` evenly spaced places of its path.

    Args:
        problem: the problem.
        estimator: any estimator with a hypergradient.
        hparams: λ before the first call.
        outer: the optimiser of λ.
        num_calls: calls.
        key: of the run.
        report: told about progress.
        looks: about how many places are kept.
    """
    piece, state, done, paths = -(-num_calls // _PIECES), None, 0, []
    hparams = tree.as_arrays(hparams)
    while done < num_calls:
        run = hg.tune(
            problem,
            estimator,
            hparams,
            outer,
            num_calls=min(piece, num_calls - done),
            key=key,
            state=state,
        )
        hparams, state = run.hparams, run.state
        paths.append(jax.tree.map(np.asarray, run.trajectory))
        done = int(state.num_calls)
        report(done, num_calls)
    calls = np.unique(np.linspace(0, num_calls, min(looks, num_calls) + 1).astype(int))
    last = jax.tree.map(lambda x: np.asarray(x)[None], hparams)
    path = jax.tree.map(lambda *parts: np.concatenate(parts)[calls], *paths, last)
    return Tuned(hparams, calls, path)
