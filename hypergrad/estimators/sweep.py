"""A stretch of training in reverse: the adjoint at its end becomes that at its start.

    v_t = (∂s_{t+K}/∂s_t)ᵀ v_{t+K} + ∂(losses between)/∂s_t

For those who sweep back one stretch at a time, and may stop or rest between two.
"""

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.online_base import run_window
from hypergrad.gradients import InnerGradient
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree
from hypergrad.unroll import Checkpoint


def pull_window(
    problem: Problem,
    hparams: HParams,
    state: PyTree,
    t: jax.Array,
    key: Key,
    num_steps: int,
    adjoint: PyTree,
    *,
    checkpoint: Checkpoint,
    gradient: InnerGradient,
) -> tuple[HParams, PyTree]:
    """What the steps t, ..., t + K − 1 and their losses add to dF/dλ, and v_t.

    Args:
      problem: the problem.
      hparams: λ.
      state: s_t.
      t: steps done before.
      key: the run's key.
      num_steps: K, static.
      adjoint: v_{t+K}, shaped like the leaves of a state that carry a tangent.
      checkpoint: what is kept of the K steps.
      gradient: the inner gradient operator.

    Returns:
      `(hypergrad, v_t)`, None where λ and state carry no tangent.
    """
    moving, fixed = tree.partition((hparams, state))

    def run(moving):
        hparams, state = tree.combine(moving, fixed)
        loss, end = run_window(
            problem,
            hparams,
            state,
            t,
            key,
            num_steps,
            end_loss=False,
            checkpoint=checkpoint,
            gradient=gradient,
        )
        return loss, tree.partition(end)[0]

    (loss, _), pull = jax.vjp(run, moving)
    return pull((jnp.ones_like(loss), adjoint))[0]


def pull_start(
    problem: Problem, hparams: HParams, key: Key, adjoint: PyTree
) -> HParams:
    """What s_0 adds to dF/dλ: (∂s_0/∂λ)ᵀ v_0, None where λ carries no tangent."""
    moving, fixed = tree.partition(hparams)

    def start(moving):
        state = problem.start(tree.combine(moving, fixed), key)
        return tree.partition(state)[0]

    return jax.vjp(start, moving)[1](adjoint)[0]


def zeros_like_floats(pytree: PyTree) -> PyTree:
    """Zeros for the leaves that carry a tangent, None for the others."""
    return jax.tree.map(jnp.zeros_like, tree.partition(pytree)[0])
