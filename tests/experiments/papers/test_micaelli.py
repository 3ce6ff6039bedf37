"""Sharing over windows against numpy's own noise and the arithmetic of the theorem."""

import jax
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers.micaelli import SharingTheorem, share
from experiments.papers.micaelli_fds import SharedSchedules, halving
from experiments.supervised.networks import Perceptron

SMALL = SharingTheorem(num_steps=20, windows=(1, 4), num_trainings=250)


def quiet(done, total):
    del done, total


@pytest.mark.parametrize("window", [1, 4, 20])
def test_the_theorem_holds_for_noise_of_numpy(window):
    rng, drift = np.random.default_rng(0), 0.05 * np.arange(20)
    paper = SMALL.model_copy(update={"drift": 0.05})
    noisy = drift + 0.5 * rng.normal(size=(20_000, 20))
    means = noisy.reshape(-1, 20 // window, window).mean(axis=2)
    error = np.mean((np.repeat(means, window, axis=1) - drift) ** 2)
    np.testing.assert_allclose(error, paper.theorem(window), rtol=0.02)


def test_hypergradients_are_drift_and_noise_of_each_step(key):
    paper = SMALL.model_copy(update={"drift": 2.0})
    keys = jax.random.split(key, 200)
    slopes = hg.hypergrad(paper.problem(), hg.Reverse())
    found = np.asarray(jax.vmap(slopes, (None, 0))(np.zeros(20), keys))
    found = found - 2.0 * np.arange(20)
    assert abs(np.std(found) - 0.5) < 0.02
    correlations = np.corrcoef(found.T) - np.eye(20)
    assert np.max(np.abs(correlations)) < 0.3


def test_shared_inside_and_afterwards(key):
    keys = jax.random.split(key, 250)
    inside = SMALL.errors(hg.ForwardSharing(), 4, keys)
    afterwards = SMALL.errors(hg.Reverse(), 4, keys)
    np.testing.assert_allclose(inside, afterwards, rtol=1e-10)
    np.testing.assert_array_equal(share(np.arange(4.0), 2), [0.5, 0.5, 2.5, 2.5])


def test_measured_errors_are_those_of_the_theorem():
    paper = SMALL.model_copy(update={"drift": 0.3})
    found = paper.measure(hg.ForwardSharing(), 0, quiet)
    assert found.numbers["standard_errors"] < 4
    assert found.numbers["best_window"] == 4
    assert found.curves["error"].x == [1, 4]


def test_no_noise_leaves_the_drift():
    paper = SMALL.model_copy(update={"sigma": 0.0, "windows": (20,)})
    found = paper.measure(hg.Reverse(), 0, quiet)
    closed = [0.01**2 * (20**2 - 1) / 12]
    np.testing.assert_allclose(found.curves["error"].y, closed, atol=1e-15)
    assert found.numbers["standard_errors"] < 1


def test_a_window_that_does_not_divide_is_refused():
    paper = SMALL.model_copy(update={"windows": (1, 3)})
    with pytest.raises(ValueError, match="windows divide num_steps"):
        paper.measure(hg.Forward(), 0, quiet)


FDS = SharedSchedules(
    precision="float64",
    num_rows=120,
    num_test=40,
    batch_size=16,
    num_rates=2,
    first_epochs=2,
    epochs=2,
    num_outer_steps=3,
    retrain_epochs=2,
    model=Perceptron(depth=0),
)


def test_steps_are_halved_where_the_sign_changes():
    outer = halving(np.array([0.1, 1.0]))
    state, at = outer.init(np.zeros(2)), np.zeros(2)
    for slope in ([3.0, 1.0], [0.5, -1.0], [-2.0, 0.0], [1.0, 1.0]):
        change, state = outer.update(np.array(slope), state)
        at = at + change
    # 0.1 + 0.1 - 0.05 + 0.025, and 1 - 0.5 + 0 + 0.5: a sign of 0 changes nothing.
    np.testing.assert_allclose(at, [-0.175, -1.0], rtol=1e-12)


@pytest.mark.slow
def test_nothing_is_learned_by_rates_of_zero_and_then_much_is():
    found = FDS.measure(hg.ForwardSharing(), 0, quiet)
    loss = found.curves["loss"].y
    assert loss[0] > 2.0
    assert loss[2] < 0.9 * loss[0]
    assert found.numbers["sharing_gap"] < 1e-12
    assert found.curves["rates"].x == [1, 2]
    np.testing.assert_allclose(np.array(found.curves["rates"].y) % 0.05, 0, atol=1e-12)


def test_fewer_batches_than_rates_are_refused():
    paper = FDS.model_copy(update={"batch_size": 110})
    with pytest.raises(ValueError, match=r"fewer than num_rates \(2\)"):
        paper.measure(hg.Reverse(), 0, quiet)
