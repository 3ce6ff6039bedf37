"""The door: what it composes with, and what it refuses."""

import warnings
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators import Estimate, Estimator, Info, Target
from tests.problems import cubic, digits, ridge


def test_objective_is_an_ordinary_scalar_function(key):
    objective = hg.objective(cubic(3), hg.Reverse())
    np.testing.assert_allclose(objective(2.0, key), 8.0)
    np.testing.assert_allclose(jax.grad(objective)(2.0, key), 12.0)
    # d/dx of (e^x)³ at 0, through a reparametrisation.
    slope = jax.grad(lambda x: objective(jnp.exp(x), key))(0.0)
    np.testing.assert_allclose(slope, 3.0)
    # Composed: F(F(λ)) = λ⁹.
    nested = jax.jit(jax.grad(lambda x: objective(objective(x, key), key)))
    np.testing.assert_allclose(nested(1.1), 9 * 1.1**8)
    # With optax.
    tx = optax.sgd(0.1)
    state = tx.init(jnp.asarray(1.0))
    updates, _ = tx.update(jax.grad(objective)(1.0, key), state)
    np.testing.assert_allclose(updates, -0.3)


def test_objective_with_aux_returns_the_final_state(key):
    objective = hg.objective(cubic(3), hg.Forward(), has_aux=True)
    value, info = objective(2.0, key)
    gradient, info_of_grad = jax.grad(objective, has_aux=True)(2.0, key)
    assert float(value) == float(info.state) == float(info_of_grad.state) == 8.0
    np.testing.assert_allclose(gradient, 12.0)
    fn = hg.value_and_hypergrad(cubic(3), hg.Forward(), has_aux=True)
    (value, info), gradient = fn(2.0, key)
    assert (float(value), float(info.state), float(gradient)) == (8.0, 8.0, 12.0)


@pytest.mark.parametrize("estimator", [hg.Reverse(), hg.Forward()])
def test_second_derivatives_of_exact_estimators_are_right(estimator, key):
    objective = hg.objective(cubic(5), estimator)
    np.testing.assert_allclose(jax.hessian(objective)(2.0, key), 20 * 2.0**3)
    reverse_twice = jax.grad(jax.grad(objective))(2.0, key)
    np.testing.assert_allclose(reverse_twice, 20 * 2.0**3)

    problem = ridge(5)

    def through(estimator):
        f = hg.objective(problem, estimator)
        return jax.hessian(lambda lr: f({"lr": lr, "l2": 0.1}, key))(0.1)

    def plain(lr):
        return hg.unroll(problem, {"lr": lr, "l2": jnp.asarray(0.1)}, key)[0]

    np.testing.assert_allclose(through(estimator), jax.hessian(plain)(0.1), rtol=1e-10)


def test_the_hypergradient_itself_may_be_differentiated(key):
    """`jacrev(hypergrad)` and `jacfwd(hypergrad)` of the default estimator."""
    problem = ridge(5)

    def slope(lr):
        hparams = {"lr": lr, "l2": jnp.asarray(0.1)}
        return hg.hypergrad(problem, hg.Reverse())(hparams, key)["lr"]

    def plain(lr):
        return hg.unroll(problem, {"lr": lr, "l2": jnp.asarray(0.1)}, key)[0]

    expected = jax.hessian(plain)(0.1)
    for derivative in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(derivative(slope)(0.1), expected, rtol=1e-10)


def test_the_objective_keeps_its_own_dtype(key):
    """A float32 value under x64 has a float32 tangent."""
    problem = cubic(3, data=jnp.ones((), jnp.float32))
    narrow = hg.Problem.from_step(
        start=lambda hp, tick: tick.data,
        step=problem.dynamics.step_fn,
        outer_at=problem.dynamics.outer_fn,
        data=problem.data,
        num_steps=3,
    )
    two = jnp.asarray(2.0, jnp.float32)
    value, slope = jax.value_and_grad(hg.objective(narrow, hg.Reverse()))(two, key)
    assert (float(value), float(slope)) == (8.0, 12.0)
    assert value.dtype == slope.dtype == jnp.float32


@pytest.mark.parametrize("estimator", [hg.Reverse(window=2), hg.FiniteDifference()])
def test_second_derivatives_of_inexact_estimators_are_refused(estimator, key):
    objective = hg.objective(cubic(5), estimator)
    assert np.isfinite(jax.grad(objective)(2.0, key))
    with pytest.raises(TypeError, match="second derivatives"):
        jax.hessian(objective)(2.0, key)


