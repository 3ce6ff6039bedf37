"""Evolution strategies against closed forms of what each of them smooths."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from experiments.papers import metz, vicol_toy2d
from experiments.papers.metz import lorenz
from experiments.papers.vicol_influence import influence_balancing
from experiments.papers.vicol_toy2d import toy_regression
from hypergrad.estimators.evolution import (
    EvolutionStrategies,
    NoiseReuseES,
    PersistentES,
)
from hypergrad.estimators.online_base import run_window
from tests.problems import cubic, relative, ridge
from tests.sampling import assert_mean
from tests.test_export import lowers

KINDS = (EvolutionStrategies, PersistentES, NoiseReuseES)


def over_keys(problem, estimator, hparams, key, n=100):
    fn = jax.jit(jax.vmap(hg.hypergrad(problem, estimator), (None, 0)))
    return fn(hparams, jax.random.split(key, n))


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (EvolutionStrategies(0.5, 100), 4 + 12 * 0.25),
        (NoiseReuseES(0.5, 100, window=1), 4 + 12 * 0.25),
        (PersistentES(0.5, 100, window=4), 4 + 12 * 0.25),
        (PersistentES(0.5, 200, window=2), 4 * 1.25),
        (PersistentES(0.5, 400, window=1), 4.0),
    ],
    ids=str,
)
def test_each_smooths_what_it_says(estimator, expected, key):
    """λ⁴ at 1: of E (λ + ε)⁴, [E (λ + ε)²]² and [E (λ + ε)]⁴, by windows."""
    assert estimator.target is hg.Target.SMOOTHED
    assert estimator.unbiased
    slopes = over_keys(cubic(4), estimator, 1.0, key, 200)
    assert_mean(slopes, np.array(expected))


POWERS = {"a": np.array([0.5, -1.0]), "b": np.array(0.8)}


def polynomial(num_steps=2):
    """F = ½ xᵀAx + Σ x³ of the three floats x in λ, half of it from the start."""
    matrix = jnp.array([[2.0, 0.5, 0.3], [0.5, 1.0, 0.2], [0.3, 0.2, 1.5]])

    def floats(hp):
        return jnp.append(hp["a"], hp["b"])

    return hg.Problem.from_step(
        start=lambda hp, tick: 0.5 * floats(hp),
        step=lambda hp, s, tick: s + 0.5 * floats(hp) / num_steps,
        outer_at=lambda hp, s, tick: 0.5 * s @ tick.data @ s + jnp.sum(s**3),
        data=matrix,
        num_steps=num_steps,
    )


def test_quadratic_and_cubic_in_a_pytree(key):
    """E (x + ε)³ has the slope 3 x² + 3 σ²; a quadratic keeps its own."""
    sigma, problem = 0.3, polynomial()
    x = np.append(POWERS["a"], POWERS["b"])
    slope = np.asarray(problem.data) @ x + 3 * (x**2 + sigma**2)
    estimator = NoiseReuseES(sigma, 100, window=1)
    slopes = over_keys(problem, estimator, POWERS | {"n": 3}, key)
    assert slopes.pop("n").dtype == jax.dtypes.float0
    assert_mean(slopes, {"a": slope[:2], "b": slope[2]})


def linear(num_steps=6, noise=0.0):
    """The run s ← 0.9 s + λ with ½ (s − 1)² at every step: quadratic in λ."""
    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: (
            0.9 * s + hp + tick.data * jax.random.normal(tick.step_key)
        ),
        outer_at=lambda hp, s, tick: 0.5 * (s - 1) ** 2,
        data=noise,
        num_steps=num_steps,
        outer_every=1,
    )


@pytest.mark.parametrize("kind", [PersistentES, NoiseReuseES])
def test_no_truncation_by_windows(kind, key):
    exact = hg.hypergrad(linear(), hg.Reverse())(0.5, key)
    slopes = over_keys(linear(), kind(0.2, 400, window=2), 0.5, key)
    assert_mean(slopes, exact)


@pytest.mark.slow
def test_windowed_es_is_truncated(key):
    """A loss j steps into its window has the slope (s − 1) Σ_{i<j} 0.9^i."""
    estimator = EvolutionStrategies(0.2, 100, window=2)
    assert not estimator.unbiased
    s, expected, exact = 0.0, 0.0, hg.hypergrad(linear(), hg.Reverse())(0.5, key)
    for t in range(6):
        s = 0.9 * s + 0.5
        expected += (s - 1) * (1.0, 1.9)[t % 2]
    slopes = over_keys(linear(), estimator, 0.5, key)
    assert_mean(slopes, np.array(expected))
    assert abs(expected - exact) > 0.3 * abs(exact)


@pytest.mark.slow
def test_relations_between_the_three(key):
    problem = linear(noise=0.3)
    episodic = hg.value_and_hypergrad(problem, EvolutionStrategies(0.05, 8))
    value, slope = episodic(0.5, key)
    exact, _ = hg.value_and_hypergrad(problem, hg.Reverse())(0.5, key)
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    for other in (
        NoiseReuseES(0.05, 8, window=2),  # one draw, whatever the windows
        PersistentES(0.05, 8, chunk=3),  # one window
    ):
        result = hg.value_and_hypergrad(problem, other)(0.5, key)
        assert relative(result, (value, slope)) < 1e-10, other


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_one_training(kind, key):
    """Calls follow one another to T, then a new training begins; λ may move."""
    problem, estimator = linear(), kind(0.2, 4, window=2)
    state = estimator.init(problem, 0.5, key)
    values = []
    for hparams, t in ((0.5, 2), (0.7, 4), (0.9, 6), (0.9, 2)):
        result, state = hg.estimate(problem, estimator, hparams, state, key)
        assert int(state.t) == t
        values.append(float(result.value))
    s, losses = 0.0, []
    for rate in (0.5, 0.5, 0.7, 0.7, 0.9, 0.9, 0.9, 0.9):
        s = 0.9 * (s if len(losses) != 6 else 0.0) + rate
        losses.append(0.5 * (s - 1) ** 2)
    np.testing.assert_allclose(values, np.reshape(losses, (4, 2)).sum(1), rtol=1e-12)
    np.testing.assert_allclose(state.mean, s, rtol=1e-12)


def test_pairs_share_the_noise_of_training(key):
    """Noise a million times λ, the same at λ + ε and λ − ε, leaves the difference."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s + hp + 1e6 * jax.random.normal(tick.step_key),
        outer_at=lambda hp, s, tick: s,
        num_steps=4,
    )
    slope = hg.hypergrad(problem, PersistentES(0.1, 2, window=2))(1.0, key)
    assert 0 < abs(slope) < 4 * 5.0**2


