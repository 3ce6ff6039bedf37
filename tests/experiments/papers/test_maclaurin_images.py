"""The image experiments of Maclaurin et al. (2015) against training in numpy."""

import os

import numpy as np
import pytest

import hypergrad as hg
from experiments.papers import maclaurin
from experiments.papers.maclaurin_chaos import MaclaurinChaos
from experiments.papers.maclaurin_data import MaclaurinLearnedData
from experiments.papers.maclaurin_schedules import MaclaurinSchedules

SCHEDULES = MaclaurinSchedules(
    precision="float64",
    source="digits",
    hidden=(5,),
    num_train=60,
    num_valid=40,
    num_test=30,
    batch_size=20,
    num_steps=4,
    log_l2=-4.0,
    num_outer_steps=2,
    way_back=False,
)
CHAOS = MaclaurinChaos(
    precision="float64",
    source="digits",
    num_train=40,
    hidden=(6, 5),
    batch_size=20,
    num_steps=5,
    low=0.1 - 1e-5,
    high=0.1 + 1e-5,
    num_points=3,
    every=1,
    backwards_at=(),
)
DATA = MaclaurinLearnedData(
    precision="float64",
    source="digits",
    num_images=20,
    num_valid=60,
    num_test=30,
    num_steps=4,
    num_outer_steps=2,
)
needs_mnist = pytest.mark.skipif(
    not os.environ.get("HYPERGRAD_DATA"), reason="MNIST is below HYPERGRAD_DATA"
)


def quiet(*_):
    pass


def digits(centred, start, stop):
    rows = maclaurin.stacked("digits", centred)
    return rows.inputs[start:stop], rows.labels[start:stop]


def split(vector, sizes):
    layers, start = [], 0
    for m, n in zip(sizes[:-1], sizes[1:], strict=True):
        middle, stop = start + m * n, start + (m + 1) * n
        layers.append((vector[start:middle].reshape(m, n), vector[middle:stop]))
        start = stop
    return layers


def loss_and_slope(vector, sizes, rows, l2=0.0):
    """Mean NLL + l2 Σ w² of a tanh perceptron, by back-propagation."""
    (x, labels), layers, seen = rows, split(vector, sizes), []
    for kernel, bias in layers:
        seen.append(x)
        logits = x @ kernel + bias
        x = np.tanh(logits)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    every = np.arange(len(labels))
    loss = -np.mean(np.log(p[every, labels])) + l2 * vector @ vector
    p[every, labels] -= 1
    back, slopes = p / len(labels), []
    for (kernel, _), x in zip(layers[::-1], seen[::-1], strict=True):
        slopes[:0] = [(x.T @ back).ravel(), back.sum(axis=0)]
        back = (back @ kernel.T) * (1 - x**2)
    return loss, np.concatenate(slopes) + 2 * l2 * vector


def trained(vector, sizes, batches, alpha, gamma, l2=0.0):
    """Weights after momentum in their arithmetic, less its roundings."""
    velocity, factor = 0.0, np.floor(65536 * gamma + 1) / 65536
    for batch in batches:
        slope = loss_and_slope(vector, sizes, batch, l2)[1]
        velocity = factor * velocity - (1 - gamma) * slope
        vector = vector + alpha * velocity
    return vector


def test_schedules_start_from_what_numpy_finds():
    found = SCHEDULES.measure(hg.Reverse(), 7, quiet)
    sizes, (x, y) = (64, 5, 10), digits(True, 0, 60)
    start = np.exp(-3.0) * maclaurin.random_state(7, 0).randn(385)
    drawn = [maclaurin.random_state(7, 0, t).randint(60, size=20) for t in range(4)]
    batches = [(x[rows], y[rows]) for rows in drawn]
    weights = trained(start, sizes, batches, np.exp(-1.0), 0.9, np.exp(-4.0))
    for name, first, last in (("train", 0, 60), ("valid", 60, 100), ("test", 100, 130)):
        loss, _ = loss_and_slope(weights, sizes, digits(True, first, last))
        np.testing.assert_allclose(found.curves[f"{name}_loss"].y[0], loss, rtol=1e-10)

    assert len(found.curves["alpha"].y) == 4


@pytest.mark.slow
def test_schedules_of_the_rounded_map_are_those_of_the_way_back():
    rounded = SCHEDULES.model_copy(update={"arithmetic": "rounded", "way_back": True})
    found = rounded.measure(hg.Forward(), 0, quiet)
    assert found.numbers["way_back_gap"] < 1e-9
    assert found.numbers["wrong_bits"] == 0


