"""Dropout in its limits, in its moments, and differentiated along a path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, logit

from hypergrad.dropout import dropout, gaussian_dropout

BOTH = [dropout, gaussian_dropout]
RATES = jnp.array([1e-4, 0.05, 0.3, 0.5, 0.95, 1 - 1e-4])
ONES = jnp.ones(100_000)


def mean_keep(rate, temperature):
    """E[k] by quadrature over the uniform noise."""

    def keep(u):
        return expit((logit(u) - logit(rate)) / temperature)

    return quad(keep, 0, 1, points=[rate], epsabs=1e-12, limit=200)[0]


def test_mean_of_the_mask(key):
    for rate in (0.1, 0.5, 0.8):
        masks = dropout(key, ONES, rate)
        error = masks.std() / ONES.size**0.5
        expected = mean_keep(rate, 0.1) / (1 - rate)
        assert abs(masks.mean() - expected) < 4 * error
        assert abs(expected - 1) < 2 * 0.1**2


def test_a_cold_mask_is_that_of_ordinary_dropout(key):
    masks = dropout(key, ONES, 0.3, temperature=1e-4)
    dropped, kept = jnp.isclose(masks, 0), jnp.isclose(masks, 1 / 0.7)
    assert jnp.mean(dropped | kept) > 0.999
    assert abs(jnp.mean(dropped) - 0.3) < 4 * (0.21 / ONES.size) ** 0.5


def test_moments_of_gaussian_dropout_are_those_of_dropout(key):
    masks = gaussian_dropout(key, ONES, 0.2)
    assert abs(masks.mean() - 1) < 4 * 0.5 / ONES.size**0.5
    np.testing.assert_allclose(masks.var(), 0.2 / 0.8, rtol=0.01)


@pytest.mark.parametrize("drop", BOTH)
def test_rate_zero_is_the_identity_with_a_finite_derivative(key, drop):
    x = jax.random.normal(key, ONES.shape)
    value, slope = jax.jvp(lambda p: drop(key, x, p), (0.0,), (1.0,))
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(slope, x if drop is dropout else 0 * x)
    np.testing.assert_array_equal(drop(key, x, 0), x)


def test_rate_one_drops_all_with_a_finite_derivative(key):
    x = ONES
    value, slope = jax.jvp(lambda p: dropout(key, x, p), (1.0,), (1.0,))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("drop", BOTH)
def test_derivative_in_the_rate_is_that_of_a_path(key, drop):
    """Central differences of every entry at every rate, from one end to the other."""
    rates, h = RATES, 1e-6 * jnp.minimum(RATES, 1 - RATES)
    masks = jax.jit(jax.vmap(lambda p: drop(key, ONES[:1000], p)))
    slopes = jax.jit(jax.vmap(jax.jacfwd(lambda p: drop(key, ONES[:1000], p))))(rates)
    # In terms of h as rounded, or the rate next to 1 has no digit left.
    up, down = rates + h, rates - h
    found = (masks(up) - masks(down)) / (up - down)[:, None]
    assert jnp.all(jnp.isfinite(slopes))
    gap = jnp.linalg.norm(found - slopes, axis=1) / jnp.linalg.norm(slopes, axis=1)
    assert jnp.max(gap) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("drop", BOTH)
def test_derivative_of_the_mean_is_the_mean_of_derivatives(key, drop):
    """d/dp E[m²]: of the mask with mean 1 and variance p / (1 − p), 1 / (1 − p)²."""
    square = lambda p: drop(key, ONES, p) ** 2
    slopes = jax.jvp(square, (0.3,), (1.0,))[1]
    reverse = jax.grad(lambda p: jnp.mean(square(p)))(0.3)
    np.testing.assert_allclose(reverse, slopes.mean(), rtol=1e-10)
    # The relaxed mask is a little less spread than a hard one.
    slack = 0.15 if drop is dropout else 4 * slopes.std() / ONES.size**0.5
    assert abs(slopes.mean() - 1 / 0.7**2) < slack / 0.7**2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("drop", BOTH)
def test_narrow_data_stay_narrow(key, drop, dtype):
    x = jnp.ones((3, 2), dtype)
    value, slope = jax.jit(
        lambda rate: jax.jvp(lambda p: drop(key, x, p), (rate,), (1.0,))
    )(0.0)
    assert value.dtype == dtype
    assert jnp.all(jnp.isfinite(slope))


@pytest.mark.parametrize("drop", BOTH)
def test_integers_are_refused(key, drop):
    with pytest.raises(ValueError, match="x must hold floats, got int"):
        drop(key, jnp.arange(3), 0.1)
