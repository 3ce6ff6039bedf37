"""F2SA and BOME: no second derivative, and the bias that this costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrad.estimators.penalty import BOME, F2SA
from hypergrad.estimators.single_loop import SOBA
from tests.bilevel import DATA, LAMBDA, RHO, held, moving, over_keys, quadratic
from tests.problems import relative


def penalised(sigma):
    return DATA.penalised(LAMBDA, sigma)


@pytest.mark.parametrize("sigma", [5.0, 40.0])
def test_f2sa_is_the_gradient_of_its_penalised_objective(sigma, key):
    result = held(F2SA(0.5, sigma), quadratic(100), key)
    assert relative(result.hypergrad["shift"], penalised(sigma)) < 1e-8
    np.testing.assert_allclose(result.value, DATA.value(LAMBDA), rtol=1e-10)


def test_the_bias_of_f2sa_halves_as_the_penalty_doubles(key):
    exact, sigmas = DATA.hypergrad(LAMBDA), (20.0, 40.0, 80.0)
    found = [
        held(F2SA(0.5, sigma), quadratic(100), key).hypergrad["shift"]
        for sigma in sigmas
    ]
    errors = [np.linalg.norm(np.asarray(g) - exact) for g in found]
    assert errors[0] > 0.02
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.06)
    np.testing.assert_allclose(errors[1] / errors[2], 2, rtol=0.03)


def test_a_growing_penalty_removes_the_bias_of_f2sa(key):
    estimator = F2SA(0.5, penalty=5.0, growth=2.0)
    end = moving(estimator, quadratic(500), 0.1, 500, key)
    np.testing.assert_allclose(end, DATA.optimum, atol=2e-4)
    # With σ fixed it is the optimum of L_σ that is reached.
    fixed = moving(F2SA(0.5, penalty=5.0), quadratic(500), 0.1, 500, key)
    assert np.linalg.norm(DATA.penalised(fixed, 5.0)) < 1e-8
    assert np.linalg.norm(fixed - DATA.optimum) > 1e-2


@pytest.mark.slow
def test_mean_of_f2sa_over_batches_is_the_full_batch_direction(key):
    problem, estimator = quadratic(60, batch_size=6), F2SA(0.2, 10.0)
    found, expected = over_keys(estimator, problem, 2000, key), penalised(10.0)
    mean, error = found.mean(0), found.std(0) / np.sqrt(len(found))
    assert np.all(error < 0.05 * np.linalg.norm(expected))
    assert np.all(np.abs(mean - expected) < 4 * error)


@pytest.mark.parametrize("barrier", [pytest.param(0.5, marks=pytest.mark.slow), 8.0])
def test_bome_with_hparams_held_is_f2sa_at_the_barriers_own_multiplier(barrier, key):
    estimator = BOME(0.02, inner_rate=1.0, inner_steps=20, barrier=barrier)
    result = held(estimator, quadratic(20_000), key)
    got = result.hypergrad["shift"]
    assert relative(got, penalised(result.info.multiplier)) < 1e-5
    # The named bias, O(1/μ), which the barrier coefficient controls.
    bias = relative(got, DATA.hypergrad(LAMBDA)) * result.info.multiplier
    assert 5 < result.info.multiplier / barrier < 15
    assert 0.5 < bias < 2


def test_bome_reaches_the_optimum_to_the_order_of_its_rate(key):
    errors = []
    for rate in (0.08, 0.02):
        calls = round(40 / rate)
        estimator = BOME(rate, inner_rate=1.0, inner_steps=10)
        end = moving(estimator, quadratic(10 * calls), rate, calls, key)
        errors.append(np.linalg.norm(end - DATA.optimum))
    assert errors[0] < 0.05
    assert errors[1] < 0.5 * errors[0]


class SecondDerivativeError(Exception):
    """Somebody formed a Hessian product."""


@jax.custom_jvp
def once(slopes):
    """The identity, whose derivative is refused."""
    return slopes


@once.defjvp
def _(primals, tangents):
    raise SecondDerivativeError


@functools.partial(jax.custom_vjp)
def guarded(weights, shift, batch):
    x, y, c = batch
    return 0.5 * jnp.mean((x @ weights - y - c @ shift) ** 2)


def _forward(*args):
    return guarded(*args), jax.grad(guarded.fun, (0, 1))(*args)


def _backward(slopes, g):
    return (*jax.tree.map(lambda s: g * s, once(slopes)), None)


guarded.defvjp(_forward, _backward)


def _guarded_inner(weights, hparams, batch):
    return guarded(weights, hparams["shift"], batch)


@pytest.mark.parametrize("estimator", [F2SA(0.5), BOME()], ids=["F2SA", "BOME"])
def test_no_second_derivative_is_formed(estimator, key):
    """A loss whose second derivative raises can be traced."""

    def trace(estimator):
        problem, hparams = quadratic(20, inner_loss=_guarded_inner), {"shift": LAMBDA}
        return jax.eval_shape(
            lambda h: estimator.estimate(problem, h, (), key)[0], hparams
        )

    trace(estimator)
    with pytest.raises(SecondDerivativeError):  # the guard is awake
        trace(SOBA())


@pytest.mark.slow
def test_the_rates_are_the_estimators_own(key):
    """The problem's optimiser is not asked: another one changes nothing."""
    for estimator in (F2SA(0.5), BOME()):
        one = held(estimator, quadratic(20), key).hypergrad
        other = quadratic(20, optimizer=lambda hp: optax.adam(1e-3))
        assert relative(held(estimator, other, key).hypergrad, one) < 1e-12


def test_bome_without_a_gap_follows_the_outer_gradient(key):
    """Where ∇q = 0 the multiplier is η and the direction is finite."""
    problem = quadratic(10, inner_loss=lambda w, hp, batch: 0.0 * jnp.sum(w))
    result = held(BOME(), problem, key)
    np.testing.assert_allclose(result.hypergrad["shift"], RHO * LAMBDA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F2SA(penalty=0.0), "F2SA.penalty must be > 0"),
        (lambda: F2SA(growth=-1.0), "F2SA.growth must be >= 0"),
        (lambda: F2SA(inner_steps=0), "F2SA.inner_steps must be"),
        (lambda: BOME(barrier=0.0), "BOME.barrier must be > 0"),
        (lambda: BOME(inner_steps=1.5), "BOME.inner_steps must be a Python int"),  # pyright: ignore
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
