"""Implicit hypergradients of few-shot tasks, and trainings that are changed outside."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from experiments.papers.dynamics import begun_at, halted_after
from experiments.papers.imaml import ImplicitMAML
from experiments.supervised.networks import Perceptron
from experiments.tasks.few_shot import FewShot

TINY = ImplicitMAML(
    precision="float64",
    task=FewShot(
        source="digits",
        ways=2,
        shots=1,
        queries=2,
        turns=1,
        batch=1,
        num_eval=3,
        tune=("weights",),
        model=Perceptron(depth=0),
        rate=0.2,
        proximity=1.0,
        num_steps=3,
    ),
    num_outer_steps=2,
    adapt_steps=3,
    lengths=(1, 30),
    limit_steps=150,
)


def quiet(done, total):
    del done, total


@pytest.fixture
def problem():
    """Of w ← w − .2 (w − λ), from 0; the outer loss w²/2: w_T = λ (1 − .8^T)."""
    return hg.Problem(
        init=lambda key, hp: jnp.zeros(()),
        inner_loss=lambda w, hp, batch: 0.5 * (w - hp) ** 2,
        outer_loss=lambda w, hp, batch: 0.5 * w**2,
        optimizer=lambda hp: optax.sgd(0.2),
        train=jnp.zeros(1),
        valid=jnp.zeros(1),
        num_steps=9,
    )


@pytest.mark.parametrize("count", [0, 2, 9])
def test_halted_is_a_shorter_training(problem, count, key):
    halted = halted_after(problem, count)
    value, slope = hg.value_and_hypergrad(halted, hg.Reverse())(3.0, key)
    moved = 1 - 0.8**count
    np.testing.assert_allclose(value, 0.5 * (3.0 * moved) ** 2, atol=1e-15)
    np.testing.assert_allclose(slope, 3.0 * moved**2, atol=1e-15)


def test_begun_is_one_step_from_there(problem, key):
    state = problem.start(3.0, key)._replace(weights=jnp.asarray(2.0))
    begun = begun_at(problem, state)
    value, slope = hg.value_and_hypergrad(begun, hg.OneStep())(3.0, key)
    after = 2.0 - 0.2 * (2.0 - 3.0)
    np.testing.assert_allclose(value, 0.5 * after**2)
    np.testing.assert_allclose(slope, 0.2 * after)


@pytest.mark.slow
def test_unrolled_and_implicit_have_one_limit():
    found = TINY.measure(hg.Implicit(tolerance=float("inf")), 0, quiet)
    assert found.numbers["gap"] < 1e-9
    unrolled, solved = (found.curves[name] for name in ("unrolled", "solved"))
    assert unrolled.x == [1, 30]
    assert unrolled.y[0] > 0.1
    assert unrolled.y[1] < 1e-2
    assert solved.y[1] < unrolled.y[1]
    # CG that is not stopped early solves a system of so few directions.
    np.testing.assert_allclose(found.curves["estimated"].y, solved.y, rtol=1e-4)
    assert 0 <= found.numbers["accuracy"] <= 100


def test_what_has_no_limit_is_refused():
    flat = TINY.task.model_copy(update={"proximity": 0.0})
    with pytest.raises(ValueError, match="proximity > 0"):
        ImplicitMAML(task=flat)
    with pytest.raises(ValueError, match="lengths are at most limit_steps"):
        ImplicitMAML(lengths=(300,))


def test_missing_images_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERGRAD_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="omniglot"):
        ImplicitMAML().measure(hg.Implicit(), 0, quiet)
