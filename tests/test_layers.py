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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"head": 3.0, "blocks": 1}, [1, 1, 3]),
        ({"": 2.0, "blocks.0.norm": 5.0}, [2, 5, 2]),
        ({"blocks.0": 1.0, "blocks.0.norm": 4.0, "": 7.0}, [1, 4, 7]),
        (dict.fromkeys(NAMES, jnp.float64(2.0)), [2, 2, 2]),
    ],
)
def test_values_by_name_are_those_of_the_longest_prefix(values, expected):
    by_name, by_place = per_layer(values, WEIGHTS), per_layer(expected, WEIGHTS)
    assert jax.tree.map(float, by_name) == jax.tree.map(float, by_place)
    for rates in (values, lambda t: values):
        tx = scale_layers(rates)
        updates, _ = tx.update(WEIGHTS, tx.init(WEIGHTS))
        np.testing.assert_array_equal(updates["head"]["bias"], expected[2] * np.ones(3))


def test_names_need_not_know_the_order_of_the_tree():
    weights = {"layers": [DENSE, DENSE], "head": DENSE}
    assert layer_names(weights)[0] == "head"  # entry 0 is no first layer
    values = per_layer({"layers.0": 1.0, "layers.1": 2.0, "head": 3.0}, weights)
    assert [float(layer["bias"]) for layer in values["layers"]] == [1.0, 2.0]
    assert float(values["head"]["kernel"]) == 3.0
    assert float(per_layer({"weights": 2.0}, jnp.ones(3))) == 2.0


def test_the_derivative_in_a_value_by_name():
    def total(head):
        rates = {"blocks": 1.0, "head": head}
        updates = run(scale_layers(rates), 1)
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    assert float(jax.jit(jax.grad(total))(2.0)) == 9  # the head's weights, all 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"": 1.0, "hed": 2.0}, "unknown name 'hed'.*did you mean 'head'"),
        ({"": 1.0, "block": 2.0}, "unknown name 'block'.*did you mean 'blocks'"),
        ({"head": 1.0, "blocks.0.conv": 1.0}, "got none for 'blocks.0.norm'"),
        ({"": 1.0, "head": jnp.ones(2)}, r"values\['head'\] must be a scalar"),
        ({}, "got none for 'blocks.0.conv'"),
    ],
)
def test_wrong_names_of_layers_say_so(values, message):
    with pytest.raises(ValueError, match=message):
        per_layer(values, WEIGHTS)
