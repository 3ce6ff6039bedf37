"""Overfitting a validation set: the implicit hypergradient and the loop, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers.lorraine_overfit import LorraineOverfit, cosine
from experiments.supervised.networks import Convolutional

SMALL = LorraineOverfit(
    source="digits",
    precision="float64",
    mean=0.3,
    deviation=0.4,
    num_train=20,
    num_valid=20,
    num_test=30,
    rate=1e-3,
    num_steps=2,
    num_outer_steps=3,
)


def quiet(done, total):
    del done, total


def series(terms, scale):
    solver = hg.Neumann(max_iterations=terms + 1, scale=scale, tolerance=0.0)
    return hg.Implicit(solver=solver, tolerance=1e30)


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


class ByNumpy:
    """Weights as one [65, 10] whose last row is the bias; λ likewise."""

    def __init__(self, problem):
        self.train, self.valid = (
            (np.c_[np.asarray(x), np.ones(len(x))], np.eye(10)[np.asarray(y)])
            for x, y in (problem.data.train, problem.data.valid)
        )

    def slope(self, w, rows):
        x, y = rows
        return x.T @ (softmax(x @ w) - y) / len(x)

    def product(self, w, lam, v):
        x, _ = self.train
        p, u = softmax(x @ w), x @ v
        curved = p * (u - np.sum(p * u, 1, keepdims=True))
        return x.T @ curved / len(x) + 2 * np.exp(lam) * v

    def hypergrad(self, w, lam, terms, scale):
        term = self.slope(w, self.valid)
        total = term
        for _ in range(terms):
            term = term - scale * self.product(w, lam, term)
            total = total + term
        return -2 * np.exp(lam) * w * scale * total

    def loss(self, w):
        x, y = self.valid
        return -np.mean(np.sum(y * np.log(softmax(x @ w)), 1))


def joined(tree):
    return np.vstack([tree["head"]["kernel"], np.asarray(tree["head"]["bias"])[None]])


def test_the_protocol_by_numpy():
    """Adam whose moments are kept, a series of three terms, RMSprop."""
    found = SMALL.measure(series(3, 0.01), 0, quiet)
    problem, _, model = SMALL.problem()
    key = jax.random.key(0)
    hand = ByNumpy(problem)
    w = joined(problem.start(SMALL.start_of(model, key), key).weights)
    lam, m, v, t = np.full(w.shape, -4.0), 0.0, 0.0, 0
    square, losses = 0.0, []
    for step in range(1, 4):
        for _ in range(2):
            g, t = hand.slope(w, hand.train) + 2 * np.exp(lam) * w, t + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            root = np.sqrt(v / (1 - 0.999**t)) + 1e-8
            w = w - 1e-3 * m / (1 - 0.9**t) / root
        losses.append(hand.loss(w))
        slope = hand.hypergrad(w, lam, 3, 0.01)
        square = 0.99 * square + 0.01 * slope**2
        lam = lam - 0.1 * slope / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    np.testing.assert_allclose(found.curves["loss"].y, losses, rtol=1e-9)


def test_held_coefficients_are_those_of_one_long_training():
    held = SMALL.model_copy(update={"tune": False})
    found = held.measure(series(0, 1.0), 0, quiet)
    problem, _, model = SMALL.problem()
    key = jax.random.key(0)
    hparams = SMALL.start_of(model, key)
    for steps, value in zip((2, 4, 6), found.curves["loss"].y, strict=True):
        long = problem.replace(num_steps=steps)
        alone, _ = hg.unroll(long, hparams, key)
        np.testing.assert_allclose(value, alone, rtol=1e-12)


@pytest.mark.slow
def test_cosines_end_at_one():
    paper = SMALL.model_copy(
        update={"num_outer_steps": 0, "terms": (1, 4, 60), "settled": 30}
    )
    found = paper.measure(series(0, 1.0), 0, quiet)
    assert found.numbers["least_rise"] > 0
    assert found.curves["conjugate_gradients"].y[-1] == pytest.approx(1, abs=1e-6)
    assert set(found.curves) == {"neumann", "conjugate_gradients"}


def test_cosine():
    a, b = {"x": jnp.array([3.0, 4.0])}, {"x": jnp.array([-4.0, 3.0])}
    assert cosine(a, a) == pytest.approx(1)
    assert cosine(a, b) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", [series(3, 1e-4), hg.Reverse()], ids=["implicit", "reverse"]
)
def test_a_validation_set_is_learned_by_heart(estimator):
    paper = SMALL.model_copy(update={"num_steps": 5, "num_outer_steps": 150})
    found = paper.measure(estimator, 0, quiet).numbers
    held = paper.model_copy(update={"tune": False}).measure(estimator, 0, quiet).numbers
    assert found["valid_accuracy"] == 100 > held["valid_accuracy"]


@pytest.mark.slow
def test_a_convolutional_network():
    cnn = Convolutional(depth=1, filters=4, kernel=3, stride=2)
    paper = SMALL.model_copy(update={"model": cnn, "num_outer_steps": 5})
    losses = paper.measure(series(1, 1e-3), 0, quiet).curves["loss"].y
    assert losses[-1] < losses[0]
