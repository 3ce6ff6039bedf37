"""One estimate as a compiled program: the bytes it reserves and the flops it does."""

import functools
import math

import jax
import numpy as np

import hypergrad as hg
from hypergrad import tree
from hypergrad.api import check
from hypergrad.flops import count_flops
from hypergrad.typing import HParams, Key


class Program:
    """An estimate of a problem at one λ; compiled when asked for what needs it."""

    def __init__(
        self,
        estimator: hg.Estimator,
        problem: hg.Problem,
        hparams: HParams,
        key: Key,
    ):
        """Trace it.

        Raises:
            ValueError: the estimator does not apply to the problem.
        """
        check(problem, estimator, needs_hypergrad=True)

        def run(problem, hparams, key):
            state = estimator.init(problem, hparams, key)
            return estimator.estimate(problem, hparams, state, key)[0]

        self._given = problem, tree.as_arrays(hparams), key
        self._traced = jax.jit(run).trace(*self._given)

    @functools.cached_property
    def flops(self) -> int:
        """Of the traced program."""
        return count_flops(self._traced.jaxpr)

    @functools.cached_property
    def _compiled(self):
        return self._traced.lower().compile()

    @property
    def num_bytes(self) -> float:
        """What the compiler reserves beside arguments and results; NaN if unknown."""
        memory = self._compiled.memory_analysis()
        return math.nan if memory is None else memory.temp_size_in_bytes

    def __call__(self) -> hg.Estimate:
        """The estimate, ready."""
        return jax.block_until_ready(self._compiled(*self._given))


def training_flops(problem: hg.Problem, hparams: HParams, key: Key) -> int:
    """Flops of one training, the unit in which those of estimates are counted."""
    return count_flops(jax.jit(hg.train).trace(problem, hparams, key).jaxpr)


def distance(ours: HParams, theirs: HParams) -> float:
    """‖a − b‖ / ‖b‖, in float64 whatever the two are."""
    a, b = (np.asarray(tree.ravel(x)[0], np.float64) for x in (ours, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
