"""Layers by name, and numbers given to them one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrad.layers import layer_names, per_layer, scale_layers
from hypergrad.models import mlp

DENSE = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
WEIGHTS = {"blocks": [{"conv": DENSE, "norm": {"scale": jnp.ones(3)}}], "head": DENSE}
NAMES = ("blocks.0.conv", "blocks.0.norm", "head")


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        (WEIGHTS, NAMES),
        (mlp([2, 3, 1]).init(jax.random.key(0)), ("0", "1")),
        (jnp.ones(3), ("weights",)),
        ([jnp.ones(3), jnp.ones(2)], ("weights",)),
        (DENSE, ("weights",)),
        ({"a": jnp.ones(2), "b": DENSE, "c": jnp.ones(2)}, ("weights", "b")),
        ({"a": (jnp.ones(2), jnp.ones(2)), "b": None}, ("a",)),
        ({}, ()),
    ],
)
def test_names_are_the_parents_of_arrays(weights, names):
    assert layer_names(weights) == names
    values = per_layer(jnp.arange(len(names)), weights)
    assert jax.tree.structure(values) == jax.tree.structure(weights)


def test_each_leaf_has_the_value_of_its_layer():
    values = per_layer(jnp.array([0.1, 0.2, 0.3]), WEIGHTS)
    conv = {"kernel": 0.1, "bias": 0.1}
    expected = {
        "blocks": [{"conv": conv, "norm": {"scale": 0.2}}],
        "head": {"kernel": 0.3, "bias": 0.3},
    }
    assert jax.tree.map(float, values) == expected


def test_layers_of_the_same_name_are_still_two():
    weights = {"a": {"b": {"w": 1.0}}, "a.b": {"w": 1.0}}
    assert layer_names(weights) == ("a.b", "a.b")
    values = per_layer(jnp.array([1.0, 2.0]), weights)
    assert jax.tree.leaves(jax.tree.map(float, values)) == [1.0, 2.0]


@pytest.mark.parametrize("values", [jnp.ones(4), jnp.ones(()), jnp.ones((3, 1))])
def test_a_wrong_number_of_values_is_told_with_the_names(values):
    names = r"one for each layer \(blocks.0.conv, blocks.0.norm, head\)"
    with pytest.raises(ValueError, match=rf"values must have 3 entries, {names}; got"):
        per_layer(values, WEIGHTS)
    for rates in (values, lambda t: values):
        tx = scale_layers(rates)
        with pytest.raises(ValueError, match=rf"rates must have 3 entries, {names}"):
            tx.update(WEIGHTS, tx.init(WEIGHTS))


def run(tx, num_steps):
    """The updates for gradients of one, each step."""

    def step(state, _):
        updates, state = tx.update(WEIGHTS, state, WEIGHTS)
        return state, updates

    return jax.lax.scan(step, tx.init(WEIGHTS), length=num_steps)[1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_rates_per_layer_are_gradient_descent_with_each(dtype):
    rates = jnp.array([0.5, 0.0, 2.0], dtype)
    updates = jax.jit(lambda r: run(optax.chain(optax.sgd(1.0), scale_layers(r)), 2))(
        rates
    )
    expected = jax.tree.map(
        lambda w, r: jnp.full((2, *w.shape), -r), WEIGHTS, per_layer(rates, WEIGHTS)
    )
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float64)}


def test_rates_per_step_and_layer():
    table = jnp.arange(12.0).reshape(4, 3)
    updates = run(scale_layers(lambda t: table[t]), 4)
    np.testing.assert_array_equal(updates["head"]["bias"][:, 0], table[:, 2])
    scale = updates["blocks"][0]["norm"]["scale"]
    np.testing.assert_array_equal(scale[:, 0], table[:, 1])
    slopes = jax.grad(
        lambda table: jnp.sum(run(scale_layers(lambda t: table[t]), 3)["head"]["bias"])
    )(table)
    np.testing.assert_array_equal(slopes, jnp.zeros((4, 3)).at[:3, 2].set(3))


def test_narrow_updates_stay_narrow():
    narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), WEIGHTS)
    tx = scale_layers(jnp.ones(3, jnp.float64))
    updates, _ = tx.update(narrow, tx.init(narrow))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
