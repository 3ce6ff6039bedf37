"""The process of values and slopes against dense NumPy, SciPy, and close values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from hypergrad.searchers import derivative_process as dp
from hypergrad.searchers import gaussian_process as gp

JITTER = 1e-9


def made(dim):
    """A length-scale each, and noises of values and slopes that differ."""
    lengths = jnp.linspace(0.4, 0.9, dim)
    process = gp.GPParams(jnp.log(lengths), jnp.log(1.7), jnp.log(0.05), jnp.array(0.3))
    return dp.SlopeParams(process, jnp.log(0.02)), tuple(range(dim))


@functools.partial(jax.jit, static_argnums=(5, 6))
def conditioned(params, rows, targets, mask, wanted, groups, jitter=JITTER):
    """Mean and deviation of what is wanted, and the evidence of the targets."""
    posterior = dp.condition(params, rows, targets, mask, groups, jitter)
    evidence = dp.log_evidence(posterior, targets)
    return *dp.predict(posterior, wanted, groups), evidence


def dense_entry(x, y, e, f, v, w, length):
    """One covariance, from the kernel's radial derivatives, term by term."""
    delta, v, w = (x - y) / length, v / length, w / length
    r = np.linalg.norm(delta)
    rho, decay = np.sqrt(5) * r, np.exp(-np.sqrt(5) * r)
    slope = -5 / 3 * (1 + rho) * decay * delta
    hessian = -5 / 3 * decay * ((1 + rho) * np.eye(len(x)) - 5 * np.outer(delta, delta))
    value = (1 + rho + rho**2 / 3) * decay
    return 1.7 * (e * f * value + f * v @ slope - e * w @ slope - v @ hessian @ w)


def dense(a, b, length):
    rows = list(zip(*map(np.asarray, a), strict=True))
    columns = list(zip(*map(np.asarray, b), strict=True))
    return np.array(
        [
            [dense_entry(x, y, e, f, v, w, length) for y, f, w in columns]
            for x, e, v in rows
        ]
    )


def observed(dim, directions, num=6, seed=0):
    """Values and `directions` slopes at random points, and targets of them all."""
    rng = np.random.default_rng(seed)
    points = jnp.asarray(rng.uniform(size=(num, dim)))
    if directions == dim:
        along = jnp.broadcast_to(jnp.eye(dim)[None], (num, dim, dim))
    else:
        along = jnp.asarray(rng.normal(size=(num, directions, dim)))
    rows = dp.join(dp.values_at(points), dp.slopes_at(points, along))
    return rows, jnp.asarray(rng.normal(size=len(rows.points)))


@pytest.mark.parametrize(("dim", "directions"), [(1, 1), (2, 2), (5, 5), (5, 2)])
def test_posterior_and_evidence_are_the_dense_formulas(dim, directions):
    (params, groups), (rows, targets) = made(dim), observed(dim, directions)
    length = np.exp(np.asarray(params.process.log_length))
    wanted, _ = observed(dim, directions, num=3, seed=1)
    everything = jnp.full(len(targets), True)
    mean, deviation, evidence = conditioned(
        params, rows, targets, everything, wanted, groups
    )

    e, y = np.asarray(rows.of_value), np.asarray(targets)
    prior = dense(rows, rows, length)
    steep = np.sum((np.asarray(rows.directions) / length) ** 2, 1)
    noisy = prior + np.diag(0.05 * e + 0.02 * steep + JITTER * np.diag(prior))
    cross = dense(wanted, rows, length)
    expected = 0.3 * wanted.of_value + cross @ np.linalg.solve(noisy, y - 0.3 * e)
    np.testing.assert_allclose(mean, expected, rtol=1e-9)
    variance = np.diag(
        dense(wanted, wanted, length) - cross @ np.linalg.solve(noisy, cross.T)
    )
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-6)
    np.testing.assert_allclose(
        evidence,
        stats.multivariate_normal(0.3 * e, noisy).logpdf(y),
    )