@pytest.mark.slow
def test_perturbations_are_independent_of_a_training_with_the_same_key(key):
    """F = λ s² with s ~ N(0, 1); were ε = σ s, its mean slope were E s⁴ = 3."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jax.random.normal(tick.key),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: hp * s**2,
        num_steps=1,
    )
    estimator = PersistentES(0.1, 2)

    def first_call(key):
        state = estimator.init(problem, 1.0, key)
        return hg.estimate(problem, estimator, 1.0, state, key)[0].hypergrad

    assert_mean(jax.vmap(first_call)(jax.random.split(key, 10_000)), np.array(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EvolutionStrategies, PersistentES])
def test_transformations_agree_with_the_plain_call(kind, key):
    problem, estimator = linear(noise=0.3), kind(0.2, 4, window=3)
    fn = jax.jit(hg.value_and_hypergrad(problem, estimator))
    keys = jax.random.split(key, 2)
    expected = [[fn(x, k) for k in keys] for x in (0.5, 1.5)]
    table = jax.vmap(jax.vmap(fn, (None, 0)), (0, None))
    values, slopes = jax.jit(table)(jnp.array([0.5, 1.5]), keys)
    np.testing.assert_allclose(values, [[x[0] for x in y] for y in expected])
    np.testing.assert_allclose(slopes, [[x[1] for x in y] for y in expected])
    assert not np.allclose(slopes[0, 0], slopes[0, 1]), "keys change the perturbations"


def test_second_derivatives_are_refused(key):
    objective = hg.objective(linear(), PersistentES(0.2, 4, window=3))
    with pytest.raises(TypeError, match="second derivatives"):
        jax.grad(jax.grad(objective))(0.5, key)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_lowers_for_every_platform(kind, key):
    with jax.enable_x64(False):
        estimator = kind(0.1, 4, window=3, chunk=2)

        def fn(problem, hparams, key):
            return estimator.estimate(problem, hparams, (), key)[0]

        hparams = {"lr": jnp.full(6, 0.1), "l2": jnp.full(4, 0.1)}
        lowers(fn, ridge(6, batch_size=5), hparams, key)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"sigma": float("inf")}, "sigma must be"),
        ({"num_particles": 7}, "num_particles must be even and >= 2"),
        ({"num_particles": 0}, "num_particles must be even"),
        ({"window": 0}, "window must be >= 1 or None, got 0"),
        ({"chunk": 0}, "chunk must be >= 1"),
    ],
)
def test_wrong_fields_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.{message}"):
        kind(**fields)


def test_a_window_that_does_not_divide_is_refused(key):
    with pytest.raises(ValueError, match="4 inner steps, which must divide num_steps"):
        hg.hypergrad(linear(6), PersistentES(window=4))(0.5, key)


# ------------------------------------------------------------ published experiments


def learn(problem, estimator, hparams, outer, num_calls, key):
    """λ after `num_calls` online updates."""

    def call(carry, key):
        hparams, outer_state, state = carry
        result, state = estimator.estimate(problem, hparams, state, key)
        updates, outer_state = outer.update(result.hypergrad, outer_state, hparams)
        return (optax.apply_updates(hparams, updates), outer_state, state), None

    @jax.jit
    def run(hparams, key):
        state = estimator.init(problem, hparams, key)
        carry = (hparams, outer.init(hparams), state)
        return jax.lax.scan(call, carry, jax.random.split(key, num_calls))[0][0]

    return run(jnp.asarray(hparams), key)


@pytest.mark.parametrize(
    ("kind", "expected", "tolerance"),
    [
        (PersistentES, -1 / 6, 1e-4),
        (EvolutionStrategies, 3.26, 0.03),
    ],
)
def test_influence_balancing(kind, expected, tolerance, key):
    """Vicol et al. 2021: 3,000 calls of one step, without a restart."""
    theta = learn(
        influence_balancing(3000, outer_every=1),
        kind(0.1, 1000, window=1),
        0.5,
        optax.sgd(1e-4),
        3000,
        key,
    )
    np.testing.assert_allclose(theta, expected, atol=tolerance)


TOY_START = np.array(vicol_toy2d.START)
START = np.array(metz.START)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "low", "high"),
    [
        (PersistentES(0.1, 100, window=10), 555, 575),  # one run before: 563.4
        (PersistentES(1.0, 100, window=10), 610, 660),  # 625.0
        (EvolutionStrategies(1.0, 100, window=10), 1050, 1770),
        (NoiseReuseES(0.1, 100, window=10), 555, 575),
    ],
    ids=str,
)
def test_toy_regression(estimator, low, high, key):
    value, _ = hg.unroll(toy_regression(), TOY_START, key)
    np.testing.assert_allclose(value, 2490.56, atol=0.01)
    outer = optax.adam(1e-2, b1=0.9, b2=0.999)
    hparams = learn(toy_regression(), estimator, TOY_START, outer, 20_000, key)
    assert low < hg.unroll(toy_regression(), hparams, key)[0] < high


@pytest.mark.slow
def test_truncated_windows_of_the_toy_regression_stay_where_they_began(key):
    """Vicol et al. 2021: windows of 10 steps get no further than 2423."""
    problem, outer = toy_regression(), optax.adam(1e-2, b1=0.9, b2=0.999)

    def call(carry, _):
        hparams, outer_state, s, t = carry
        (_, s), slope = jax.value_and_grad(
            lambda h: run_window(problem, h, s, t, key, 10, end_loss=False),
            has_aux=True,
        )(hparams)
        updates, outer_state = outer.update(slope, outer_state, hparams)
        hparams = optax.apply_updates(hparams, updates)
        again = t + 10 >= problem.num_steps
        s, t = jnp.where(again, 1.0, s), jnp.where(again, 0, t + 10)
        return (hparams, outer_state, s, t), None

    @jax.jit
    def run(hparams):
        carry = (hparams, outer.init(hparams), jnp.ones(2), jnp.asarray(0, jnp.int32))
        return jax.lax.scan(call, carry, length=20_000)[0][0]

    value, _ = hg.unroll(problem, run(jnp.asarray(TOY_START)), key)
    assert 2350 < value < 2480


def test_lorenz_gradient_of_a_short_run(key):
    gradient = hg.hypergrad(lorenz(500), hg.Reverse(hg.NoCheckpoint()))(START, key)
    np.testing.assert_allclose(np.linalg.norm(gradient), 960.4, rtol=1e-3)


@pytest.mark.slow
def test_lorenz_gradients_explode(key):
    """The order of magnitude, and e^0.9t, of what was measured (Metz et al. 2021)."""
    norms = [
        np.linalg.norm(hg.hypergrad(lorenz(t), hg.Reverse(hg.Segments()))(START, key))
        for t in (500, 1000, 2000, 4000)
    ]
    assert np.all(np.abs(np.log10(norms / np.array([960, 3.4e4, 9.8e5, 3.3e10]))) < 1)
    growth = np.log(norms[3] / norms[0]) / (0.005 * 3500)
    assert 0.5 < growth < 1.5  # the largest Lyapunov exponent is 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NoiseReuseES, PersistentES])
def test_lorenz_is_learned_from_smoothed_gradients(kind, key):
    """Of 10⁶ in dF/dλ about 10³ is the slope that a step of σ sees (Li et al. 2023)."""
    problem, estimator = lorenz(2000), kind(0.04, 200, window=100)
    start = jnp.asarray(START)
    slopes = over_keys(problem, estimator, start, key, 8)
    mean, error = slopes.mean(0), slopes.std(0, ddof=1) / np.sqrt(8)
    assert 500 < np.linalg.norm(mean) < 2000
    assert mean[1] > 5 * error[1]

    around = 0.04 * np.random.default_rng(0).normal(size=(20, 2))

    def smoothed(hparams):
        runs = jax.vmap(lambda offset: hg.unroll(problem, hparams + offset, key)[0])
        return float(jnp.mean(runs(around)))

    learned = learn(problem, estimator, start, optax.sgd(1e-4), 200, key)
    assert smoothed(learned) < 0.6 * smoothed(start)
