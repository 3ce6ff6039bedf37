"""Weights of examples by their losses: rows that are kept, and the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers.choe_longtailed import LongTailed, kept, weighed
from experiments.supervised.networks import Perceptron

TINY = LongTailed(
    precision="float64",
    source="digits",
    imbalance=10.0,
    num_first=40,
    num_valid=2,
    num_test=3,
    model=Perceptron(depth=0),
    units=5,
    batch_size=16,
    outer=hg.Outer("adam", learning_rate=0.05, clip=float("inf")),
    num_steps=6,
)


def quiet(done, total):
    del done, total


def test_the_tail_is_geometric_and_rows_are_used_once():
    assert kept(1000, 100.0, 3) == [1000, 100, 10]
    assert kept(50, 1.0, 4) == [50] * 4
    rows = TINY.rows(0)
    np.testing.assert_array_equal(np.bincount(rows.train[1]), kept(40, 10.0, 10))
    np.testing.assert_array_equal(np.bincount(rows.valid[1]), [2] * 10)
    np.testing.assert_array_equal(np.bincount(rows.test[1]), [3] * 10)
    inputs = np.concatenate([np.asarray(part[0]) for part in rows])
    assert len(np.unique(inputs.reshape(len(inputs), -1), axis=0)) == len(inputs)


def test_weights_begin_at_a_half_and_no_gradient_passes_through_them(key):
    functions = TINY.functions(TINY.rows(0))
    theta, losses = functions.first(key), jnp.array([0.1, 3.0])
    np.testing.assert_array_equal(weighed(theta, losses), [0.5, 0.5])
    theta = theta | {"head": jnp.ones(5)}
    slope = jax.grad(lambda x: jnp.sum(weighed(theta, x)))(losses)
    np.testing.assert_array_equal(slope, 0.0)


def test_what_is_learned():
    found = TINY.measure(hg.OneStep(), 0, quiet)
    assert found.numbers["gap"] < 1e-12
    assert len(found.curves["valid_loss"].y) == 6
    assert np.ptp(found.curves["weights"].y) > 1e-4
    held = TINY.model_copy(update={"learned": False})
    numbers = held.measure(hg.OneStep(), 0, quiet)
    np.testing.assert_array_equal(numbers.curves["weights"].y, 0.5)


def test_too_few_rows_are_refused():
    many = TINY.model_copy(update={"num_first": 5000})
    with pytest.raises(ValueError, match="class 0 of 'digits', which has"):
        many.rows(0)
