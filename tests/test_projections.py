"""Projections meet the optimality conditions that define them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hypergrad.projections import (
    project_box,
    project_capped,
    project_simplex,
    project_sum,
)


def points(num: int = 40, size: int = 7) -> jax.Array:
    scale = jnp.logspace(-2, 2, num)[:, None]
    return scale * jax.random.normal(jax.random.key(1), (num, size))


def assert_optimal(x, p, vertices):
    """Nearest in the hull of the vertices v iff <x - p, v - p> <= 0 for all."""
    slack = (vertices - p) @ (x - p)
    assert slack.max() <= 1e-9 * (1 + np.abs(x).max())


def test_box():
    x = points()
    np.testing.assert_array_equal(project_box(x, -1.0, 2.0), np.clip(x, -1.0, 2.0))


def test_simplex_meets_the_variational_inequality():
    for x, p in zip(points(), jax.vmap(project_simplex)(points()), strict=True):
        x, p = np.asarray(x), np.asarray(p)
        assert p.min() >= 0
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
        assert_optimal(x, p, np.eye(7))


@pytest.mark.parametrize("total", [0.5, 2.0, 3.0, 6.5, 7.0, 20.0])
def test_capped_meets_kkt(total):
    """KKT: p = clip(x - τ, 0, 1) with τ >= 0, Σ p <= R and τ (R - Σ p) = 0."""
    xs = points() + 0.5
    ps = jax.vmap(lambda x: project_capped(x, total))(xs)
    for x, p in zip(np.asarray(xs), np.asarray(ps), strict=True):
        assert p.min() >= 0
        assert p.max() <= 1
        assert p.sum() <= total * (1 + 1e-12)
        inside = (p > 1e-9) & (p < 1 - 1e-9)
        shift = (x - p)[inside].mean() if inside.any() else 0.0
        if inside.any():
            np.testing.assert_allclose((x - p)[inside], shift, atol=1e-9)
            np.testing.assert_allclose(p, np.clip(x - shift, 0, 1), atol=1e-9)
        assert shift >= -1e-9
        if np.clip(x, 0, 1).sum() > total:
            np.testing.assert_allclose(p.sum(), total, rtol=1e-12)
        else:
            np.testing.assert_array_equal(p, np.clip(x, 0, 1))


def test_against_the_sorting_algorithm():
    """Duchi et al. (2008): τ from the sorted cumulative sums."""
    projected = jax.vmap(project_simplex)(points())
    for x, p in zip(np.asarray(points()), projected, strict=True):
        ordered = np.sort(x)[::-1]
        shifts = (np.cumsum(ordered) - 1) / np.arange(1, 8)
        shift = shifts[np.nonzero(ordered > shifts)[0][-1]]
        expected = np.maximum(x - shift, 0)
        np.testing.assert_allclose(p, expected, atol=1e-12)


def test_a_projection_is_idempotent_and_nonexpansive():
    x, y = points(40), points(40)[::-1] + 0.3
    for project in (project_simplex, lambda x: project_capped(x, 2.0)):
        p, q = jax.vmap(project)(x), jax.vmap(project)(y)
        np.testing.assert_allclose(jax.vmap(project)(p), p, atol=1e-12)
        apart = jnp.linalg.norm(p - q, axis=1)
        assert jnp.all(apart <= jnp.linalg.norm(x - y, axis=1) + 1e-9)


def test_corners_and_ties():
    np.testing.assert_allclose(project_sum(jnp.ones(3), 3.0, 0.0, 1.0), np.ones(3))
    np.testing.assert_allclose(project_sum(jnp.ones(3), 0.0, 0.0, 1.0), 0.0, atol=1e-12)
    np.testing.assert_allclose(project_simplex(jnp.zeros(4)), np.full(4, 0.25))
    np.testing.assert_allclose(project_simplex(jnp.array([[5.0, 0], [0, 0]])).sum(), 1)


def test_derivative_is_that_of_the_active_face():
    x = jnp.array([0.9, 0.3, 0.2, -2.0])
    check_grads(project_simplex, (x,), order=1, modes=("fwd", "rev"), eps=1e-6)
    check_grads(lambda x: project_capped(x, 1.2), (x,), order=1, eps=1e-6)


def test_float32_sum_is_right_to_rounding():
    x = (10 * points(3, 200) + 1).astype(jnp.float32)
    with jax.enable_x64(False):
        for row in x:
            p = project_capped(row, 50.0)
            assert p.dtype == jnp.float32
            assert abs(float(p.sum()) - 50.0) < 1e-4
