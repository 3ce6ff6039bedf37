"""Response networks: the learned dw*/dλ against the true one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad import tree
from hypergrad.estimators.response import (
    DeltaSTN,
    LayerwiseResponse,
    LinearResponse,
    SelfTuning,
)
from hypergrad.models import mlp
from tests.bilevel import DATA, LAMBDA, moving, quadratic
from tests.oracles import Ridge
from tests.problems import relative, ridge

LINEAR = LinearResponse()
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def last_call(estimator, problem, hparams, key):
    """The learned response after T steps with λ held, and the last estimate."""

    def call(state, i):
        own = jax.random.fold_in(key, i)
        result, state = estimator.estimate(problem, hparams, state, own)
        return state, result

    @jax.jit
    def run():
        calls = jnp.arange(problem.num_steps // estimator.inner_steps)
        return jax.lax.scan(call, estimator.init(problem, hparams, key), calls)

    state, results = run()
    return state.theta, jax.tree.map(lambda x: x[-1], results)


@pytest.mark.parametrize(
    ("estimator", "num_steps"),
    [
        (DeltaSTN(LINEAR, 0.8), 200),
        (SelfTuning(LINEAR, 0.2, 0.1, sigma=1.0), 1500),
    ],
    ids=["delta", "self-tuning"],
)
def test_with_hparams_held_the_response_is_exact_on_a_quadratic(
    estimator, num_steps, key
):
    problem, hparams = quadratic(num_steps), {"shift": jnp.asarray(LAMBDA)}
    theta, result = last_call(estimator, problem, hparams, key)
    assert relative(theta, DATA.response.T) < 1e-6
    assert relative(result.hypergrad["shift"], DATA.hypergrad(LAMBDA)) < 1e-6
    np.testing.assert_allclose(result.value, DATA.value(LAMBDA), rtol=1e-6)
    assert relative(result.info.state.weights, DATA.solution(LAMBDA)) < 1e-6


@pytest.mark.parametrize(
    "estimator",
    [DeltaSTN(LINEAR, 0.8), slow(SelfTuning(LINEAR, 0.2, 0.1, sigma=1.0))],
    ids=["delta", "self-tuning"],
)
def test_with_hparams_moving_the_optimum_is_reached(estimator, key):
    end = moving(estimator, quadratic(1000), 0.2, 200, key)
    np.testing.assert_allclose(end, DATA.optimum, atol=1e-6)


def ridge_slope(l2):
    """dF/dλ_j at the solution: −∇fᵀ H⁻¹ e_j w_j."""
    data = Ridge.make()
    h, b = data.quadratic(l2)
    w = np.linalg.solve(h, b)
    return -np.linalg.solve(h, data.outer(w)[1]) * w


def test_delta_stn_on_ridge_whose_response_is_not_linear(key):
    """Centred and linearised, it is the exact response all the same."""
    l2 = 0.5 + 0.2 * np.arange(4)
    hparams = {"lr": 0.3, "l2": jnp.asarray(l2)}
    estimate, _ = hg.estimate(ridge(800), DeltaSTN(LINEAR, 0.3), hparams, (), key)
    assert relative(estimate.hypergrad["l2"], ridge_slope(l2)) < 1e-6
    assert abs(estimate.hypergrad["lr"]) < 1e-12  # moves training, not w*


def test_self_tuning_on_ridge_to_its_smoothing(key):
    problem = ridge(1500, optimizer=lambda hp: optax.sgd(0.1))
    estimator = SelfTuning(LINEAR, 0.2, 0.2, sigma=0.2)
    hparams = {"l2": jnp.asarray(1.0)}
    run = jax.vmap(lambda k: estimator.estimate(problem, hparams, (), k)[0].hypergrad)
    found = np.asarray(jax.jit(run)(jax.random.split(key, 64))["l2"])
    expected, error = ridge_slope(1.0).sum(), found.std() / 8
    assert error < 0.05 * abs(expected)
    assert abs(found.mean() - expected) < 0.01 * abs(expected) + 4 * error


@pytest.mark.slow
def test_centring_is_what_makes_a_small_perturbation_of_a_large_hparam_trainable(key):
    """Bae & Grosse 2020: with ‖λ‖ ≫ σ, w and Θλ are hard to tell apart."""
    shift = jnp.asarray([4.0, 4.0])
    exact = DATA.hypergrad(np.asarray(shift))

    def error(estimator):
        problem = quadratic(400)
        result, _ = hg.estimate(problem, estimator, {"shift": shift}, (), key)
        return relative(result.hypergrad["shift"], exact)

    assert error(DeltaSTN(LINEAR, 0.8)) < 1e-6
    assert error(SelfTuning(LINEAR, 0.02, 0.02, sigma=0.1)) > 0.1


@functools.cache
def network():
    """(problem, λ, dF/dλ): log decay per layer of a small network, fully trained."""
    rng = np.random.default_rng(0)
    model = mlp([2, 5, 1])

    def rows():
        x = rng.normal(size=(20, 2))
        clean = np.sin(x[:, :1]) + 0.5 * x[:, 1:] ** 2
        return jnp.asarray(x), jnp.asarray(clean + 0.3 * rng.normal(size=(20, 1)))

    def outer(weights, hparams, batch):
        x, y = batch
        return 0.5 * jnp.mean((model.apply(weights, x) - y) ** 2)

    def inner(weights, hparams, batch):
        decay = sum(
            jnp.exp(z - 2) * hg.l2(layer["kernel"], 1.0) + hg.l2(layer["bias"], 0.2)
            for z, layer in zip(hparams, weights, strict=True)
        )
        return outer(weights, hparams, batch) + decay

    problem = hg.Problem(
        init=lambda key, hp: model.init(key),
        inner_loss=inner,
        outer_loss=outer,
        optimizer=lambda hp: optax.sgd(0.3),
        train=rows(),
        valid=rows(),
        num_steps=2000,
    )
    hparams = (jnp.asarray(0.3), jnp.asarray(-0.3))

    @jax.jit
    def exact(z):
        w, unravel = tree.ravel(hg.train(problem, tuple(z), jax.random.key(0)).weights)

        def slope(w, z):
            return jax.grad(lambda w: inner(unravel(w), z, problem.data.train))(w)

        hessian, cross = jax.jacfwd(slope, (0, 1))(w, z)
        pull = jax.grad(lambda w: outer(unravel(w), z, problem.data.valid))(w)
        return -pull @ jnp.linalg.solve(hessian, cross), jnp.linalg.norm(slope(w, z))

    hypergrad, stationarity = exact(jnp.stack(hparams))
    assert stationarity < 1e-3
    return problem, hparams, hypergrad


@pytest.mark.parametrize(
    ("estimator", "error", "cosine"),
    [
        slow(DeltaSTN(LINEAR, 0.8), 0.01, 0.9999),
        slow(DeltaSTN(LayerwiseResponse(), 0.8), 0.2, 0.99),
        slow(SelfTuning(LINEAR, 0.2, 0.2, sigma=0.3), 0.2, 0.99),
        slow(SelfTuning(LayerwiseResponse(), 0.2, 0.2, sigma=0.3), 1.0, 0.8),
    ],
    ids=["delta", "delta layerwise", "self-tuning", "self-tuning layerwise"],
)
def test_decay_per_layer_of_a_network(estimator, error, cosine, key):
    """What structure and lack of centring cost: measured, with room."""
    problem, hparams, expected = network()
    found = hg.estimate(problem, estimator, hparams, (), key)[0].hypergrad
    found, expected = np.stack(found), np.asarray(expected)
    assert relative(found, expected) < error
    lengths = np.linalg.norm(found) * np.linalg.norm(expected)
    assert found @ expected > cosine * lengths


@pytest.mark.parametrize("response", [LINEAR, LayerwiseResponse()], ids=str)
def test_response_maps_are_linear_and_start_at_zero(response):
    weights = {"linear": jnp.ones((3, 2)), "bias": jnp.ones(2), "gain": jnp.ones(())}
    theta = response.init(weights, 2)

    @jax.jit
    def run(theta, z):
        return response(theta, z), jax.jacobian(lambda z: response(theta, z))(z)

    zero, _ = run(theta, jnp.ones(2))
    assert jax.tree.map(jnp.shape, zero) == jax.tree.map(jnp.shape, weights)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))

    rng = np.random.default_rng(0)
    theta = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), theta)
    z = jnp.asarray([1.0, -2.0])
    value, jacobian = run(theta, z)
    assert relative(value, jax.tree.map(lambda j: np.asarray(j) @ z, jacobian)) < 1e-12


def test_a_layer_that_starts_at_zero_can_learn_to_respond():
    """Its second unit alone has weights; both have a derivative in V at V = 0."""
    response = LayerwiseResponse()
    theta = response.init(jnp.zeros((3, 2)).at[:, 1].set(2.0), 1)
    slope = jax.grad(lambda theta: jnp.sum(response(theta, jnp.ones(1))))(theta)
    np.testing.assert_array_equal(slope.scale, [[3.0, 6.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeltaSTN(response_rate=0.0), "DeltaSTN.response_rate must be > 0"),
        (lambda: DeltaSTN(inner_steps=0), "DeltaSTN.inner_steps must be"),
        (lambda: SelfTuning(sigma=0.0), "SelfTuning.sigma must be > 0"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
