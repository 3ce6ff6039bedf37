"""T1-T2 and DARTS against their own closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators.implicit import Implicit
from hypergrad.estimators.one_step import Darts, OneStep
from hypergrad.linear_solvers import IdentityInverse
from tests.oracles import Ridge
from tests.problems import cubic, digits, relative, ridge
from tests.test_export import lowers

FEATURES = 0.1 * (1 + np.arange(4.0))
HPARAMS = {"lr": 0.1, "l2": FEATURES}


def ridge_weights(steps):
    """w_t of gradient descent from 0, in numpy."""
    h, b = Ridge.make().quadratic(FEATURES)
    w = np.zeros(4)
    for _ in range(steps):
        w = w - 0.1 * (h @ w - b)
    return w, h @ w - b


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ridge", "digits"])
def test_one_step_is_reverse_with_a_window_of_one(name, key):
    cases = {"digits": digits(6), "ridge": (ridge(6, batch_size=5), HPARAMS)}
    for problem, hparams in (cases[name], (cubic(3), 2.0)):
        expected = hg.value_and_hypergrad(problem, hg.Reverse(window=1))(hparams, key)
        got = hg.value_and_hypergrad(problem, OneStep())(hparams, key)
        assert relative(got, expected) < 1e-12
    np.testing.assert_allclose(got[1], 4.0)


def test_closed_form_of_one_step(key):
    """T1-T2: dλ_j = −α ∇outer_j w_j with w before and ∇outer after the last step."""
    (before, gradient), (after, _) = ridge_weights(4), ridge_weights(5)
    value, slope = Ridge.make().outer(after)
    got, hypergrad = hg.value_and_hypergrad(ridge(5), OneStep())(HPARAMS, key)
    np.testing.assert_allclose(got, value, rtol=1e-12)
    np.testing.assert_allclose(hypergrad["l2"], -0.1 * slope * before, rtol=1e-10)
    np.testing.assert_allclose(hypergrad["lr"], -slope @ gradient, rtol=1e-10)


def test_closed_form_of_darts(key):
    """The ridge penalty is quadratic: its central differences have no error."""
    (before, gradient), (after, _) = ridge_weights(4), ridge_weights(5)
    for rate in (0.1, 0.03):
        virtual = before - rate * gradient
        slope = Ridge.make().outer(virtual)[1]
        got, hypergrad = hg.value_and_hypergrad(ridge(5), Darts(rate))(HPARAMS, key)
        np.testing.assert_allclose(got, Ridge.make().outer(after)[0], rtol=1e-12)
        np.testing.assert_allclose(hypergrad["l2"], -rate * slope * before, rtol=1e-8)
        assert float(hypergrad["lr"]) == 0


def test_darts_of_a_tiny_outer_loss_in_float32(key):
    """ξ (λ − w') of ½ (w − λ)² and ½ c w², c = 1e-20, whose square underflows."""

    def hypergrad(scale):
        problem = hg.Problem.from_step(
            start=lambda hp, tick: jnp.ones((), jnp.float32),
            step=lambda hp, w, tick: w,
            outer_at=lambda hp, w, tick: jnp.float32(scale) * 0.5 * w**2,
            inner_loss_at=lambda hp, w, tick: 0.5 * (w - hp) ** 2,
            num_steps=1,
        )
        return hg.hypergrad(problem, Darts(0.5))(jnp.float32(3.0), key)

    # w' = w − ½ (w − λ) = 2, and dw'/dλ = ½.
    for scale in (1.0, 1e-20):
        got = hypergrad(scale)
        assert got.dtype == jnp.float32, "with float64 enabled, too"
        np.testing.assert_allclose(got / scale, 1.0, rtol=1e-4)


def classifier(num_steps=5):
    """A loss that is not quadratic in anything, with a direct term in the outer one."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(20, 3)))

    def loss(w, hp, batch):
        return jnp.mean(jnp.sin(batch @ (w * hp))) + jnp.sum(jnp.exp(0.1 * hp * w))

    return hg.Problem(
        init=lambda key, hp: jnp.ones(3),
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda hp: optax.sgd(0.2),
        train=x,
        valid=x[:7],
        num_steps=num_steps,
        batch_size=4,
    )


@pytest.mark.slow
def test_darts_of_the_optimisers_rate_is_one_step_up_to_differences(key):
    """Their error is of order ε²: a tenth of ε, a hundredth of the error."""
    problem, hparams = classifier(), jnp.array([0.5, 1.0, 1.5])
    exact = hg.hypergrad(problem, OneStep())(hparams, key)
    errors = [
        relative(hg.hypergrad(problem, Darts(0.2, epsilon))(hparams, key), exact)
        for epsilon in (0.1, 0.01)
    ]
    assert errors[1] < 1e-4
    np.testing.assert_allclose(errors[0] / errors[1], 100, rtol=0.05)


@pytest.mark.slow
def test_first_order_is_the_direct_term(key):
    problem, hparams = classifier(), jnp.array([0.5, 1.0, 1.5])
    before = hg.train(problem.replace(num_steps=4), hparams, key)
    direct = jax.grad(lambda h: problem.outer(h, before, 5, key))(hparams)
    got = hg.hypergrad(problem, Darts(rate=0.0))(hparams, key)
    np.testing.assert_allclose(got, direct, rtol=1e-12)
    assert relative(hg.hypergrad(problem, OneStep())(hparams, key), direct) > 0.01


@pytest.mark.slow
def test_all_of_them_agree_at_a_minimum(key):
    """There T1-T2, DARTS and the identity inverse are one formula: v = α ∇outer."""
    problem, hparams = ridge(400), {"lr": 0.3, "l2": FEATURES}
    identity = Implicit(solver=IdentityInverse(0.3), tolerance=np.inf)
    results = [
        hg.hypergrad(problem, estimator)(hparams, key)["l2"]
        for estimator in (OneStep(), Darts(0.3), identity)
    ]
    assert relative(results[1], results[0]) < 1e-8
    assert relative(results[2], results[0]) < 1e-8
    exact = hg.hypergrad(problem, Implicit())(hparams, key)["l2"]
    assert relative(results[0], exact) > 0.1, "short-horizon bias"


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [OneStep(), Darts(0.1)], ids=str)
def test_transformations_and_a_zero_gradient(estimator, key):
    problem = ridge(3, batch_size=5)
    fn = jax.jit(hg.value_and_hypergrad(problem, estimator))
    hparams = jax.tree.map(jnp.asarray, HPARAMS)
    _, expected = fn(hparams, key)
    gradient = jax.jit(jax.grad(hg.objective(problem, estimator)))(hparams, key)
    assert relative(gradient, expected) < 1e-12
    keys = jax.random.split(key, 2)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), hparams)
    got = jax.vmap(fn)(many, keys)[1]
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], (many, got))
        assert relative(one[1], fn(one[0], keys[i])[1]) < 1e-9

    flat = ridge(2, outer_loss=lambda w, hp, batch: jnp.sum(hp["l2"]))
    got = hg.hypergrad(flat, estimator)(HPARAMS, key)["l2"]
    np.testing.assert_array_equal(got, np.ones(4))


def test_refusals(key):
    for estimator in (OneStep(), Darts()):
        with pytest.raises(ValueError, match="use Reverse"):
            hg.hypergrad(ridge(4, outer_every=2), estimator)
    with pytest.raises(ValueError, match="no inner loss"):
        hg.hypergrad(cubic(), Darts())
    with pytest.raises(ValueError, match="Darts.rate must be >= 0, got -1"):
        Darts(rate=-1)
    with pytest.raises(ValueError, match="Darts.epsilon must be > 0, got 0"):
        Darts(epsilon=0)
    problem = ridge(3, init=lambda key, hp: jnp.zeros(4, jnp.bfloat16))
    with pytest.raises(ValueError, match="weights is bfloat16"):
        hg.hypergrad(problem, Darts(0.1))({"lr": 0.1, "l2": 0.1}, key)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [OneStep(), Darts(0.1)], ids=str)
def test_lowers_for_every_platform(estimator, key):
    with jax.enable_x64(False):
        problem, hparams = digits(3, dtype=jnp.float32)
        lowers(
            lambda p, h, k: estimator.estimate(p, h, (), k)[0], problem, hparams, key
        )
