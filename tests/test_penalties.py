"""Penalties against their formulas, for every form of the coefficient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hypergrad.penalties import elastic_net, l1, l2, smooth_l1

WEIGHTS = {
    "first": {"kernel": jnp.arange(-3.0, 3.0).reshape(2, 3), "bias": jnp.ones(3)},
    "second": {"kernel": jnp.full((3, 1), 2.0), "bias": jnp.zeros(1)},
}

COEFFICIENTS = {
    "scalar": 0.3,
    "per layer": {"first": 0.1, "second": 0.7},
    "per leaf": {"first": {"kernel": 0.2, "bias": 0.0}, "second": 0.5},
    "per weight": jax.tree.map(lambda w: 0.1 + jnp.sin(w) ** 2, WEIGHTS),
}

FORMULAS = {
    l2: lambda w: w**2 / 2,
    l1: np.abs,
    lambda w, c: smooth_l1(w, c, 0.5): lambda w: np.sqrt(w**2 + 0.25) - 0.5,
    lambda w, c: elastic_net(w, c, c): lambda w: np.abs(w) + w**2 / 2,
}


def spread(coefficient):
    """The coefficient as an array for each weight."""
    return jax.tree.map(
        lambda c, below: jax.tree.map(lambda w: jnp.broadcast_to(c, w.shape), below),
        coefficient,
        WEIGHTS,
    )


@pytest.mark.parametrize("coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)
@pytest.mark.parametrize("penalty", FORMULAS)
def test_value_is_the_formula(penalty, coefficient):
    term = FORMULAS[penalty]
    terms = jax.tree.map(lambda c, w: np.sum(c * term(w)), spread(coefficient), WEIGHTS)
    np.testing.assert_allclose(
        penalty(WEIGHTS, coefficient), sum(jax.tree.leaves(terms)), rtol=1e-6
    )


@pytest.mark.parametrize("coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)
def test_gradient_of_l2_is_weight_decay(coefficient):
    grads = jax.jit(jax.grad(l2))(WEIGHTS, coefficient)
    decay = jax.tree.map(lambda c, w: c * w, spread(coefficient), WEIGHTS)
    jax.tree.map(np.testing.assert_allclose, grads, decay)


def test_smooth_l1_is_smooth_and_close_to_l1():
    w = jnp.array([-0.1, 0.0, 1e-9, 3.0])
    slope = jax.jit(jax.grad(smooth_l1))
    check_grads(slope, (w, 0.7, 0.01), order=1, modes=("rev",), eps=1e-6)
    gap = l1(w, 0.7) - smooth_l1(w, 0.7, 1e-3)
    assert 0 <= gap <= 4 * 0.7e-3


@pytest.mark.parametrize(
    ("coefficient", "message"),
    [
        ({"frist": 0.1, "second": 0.1}, "prefix of the weights"),
        ({"first": 0.1}, "prefix of the weights"),
        ([0.1, 0.2], "prefix of the weights"),
        (jnp.ones(2), r"coefficient must be a scalar .*\['first'\]\['bias'\]"),
        (
            {"first": {"kernel": jnp.ones(3), "bias": 0.1}, "second": 0.1},
            r"coefficient\['first'\]\['kernel'\] must be a scalar .*\(2, 3\)"
            r".*got \(3,\)",
        ),
    ],
)
def test_a_coefficient_that_does_not_match_says_so(coefficient, message):
    with pytest.raises(ValueError, match=message):
        l2(WEIGHTS, coefficient)
