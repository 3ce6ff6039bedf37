"""The outer loop that papers share: λ ← project(λ − optimiser(dF/dλ))."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import hypergrad as hg
from experiments.paper import Steps
from hypergrad import Problem
from hypergrad.typing import HParams, Key

Objective = Callable[[HParams, int], tuple[jax.Array, HParams]]
"""(λ, outer step) -> (F(λ), dF/dλ)."""


class Descent(NamedTuple):
    """A descent in λ.

    Attributes:
        values: F before each outer step.
        norms: ‖dF/dλ‖ likewise.
        hparams: λ after the last step.
    """

    values: list[float]
    norms: list[float]
    hparams: HParams


def descend(
    objective: Objective,
    hparams: HParams,
    outer: optax.GradientTransformation,
    num_steps: int,
    report: Steps,
    *,
    project: Callable[[HParams], HParams] = lambda hparams: hparams,
    look: Callable[[int, HParams], None] = lambda step, hparams: None,
) -> Descent:
    """`num_steps` outer steps from λ; `objective` is called before each.

    Args:
        objective: F and its hypergradient; compiled by whoever wrote it.
        hparams: where to start.
        outer: gets λ and dF/dλ as one vector each.
        num_steps: outer steps.
        report: told about progress.
        project: keeps λ where it may be, after each step.
        look: sees each λ, the last one included, and may measure what it likes.
    """
    point, unravel = ravel_pytree(hparams)

    @jax.jit
    def move(point, state, hypergrad):
        slope = ravel_pytree(hypergrad)[0].astype(point.dtype)
        change, state = outer.update(slope, state, point)
        moved = unravel(point + change)
        return ravel_pytree(project(moved))[0], state, jnp.linalg.norm(slope)

    state, values, norms = outer.init(point), [], []
    for step in range(num_steps):
        look(step, unravel(point))
        value, hypergrad = objective(unravel(point), step)
        point, state, norm = move(point, state, hypergrad)
        values.append(float(value))
        norms.append(float(norm))
        report(step + 1, num_steps)
    look(num_steps, unravel(point))
    return Descent(values, norms, unravel(point))


def estimated(problem: Problem, estimator: Any, key: Key) -> Objective:
    """F and dF/dλ of one problem with one key, by an estimator."""
    both = hg.value_and_hypergrad(problem, estimator)
    return lambda hparams, step: both(hparams, key)
