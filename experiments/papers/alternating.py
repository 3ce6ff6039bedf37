"""λ and the weights in turn, a step each, while one training runs (Liu et al. 2019).

    λ ← λ − outer(h),   h = estimate of d/dλ outer_loss(step(λ, s_t), λ)
    s_{t+1} = step(λ, s_t)   on the same batch, with the λ that has just moved

The estimator sees a training of one step that begins at s_t, whatever led there.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import hypergrad as hg
from experiments.paper import Steps
from experiments.papers.dynamics import begun_at
from experiments.papers.progress import in_stretches
from hypergrad.typing import HParams, Key


class Alternated(NamedTuple):
    """Where it has led.

    Attributes:
        hparams: λ after the last step.
        state: of the training.
        values: the outer loss after each step, with the λ before it moved.
    """

    hparams: HParams
    state: hg.InnerState
    values: np.ndarray


def alternate(
    problem: hg.Problem,
    estimator: hg.Estimator | None,
    hparams: HParams,
    outer: optax.GradientTransformation,
    key: Key,
    report: Steps,
    *,
    looks: int = 50,
    look: Callable[[int, HParams, hg.InnerState], None] = lambda step, hp, s: None,
) -> Alternated:
    """The T steps of the problem's training, and a step of λ before each.

    Args:
        problem: its batches are drawn by key, so that each step has a fresh one.
        estimator: an episodic one; None holds λ.
        hparams: λ_0.
        outer: sees λ as one vector.
        key: of the training.
        report: told about progress.
        looks: how often `look` is called after the start.
        look: sees step, λ and the state, and may measure what it likes.
    """
    point, unravel = ravel_pytree(hparams)

    @jax.jit
    def run(problem, carry, steps):
        def step(carry, t):
            point, moments, state = carry
            own = jax.random.fold_in(key, t)
            begun = begun_at(problem, state)
            if estimator is None:
                value = hg.objective(begun, hg.OneStep())(unravel(point), own)
            else:
                both = hg.value_and_hypergrad(begun, estimator)
                value, slope = both(unravel(point), own)
                change, moments = outer.update(ravel_pytree(slope)[0], moments, point)
                point = point + change
            # The batch that the estimator saw: that of step 0 by this key.
            state = problem.step(unravel(point), state, 0, own)
            return (point, moments, state), value

        return jax.lax.scan(step, carry, steps)

    state = problem.start(hparams, key)
    look(0, hparams, state)
    carry, values = (point, outer.init(point), state), []
    scan = functools.partial(run, problem)
    stretches = in_stretches(scan, carry, problem.num_steps, looks, report)
    for done, carry, found in stretches:
        values.append(found)
        look(done, unravel(carry[0]), carry[2])
    return Alternated(unravel(carry[0]), carry[2], np.concatenate(values))
