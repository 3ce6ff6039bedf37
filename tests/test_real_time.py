"""RTHO, MARTHE and online reverse against closed forms and the episodic estimators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from experiments.papers.vicol_influence import influence_balancing
from hypergrad.estimators.online_reverse import OnlineReverse
from hypergrad.estimators.real_time import MARTHE, RTHO
from hypergrad.online import tune
from tests.problems import cubic, digits, relative, ridge

T = 12
HPARAMS = {
    "lr": jnp.asarray(0.1),
    "momentum": jnp.asarray(0.6),
    "l2": jnp.linspace(0.1, 0.4, 4),
}


def episode(problem, estimator, hparams, key):
    return hg.estimate(problem, estimator, hparams, (), key)[0]


def parabola(num_steps=T, **changes):
    """ℓ = a w²/2 from w_0 = 2 with rate λ, a = 0.7; E = w²/2."""
    return hg.Problem(
        init=lambda key, hp: jnp.asarray(2.0),
        inner_loss=lambda w, hp, batch: 0.35 * w**2,
        outer_loss=lambda w, hp, batch: 0.5 * w**2,
        optimizer=lambda hp: optax.sgd(hp),
        train=jnp.ones(1),
        valid=jnp.ones(1),
        num_steps=num_steps,
        **changes,
    )


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9, 1.0])
def test_response_keeps_its_identity_term(mu, key):
    """A = 1 − α a, and not −α a: Z_T = −a w_0 (1 − α a)^{T−1} Σ_{k<T} μ^k."""
    rate, a = 0.3, 0.7
    got = episode(parabola(), MARTHE(mu), rate, key)
    weight = 2 * (1 - rate * a) ** T
    response = -a * 2 * (1 - rate * a) ** (T - 1) * sum(mu**k for k in range(T))
    np.testing.assert_allclose(got.value, weight**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(got.hypergrad, weight * response, rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "outer_every"),
    [
        pytest.param(RTHO(), None, marks=pytest.mark.slow),
        (RTHO(4, chunk=4), 3),
        pytest.param(RTHO(steps_per_update=6), 1, marks=pytest.mark.slow),
        pytest.param(RTHO(chunk=1), 1, marks=pytest.mark.slow),
        pytest.param(RTHO(6, chunk=4), None, marks=pytest.mark.slow),
    ],
)
def test_rtho_with_hparams_held_is_exact(estimator, outer_every, key):
    problem = ridge(T, batch_size=5, outer_every=outer_every)
    value, expected = hg.value_and_hypergrad(problem, hg.Forward())(HPARAMS, key)
    got = episode(problem, estimator, HPARAMS, key)
    np.testing.assert_allclose(got.value, value, rtol=1e-12)
    assert relative(got.hypergrad, expected) < 1e-10


@pytest.mark.slow
def test_rtho_with_hparams_held_is_exact_on_the_digits_mlp(key):
    problem, hparams = digits(6)
    expected = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    got = episode(problem, RTHO(steps_per_update=2, chunk=3), hparams, key)
    assert relative(got.hypergrad, expected) < 1e-10


def test_start_that_depends_on_hparams(key):
    """s_T = λ^(T+1) from s_0 = λ, beside an integer in the state."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: (hp, 0),
        step=lambda hp, s, tick: (hp * s[0], s[1] + 1),
        outer_at=lambda hp, s, tick: s[0],
        num_steps=3,
    )
    for estimator in (RTHO(), OnlineReverse(window=3)):
        result = episode(problem, estimator, 2.0, key)
        np.testing.assert_allclose(result.hypergrad, 4 * 2.0**3)
        assert int(result.info.state[1]) == 3


def tuned(problem, estimator, key, num_calls=2 * T, rate=1e-3):
    return tune(
        problem, estimator, HPARAMS, optax.sgd(rate), num_calls=num_calls, key=key
    )


def test_marthe_with_mu_1_is_rtho(key):
    """To the bit, and while λ moves."""
    problem = ridge(T)
    a, b = (tuned(problem, e, key) for e in (MARTHE(mu=1.0), RTHO()))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(x, y)
    assert relative(a.hparams, HPARAMS) > 1e-3


