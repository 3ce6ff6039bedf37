"""Unbiased online recurrent optimisation: the response Z_t as one outer product."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import (
    Estimate,
    Info,
    Target,
    objective_of_floats,
)
from hypergrad.estimators.online_base import OnlineEstimator, begin
from hypergrad.gradients import Mixed, Plain
from hypergrad.typing import Key, PyTree


class UOROState(NamedTuple):
    """What UORO carries from step to step.

    Attributes:
      t: steps done, int32.
      key: the inner run's key.
      inner: s_t.
      left: x, like the floating leaves of s_t.
      right: y, like the floating leaves of λ; E[x yᵀ] = Z_t.
    """

    t: jax.Array
    key: Key
    inner: PyTree
    left: PyTree
    right: PyTree


@dataclass(frozen=True)
class UORO(OnlineEstimator):
    """ĝ_t = ∂outer_t/∂λ + (∂outer_t/∂s_t · x_t) y_t, where E[x_t y_tᵀ] = Z_t.

    With J = ∂s_{t+1}/∂s_t, B = ∂s_{t+1}/∂λ and random signs ν (Tallec and Ollivier
    2018), the recursion Z_{t+1} = J Z_t + B becomes

        x_{t+1} = ρ₀ J x_t + ρ₁ ν,          ρ₀ = √(‖y_t‖ / ‖J x_t‖),
        y_{t+1} = y_t / ρ₀ + Bᵀν / ρ₁,      ρ₁ = √(‖Bᵀν‖ / ‖ν‖),

    one jvp and one vjp of the step. The signs make the cross terms vanish in the mean
    whatever ρ; these ratios give them the smallest variance. λ may move between calls.

    Computes: dF/dλ over a training with λ held; a call is one step, and its estimate is
              not zero where an outer loss falls on that step (see `outer_every`).
    Bias:     none.
    Variance: large, growing with the sizes of s_t and λ and with how far J remembers.
    Memory:   two inner states and two λ, whatever T and d.
    Time:     about 6 T inner steps.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> fn = hg.hypergrad(problem, hg.UORO())
      >>> keys = jax.random.split(jax.random.key(0), 10_000)
      >>> slopes = jax.vmap(fn, (None, 0))(2.0, keys)
      >>> bool(abs(slopes.mean() - 12) < 0.5)  # 3 λ² in the mean
      True
    """

    @property
    def target(self) -> Target:
        """dF/dλ, by the calls of one training together."""
        return Target.OBJECTIVE

    @property
    def unbiased(self) -> bool:
        """Over the signs."""
        return True

    def init(self, problem, hparams, key):
        """Z = 0, as x = 0 and y = 0; the first call adds how s_0 depends on λ."""
        hparams = tree.as_arrays(hparams)
        _, floats, _ = objective_of_floats(lambda hparams: hparams, hparams)
        progress = begin(problem, hparams, key)
        inner_floats, _ = tree.partition(progress.inner)
        zeros = jax.tree.map(jnp.zeros_like, (inner_floats, floats))
        return UOROState(*progress, *zeros)

    def advance(self, problem, hparams, state, key):
        """One step, its loss, and x yᵀ moved along."""
        fill, floats, restore = objective_of_floats(lambda hparams: hparams, hparams)
        inner, others = tree.partition(state.inner)
        start_key, step_key = jax.random.split(key)
        t = state.t + 1

        def start(floats):
            return tree.partition(problem.start(fill(floats), state.key))

        def step(floats, inner, gradient):
            before = tree.combine(inner, others)
            return tree.partition(
                problem.step(fill(floats), before, state.t, state.key, gradient)
            )

        carried = (state.left, state.right)
        x, y = jax.lax.cond(
            state.t == 0,
            lambda: _balanced_sum(carried, _project(start, floats, start_key)),
            lambda: carried,
        )
        after, pushed, after_others = jax.jvp(
            lambda inner: step(floats, inner, Plain()), (inner,), (x,), has_aux=True
        )
        fresh = _project(lambda floats: step(floats, inner, Mixed()), floats, step_key)
        x, y = _balanced_sum((pushed, y), fresh)

        def outer(floats, inner):
            at = tree.combine(inner, after_others)
            return problem.outer(fill(floats), at, t, state.key)

        def slopes(floats, inner):
            return jax.value_and_grad(outer, (0, 1))(floats, inner)

        value, (direct, adjoint) = jax.lax.cond(
            t % (problem.outer_every or problem.num_steps) == 0,
            lambda: slopes(floats, after),
            lambda: tree.zeros_of(slopes, floats, after),
        )
        along = tree.vdot(adjoint, x)
        gradient = jax.tree.map(lambda d, y: (d + along * y).astype(d.dtype), direct, y)
        end = tree.combine(after, after_others)
        state = UOROState(t, state.key, end, x, y)
        return Estimate(value, restore(gradient), Info(end)), state


def _project(fn, floats, key):
    """(ν, Bᵀν) for random signs ν like the result of `fn`, B being its Jacobian."""
    result, pull, _ = jax.vjp(fn, floats, has_aux=True)
    vector, unravel = tree.ravel(result)
    signs = unravel(jax.random.rademacher(key, vector.shape, vector.dtype))
    return signs, pull(signs)[0]


def _balanced_sum(first, second):
    """(ρ₀ x + ρ₁ x', y/ρ₀ + y'/ρ₁), each pair scaled to factors of equal norm."""
    (x0, y0), (x1, y1) = _balanced(*first), _balanced(*second)
    return tree.axpy(1, x0, x1), tree.axpy(1, y0, y1)


def _balanced(x, y):
    """(ρ x, y / ρ) with ρ = √(‖y‖ / ‖x‖); where x yᵀ = 0, both 0."""
    nx, ny = tree.norm(x), tree.norm(y)
    nonzero = (nx > 0) & (ny > 0)
    rho = jnp.sqrt(jnp.where(nonzero, ny, 1.0) / jnp.where(nonzero, nx, 1.0))

    def scaled(leaves, factor):
        factor = jnp.where(nonzero, factor, 0.0)
        return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), leaves)

    return scaled(x, rho), scaled(y, 1 / rho)
