"""HOAG: its exact solutions, its hypergradient and where it ends."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import hypergrad as hg
from experiments.papers import pedregosa_logistic as logistic
from experiments.papers import pedregosa_rows as sets
from experiments.papers.pedregosa_hoag import Hoag, within

IMPLICIT = hg.Implicit(solver=hg.CG(max_iterations=2000), tolerance=1e9)


def silent(done, total):
    pass


@pytest.fixture(scope="module")
def solved():
    """Data with w solved for at α = −2, and the data as drawn."""
    data = Hoag(source="digits")._data(0)
    start = jnp.zeros_like(data.weights)
    weights, _ = logistic.solve(data, start, -2.0, 1e-6)
    return data._replace(weights=weights)


def test_exact_solutions_are_those_of_scikit_learn(solved):
    train, valid, _ = sets.parts("digits")
    signs = [np.where(part.labels < 5, -1, 1) for part in (train, valid)]
    rows = [part.inputs.dense().astype(float) for part in (train, valid)]
    rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
    model = LogisticRegression(C=np.exp(2.0), fit_intercept=False, tol=1e-8)
    theirs = model.fit(rows[0], signs[0]).coef_[0]
    np.testing.assert_allclose(solved.weights, theirs, atol=2e-4)
    logits = signs[1] * (rows[1] @ np.asarray(solved.weights))
    by_hand = np.sum(np.logaddexp(0, -logits))
    np.testing.assert_allclose(logistic.held_out(solved.weights, solved.valid), by_hand)
    wrong = np.mean(model.predict(rows[1]) != signs[1])
    assert abs(float(logistic.error_rate(solved.weights, solved.valid)) - wrong) < 0.005


def test_one_newton_step_gives_every_estimator_the_hypergradient(solved, key):
    """Reverse through it, as Implicit without."""
    plain = logistic.problem(solved, logistic.handed_in)
    polished = logistic.problem(solved, logistic.newton)
    alpha = jnp.asarray(-2.0)
    expected = hg.hypergrad(plain, IMPLICIT)(alpha, key)
    assert abs(float(expected)) > 0.1
    found = hg.hypergrad(polished, hg.Reverse())(alpha, key)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_looser_goal_costs_less(solved):
    start, alpha = jnp.zeros_like(solved.weights), -2.0
    weights, count = logistic.solve(solved, start, alpha, 0.1)
    norm = logistic.slope_norm(weights, alpha, solved.train)
    _, more = logistic.solve(solved, start, alpha, 1e-4)
    assert 1e-4 < norm < 0.1
    assert count < more
    _, none = logistic.solve(solved, weights, alpha, 0.1)
    assert none == 1


def test_the_tolerance_of_the_linear_solve_falls_by_powers_of_ten():
    for tolerance, expected in ((1e-3, 1e-3), (9e-4, 1e-4), (1.1e-4, 1e-4)):
        solver = within(IMPLICIT, tolerance).solver
        assert solver.tolerance == pytest.approx(expected)
    fixed = dataclasses.replace(IMPLICIT, solver=hg.CG(tolerance=1e-8))
    assert within(fixed, 1e-3) is fixed
    assert within(hg.Reverse(), 1e-3) == hg.Reverse()


def test_what_cannot_differentiate_a_given_solution_is_refused():
    with pytest.raises(ValueError, match="paper.polish=newton"):
        Hoag(source="digits").measure(hg.Reverse(), 0, silent)


def test_half_of_the_training_part_validates():
    whole, half = Hoag(source="digits"), Hoag(source="digits", valid="half")
    rows = whole._data(0).train[0].shape[0]
    data = half._data(0)
    assert data.train[0].shape[0] + data.valid[0].shape[0] == rows
    assert abs(data.train[0].shape[0] - data.valid[0].shape[0]) <= 1


@pytest.mark.slow
def test_it_ends_where_the_held_out_loss_is_least():
    found = Hoag(source="digits", grid=(-2.5, -2.0, -1.5)).measure(IMPLICIT, 0, silent)
    assert found.numbers["held_out"] <= min(found.curves["grid"].y) + 1e-3
    assert found.numbers["slope_gap"] < 1e-5
    assert found.numbers["from_grid_best"] < 0.5


@pytest.mark.slow
def test_published_data(real_data):
    """The held-out loss at α = 0 of an independent rerun."""
    data = Hoag()._data(0)
    start = jnp.zeros_like(data.weights)
    weights, _ = logistic.solve(data, start, 0.0, 1e-3)
    assert abs(float(logistic.held_out(weights, data.valid)) - 2793.5) < 0.05
