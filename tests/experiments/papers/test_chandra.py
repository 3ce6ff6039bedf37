"""Towers of optimisers against a loop written out by hand, two levels and three."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers import one_training
from experiments.papers.chandra import ChandraMnist, WarmAdamLevel, squashed, unsquashed
from experiments.papers.images import images
from experiments.papers.torch_draws import TorchDraws

SMALL = ChandraMnist(
    source="digits",
    hidden=6,
    num_train=60,
    num_test=40,
    batch_size=30,
    num_epochs=3,
    learned=("alpha",),
)


def quiet(done, total):
    del done, total


@functools.cache
def drawn():
    """What is drawn for seed 5: w_0 as a vector, and the gradient of each batch."""
    draws = TorchDraws(5)
    layers = one_training.linear_layers(draws, (64, 6, 10))
    vector, unravel = jax.flatten_util.ravel_pytree(layers)
    data = images("digits")
    orders = [draws.permutation(60).reshape(2, 30) for _ in range(3)]

    @jax.jit
    @jax.grad
    def slope(vector, x, y):
        (a, b), (c, d) = unravel(vector)
        logits = jnp.tanh(jnp.tanh(x @ a + b[None]) @ c + d[None])
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(30), y])

    rows = [(data.inputs[r].astype(float), data.labels[r]) for r in np.vstack(orders)]
    return np.asarray(vector), [lambda w, r=r: np.asarray(slope(w, *r)) for r in rows]


class ByHand:
    """Adam of one number as their class has it, moments and all."""

    def __init__(self, rate):
        self.rate, self.t, self.m, self.v = rate, 0, 0.0, 1e-8

    def direction(self, g):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return m / (v**0.5 + 1e-8)


def test_sgd_over_sgd_over_sgd():
    """κ ← κ + ρ h_t h_{t−1}, α ← α − κ h_t with the new κ; h_t = −g_t · g_{t−1}."""
    levels = (hg.SGDLevel(0.02), hg.SGDLevel(0.03))
    found = SMALL.measure(hg.Tower(levels), 5, quiet)
    w, slopes = drawn()
    alpha, kappa, before, h_before, alphas = 0.01, 0.02, 0.0 * w, 0.0, []
    for slope in slopes:
        g = slope(w)
        h = -g @ before
        kappa = kappa + 0.03 * h * h_before
        alpha = alpha - kappa * h
        w, before, h_before = w - alpha * g, g, h
        alphas.append(alpha)
    np.testing.assert_allclose(found.curves["alpha"].y, alphas, rtol=1e-9)
    assert alphas[-1] > 0.0101


def test_sgd_over_adam():
    found = SMALL.measure(hg.Tower((WarmAdamLevel(0.005),)), 5, quiet)
    w, slopes = drawn()
    alpha, before, above, alphas = 0.01, 0.0 * w, ByHand(0.005), []
    for slope in slopes:
        g = slope(w)
        alpha = alpha - above.rate * above.direction(-g @ before)
        w, before = w - alpha * g, g
        alphas.append(alpha)
    np.testing.assert_allclose(found.curves["alpha"].y, alphas, rtol=1e-9)


def test_adam_over_sgd_moves_rate_and_decays():
    """The last update as a function of (α, z1, z2), differentiated by itself."""
    learned = {"optimizer": "adam", "learned": ("alpha", "beta1", "beta2")}
    paper = SMALL.model_copy(update=learned)
    found = paper.measure(hg.Tower((hg.SGDLevel(0.1),)), 5, quiet)

    def moved(hparams, w, m, v, g, t):
        alpha, b1, b2 = hparams[0], squashed(hparams[1]), squashed(hparams[2])
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        root = jnp.sqrt(v / (1 - b2**t)) + 1e-8
        return w - alpha * m / (1 - b1**t) / root, m, v

    @jax.jit
    def pulled(hparams, g, last):
        return jax.vjp(lambda hp: moved(hp, *last)[0], hparams)[1](g)[0]

    w, slopes = drawn()
    hparams = jnp.array([0.01, unsquashed(0.9), unsquashed(0.999)])
    m, v, last = 0.0 * w, jnp.full_like(w, 1e-8), ()
    for t, slope in enumerate(slopes, start=1):
        g = slope(w)
        if last:
            hparams = hparams - 0.1 * pulled(hparams, g, last)
        last = (w, m, v, g, float(t))
        w, m, v = jax.jit(moved)(hparams, *last)
    ends = [found.numbers[name] for name in ("alpha", "beta1", "beta2")]
    by_hand = [hparams[0], squashed(hparams[1]), squashed(hparams[2])]
    np.testing.assert_allclose(ends, by_hand, rtol=1e-8)
    assert abs(by_hand[1] - 0.9) > 1e-5


@pytest.mark.slow
def test_one_level_is_hypergradient_descent():
    tower = SMALL.measure(hg.Tower((hg.SGDLevel(0.02),)), 5, quiet)
    plain = SMALL.model_copy(update={"outer_rate": 0.02})
    found = plain.measure(hg.HypergradientDescent(), 5, quiet)
    np.testing.assert_allclose(
        found.curves["alpha"].y, tower.curves["alpha"].y, rtol=1e-12
    )


def test_decays_of_sgd_are_refused():
    paper = SMALL.model_copy(update={"learned": ("alpha", "beta1")})
    with pytest.raises(ValueError, match="sgd has an alpha only"):
        paper.measure(hg.Tower(), 0, quiet)
