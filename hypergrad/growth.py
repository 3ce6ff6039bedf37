"""How fast training forgets, or blows up, a perturbation of the weights.

The finite-time Lyapunov exponent is the slope in t of log ‖∂w_t/∂w_0 u‖: a product of
Jacobians, of which only one direction is ever needed.
"""

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree


def grow(
    problem: Problem, hparams: HParams, key: Key
) -> tuple[PyTree, PyTree, jax.Array]:
    """Log ‖∂w_t/∂w_0 u‖ for t = 1, ..., T and a random u of length 1.

    Power iteration: the tangent u_{t+1} = (∂s_{t+1}/∂s_t) u_t of the whole state is
    scaled back to unit length at every step, and the logarithms of the lengths are
    summed. Integers and keys in the state move along, without a tangent.

    Args:
      problem: the problem.
      hparams: λ.
      key: the run's key; also draws u.

    Returns:
      `(s_0, s_T, curve)`, curve of shape [T], -∞ where the perturbation has died.
    """
    start = problem.start(hparams, key)
    weights, others = tree.partition(problem.weights(start))

    def with_weights(weights):
        whole = tree.combine(weights, others)
        return tree.partition(problem.replace_weights(start, whole))[0]

    def weights_of(floats):
        state = tree.combine(floats, tree.partition(start)[1])
        return tree.partition(problem.weights(state))[0]

    def step(carry, t):
        state, u, log_norm = carry
        floats, others = tree.partition(state)

        def moved(floats):
            state = tree.combine(floats, others)
            return tree.partition(problem.step(hparams, state, t, key))

        floats, u, others = jax.jvp(moved, (floats,), (u,), has_aux=True)
        u, norm = _unit(u)
        log_norm += jnp.log(norm)
        _, part = _unit(jax.jvp(weights_of, (floats,), (u,))[1])
        return (tree.combine(floats, others), u, log_norm), log_norm + jnp.log(part)

    vector, unravel = tree.ravel(weights)
    draw = jax.random.normal(jax.random.fold_in(key, 1), vector.shape, vector.dtype)
    direction, _ = _unit(unravel(draw))
    _, u = jax.jvp(with_weights, (weights,), (direction,))
    steps = jnp.arange(problem.num_steps, dtype=jnp.int32)
    (end, *_), curve = jax.lax.scan(step, (start, u, jnp.zeros(())), steps)
    return start, end, curve


def _unit(u: PyTree):
    """(u / ‖u‖, ‖u‖), zero staying zero."""
    norm = tree.norm(u)
    scale = jnp.where(norm == 0, 1.0, norm)
    return jax.tree.map(lambda x: (x / scale).astype(x.dtype), u), norm
