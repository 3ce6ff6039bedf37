"""The Gaussian process against dense NumPy formulas, SciPy, and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import special, stats

from hypergrad.searchers import gaussian_process as gp

GROUPS = (0, 1, 1)
PARAMS = gp.GPParams(
    jnp.log(jnp.array([0.4, 0.9])), jnp.log(1.7), jnp.log(0.05), jnp.array(0.3)
)
JITTER = 1e-6


def data(num=9, room=9, seed=0):
    """`num` points, padded to `room` rows with rubbish."""
    rng = np.random.default_rng(seed)
    inputs, targets = rng.uniform(size=(room, 3)), rng.normal(size=room)
    return jnp.asarray(inputs), jnp.asarray(targets), jnp.arange(room) < num


def dense_kernel(a, b):
    """Matérn 5/2, one entry at a time."""
    length = np.exp(np.asarray(PARAMS.log_length))[list(GROUPS)]
    r = np.sqrt([[np.sum(((p - q) / length) ** 2) for q in b] for p in a])
    return 1.7 * (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)


def test_posterior_is_the_dense_formula():
    inputs, targets, mask = data(num=9, room=14)
    points = np.random.default_rng(1).uniform(size=(5, 3))
    posterior = gp.condition(PARAMS, inputs, targets, mask, GROUPS, JITTER)
    mean, deviation = gp.predict(posterior, jnp.asarray(points), GROUPS)

    x, y = np.asarray(inputs)[:9], np.asarray(targets)[:9]
    noisy = dense_kernel(x, x) + (0.05 + JITTER * 1.7) * np.eye(9)
    cross = dense_kernel(points, x)
    np.testing.assert_allclose(mean, 0.3 + cross @ np.linalg.solve(noisy, y - 0.3))
    variance = 1.7 - np.diag(cross @ np.linalg.solve(noisy, cross.T))
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-6)

    expected = stats.multivariate_normal(np.full(9, 0.3), noisy).logpdf(y)
    np.testing.assert_allclose(gp.log_evidence(posterior, targets), expected)


def test_masked_rows_change_nothing():
    inputs, targets, mask = data(num=6, room=10)
    points = jnp.asarray(np.random.default_rng(2).uniform(size=(4, 3)))

    @jax.jit
    def everything(inputs, targets, mask):
        posterior = gp.condition(PARAMS, inputs, targets, mask, GROUPS, JITTER)
        return *gp.predict(posterior, points, GROUPS), gp.log_evidence(
            posterior, targets
        )

    bare = everything(inputs[:6], targets[:6], mask[:6])
    for rubbish in (7.0, jnp.nan):
        padded = everything(
            jnp.where(mask[:, None], inputs, 0.2),
            jnp.where(mask, targets, rubbish),
            mask,
        )
        for a, b in zip(bare, padded, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_evidence_gradient_is_that_of_central_differences():
    inputs, targets, mask = data(num=8, room=10)

    @jax.jit
    def evidence(flat):
        params = gp.GPParams(flat[:2], flat[2], flat[3], flat[4])
        posterior = gp.condition(params, inputs, targets, mask, GROUPS, JITTER)
        return gp.log_evidence(posterior, targets) + gp.log_prior(params, GROUPS)

    flat, _ = ravel_pytree(PARAMS)
    slope = jax.grad(evidence)(flat)
    for i in range(5):
        h = jnp.zeros(5).at[i].set(1e-5)
        central = (evidence(flat + h) - evidence(flat - h)) / 2e-5
        np.testing.assert_allclose(slope[i], central, rtol=1e-6, atol=1e-8)


def test_without_noise_it_interpolates():
    inputs, targets, mask = data()
    params = PARAMS._replace(log_noise=jnp.log(1e-12))
    posterior = gp.condition(params, inputs, targets, mask, GROUPS, 1e-12)
    mean, deviation = gp.predict(posterior, inputs, GROUPS)
    np.testing.assert_allclose(mean, targets, atol=1e-6)
    assert np.all(np.asarray(deviation) < 1e-4)


def test_far_from_data_it_is_the_prior():
    inputs, targets, mask = data()
    posterior = gp.condition(PARAMS, inputs, targets, mask, GROUPS, JITTER)
    mean, deviation = gp.predict(posterior, jnp.full((1, 3), 1e3), GROUPS)
    np.testing.assert_allclose(mean, 0.3)
    np.testing.assert_allclose(deviation, np.sqrt(1.7))


def test_a_group_is_one_shared_length_scale():
    inputs, _, _ = data()
    own = PARAMS._replace(log_length=PARAMS.log_length[jnp.array([0, 1, 1])])
    np.testing.assert_allclose(
        gp.covariance(PARAMS, inputs, inputs, GROUPS),
        gp.covariance(own, inputs, inputs, (0, 1, 2)),
    )


def test_float32_factorises_where_points_nearly_coincide():
    num_points = 200
    with jax.enable_x64(False):
        rng = np.random.default_rng(0)
        inputs = jnp.asarray(0.5 + 1e-4 * rng.normal(size=(num_points, 2)), "float32")
        targets = jnp.asarray(rng.normal(size=num_points), "float32")
        params = gp.prior_params((0, 1))._replace(log_noise=jnp.full((), -20.0))
        mask = jnp.full(num_points, True)
        posterior = gp.condition(params, inputs, targets, mask, (0, 1), 1e-4)
        assert posterior.weights.dtype == jnp.float32
        assert bool(jnp.all(jnp.isfinite(posterior.weights)))


def sampled_from_a_process(length, noise, seed=0, num=60):
    """Values drawn from a process in which coordinate 1 plays no part."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(size=(num, 2))
    params = PARAMS._replace(log_length=jnp.log(jnp.array([length, 1e4])))
    kernel = gp.covariance(params, jnp.asarray(inputs), jnp.asarray(inputs), (0, 1))
    factor = np.linalg.cholesky(np.asarray(kernel) / 1.7 + 1e-9 * np.eye(num))
    targets = factor @ rng.normal(size=num) + noise * rng.normal(size=num)
    return jnp.asarray(inputs), jnp.asarray(targets), jnp.full(num, True)


