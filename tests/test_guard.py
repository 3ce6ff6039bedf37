"""guard: the same values, the same slopes, and zero for 0 · ∞."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hypergrad.guard import guard


def norm(x):
    return jnp.sqrt(jnp.sum(x**2))


def controlled(x):
    """Scan, cond, nested jit, where, closure: all that the evaluator walks through."""
    scale = jnp.asarray(1.3)

    def body(carry, y):
        carry = jax.jit(lambda c: jnp.sqrt(c * scale) + jnp.where(y > 0, y, 1 / y))(
            carry
        )
        return carry, jax.lax.cond(y > 1, jnp.log, lambda y: y**3, y)

    carry, ys = jax.lax.scan(body, jnp.sum(x**2), x, reverse=True)
    return {"carry": carry, "ys": ys}


def test_values_and_slopes_agree_where_they_are_finite():
    x = jnp.array([0.5, 2.0, 1.5])
    jax.tree.map(np.testing.assert_array_equal, guard(controlled)(x), controlled(x))
    for differentiate in (jax.jacfwd, jax.jacrev):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14),
            jax.jit(differentiate(guard(controlled)))(x),
            jax.jit(differentiate(controlled))(x),
        )
    np.testing.assert_allclose(
        jax.hessian(guard(norm))(x), jax.hessian(norm)(x), rtol=1e-14
    )


@pytest.mark.parametrize(
    ("fn", "x", "slope"),
    [
        (jnp.sqrt, 0.0, 0.0),
        (lambda x: jnp.sqrt(x**2), 0.0, 0.0),
        (lambda x: jnp.where(x > 0, jnp.log(x), 2 * x), 0.0, 2.0),
        (lambda x: jnp.where(x > 0, 1 / x, 3 * x), 0.0, 3.0),
        (lambda x: jnp.where(x > 0, jnp.sqrt(x - 5) * x, x), -1.0, 1.0),
        (lambda x: x / (jnp.sqrt(x**2) + 1e-3), 0.0, 1e3),
        (lambda x: jnp.cbrt(x**3) + x**0.5 + jax.lax.rsqrt(x), 0.0, 0.0),
    ],
)
def test_zero_times_infinity_is_zero(fn, x, slope):
    assert not np.isfinite(jax.grad(fn)(x))
    np.testing.assert_allclose(jax.grad(guard(fn))(x), slope)
    np.testing.assert_allclose(jax.jvp(guard(fn), (x,), (1.0,))[1], slope)
    assert np.isfinite(jax.grad(jax.grad(guard(fn)))(x))


def test_under_vmap_and_with_a_traced_closure():
    def loss(scale, x):
        return guard(lambda x: scale * norm(x))(x)

    x = jnp.stack([jnp.zeros(2), jnp.array([3.0, 4.0])])
    grads = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(None, 0))(2.0, x)
    np.testing.assert_allclose(grads[0], [0.0, 5.0])
    np.testing.assert_allclose(grads[1], [[0.0, 0.0], [1.2, 1.6]])


def test_integers_keys_and_custom_rules_pass_through():
    @jax.custom_jvp
    def odd(x):
        return x

    odd.defjvp(lambda x, t: (odd(*x), 7.0 * t[0]))

    def fn(x, key, n):
        return odd(x) * jax.random.normal(key, ()) * x**n, n + 1, key

    key = jax.random.key(0)
    grad = jax.grad(lambda x: guard(fn)(x, key, 2)[0])
    noise = jax.random.normal(key, ())
    np.testing.assert_allclose(grad(3.0), (7.0 * 9 + 3 * 6) * noise)
    assert guard(fn)(3.0, key, 2)[1] == 3
    check_grads(lambda x: guard(norm)(x), (jnp.ones(3),), order=2)
