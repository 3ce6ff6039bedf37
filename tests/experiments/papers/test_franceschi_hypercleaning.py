"""Data hyper-cleaning: descent, adjoints, Adam and projection once more, by NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.papers.franceschi_hypercleaning import HyperCleaning

SMALL = HyperCleaning(
    source="digits",
    precision="float64",
    num_train=40,
    num_valid=60,
    num_test=100,
    num_steps=4,
    num_outer_steps=3,
    rate=0.5,
    final_steps=5,
    share=0.6,
    outer=hg.Outer("adam", learning_rate=0.2, clip=float("inf")),
)


def quiet(done, total):
    del done, total


def batch(images):
    x = np.c_[np.asarray(images.inputs, float), np.ones(len(images.labels))]
    return x, np.eye(10)[images.labels]


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def trained(x, y, weights, rate, steps):
    """Every w of gradient descent on mean_i λ_i ℓ_i from zero."""
    w = [np.zeros((x.shape[1], 10))]
    for _ in range(steps):
        error = weights[:, None] * (softmax(x @ w[-1]) - y)
        w.append(w[-1] - rate * x.T @ error / len(x))
    return w


def hypergrad(train, valid, weights, rate, steps):
    """F and dF/dλ by algorithm 1 of the paper: adjoints from T to 0."""
    (x, y), (v, z) = train, valid
    *states, last = trained(x, y, weights, rate, steps)
    p = softmax(v @ last)
    loss = -np.mean(np.sum(z * np.log(p), 1))
    adjoint, slope = v.T @ (p - z) / len(v), np.zeros(len(x))
    for w in reversed(states):
        p, u = softmax(x @ w), x @ adjoint
        slope -= rate * np.sum((p - y) * u, 1) / len(x)
        curved = p * (u - np.sum(p * u, 1, keepdims=True))
        adjoint = adjoint - rate * x.T @ (weights[:, None] * curved) / len(x)
    return loss, slope


def projected(x, total):
    """The nearest point of the capped box: shift until the sum is right."""
    if np.clip(x, 0, 1).sum() <= total:
        return np.clip(x, 0, 1)
    low, high = x.min() - 1, x.max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        more = np.clip(x - middle, 0, 1).sum() > total
        low, high = (middle, high) if more else (low, middle)
    return np.clip(x - high, 0, 1)


def test_the_protocol_by_numpy():
    found, rows = SMALL.measure(hg.Reverse(), 3, quiet), SMALL.rows(3)
    train, valid = batch(rows.train), batch(rows.valid)
    lam, m, v, losses = np.full(40, 0.6), 0.0, 0.0, []
    for t in range(1, 4):
        loss, slope = hypergrad(train, valid, lam, 0.5 / 0.6, 4)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        root = np.sqrt(v / (1 - 0.999**t)) + 1e-8
        lam = projected(lam - 0.2 * m / (1 - 0.9**t) / root, 24.0)
        losses.append(loss)
    np.testing.assert_allclose(found.curves["loss"].y, losses, rtol=1e-9)
    assert found.numbers["sum"] == pytest.approx(lam.sum())
    removed = lam < 1e-3
    hits = np.sum(removed & rows.wrong)
    assert found.numbers["f1"] == pytest.approx(2 * hits / (removed.sum() + 20))
    assert found.numbers["removed"] == removed.sum() > 0


@pytest.mark.parametrize("final", ["kept", "weighted"])
def test_the_final_training_by_numpy(final):
    """On the rows kept and the clean ones; or weighted, the clean ones by max λ."""
    paper = SMALL.model_copy(update={"final": final})
    rows, weights = SMALL.rows(0), np.linspace(0, 0.5, 40)
    kept = weights >= 0.2
    (x, y), (v, z) = batch(rows.train), batch(rows.valid)
    if final == "kept":
        x, y = np.r_[x[kept], v], np.r_[y[kept], z]
        w = trained(x, y, np.ones(len(x)), 0.5, 5)[-1]
    else:
        x, y = np.r_[x, v], np.r_[y, z]
        w = trained(x, y, np.r_[weights, np.full(60, 0.5)], 0.5 / 0.5, 5)[-1]
    inputs, targets = batch(rows.test)
    right = np.argmax(inputs @ w, 1) == np.argmax(targets, 1)
    found = paper.accuracy(rows, jnp.asarray(kept), jnp.asarray(weights))
    assert float(found) == pytest.approx(100 * np.mean(right))


def test_half_of_the_labels_are_wrong_and_no_other_row_is_touched():
    rows, other = SMALL.rows(0), SMALL.model_copy(update={"skip": 7}).rows(0)
    plain = SMALL.model_copy(update={"noise": 1e-9}).rows(0)
    assert rows.wrong.sum() == 20
    np.testing.assert_array_equal(rows.train.labels != plain.train.labels, rows.wrong)
    assert rows.train.labels.max() <= 9
    np.testing.assert_array_equal(rows.train.inputs[7:], other.train.inputs[:-7])
    np.testing.assert_array_equal(rows.valid.labels[7:], other.valid.labels[:-7])


def test_oracle_and_baseline_are_trainings_on_known_rows():
    rows = SMALL.rows(5)
    for keep, kept in (("right", ~rows.wrong), ("all", np.ones(40, bool))):
        paper = SMALL.model_copy(update={"keep": keep})
        found = paper.measure(None, 5, quiet).numbers["accuracy"]
        own = paper.accuracy(rows, jnp.asarray(kept), jnp.ones(40))
        assert found == pytest.approx(float(own))


def test_a_share_is_a_part():
    with pytest.raises(ValidationError, match="share"):
        HyperCleaning(share=1500.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        hg.Reverse(),
        hg.Reverse(window=10),
        hg.Forward(chunk=40),
        hg.Implicit(damping=0.05, tolerance=1e30),
    ],
    ids=["reverse", "window", "forward", "implicit"],
)
def test_wrong_labels_are_found(estimator):
    larger = {"num_train": 200, "num_valid": 300, "num_test": 1000, "final_steps": 200}
    outer = hg.Outer("adam", learning_rate=0.05, clip=float("inf"))
    sizes = larger | {"num_steps": 40, "num_outer_steps": 60, "outer": outer}
    paper = SMALL.model_copy(update=sizes | {"share": 0.3})
    found = paper.measure(estimator, 0, quiet).numbers
    baseline = paper.model_copy(update={"keep": "all"}).measure(None, 0, quiet)
    assert found["f1"] > 0.8
    assert found["accuracy"] > baseline.numbers["accuracy"]