def test_covariance_is_the_derivative_of_the_kernel():
    """The same numbers from the kernel of `gaussian_process`, by JAX."""
    (params, groups), rng = made(3), np.random.default_rng(3)
    x, y, v, w = jnp.asarray(rng.uniform(size=(4, 3)))

    def kernel(x, y):
        return gp.covariance(params.process, x[None], y[None], groups)[0, 0]

    along_w = jax.jvp(lambda y: kernel(x, y), (y,), (w,))[1]
    both = jax.jvp(
        lambda x: jax.jvp(lambda y: kernel(x, y), (y,), (w,))[1], (x,), (v,)
    )[1]
    a = dp.join(dp.values_at(x[None]), dp.slopes_at(x[None], v[None, None]))
    found = dp.covariance(params, a, dp.slopes_at(y[None], w[None, None]), groups)
    np.testing.assert_allclose(found[:, 0], [along_w, both], rtol=1e-10)


def test_a_slope_is_the_limit_of_two_close_values():
    (params, groups), h = made(2), 1e-4
    silent = params._replace(
        process=params.process._replace(log_noise=jnp.array(-60.0)),
        log_slope_noise=jnp.array(-60.0),
    )
    rng = np.random.default_rng(4)
    points, direction = jnp.asarray(rng.uniform(size=(4, 2))), jnp.array([0.6, -0.8])
    values, slope = jnp.asarray(rng.normal(size=4)), 1.3
    along = jnp.broadcast_to(direction[None, None], (1, 1, 2))
    first = points[:1]
    pair = jnp.concatenate([points, first + 0.5 * h * direction[None]])
    pair = pair.at[0].add(-0.5 * h * direction)
    close = jnp.append(values, values[0] + 0.5 * h * slope).at[0].add(-0.5 * h * slope)
    asked = dp.values_at(jnp.asarray(rng.uniform(size=(5, 2))))

    def answer(rows, targets):
        everything = jnp.full(len(targets), True)
        return conditioned(silent, rows, targets, everything, asked, groups, 1e-13)[:2]

    by_values = answer(dp.values_at(pair), close)
    rows = dp.join(dp.values_at(points), dp.slopes_at(first, along))
    by_slope = answer(rows, jnp.append(values, slope))
    for a, b in zip(by_values, by_slope, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_without_noise_it_has_the_observed_gradients(dim):
    (params, groups), (rows, targets) = made(dim), observed(dim, dim, num=4)
    params = params._replace(
        process=params.process._replace(log_noise=jnp.log(1e-12)),
        log_slope_noise=jnp.log(1e-12),
    )
    everything = jnp.full(len(targets), True)

    @jax.jit
    def gradients(points):
        posterior = dp.condition(params, rows, targets, everything, groups, 1e-12)
        mean = lambda z: dp.predict(posterior, dp.values_at(z[None]), groups)[0][0]
        _, deviation = dp.predict(posterior, rows, groups)
        return *jax.vmap(jax.value_and_grad(mean))(points), deviation

    values, slopes, deviation = gradients(rows.points[:4])
    np.testing.assert_allclose(values, targets[:4], atol=1e-6)
    np.testing.assert_allclose(slopes.reshape(-1), targets[4:], atol=1e-5)
    assert np.all(np.asarray(deviation) < 1e-3)


def test_masked_rows_change_nothing():
    (params, groups), (rows, targets) = made(2), observed(2, 2)
    asked = dp.values_at(jnp.asarray(np.random.default_rng(2).uniform(size=(4, 2))))
    mask = jnp.arange(len(targets)) % 3 != 1

    kept = np.flatnonzero(mask)
    bare = conditioned(
        params,
        jax.tree.map(lambda x: x[kept], rows),
        targets[kept],
        jnp.full(len(kept), True),
        asked,
        groups,
    )
    for rubbish in (7.0, jnp.nan):
        noisy = jnp.where(mask, targets, rubbish)
        padded = conditioned(params, rows, noisy, mask, asked, groups)
        for a, b in zip(bare, padded, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.slow
def test_values_alone_are_the_plain_process():
    (params, groups), (rows, targets) = made(3), observed(3, 3)
    mask, asked = rows.of_value == 1, jnp.full((2, 3), 0.4)
    found = conditioned(params, rows, targets, mask, dp.values_at(asked), groups)
    plain = gp.condition(params.process, rows.points, targets, mask, groups, JITTER)
    for a, b in zip(found[:2], gp.predict(plain, asked, groups), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.slow
def test_evidence_gradient_is_that_of_central_differences():
    (params, groups), (rows, targets) = made(2), observed(2, 2)
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def evidence(flat):
        posterior = dp.condition(
            unravel(flat), rows, targets, jnp.full(len(targets), True), groups, JITTER
        )
        log_prior = dp.log_prior(unravel(flat), groups)
        return dp.log_evidence(posterior, targets) + log_prior

    slope = jax.grad(evidence)(flat)
    for i in range(len(flat)):
        h = jnp.zeros(len(flat)).at[i].set(1e-5)
        central = (evidence(flat + h) - evidence(flat - h)) / 2e-5
        np.testing.assert_allclose(slope[i], central, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_float32_is_finite_where_points_coincide():
    with jax.enable_x64(False):
        rng = np.random.default_rng(0)
        close = 0.5 + 1e-4 * rng.normal(size=(40, 2))
        points = jnp.asarray(np.concatenate([close, close[:10]]), jnp.float32)
        along = jnp.broadcast_to(jnp.eye(2)[None], (50, 2, 2))
        rows = dp.join(dp.values_at(points), dp.slopes_at(points, along))
        targets = jnp.asarray(rng.normal(size=150), jnp.float32)
        params = dp.prior_params((0, 1))
        silent = params._replace(
            process=params.process._replace(log_noise=jnp.full((), -20.0)),
            log_slope_noise=jnp.full((), -20.0),
        )

        @jax.jit
        def loss(params):
            everything = jnp.full(150, True)
            posterior = dp.condition(params, rows, targets, everything, (0, 1), 1e-4)
            return dp.log_evidence(posterior, targets)

        value, slope = jax.value_and_grad(loss)(silent)
        assert value.dtype == jnp.float32
        assert all(
            np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, slope))
        )


def test_directions_hold_all_of_a_slope_first():
    slopes = jnp.asarray(np.random.default_rng(5).normal(size=(6, 9)))
    slopes = slopes.at[2].set(0.0).at[3].multiply(1e-100)
    directions = dp.telling_directions(slopes, 3)
    assert directions.shape == (6, 3, 9)
    gram = jnp.einsum("nkd,nld->nkl", directions, directions)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), (6, 3, 3)), atol=1e-12)
    along = np.asarray(jnp.einsum("nkd,nd->nk", directions, slopes))
    norms = np.linalg.norm(slopes, axis=1)
    np.testing.assert_allclose(abs(along[:, 0]), norms, rtol=1e-12)
    np.testing.assert_allclose(along[:, 1:], 0.0, atol=1e-12)

    whole = dp.telling_directions(slopes[:, :2], 3)
    np.testing.assert_array_equal(whole, np.broadcast_to(np.eye(2), (6, 2, 2)))


@pytest.mark.slow
def test_fit_tells_the_noise_of_slopes_from_that_of_values():
    rng = np.random.default_rng(6)
    points = jnp.asarray(rng.uniform(size=(25, 1)))
    values = np.sin(6 * np.asarray(points[:, 0]))
    slopes = 6 * np.cos(6 * np.asarray(points[:, 0])) + rng.normal(size=25)
    rows = dp.join(dp.values_at(points), dp.slopes_at(points, jnp.ones((25, 1, 1))))
    starts = jax.tree.map(lambda leaf: leaf[None], dp.prior_params((0,)))
    fit = jax.jit(dp.fit, static_argnums=(4, 5, 6))
    targets = jnp.asarray(np.concatenate([values, slopes]))
    found = fit(starts, rows, targets, jnp.full(50, True), (0,), 1e-6, 100)
    length = np.exp(found.process.log_length[0])
    assert 0.5 < np.exp(0.5 * found.log_slope_noise) / length < 2.0
    assert np.exp(0.5 * found.process.log_noise) < 0.03
