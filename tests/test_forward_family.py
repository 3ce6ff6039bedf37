"""Random directions, rank-one responses and shared columns, against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad.estimators.forward_sharing import ForwardSharing
from hypergrad.estimators.random_directions import (
    Gaussian,
    Rademacher,
    RandomDirections,
)
from hypergrad.estimators.uoro import UORO
from tests.problems import cubic, digits, relative, ridge
from tests.sampling import assert_mean
from tests.test_export import lowers

STOCHASTIC = (RandomDirections(2, Gaussian()), UORO())
ALL = (*STOCHASTIC, ForwardSharing(window=4))


def over_keys(problem, estimator, hparams, key, n):
    fn = jax.jit(jax.vmap(hg.hypergrad(problem, estimator), (None, 0)))
    return fn(hparams, jax.random.split(key, n))


def flat(hypergrads):
    rows = [np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(hypergrads)]
    return np.hstack(rows)


# --------------------------------------------------------------- random directions


def plane(weights):
    """F = Σ_t ⟨weights_t, λ⟩, whose hypergradient is known and constant."""
    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s + tick.data[tick.t] @ hp,
        outer_at=lambda hp, s, tick: s,
        data=weights,
        num_steps=len(weights),
    )


@pytest.mark.parametrize(
    "directions",
    [pytest.param(Gaussian(), marks=pytest.mark.slow), Rademacher()],
    ids=str,
)
def test_mean_and_variance_of_random_directions(directions, key):
    """Var ĝ_j = (‖g‖² + (κ − 2) g_j²) / m."""
    n, m, g = 40_000, 2, np.array([1.0, -2.0, 3.0])
    estimator = RandomDirections(m, directions)
    assert estimator.unbiased
    assert not estimator.exact
    slopes = over_keys(plane(np.tile(g / 2, (2, 1))), estimator, jnp.ones(3), key, n)
    assert_mean(slopes, g)
    kappa = directions.fourth_moment
    expected = (g @ g + (kappa - 2) * g**2) / m
    np.testing.assert_allclose(np.var(slopes, axis=0), expected, rtol=0.06)
    np.testing.assert_allclose(expected.sum(), (3 + kappa - 2) * (g @ g) / m)

    u = directions.draw(key, (n,), jnp.float64)
    np.testing.assert_allclose([u.mean(), (u**2).mean()], [0, 1], atol=0.03)
    np.testing.assert_allclose((u**4).mean(), kappa, rtol=0.05)


# ------------------------------------------------------------------------- UORO


def rotation():
    """A start, three steps and losses that all depend upon λ, with an integer beside.

    Z_t is 2 x 2.
    """

    def step(hp, s, tick):
        turned = tick.data @ s["x"] + jnp.tanh(hp * s["x"])
        return {"x": turned, "steps": s["steps"] + 1}

    def outer(hp, s, tick):
        return jnp.sum((s["x"] - 1) ** 2) * s["steps"] + hp @ hp

    return hg.Problem.from_step(
        start=lambda hp, tick: {"x": hp**2, "steps": jnp.asarray(0, jnp.int32)},
        step=step,
        outer_at=outer,
        data=jnp.array([[0.6, -0.4], [0.4, 0.6]]),
        num_steps=3,
        outer_every=1,
    )


@pytest.mark.slow
def test_uoro_is_unbiased_for_every_loss_and_for_the_response(key):
    estimator, problem, n = UORO(), rotation(), 20_000
    hparams = jnp.array([0.9, -0.7])
    exact = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert estimator.target is hg.Target.OBJECTIVE
    assert estimator.unbiased
    assert_mean(over_keys(problem, estimator, hparams, key, n), exact)

    def response(key):
        state = estimator.init(problem, hparams, key)
        for k in jax.random.split(key, 3):
            _, state = estimator.advance(problem, hparams, state, k)
        norms = jnp.linalg.norm(state.left["x"]), jnp.linalg.norm(state.right)
        return jnp.outer(state.left["x"], state.right), norms

    z, _ = jax.jit(jax.vmap(response))(jax.random.split(key, n))
    exact = jax.jacobian(lambda hp: hg.train(problem, hp, key)["x"])(hparams)
    assert_mean(z, exact)


@pytest.mark.parametrize("estimator", [RandomDirections(2), UORO()], ids=str)
@pytest.mark.slow
def test_means_on_ridge(estimator, key):
    hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(0.2)}
    problem = ridge(5)
    exact = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    slopes = over_keys(problem, estimator, hparams, key, 2000)
    if isinstance(estimator, RandomDirections):
        # The rate's slope, 20 times the decay's, drowns it: only their sum is seen.
        slopes, exact = flat(slopes), np.stack(jax.tree.leaves(exact))
    assert_mean(slopes, exact)


@pytest.mark.slow
def test_mean_of_random_directions_on_the_digits_mlp(key):
    problem, hparams = digits(3, sizes=(64, 4, 10))
    slopes = flat(over_keys(problem, RandomDirections(128), hparams, key, 100))
    exact = flat(over_keys(problem, hg.Reverse(), hparams, key, 100))
    assert_mean(slopes - exact + exact.mean(0), exact.mean(0))


@pytest.mark.slow
def test_mean_of_uoro_on_the_digits_mlp(key):
    """Many signs for one and the same training."""
    problem, hparams = digits(2, sizes=(64, 2, 10))
    estimator = UORO()
    exact = hg.hypergrad(problem, hg.Reverse())(hparams, key)

    def episode(own):
        state = estimator.init(problem, hparams, key)

        def call(state, key):
            result, state = estimator.advance(problem, hparams, state, key)
            return state, result.hypergrad

        _, hypergrads = jax.lax.scan(call, state, jax.random.split(own, 2))
        return jax.tree.map(lambda x: x.sum(0), hypergrads)

    slopes = jax.jit(jax.vmap(episode))(jax.random.split(key, 30_000))
    exact = np.concatenate([np.ravel(x) for x in jax.tree.leaves(exact)])
    assert_mean(flat(slopes), exact)


def test_calls_of_uoro(key):
    """One step a call; estimates where a loss falls; a new training after T."""
    problem, estimator = cubic(3), UORO()
    state = estimator.init(problem, 2.0, key)
    for t in (1, 2, 3, 1):
        result, state = hg.estimate(problem, estimator, 2.0, state, key)
        assert int(state.t) == t
        np.testing.assert_allclose(state.inner, 2.0**t)
        assert float(result.value) == (8.0 if t == 3 else 0.0)
        assert (float(result.hypergrad) != 0) == (t == 3)
        # The factors share the norm, and their product is Z up to cross terms.
        if t == 1:
            np.testing.assert_allclose(state.left * state.right, 1.0)


# ----------------------------------------------------------------------- sharing


@pytest.mark.parametrize(
    ("window", "chunk"),
    [
        pytest.param(4, None, marks=pytest.mark.slow),
        (5, 3),
        pytest.param(12, 1, marks=pytest.mark.slow),
    ],
)
def test_sharing_gives_window_means_of_the_exact_hypergradient(window, chunk, key):
    rates = 0.1 + 0.02 * np.arange(12)
    hparams = {"lr": rates, "l2": 0.2 * np.ones(4)}
    problem, estimator = ridge(12, batch_size=5), ForwardSharing(window, chunk=chunk)
    value, expected = hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)
    for start in range(0, 12, window):
        part = slice(start, start + window)
        mean = expected["lr"][part].mean()
        expected["lr"] = expected["lr"].at[part].set(mean)
    result = hg.value_and_hypergrad(problem, estimator)(hparams, key)
    assert relative(result, (value, expected)) < 1e-10
    assert not estimator.exact


@pytest.mark.slow
def test_sharing_on_the_digits_mlp(key):
    problem, hparams = digits(6, sizes=(64, 4, 10))
    exact = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    shared = hg.hypergrad(problem, ForwardSharing(3))(hparams, key)
    means = exact["lr"].reshape(2, 3).mean(1)
    exact["lr"] = jnp.repeat(means, 3)
    assert relative(shared, exact) < 1e-10


@pytest.mark.slow
def test_tables_are_found_or_named(key):
    """A vector that happens to have T entries is no table unless it is one."""
    problem = ridge(4)
    hparams = {"lr": np.full(4, 0.1), "l2": np.full(4, 0.2), "n": 3}
    exact = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    both = hg.hypergrad(problem, ForwardSharing(2))(hparams, key)
    assert relative(both["l2"][0], both["l2"][1]) == 0
    named = hg.hypergrad(problem, ForwardSharing(2, tables=("lr",)))(hparams, key)
    assert relative(named["l2"], exact["l2"]) < 1e-10
    np.testing.assert_allclose(named["lr"], both["lr"], rtol=1e-10)
    assert named["n"].dtype == jax.dtypes.float0

    for tables, message in (
        (("rate",), r"no floating leaf 'rate', it has \['l2', 'lr'\]"),
        (("n",), "no floating leaf 'n'"),
    ):
        with pytest.raises(ValueError, match=message):
            hg.hypergrad(problem, ForwardSharing(2, tables=tables))(hparams, key)
    short = hparams | {"l2": 0.2}
    with pytest.raises(ValueError, match=r"'l2' has shape \(\), expected a leading"):
        hg.hypergrad(problem, ForwardSharing(2, tables=("l2",)))(short, key)
    with pytest.raises(ValueError, match=r"has the leading axis num_steps \(4\)"):
        hg.hypergrad(problem, ForwardSharing(2))({"lr": 0.1, "l2": 0.2}, key)
    with pytest.raises(ValueError, match=r"window \(5\) exceeds num_steps \(4\)"):
        hg.hypergrad(problem, ForwardSharing(5))(hparams, key)


def test_tables_of_vectors_are_shared_by_step(key):
    weights = np.arange(12.0).reshape(4, 3)
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s + tick.data[tick.t] @ hp[tick.t],
        outer_at=lambda hp, s, tick: s,
        data=weights,
        num_steps=4,
    )
    shared = hg.hypergrad(problem, ForwardSharing(2))(jnp.ones((4, 3)), key)
    expected = np.repeat(weights.reshape(2, 2, 3).mean(1), 2, axis=0)
    np.testing.assert_allclose(shared, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("window", "drift", "num_keys", "expected"),
    [
        (1, 0.01, 1000, 0.25),
        (50, 0.0, 25_000, 0.25 / 50),
        (50, 0.01, 25_000, 0.25 / 50 + 0.01**2 * (50**2 - 1) / 12),
    ],
)
def test_three_variances_of_sharing(window, drift, num_keys, expected, key):
    """Micaelli and Storkey 2021, theorem 4.1: σ = 0.5, ε = 0.01, W = 50."""
    steps = 100

    def noisy(hp, s, tick):
        """The run whose dF/dλ_t is drift · t plus noise."""
        slope = drift * tick.t + 0.5 * jax.random.normal(tick.step_key)
        return s + slope * hp[tick.t]

    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=noisy,
        outer_at=lambda hp, s, tick: s,
        num_steps=steps,
    )
    estimator = ForwardSharing(window)
    shared = over_keys(problem, estimator, jnp.ones(steps), key, num_keys)
    error = np.mean((np.asarray(shared) - drift * np.arange(steps)) ** 2)
    np.testing.assert_allclose(error, expected, rtol=0.02)


# ------------------------------------------------------------------------ for all


@pytest.mark.parametrize("estimator", ALL, ids=str)
@pytest.mark.slow
def test_transformations_agree_with_the_plain_call(estimator, key):
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.arange(5.0),
        step=lambda hp, s, tick: s * hp["x"][0] + hp["x"][tick.t] * hp["n"],
        outer_at=lambda hp, s, tick: s @ s + jax.random.normal(tick.key),
        num_steps=4,
    )

    def fn(x, key):
        hparams = {"x": x, "n": jnp.asarray(3, jnp.int32)}
        value, slope = hg.value_and_hypergrad(problem, estimator)(hparams, key)
        assert slope["n"].dtype == jax.dtypes.float0
        return value, slope["x"]

    jitted = jax.jit(fn)
    xs, keys = jnp.linspace(0.5, 1.5, 8).reshape(2, 4), jax.random.split(key, 2)
    expected = [[jitted(x, k) for k in keys] for x in xs]
    values, slopes = jax.jit(jax.vmap(jax.vmap(fn, (None, 0)), (0, None)))(xs, keys)
    np.testing.assert_allclose(values, [[v for v, _ in row] for row in expected])
    np.testing.assert_allclose(slopes, [[g for _, g in row] for row in expected])
    exact, _ = hg.value_and_hypergrad(problem, hg.Reverse())(
        {"x": xs[0], "n": 3}, keys[1]
    )
    np.testing.assert_allclose(values[0, 1], exact, rtol=1e-12)
    if estimator in STOCHASTIC:
        assert not np.allclose(slopes[0, 0], slopes[0, 1])


@pytest.mark.parametrize("estimator", ALL, ids=str)
def test_lowers_for_every_platform(estimator, key):
    with jax.enable_x64(False):
        hparams = {"lr": jnp.full(8, 0.1), "l2": jnp.full(4, 0.1)}

        def fn(problem, hparams, key):
            return estimator.estimate(problem, hparams, (), key)[0]

        lowers(fn, ridge(8, batch_size=5), hparams, key)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomDirections(0), "num_directions must be >= 1, got 0"),
        (lambda: ForwardSharing(0), "window must be >= 1, got 0"),
        (lambda: ForwardSharing(2, chunk=0), "chunk must be >= 1 or None"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
