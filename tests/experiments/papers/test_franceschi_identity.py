"""One hypergradient by every mode, against the recursions written out in NumPy."""

import os

import jax
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.papers.franceschi_identity import (
    FranceschiIdentity,
    kernels,
    largest_difference,
    shuffled,
)
from experiments.supervised.networks import Convolutional, Perceptron

SMALL = FranceschiIdentity(
    source="digits",
    precision="float64",
    skip=100,
    num_train=300,
    num_valid=200,
    batch_size=20,
    num_steps=6,
    rate=0.5,
    num_outer_steps=1,
)
EVERY = (
    *("forward", "columns", "kept", "segments", "tree", "kary"),
    *("online_reverse", "real_time", "reversible"),
)


def quiet(done, total):
    del done, total


def by_numpy(toy, seed, num_steps):
    """Algorithm 2 of the paper, forward mode, with every Jacobian multiplied by hand.

    W holds the kernel and, as its last row, the bias. Returns F and (dF/dη, dF/dμ,
    dF/dρ1, dF/dρ2) after `num_steps`.
    """
    rows = toy._rows()
    inputs = np.c_[np.asarray(rows.inputs, float), np.ones(len(rows.labels))]
    targets = np.eye(10)[rows.labels]
    table = np.asarray(shuffled(toy.num_train, num_steps, toy.batch_size, seed))
    w, v = np.zeros((65, 10)), np.zeros((65, 10))
    zw, zv = np.zeros((4, 65, 10)), np.zeros((4, 65, 10))
    eta, mu = toy.rate, toy.momentum
    decayed = np.ones((65, 10))
    decayed[-1] = 0.0  # the bias has no penalty
    for picked in table:
        x, y = inputs[picked], targets[picked]
        p = softmax(x @ w)
        grad = x.T @ (p - y) / len(x)
        new_v = mu * v + grad
        new_zv = np.empty_like(zv)
        for j, z in enumerate(zw):
            u = x @ z
            new_zv[j] = mu * zv[j]
            new_zv[j] += x.T @ (p * (u - np.sum(p * u, 1, keepdims=True))) / len(x)
        new_zv[1] += v
        new_zv[2] += decayed * np.sign(w)
        new_zv[3] += decayed * 2 * w
        zw = zw - eta * new_zv
        zw[0] -= new_v
        w, v, zv = w - eta * new_v, new_v, new_zv
    x, y = (a[toy.num_train : toy.num_train + toy.num_valid] for a in (inputs, targets))
    p = softmax(x @ w)
    slope = x.T @ (p - y) / len(x)
    loss = -np.mean(np.sum(y * np.log(p), 1))
    return loss, np.tensordot(zw, slope, 2)


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def test_softmax_regression_is_forward_mode_by_hand():
    found = SMALL.measure(hg.Reverse(), 3, quiet).numbers
    loss, slopes = by_numpy(SMALL, 3, SMALL.num_steps)
    ours = [found[f"first_d_{name}"] for name in ("eta", "mu", "l1", "l2")]
    np.testing.assert_allclose(found["first_loss"], loss, rtol=1e-12)
    np.testing.assert_allclose(ours, slopes, rtol=1e-10)


@pytest.mark.slow
def test_real_time_mode_goes_on_training():
    """With η and μ held by tiny outer steps, its second is forward mode of 2T steps."""
    toy = SMALL.model_copy(
        update={"num_outer_steps": 2, "outer": hg.Outer("sgd", learning_rate=1e-14)}
    )
    found = toy.measure(hg.RTHO(steps_per_update=6), 3, quiet)
    loss, slopes = by_numpy(SMALL, 3, 12)
    ours = [found.curves[f"d_{name}"].y[1] for name in ("eta", "mu", "l1", "l2")]
    np.testing.assert_allclose(found.curves["loss"].y[1], loss, rtol=1e-11)
    np.testing.assert_allclose(ours, slopes, rtol=1e-9)
    again = toy.measure(hg.Forward(), 3, quiet)
    np.testing.assert_allclose(*again.curves["loss"].y, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        Perceptron(depth=1, width=5),
        Convolutional(depth=1, filters=2, stride=4, activation="tanh"),
    ],
    ids=["mlp", "cnn"],
)
def test_every_way_is_the_same_way(model):
    toy = SMALL.model_copy(update={"model": model, "against": (*EVERY, "differences")})
    found = toy.measure(hg.Reverse(), 0, quiet).numbers
    assert found["differences_gap"] < 1e-5
    assert found["gap"] == found["differences_gap"]
    assert max(found[f"{name}_gap"] for name in EVERY) < 1e-12


def test_two_ways():
    toy = SMALL.model_copy(update={"against": ("kept",), "num_steps": 2})
    assert toy.measure(hg.Reverse(), 0, quiet).numbers["gap"] < 1e-12


@pytest.mark.slow
def test_the_first_line_of_the_authors_log():
    if "HYPERGRAD_DATA" not in os.environ:
        pytest.skip("needs MNIST below HYPERGRAD_DATA")
    toy = FranceschiIdentity(precision="float64", num_outer_steps=1)
    found = toy.measure(hg.Reverse(), 1, quiet).numbers
    log = {"loss": 1.1924129, "d_eta": -51.830055, "d_mu": -1.0283833}
    for name, value in (log | {"d_l1": 36.57811, "d_l2": 1.2705821}).items():
        assert found[f"first_{name}"] == pytest.approx(value, rel=3e-7)


def test_batches_are_those_of_shuffled_lists():
    state = np.random.RandomState(1)
    epochs = []
    for _ in range(2):
        rows = list(range(7))
        state.shuffle(rows)
        epochs += rows
    np.testing.assert_array_equal(np.ravel(shuffled(7, 4, 3, seed=1)), epochs[:12])


def test_only_kernels_are_penalised_and_the_last_layer_starts_at_zero(key):
    toy = SMALL.model_copy(update={"model": Perceptron(depth=2, width=3)})
    start = toy.problem(0, 1).start(toy.start(toy.problem(0, 1), key), key).weights
    assert [kernel.shape for kernel in kernels(start)] == [(3, 10), (64, 3), (3, 3)]
    assert not np.any(jax.tree.leaves(start["head"])[1])


def test_the_rows_come_in_the_order_of_the_loader():
    rows, plain = SMALL._rows(), SMALL.model_copy(update={"skip": 0})._rows()
    np.testing.assert_array_equal(rows.labels[:-100], plain.labels[100:])
    np.testing.assert_array_equal(rows.labels[-100:], plain.labels[:100])
    with pytest.raises(ValueError, match="skip is at most the 1797 training rows"):
        SMALL.model_copy(update={"skip": 5000})._rows()


def test_a_difference_is_of_the_worst_component():
    slope = {"a": np.array([1.0, 2.0]), "b": np.array(-4.0)}
    other = {"a": np.array([1.0, 2.2]), "b": np.array(-4.4)}
    assert largest_difference(other, slope) == pytest.approx(0.1)


def test_options():
    with pytest.raises(ValidationError, match="against"):
        FranceschiIdentity(against=("sideways",))  # pyright: ignore