@pytest.mark.slow
@needs_mnist
def test_schedules_to_all_published_digits():
    found = MaclaurinSchedules(num_outer_steps=2).measure(hg.Reverse(), 0, quiet)
    expected = {
        "train_loss": [0.6383982428543722, 0.5306520897976499],
        "valid_loss": [0.7031404382977947, 0.5809366147294736],
        "gradient": [0.4896216169515906, 0.3514163523751496],
        "angle": [-0.06870884208874216, 0.9832301712531989],
        "test_error": [0.2158, 0.175],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.curves[name].y, values, rtol=1e-8)


def test_a_line_of_step_sizes():
    """The loss is numpy's, its derivative that of differences, within 1e-3."""
    found = CHAOS.measure(hg.Forward(), 3, quiet)
    sizes, (x, y) = (64, 6, 5, 10), digits(False, 0, 40)
    random = np.random.RandomState(3)  # noqa: NPY002
    start = np.exp(-2.0) * random.randn(2, 485)[1]
    halves = [(x[:20], y[:20]), (x[20:], y[20:])]
    weights = trained(start, sizes, [halves[t % 2] for t in range(5)], np.exp(0.1), 0.9)
    loss, _ = loss_and_slope(weights, sizes, (x, y))
    low, middle, high = found.curves["loss"].y
    np.testing.assert_allclose(middle, loss, rtol=1e-9)
    slope = found.curves["gradient"].y[1]
    np.testing.assert_allclose(slope, (high - low) / 2e-5, rtol=1e-3)
    assert found.numbers["smallest_loss"] == min(low, high)
    assert found.numbers["first_large"] == np.inf


@pytest.mark.slow
def test_the_way_back_meets_the_start_in_chaos():
    wild = {"num_points": 1, "low": 3.0, "backwards_at": (0.1, 3.0), "num_steps": 50}
    found = CHAOS.model_copy(update=wild).measure(hg.Forward(), 0, quiet)
    assert abs(found.curves["gradient"].y[0]) > 1e3
    assert found.numbers["wrong_bits"] == 0


def test_batches_that_do_not_fit():
    odd = CHAOS.model_copy(update={"batch_size": 15})
    with pytest.raises(ValueError, match="batch_size has to divide num_train"):
        odd.measure(hg.Forward(), 0, quiet)


def test_learned_images_against_numpy_and_differences(key):
    found = DATA.measure(hg.Reverse(), 2, quiet)
    sizes, labels = (64, 10), np.arange(20) % 10
    images = 0.01 * np.random.RandomState(2).randn(20, 64)  # noqa: NPY002
    start = np.exp(-4.0) * np.random.RandomState(2).randn(2, 650)[1]  # noqa: NPY002

    def value(images, log_l2, rows):
        batches = [(images, labels)] * 4
        weights = trained(start, sizes, batches, 1.0, 0.9, np.exp(log_l2))
        return loss_and_slope(weights, sizes, rows)[0]

    valid, test = digits(True, 0, 60), digits(True, 1767, 1797)
    at = images, np.log(0.01)
    first = value(*at, valid)
    np.testing.assert_allclose(found.curves["valid_loss"].y[0], first, rtol=1e-10)
    first = value(*at, test)
    np.testing.assert_allclose(found.curves["test_loss"].y[0], first, rtol=1e-10)
    (title,) = found.pictures
    assert np.shape(found.pictures[title]) == (20, 8, 8)

    rounded = DATA.model_copy(update={"arithmetic": "rounded"})
    problem = rounded._problem(sizes, rounded._rows()[0], 2)
    slope = hg.hypergrad(problem, hg.Reverse())(rounded._start(64, 2), key)
    change = np.random.default_rng(0).normal(size=(20, 64))
    up, down = (value(images + h * change, np.log(0.01), valid) for h in (1e-4, -1e-4))
    along = np.sum(change * slope["images"])
    np.testing.assert_allclose((up - down) / 2e-4, along, rtol=1e-6)
    up, down = (value(images, np.log(0.01) + h, valid) for h in (1e-4, -1e-4))
    np.testing.assert_allclose((up - down) / 2e-4, slope["log_l2"], rtol=1e-6)


def test_more_rows_than_there_are():
    many = DATA.model_copy(update={"num_valid": 1790})
    with pytest.raises(ValueError, match="digits has 1797 rows"):
        many.measure(hg.Reverse(), 0, quiet)
    many = SCHEDULES.model_copy(update={"num_train": 2000})
    with pytest.raises(ValueError, match="ask for fewer"):
        many.measure(hg.Reverse(), 0, quiet)
