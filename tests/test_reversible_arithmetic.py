"""Multiplication by a fraction that can be undone, against Python's own integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrad.estimators import reversible_arithmetic as exact

GAMMAS = (1.0, 0.9999, 0.98, 0.8, 0.5, 0.41, 0.3, 0.11)


@pytest.mark.parametrize("bits", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_multiplication_is_that_of_python_and_is_undone(bits):
    dtype, each, steps, segment = jnp.dtype(f"int{bits}"), 150, 96, 8
    rng = np.random.default_rng(0)
    limit = 2 ** (bits - 2)
    v = rng.integers(-limit, limit, (len(GAMMAS), each))
    v[:, :5] = 0, 1, -1, limit, -limit
    v = jnp.asarray(v.ravel(), dtype)
    pushes = jnp.asarray(rng.integers(-limit // 64, limit // 64, v.size), dtype)
    n = np.repeat([round(g * 2 ** (bits // 2)) for g in GAMMAS], each)
    key, n = jax.random.key(1), jnp.asarray(n, dtype)
    stacks = exact.Stacks.empty(v.size, exact.capacity(steps, min(GAMMAS)))

    u = exact.dither(key, dtype)
    once, _ = exact.multiply(v, n, u, stacks)
    pairs = zip(np.asarray(v), np.asarray(n), strict=True)
    expected = [(int(a) * int(b) + int(u)) // 2 ** (bits // 2) for a, b in pairs]
    assert [int(x) for x in once] == expected

    def multiply(t, carry):
        v, stacks = carry
        u = exact.dither(jax.random.fold_in(key, t), dtype)
        v, stacks = exact.multiply(v, n, u, stacks)
        spilled = jax.lax.cond(
            t % segment == 7, exact.Stacks.spill, lambda s: s, stacks
        )
        return v + pushes, spilled

    def divide(k, carry):
        v, stacks = carry
        t = steps - 1 - k
        u = exact.dither(jax.random.fold_in(key, t), dtype)
        stacks = jax.lax.cond(t % segment == 7, exact.Stacks.fetch, lambda s: s, stacks)
        return exact.divide(v - pushes, n, u, stacks)

    there = jax.jit(lambda c: jax.lax.fori_loop(0, steps, multiply, c))
    again = jax.jit(lambda c: jax.lax.fori_loop(0, steps, divide, c))
    end, full = there((v, stacks))
    assert not full.overflown
    back, empty = again((end, full))
    assert jnp.all(back == v)
    assert not jnp.any(empty.fill | empty.depth)

    used = np.asarray(full.fill + exact.WORD * full.depth).reshape(len(GAMMAS), each)
    mean = [exact.expected_bits(g) for g in GAMMAS]
    np.testing.assert_allclose(mean[:5], [2 * (1 - g) for g in GAMMAS[:5]], atol=1e-12)
    np.testing.assert_allclose(used.mean(1) / steps, mean, rtol=0.06, atol=2e-3)


@pytest.mark.slow
def test_rounding_is_unbiased():
    v = jnp.full(20_000, 12_345, jnp.int32)
    n = jnp.full_like(v, round(0.77 * 2**16))
    keys = jax.random.split(jax.random.key(0), v.size)
    u = jax.vmap(lambda k: exact.dither(k, jnp.int32))(keys)
    products, _ = exact.multiply(v, n, u, exact.Stacks.empty(v.size, 1))
    expected = 12_345 * round(0.77 * 2**16) / 2**16
    assert abs(np.mean(products) - expected) < 4 * 0.5 / np.sqrt(v.size)
    assert np.max(np.abs(np.asarray(products) - expected)) < 1