def test_marthe_with_mu_0_is_hypergradient_descent_on_the_outer_loss(key):
    """Forward and reverse mode of the same one step."""
    problem = ridge(T)
    a, b = (tuned(problem, e, key) for e in (MARTHE(mu=0.0), OnlineReverse(window=1)))
    assert relative(a.trajectory, b.trajectory) < 1e-12
    assert relative(a.hparams, HPARAMS) > 1e-3


@pytest.mark.parametrize("mu", [0.6, 1.0])
def test_real_time_update_is_that_of_the_paper(mu, key):
    """Donini et al. 2020, algorithm 1 by hand: Z with the λ that each step had."""
    rate, a, beta = 0.3, 0.7, 0.02
    w, z, rates = 2.0, 0.0, []
    for _ in range(T):
        rates.append(rate)
        z = mu * (1 - rate * a) * z - a * w
        w = (1 - rate * a) * w
        rate = rate - beta * w * z
    got = tune(parabola(), MARTHE(mu), 0.3, optax.sgd(beta), num_calls=T, key=key)
    np.testing.assert_allclose(got.trajectory, rates, rtol=1e-12)
    np.testing.assert_allclose(got.hparams, rate, rtol=1e-12)
    np.testing.assert_allclose(got.state.estimator.response.weights, [z], rtol=1e-12)


@pytest.mark.parametrize(
    ("window", "outer_every"), [(4, 3), pytest.param(12, 2, marks=pytest.mark.slow)]
)
def test_online_reverse_adds_up_to_the_windowed_derivative(window, outer_every, key):
    problem = ridge(T, batch_size=5, outer_every=outer_every)
    reverse = hg.Reverse(window=window)
    value, expected = hg.value_and_hypergrad(problem, reverse)(HPARAMS, key)
    got = episode(problem, OnlineReverse(window), HPARAMS, key)
    np.testing.assert_allclose(got.value, value, rtol=1e-12)
    assert relative(got.hypergrad, expected) < 1e-12


@pytest.mark.slow
def test_last_call_of_online_reverse_is_the_window_that_ends_at_the_end(key):
    problem = ridge(T, batch_size=5)
    expected = hg.hypergrad(problem, hg.Reverse(window=4))(HPARAMS, key)
    estimator = OnlineReverse(4, checkpoint=hg.Segments(2))
    state = estimator.init(problem, HPARAMS, key)
    for _ in range(3):
        result, state = hg.estimate(problem, estimator, HPARAMS, state, key)
    assert relative(result.hypergrad, expected) < 1e-12


def balance(estimator, key):
    """θ after 3,000 updates of one training that never ends, as published."""
    updates = 3000
    steps = estimator.steps(influence_balancing(1))
    return tune(
        influence_balancing(updates * steps),
        estimator,
        0.5,
        optax.sgd(1e-4),
        num_calls=updates,
        key=key,
    ).hparams


@pytest.mark.parametrize(
    ("estimator", "theta", "tolerance"),
    [
        (RTHO(), -1 / 6, 1e-4),
        pytest.param(RTHO(100), -1 / 6, 1e-4, marks=pytest.mark.slow),
        (OnlineReverse(window=100), -1 / 6, 1e-4),
        (OnlineReverse(window=1), 3.26, 2e-3),
        (OnlineReverse(window=10), 1.4e7, 0.05),
    ],
    ids=str,
)
def test_influence_balancing(estimator, theta, tolerance, key):
    """Real-time mode and long windows arrive, short ones do not, as published."""
    np.testing.assert_allclose(balance(estimator, key), theta, rtol=tolerance)


def test_unequal_lengths_are_refused(key):
    with pytest.raises(ValueError, match="must divide num_steps"):
        hg.estimate(cubic(5), OnlineReverse(window=2), 2.0, (), key)
    with pytest.raises(ValueError, match="it has no dF/dλ to return"):
        hg.value_and_hypergrad(cubic(), RTHO())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RTHO(steps_per_update=0), "RTHO.steps_per_update must be >= 1"),
        (lambda: MARTHE(chunk=0), "MARTHE.chunk must be >= 1"),
        (lambda: MARTHE(mu=1.5), "MARTHE.mu must be in"),
        (lambda: OnlineReverse(window=0), "OnlineReverse.window must be >= 1"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
