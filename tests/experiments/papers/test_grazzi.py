"""Logistic regression and 20 newsgroups of Grazzi et al. against other arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.model_selection import train_test_split

import hypergrad as hg
from experiments.papers import grazzi_20news as words
from experiments.papers import grazzi_regression as regression
from experiments.papers import pedregosa_rows as sets
from experiments.papers.grazzi_20news import Grazzi20News
from experiments.papers.grazzi_logreg import GrazziLogisticRegression

TEN = hg.Implicit(solver=hg.CG(max_iterations=10, tolerance=1e-12), tolerance=1e9)


def silent(done, total):
    pass


def small(**options):
    sizes = {"rate": 1.0, "outer": hg.Outer("sgd", 1.0, clip=float("inf"))}
    return Grazzi20News(source="digits", solves=(10,), **sizes | options)


def test_rows_are_those_of_numpys_global_generator():
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    true, inputs = np.random.randn(20), np.random.randn(1000, 20)  # noqa: NPY002
    labels = (inputs @ true + 0.1 * np.random.randn(1000) > 0).astype(float)  # noqa: NPY002
    split = train_test_split(inputs, labels, test_size=0.5)
    np.random.set_state(state)  # noqa: NPY002
    halves = regression.shuffled("synthetic", 1000, 20, seed=1)
    ours = (halves.train[0], halves.valid[0], halves.train[1], halves.valid[1])
    for a, b in zip(ours, split, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_first_losses_that_the_authors_printed():
    found = GrazziLogisticRegression(num_outer_steps=21).measure(
        hg.Reverse(window=10), 1, silent
    )
    loss, inner = found.curves["loss"].y, found.curves["inner_loss"].y
    printed = [0.5743989944458008, 0.5337678790092468, 0.3615218698978424]
    np.testing.assert_allclose([loss[0], loss[10], loss[20]], printed, atol=3e-7)
    printed = [0.6931472420692444, 0.6285591125488281, 0.6240898370742798]
    np.testing.assert_allclose([inner[0], inner[10], inner[99]], printed, atol=3e-7)


def test_a_window_of_all_steps_is_the_whole_and_the_end_is_known(key):
    """What their notebook prints as "should be 0", and −w ∘ H⁻¹ ∇F by hand."""
    halves = regression.shuffled("synthetic", 100, 5, seed=0)
    lam = jnp.linspace(0.5, 2.0, 5)
    short, long = (regression.problem(halves, 0.1, steps) for steps in (100, 1500))
    whole = hg.hypergrad(short, hg.Reverse())(lam, key)
    window = hg.hypergrad(short, hg.Reverse(window=100))(lam, key)
    np.testing.assert_allclose(window, whole, rtol=1e-12)

    (x, _), (v, yv) = halves
    w = np.asarray(hg.train(long, lam, key).weights)
    s = 1 / (1 + np.exp(-x @ w))
    hessian = x.T @ ((s * (1 - s))[:, None] * x) / len(x) + np.diag(lam)
    slope = v.T @ (1 / (1 + np.exp(-v @ w)) - yv) / len(v)
    by_hand = -w * np.linalg.solve(hessian, slope)
    np.testing.assert_allclose(hg.hypergrad(long, hg.Reverse())(lam, key), by_hand)


def test_coefficients_are_clamped():
    paper = GrazziLogisticRegression(
        num_rows=100, dimension=5, num_steps=20, num_outer_steps=60, least=0.3
    )
    found = paper.measure(hg.Reverse(window=10), 0, silent)
    l2 = found.curves["l2"].y
    assert min(l2) == 0.3
    assert found.numbers["clamped"] == sum(value == 0.3 for value in l2)
    assert max(l2) > 0.3


def test_rows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="num_rows must be even"):
        regression.drawn("synthetic", 11, 3, seed=0)
    with pytest.raises(ValueError, match="at most the 1797 rows of digits"):
        regression.shuffled("digits", 2000, 3, seed=0)


def test_unit_rows():
    rows = sets.parts("digits").train.inputs
    lengths = np.zeros(len(rows))
    unit = sets.matrix(rows, unit=True)
    np.add.at(lengths, np.asarray(unit.rows), np.asarray(unit.values) ** 2)
    np.testing.assert_allclose(lengths, 1.0)
    plain, weights = sets.matrix(rows, unit=False), np.arange(64)
    product = plain @ jnp.asarray(weights, float)
    np.testing.assert_allclose(product, rows.dense() @ weights, rtol=1e-6)


@pytest.mark.slow
def test_heavy_ball_from_rest_is_their_recursion(key):
    """W⁺ = W − s g + μ (W − W_previous), the first W_previous being W."""
    paper = small(num_steps=3)
    train, valid, _ = paper._split(0)
    problem = paper._problem(train, valid)
    start = 0.1 * jax.random.normal(key, problem.data.given.shape)
    problem = problem.replace(data=problem.data._replace(given=start))
    hp = jnp.linspace(0.0, 3.0, 64)
    loss = lambda w: words.mean_loss(w, train) + words.penalty(w, hp)  # noqa: E731
    slope = jax.jit(jax.grad(loss))
    last = w = start
    for _ in range(3):
        last, w = w, w - slope(w) + 0.9 * (w - last)
    found = hg.train(problem, hp, key).weights
    np.testing.assert_allclose(found, w, rtol=1e-10, atol=1e-12)


def test_many_coefficients_against_scipy_and_from_a_warm_start():
    warm = small(num_outer_steps=4).measure(TEN, 0, silent)
    assert warm.numbers["scipy_gap"] < 1e-9
    assert warm.numbers["largest_rise"] < 0
    cold = small(num_outer_steps=3, warm=False, tune=False).measure(TEN, 0, silent)
    losses = cold.curves["loss"].y
    assert losses[0] == losses[1] == losses[2] == warm.curves["loss"].y[0]


@pytest.mark.slow
def test_another_estimator_lowers_the_loss_likewise():
    found = small(num_outer_steps=10).measure(hg.Reverse(), 0, silent)
    assert found.numbers["largest_rise"] < 0