def stacked(params):
    return jax.tree.map(lambda leaf: leaf[None], params)


def test_fit_finds_what_matters_and_the_noise():
    groups = (0, 1)
    inputs, targets, mask = sampled_from_a_process(length=0.3, noise=0.1)
    starts = stacked(gp.prior_params(groups))
    found = jax.jit(gp.fit, static_argnums=(4, 5, 6))(
        starts, inputs, targets, mask, groups, JITTER, 150
    )
    assert 0.1 < np.exp(found.log_length[0]) < 0.9
    assert found.log_length[1] > found.log_length[0] + 0.5
    assert 0.05 < np.exp(0.5 * found.log_noise) < 0.2


def test_fit_returns_the_best_of_its_ends():
    groups = (0, 1)
    inputs, targets, mask = sampled_from_a_process(length=0.3, noise=0.1)
    good = gp.prior_params(groups)
    bad = good._replace(log_length=jnp.full(2, -12.0))
    broken = good._replace(mean=jnp.array(jnp.nan))
    fit = jax.jit(gp.fit, static_argnums=(4, 5, 6))
    alone = fit(stacked(good), inputs, targets, mask, groups, JITTER, 20)
    among = jax.tree.map(lambda *leaves: jnp.stack(leaves), broken, bad, good)
    chosen = fit(among, inputs, targets, mask, groups, JITTER, 20)
    for a, b in zip(alone, chosen, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_fit_stays_where_it_was_if_nothing_is_finite():
    groups = (0, 1)
    inputs, targets, mask = sampled_from_a_process(length=0.3, noise=0.1)
    start = gp.prior_params(groups)
    fit = jax.jit(gp.fit, static_argnums=(4, 5, 6))
    found = fit(stacked(start), inputs, targets * jnp.nan, mask, groups, JITTER, 3)
    for a, b in zip(found, start, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("mean", "deviation", "best"), [(0.2, 0.5, 0.0), (-0.3, 0.1, 0.4), (1.0, 0.5, 0.1)]
)
def test_expected_improvement_is_that_of_monte_carlo(mean, deviation, best):
    draws = mean + deviation * np.random.default_rng(0).normal(size=2_000_000)
    expected = np.maximum(best - draws, 0).mean()
    found = gp.log_expected_improvement(
        jnp.array(mean), jnp.array(deviation), jnp.array(best)
    )
    np.testing.assert_allclose(np.exp(found), expected, rtol=0.01)


@pytest.mark.parametrize(("x64", "rtol"), [(True, 1e-7), (False, 1e-5)])
def test_log_expected_improvement_far_in_the_tail(x64, rtol):
    z = np.linspace(-60, 6, 200)
    x = np.maximum(-z, 0)
    mills = np.sqrt(np.pi / 2) * special.erfcx(x / np.sqrt(2))
    pdf = stats.norm.logpdf(z)
    right = np.maximum(z, 0)
    above = np.log(stats.norm.pdf(right) + right * stats.norm.cdf(right))
    exact = np.where(z < 0, pdf + np.log1p(-x * mills), above)
    with jax.enable_x64(x64):
        z = jnp.asarray(z, "float64" if x64 else "float32")
        acquire = lambda z: gp.log_expected_improvement(-z, jnp.ones(()), jnp.zeros(()))
        found, slope = jax.vmap(jax.value_and_grad(acquire))(z)
    np.testing.assert_allclose(found, exact, rtol=rtol, atol=rtol)
    # d/dz log h(z) = Φ(z)/h(z)
    np.testing.assert_allclose(
        slope, np.exp(stats.norm.logcdf(z) - exact), rtol=100 * rtol
    )
