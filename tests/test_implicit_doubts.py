"""What an implicit estimate says of itself: its doubts, its info, its keys."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.curvature import FixedPoint
from hypergrad.estimators.implicit import Implicit, ImplicitInfo
from hypergrad.linear_solvers import LinearSolver
from tests.problems import ridge


def carried(state_of_weights, num_steps=80):
    """ℓ = ½ (w − λ)², and F = ½ m² with m = w of one step before: dF/dλ = λ."""
    return hg.Problem.with_context(
        init=lambda key, hp: (jnp.zeros(()), jnp.zeros(())),
        inner_loss=lambda w, hp, batch, context: (0.5 * (w - hp) ** 2, w),
        outer_loss=lambda w, hp, batch, context: (
            0.5 * (context.model_state if state_of_weights else w) ** 2,
            context.model_state,
        ),
        optimizer=lambda hp: optax.sgd(0.5),
        train=jnp.zeros(1),
        valid=(),
        num_steps=num_steps,
    )


def test_an_outer_loss_of_the_model_state_warns(key):
    """The weights' response is not all of it: the running statistics' is left out."""
    with pytest.warns(hg.HypergradWarning, match="model's state, which moves"):
        wrong = hg.hypergrad(carried(True), Implicit())(3.0, key)
    assert float(wrong) == 0
    right = hg.hypergrad(carried(True), Implicit(FixedPoint()))(3.0, key)
    np.testing.assert_allclose(right, 3.0, rtol=1e-12)


def test_the_objective_may_be_compiled_before_it_is_differentiated(key):
    """And where it is differentiated outside of jit, it warns."""
    for has_aux in (False, True):
        fn = jax.jit(hg.objective(carried(False), Implicit(), has_aux=has_aux))
        got = jax.eval_shape(jax.grad(fn, has_aux=has_aux), 3.0, key)
        assert not has_aux or isinstance(got[1], ImplicitInfo)
    assert isinstance(jax.eval_shape(fn, 3.0, key)[1], ImplicitInfo)
    with pytest.warns(hg.HypergradWarning, match="training left 0.5"):
        jax.grad(hg.objective(carried(False, 1), Implicit()))(3.0, key)


def test_a_tiny_inner_loss_in_float32_does_not_look_converged(key):
    """The square of its gradient underflows."""
    with jax.enable_x64(False):
        problem = hg.Problem.from_step(
            start=lambda hp, tick: jnp.zeros(()),
            step=lambda hp, w, tick: w - 0.5 * (w - hp),
            outer_at=lambda hp, w, tick: 0.5 * w**2,
            inner_loss_at=lambda hp, w, tick: 1e-20 * 0.5 * (w - hp) ** 2,
            num_steps=2,
        )
        with pytest.warns(hg.HypergradWarning, match="training left 0.25"):
            hg.hypergrad(problem, Implicit())(3.0, key)


@dataclass(frozen=True)
class Telltale(LinearSolver):
    """Its number of iterations is the key that it was given."""

    def solve_unit(self, matvec, b, weight, key, symmetric):
        return b, number(key), jnp.inf


def number(key):
    return jax.random.key_data(key)[0].astype(jnp.int32)


def test_solver_and_outer_loss_draw_from_different_keys(key):
    problem, estimator = carried(False, 1), Implicit(solver=Telltale(), tolerance=9.0)
    estimate, _ = hg.estimate(problem, estimator, 3.0, (), key)
    of_the_outer_loss = jax.random.fold_in(key, 1)
    assert int(estimate.info.iterations) != int(number(of_the_outer_loss))


def test_a_rate_that_decayed_does_not_look_converged(key):
    """The last step is short whatever the weights; they are far from the solution."""
    hparams = {"lr": jnp.array([0.05] * 5 + [1e-9]), "l2": 0.1}
    with pytest.warns(hg.HypergradWarning, match="training left 0"):
        hg.hypergrad(ridge(5), Implicit(FixedPoint()))(hparams, key)