def test_derivatives_with_respect_to_the_data_are_never_silently_zero(key):
    problem = ridge(3)

    def of_data(x):
        data = problem.data._replace(train=(x, problem.data.train[1]))
        objective = hg.objective(problem.replace(data=data), hg.Reverse())
        return objective({"lr": 0.1, "l2": 0.1}, key)

    with pytest.raises(TypeError, match="through hparams"):
        jax.grad(of_data)(problem.data.train[0])


class Online(Estimator):
    """An online update that carries its last λ."""

    @property
    def target(self):
        return Target.UPDATE

    def init(self, problem, hparams, key):
        return jnp.zeros(())

    def estimate(self, problem, hparams, state, key):
        return Estimate(hparams**2, hparams - state, Info(state)), hparams


def test_online_estimators_carry_state_and_have_no_objective(key):
    problem, estimator = cubic(), Online()
    state = estimator.init(problem, 1.0, key)
    _, state = hg.estimate(problem, estimator, 3.0, state, key)
    result, _ = hg.estimate(problem, estimator, 5.0, state, key)
    np.testing.assert_allclose(result.hypergrad, 2.0)
    for door in (hg.objective, hg.value_and_hypergrad, hg.hypergrad):
        with pytest.raises(ValueError, match=r"hypergrad\.estimate"):
            door(problem, estimator)


class Picky(hg.Value):
    """Applies to nothing."""

    def applies(self, problem):
        return "it asks for the moon"


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (hg.Value(), "estimates the value alone"),
        (hg.Reverse, "got the class Reverse: write Reverse()"),
        (Picky(), "does not apply to this problem: it asks for the moon"),
    ],
)
def test_doors_refuse_with_the_reason(estimator, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        hg.value_and_hypergrad(cubic(), estimator)
    assert message in str(error.value)


def test_one_trace_for_equal_shapes(key):
    """Python floats, arrays, new data and a rebuilt door all share one program."""
    traces = 0

    def step(hp, s, tick):
        nonlocal traces
        traces += 1
        return s * hp["lr"] + tick.data

    def build(data):
        return hg.Problem.from_step(
            start, step, outer, num_steps=4, data=jnp.asarray(data)
        )

    def start(hp, tick):
        return jnp.ones(())

    def outer(hp, s, tick):
        return s

    for lr, data in ((0.1, 1.0), (jnp.asarray(0.2), 2.0), (np.float64(0.3), 3.0)):
        hg.value_and_hypergrad(build(data), hg.Reverse())({"lr": lr}, key)
        if lr == 0.1:
            first = traces
    assert traces == first > 0


def test_data_are_no_constants_of_the_jaxpr(key):
    problem, hparams = digits(3)

    def fn(problem, hparams, key):
        return hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)

    jaxpr = jax.make_jaxpr(fn)(problem, hparams, key)
    large = [c for c in jaxpr.consts if getattr(c, "size", 0) > 100]
    assert large == []


def test_traces_under_jit_are_counted_by_chex(key):
    problem = cubic(4)
    fn = jax.jit(chex.assert_max_traces(hg.hypergrad(problem, hg.Forward()), n=1))
    for lr in (0.1, 0.2, 0.3):
        fn(lr, key)
    chex.clear_trace_counter()


def root(num_steps=1):
    """F = √(λ²): finite with a NaN derivative at λ = 0."""
    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: jnp.sqrt(hp**2) * s,
        outer_at=lambda hp, s, tick: s,
        num_steps=num_steps,
    )


def test_a_hypergradient_that_is_not_finite_warns_when_eager_only(key):
    fn = hg.value_and_hypergrad(root(), hg.Reverse())
    with pytest.warns(hg.HypergradWarning, match=r"safe_optax\.check"):
        fn(0.0, key)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(jax.jit(fn)(0.0, key)[1])


def test_a_diverged_run_is_data(key):
    value, gradient = hg.value_and_hypergrad(cubic(10_000), hg.Reverse())(10.0, key)
    assert np.isinf(value)
    assert not np.isfinite(gradient)


@dataclass(frozen=True)
class Doubter(hg.Reverse):
    """Doubts its own estimate."""

    def estimate(self, problem, hparams, state, key):
        result, state = super().estimate(problem, hparams, state, key)
        info = result.info._replace(doubtful=jnp.asarray(True))
        return result._replace(info=info), state

    def doubt(self, info):
        return "residual 0.3" if bool(info.doubtful) else None


def test_a_doubtful_estimate_warns_at_the_eager_doors_only(key):
    fn = hg.value_and_hypergrad(cubic(), Doubter())
    with pytest.warns(hg.HypergradWarning, match=r"residual 0\.3"):
        fn(2.0, key)
    with pytest.warns(hg.HypergradWarning, match=r"residual 0\.3"):
        hg.estimate(cubic(), Doubter(), 2.0, (), key)
    jax.jit(fn)(2.0, key)  # No callback, no warning: info carries the flag.
