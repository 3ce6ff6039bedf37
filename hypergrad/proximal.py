"""Proximal gradient steps: training with a penalty that has kinks.

A step of gradient descent on the smooth part of the loss is followed by the proximal
map of the rest, so that weights become exactly zero (Parikh and Boyd 2014).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hypergrad.typing import PyTree


class ProximalState(NamedTuple):
    """How many steps have been done, for a rate that is a schedule."""

    steps: Array


def soft_threshold(w: Array, threshold) -> Array:
    """sign(w) · max(|w| − τ, 0), the proximal map of τ |w|.

    Its derivative is that of the branch taken: 1 and −sign(w) where |w| > τ, 0
    elsewhere.

    Args:
      w: any shape.
      threshold: τ >= 0, a scalar or of the shape of w.

    >>> print(soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0))
    [-2.  0.  1.]
    """
    kept = jnp.abs(w) > threshold
    return jnp.where(kept, w - jnp.sign(w) * threshold, 0)


def proximal_sgd(
    learning_rate: optax.ScalarOrSchedule, l1: PyTree = 0.0, l2: PyTree = 0.0
) -> optax.GradientTransformation:
    """The step w ← prox_{η (α |·| + ½ β ·²)}(w − η g) = S_{ηα}(w − η g)/(1 + ηβ).

    With the gradient g of the smooth part of the loss alone: the penalty belongs here
    and not into `inner_loss`. Lasso for β = 0; an optimiser like any other, every
    number of which may be a hyperparameter.

    The hypergradient of a converged one is that of `Implicit(operator=FixedPoint())`.
    The map's derivative is zero off the support {w ≠ 0}, so that only the support
    enters the solve, at one iteration's cost for all of the rest (Bertrand et al. 2020,
    2022); there is no need of an estimator of its own. `Implicit()` with the inner
    Hessian is wrong here and says so: the gradient of the smooth part is not zero.

    Args:
      learning_rate: η, a number or a schedule.
      l1: α >= 0, a prefix of the weights: a number for all of them, one for each layer,
        or a tree like them.
      l2: β >= 0, a prefix of the weights.

    Raises:
      ValueError: when updated without the weights.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> optimizer = hg.proximal_sgd(0.5, l1=1.0)
      >>> w = jnp.array([0.75, 2.0])
      >>> updates, _ = optimizer.update(jnp.array([1.0, 1.0]), optimizer.init(w), w)
      >>> print(w + updates)
      [0. 1.]
    """

    def init(params):
        del params
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("proximal_sgd needs the weights: update(grads, state, w)")
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate

        def step(g, w, alpha, beta):
            u = soft_threshold(w - rate * g, rate * alpha) / (1 + rate * beta)
            return (u - w).astype(w.dtype)

        spread = (_spread(l1, params), _spread(l2, params))
        new = jax.tree.map(step, updates, params, *spread)
        return new, ProximalState(state.steps + 1)

    return optax.GradientTransformation(init, update)


def _spread(coefficient, weights):
    """A prefix of the weights as a tree like them."""
    return jax.tree.map(
        lambda c, below: jax.tree.map(lambda w: jnp.broadcast_to(c, w.shape), below),
        coefficient,
        weights,
    )
