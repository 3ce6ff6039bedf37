"""Influence balancing and the toy regression against recursions in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.papers.vicol_influence import InfluenceBalancing, influence_balancing
from experiments.papers.vicol_toy2d import START, ToyRegression, height, toy_regression

SGD = hg.Outer("sgd", learning_rate=1e-2, clip=float("inf"))
SMALL = InfluenceBalancing(
    precision="float64", units=5, positive=2, outer=SGD, num_calls=30, horizon=60
)
TOY = ToyRegression(precision="float64", num_calls=2, spacing=2.5)


def quiet(done, total):
    del done, total


def by_hand(paper, window):
    """θ of truncated back-propagation through `window` steps; of all if None."""
    n, p, theta = paper.units, paper.positive, paper.start
    matrix = 0.5 * np.eye(n) + 0.5 * np.eye(n, k=1)
    signs = np.array([1.0] * p + [-1.0] * (n - p))
    s, response = np.ones(n), np.zeros(n)
    for _ in range(paper.num_calls):
        response = response if window is None else np.zeros(n)
        for _ in range(window or 1):
            s = matrix @ s + theta * signs
            response = matrix @ response + signs
        theta -= paper.outer.learning_rate * (s[0] - 1) * response[0]
    return theta


@pytest.mark.parametrize(
    ("estimator", "window"),
    [(hg.OnlineReverse(window=3), 3), (hg.RTHO(), None)],
    ids=["TBPTT", "RTRL"],
)
def test_influence_is_the_recursion_by_hand(estimator, window):
    found = SMALL.measure(estimator, 0, quiet)
    np.testing.assert_allclose(
        found.numbers["theta"], by_hand(SMALL, window), rtol=1e-12
    )
    assert found.curves["loss"].x[-1] == 30


def test_ten_steps_say_the_opposite_of_all(key):
    """s_1 − 1 is −4 at θ = ½, and ∂s_1/∂θ through 10 and 100 steps 10 and −6."""
    problem = influence_balancing(500)
    for window, influence in ((10, 10.0), (100, -6.0)):
        estimator = hg.Reverse(window=window)
        value, slope = hg.value_and_hypergrad(problem, estimator)(0.5, key)
        np.testing.assert_allclose(value, 8.0, rtol=1e-12)
        np.testing.assert_allclose(slope / -4.0, influence, atol=1e-5)


def test_an_episodic_estimator_follows_the_closed_form():
    """θ − θ* shrinks by 1 − η (2 (2p − n))² a call."""
    found = SMALL.measure(hg.Reverse(), 0, quiet)
    rest = (0.5 + 0.5) * (1 - 1e-2 * 4) ** np.asarray(found.curves["loss"].x)
    np.testing.assert_allclose(found.numbers["theta"], -0.5 + rest[-1], rtol=1e-9)
    np.testing.assert_allclose(found.curves["loss"].y, 2 * rest**2, rtol=1e-9)
    assert found.numbers["last_loss"] == found.curves["loss"].y[-1]


@pytest.mark.parametrize("fields", [{"units": 20}, {"positive": 24}])
def test_influence_that_is_none_or_too_much(fields):
    with pytest.raises(ValidationError, match="not the half of them"):
        InfluenceBalancing(**fields)


def descent(theta, num_steps):
    """The sum of f over a descent in numpy, by central differences of f."""

    def f(x):
        ripples = np.sin(x[1]) ** 2 * np.exp(-5 * x[0] ** 2)
        return np.hypot(x[0], 5**0.5) - 5**0.5 + ripples + abs(x[1] - 100) / 4

    x, total = np.ones(2), 0.0
    for t in range(num_steps):
        slope = [(f(x + e) - f(x - e)) / 2e-5 for e in 1e-5 * np.eye(2)]
        first, last = np.exp(theta)
        x = x - (first + (last - first) * t / num_steps) * np.array(slope)
        total += f(x)
    return total


@pytest.mark.parametrize("theta", [START, (-1.0, -3.0)])
def test_toy_is_the_descent_in_numpy(theta, key):
    value, _ = hg.unroll(toy_regression(), jnp.array(theta), key)
    np.testing.assert_allclose(value, descent(theta, 100), rtol=1e-7)


def test_toy_begins_where_the_rerun_did_and_knows_its_grid(key):
    found = TOY.measure(hg.OnlineReverse(window=10), 0, quiet)
    assert abs(found.numbers["start"] - 2490.56) < 0.005
    axis, problem = np.arange(-5, 5.1, 2.5), toy_regression()
    points = np.array([(a, b) for a in axis for b in axis])
    values = jax.vmap(lambda point: hg.unroll(problem, point, key)[0])(points)
    place = [found.numbers["grid_theta0"], found.numbers["grid_theta1"]]
    np.testing.assert_array_equal(place, points[np.argmin(values)])
    np.testing.assert_allclose(found.numbers["grid_best"], min(values), rtol=1e-6)
    # Adam's first step is its rate, downhill.
    for name, start in zip(("theta0", "theta1"), START, strict=True):
        path = found.curves[name].y
        np.testing.assert_allclose(path[:2], [start, start + 0.01], atol=1e-6)


def test_the_ripple_bars_the_way():
    along = np.array([height(jnp.array([0.0, x])) for x in np.linspace(1, 4, 31)])
    aside = np.array([height(jnp.array([2.0, x])) for x in np.linspace(1, 4, 31)])
    assert np.any(np.diff(along) > 0)
    assert np.all(np.diff(aside) < 0)
