"""Hypernetworks and the models that they write, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers import lorraine_hypernet_each as each
from experiments.papers.images import images
from experiments.papers.lorraine_hypernet import (
    LorraineHypernet,
    Moments,
    answer,
    layers,
    one_hot,
)
from experiments.papers.lorraine_hypernet_each import LorraineHypernetEach

SMALL = LorraineHypernet(
    source="digits",
    precision="float64",
    num_valid=50,
    rate=1e-2,
    num_steps=5,
    num_points=3,
    hidden=4,
    num_samples=2,
    num_iterations=3,
)
EACH = LorraineHypernetEach(
    source="digits",
    precision="float64",
    num_train=60,
    num_valid=60,
    num_test=60,
    units=3,
    rate=1e-3,
    num_iterations=100,
    num_steps=10,
    num_outer_steps=3,
)


def quiet(done, total):
    del done, total


def by_numpy(w, inputs, targets):
    """−mean log N(y; x w, 0.1²), from the density itself."""
    apart = (inputs @ w.reshape(65, 10) - targets) / 0.1
    density = np.exp(-0.5 * apart**2) / (0.1 * np.sqrt(2 * np.pi))
    return -np.mean(np.log(density))


def test_moments_see_what_rows_see(key):
    rows = one_hot(images("digits").rows(10, 60))
    w = 0.1 * jax.random.normal(key, (650,))
    moments = Moments.of(rows)
    np.testing.assert_allclose(moments.error(w), rows.error(w), rtol=1e-12)
    slopes = (jax.grad(part.error)(w) for part in (moments, rows))
    np.testing.assert_allclose(*slopes, rtol=1e-9, atol=1e-15)


def test_the_loss_is_minus_a_log_density(key):
    train, _ = SMALL.rows()
    w = 0.01 * jax.random.normal(key, (650,))
    hand = by_numpy(np.asarray(w), *map(np.asarray, train))
    length = np.linalg.norm(w)
    for penalty, size in (("norm", length), ("squares", length**2)):
        paper = SMALL.model_copy(update={"penalty": penalty})
        found = paper.inner_loss(train, w, jnp.asarray(-2.0))
        np.testing.assert_allclose(found, hand + np.exp(-2.0) * size)


def test_weights_are_drawn_as_the_authors_draw_them():
    """`rs.randn(in, out) * s, rs.randn(out) * s`, layer after layer."""
    state = np.random.RandomState(7)
    hand = [(state.randn(1, 4), state.randn(4)), (state.randn(4, 6), state.randn(6))]
    for ours, theirs in zip(layers([1, 4, 6], 1.0, 7), hand, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    state = np.random.RandomState(7)
    kernel, bias = state.randn(64, 10), state.randn(10)
    train, valid = SMALL.rows()
    key = jax.random.key(0)
    start = SMALL.problem(train, valid, 7).start(jnp.zeros(()), key).weights
    np.testing.assert_allclose(start, 0.01 * np.r_[kernel.ravel(), bias])


def test_a_hypernetwork_is_a_function_of_lambda():
    net = layers([1, 4, 6], 1.0, 3)
    (a, b), (c, d) = ((np.asarray(x) for x in layer) for layer in net)
    hand = np.maximum(0.7 * a[0] + b, 0) @ c + d
    np.testing.assert_allclose(answer(net, jnp.array([0.7])), hand, rtol=1e-12)
    np.testing.assert_allclose(
        each.answer(net, jnp.array([0.7])), (0.7 * a[0] + b) @ c + d, rtol=1e-12
    )


def test_samples_are_seeded_by_the_iteration():
    points = np.asarray(SMALL._points(3, 5))
    for row, k in zip(points, (3, 4), strict=True):
        state = np.random.RandomState(k)
        hand = [min(state.randn() * 3.0 + 1.0, 4.0) for _ in range(2)]
        np.testing.assert_allclose(row, hand)


def test_a_local_hypernetwork_by_hand():
    """φ ← φ − α ∇ℓ(w_φ(λ̂), λ̂), then Adam on λ̂ ↦ F(w_φ(λ̂))."""
    paper = SMALL.model_copy(update={"response": "local", "hidden": 0, "rate": 1e-3})
    train, valid = paper.rows()
    net, path = paper._learned(train, valid, 7, quiet)
    (kernel, bias) = (np.asarray(x) for x in layers([1, 650], 0.01, 7)[0])
    rows, current, m, v, seen = paper.rows(), -3.5, 0.0, 0.0, []

    def slope(part, w):
        return np.asarray(jax.grad(lambda w: paper.likelihood(part, w))(jnp.array(w)))

    for t in range(1, 4):
        w = current * kernel[0] + bias
        g = slope(rows[0], w) + np.exp(current) * w / np.linalg.norm(w)
        kernel, bias = kernel - 1e-3 * current * g, bias - 1e-3 * g
        d = slope(rows[1], current * kernel[0] + bias) @ kernel[0]
        m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d**2
        root = np.sqrt(v / (1 - 0.999**t)) + 1e-8
        current -= 0.01 * m / (1 - 0.9**t) / root
        seen.append(current)
    np.testing.assert_allclose(path, seen, rtol=1e-9)
    np.testing.assert_allclose(net[0][1], bias, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [hg.Forward(), hg.Reverse()])
def test_the_minimum_is_where_the_slope_changes_sign(estimator):
    found = SMALL.model_copy(
        update={"num_steps": 60, "low": -4.0, "high": 4.0, "num_points": 9}
    ).measure(estimator, 7, quiet)
    minimum, values = found.numbers["minimum"], found.curves["from_scratch"]
    best = values.x[int(np.argmin(values.y))]
    assert abs(minimum - best) <= 1.0
    assert 0 <= found.numbers["excess"] <= 1
    assert len(found.curves["response"].y) == 100


@pytest.mark.slow
def test_decays_of_each_weight():
    scratch = EACH.model_copy(update={"method": "scratch"})
    found = scratch.measure(hg.Reverse(), 0, quiet)
    errors = found.curves["scratch_valid"].y
    assert errors[0] > errors[1] > errors[2]
    for name in ("valid", "test"):
        last = found.curves[f"scratch_{name}"].y[-1]
        assert found.numbers[f"{name}_error"] == last
    learned = EACH.measure(hg.Reverse(), 0, quiet)
    assert learned.curves["valid"].x == [0.0, 100.0]
    assert learned.numbers["valid_error"] < learned.curves["valid"].y[0]
