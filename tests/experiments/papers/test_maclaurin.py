"""Maclaurin et al. (2015) against their arithmetic in integers of any size."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from experiments.papers import maclaurin
from experiments.papers.maclaurin_toy import MaclaurinToy, height

SCALE, HALF = 2**52, 2**16
CURVATURES = np.array([[2.0, 0.3], [0.3, 1.0]])
START = np.array([0.7, -1.3])
STEPS = 12
LOGITS = np.linspace(1.0, 3.0, STEPS)
LOG_ALPHA = np.linspace(-1.5, -0.5, STEPS)
HPARAMS = {"log_alpha": jnp.array(LOG_ALPHA), "logit": jnp.array(LOGITS)}


def quiet(*_):
    pass


def bowl(arithmetic):
    """½ wᵀ A w, with a step size and a momentum for each step."""
    loss = lambda w, hp, batch: 0.5 * w @ jnp.array(CURVATURES) @ w  # noqa: E731
    return hg.Problem(
        init=lambda key, hp: jnp.array(START),
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda hp: maclaurin.momentum(
            lambda t: jnp.exp(hp["log_alpha"][t]),
            lambda t: jax.nn.sigmoid(hp["logit"][t]),
            arithmetic,
        ),
        train=jnp.zeros(1),
        valid=jnp.zeros(1),
        num_steps=STEPS,
    )


class Fixed:
    """Numbers as multiples of 2^-52, and what was lost when they were multiplied."""

    def __init__(self, numbers):
        self.units = [int(x * SCALE) for x in numbers]
        self.lost = [0 for _ in numbers]

    def add(self, numbers):
        pairs = zip(self.units, numbers, strict=True)
        self.units = [units + int(x * SCALE) for units, x in pairs]

    def multiply(self, n, d):
        """By n/d: a remainder by d is kept, and one by n is taken from what was."""
        for i, units in enumerate(self.units):
            units, remainder = divmod(units, d)
            self.lost[i], kept = divmod(self.lost[i] * d + remainder, n)
            self.units[i] = units * n + kept

    @property
    def floats(self):
        return np.array([units / SCALE for units in self.units])


def theirs(log_alpha, logits):
    """F, dF/dlog α, dF/dlogit γ by algorithms 1 and 2, and whether the start is met."""
    alphas, gammas = np.exp(log_alpha), 1 / (1 + np.exp(-logits))
    numerators = [int(HALF * gamma + 1) for gamma in gammas]
    w, v = Fixed(START), Fixed(0 * START)
    first = list(w.units)
    for alpha, gamma, n in zip(alphas, gammas, numerators, strict=True):
        v.multiply(n, HALF)
        v.add(-(1 - gamma) * (CURVATURES @ w.floats))
        w.add(alpha * v.floats)
    value = 0.5 * w.floats @ CURVATURES @ w.floats
    of_w, of_v = CURVATURES @ w.floats, 0 * START
    of_alpha, of_gamma = np.zeros(STEPS), np.zeros(STEPS)
    for t in reversed(range(STEPS)):
        of_v = of_v + alphas[t] * of_w
        of_alpha[t] = of_w @ v.floats
        w.add(-alphas[t] * v.floats)
        slope = CURVATURES @ w.floats
        v.add((1 - gammas[t]) * slope)
        v.multiply(HALF, numerators[t])
        of_gamma[t] = of_v @ (v.floats + slope)
        of_w = of_w - (1 - gammas[t]) * CURVATURES @ of_v
        of_v = gammas[t] * of_v
    met = w.units == first and v.units == [0, 0] and v.lost == [0, 0]
    return value, of_alpha * alphas, of_gamma * gammas * (1 - gammas), met


def hypergradient(arithmetic, estimator, key):
    value, slope = hg.value_and_hypergrad(bowl(arithmetic), estimator)(HPARAMS, key)
    return float(value), np.concatenate([slope["log_alpha"], slope["logit"]])


def test_published_arithmetic_is_theirs(key):
    value, *slopes, met = theirs(LOG_ALPHA, LOGITS)
    assert met
    for estimator in (hg.Reverse(), hg.Forward()):
        ours, slope = hypergradient("published", estimator, key)
        np.testing.assert_allclose(ours, value, rtol=1e-10)  # 2^-36 is lost a step.
        np.testing.assert_allclose(slope, np.concatenate(slopes), rtol=1e-9)


def test_rounded_arithmetic_is_that_of_the_way_back(key):
    value, rounded = hypergradient("rounded", hg.Reverse(), key)
    missed, back = maclaurin.run_backwards(bowl("published"), HPARAMS, key)
    back = np.concatenate([back["log_alpha"], back["logit"]])
    assert missed == 0
    np.testing.assert_allclose(back, rounded, rtol=1e-11)
    same, published = hypergradient("published", hg.Reverse(), key)
    np.testing.assert_allclose(same, value, rtol=1e-14)
    gap = np.linalg.norm(published - rounded) / np.linalg.norm(rounded)
    assert 1e-6 < gap < 1e-3


@pytest.mark.parametrize("arithmetic", ["rounded", "real"])
def test_hypergradients_are_those_of_differences(arithmetic, key):
    """In log α; the rounded map is constant in γ between the levels of n/65536."""
    objective = jax.jit(hg.objective(bowl(arithmetic), hg.Reverse()))
    _, slope = hypergradient(arithmetic, hg.Reverse(), key)
    names = ("log_alpha", "logit") if arithmetic == "real" else ("log_alpha",)
    for name, own in zip(names, np.split(slope, 2), strict=False):
        for t in (0, STEPS - 1):
            either = [
                HPARAMS | {name: HPARAMS[name].at[t].add(h)} for h in (1e-5, -1e-5)
            ]
            up, down = (float(objective(hparams, key)) for hparams in either)
            np.testing.assert_allclose((up - down) / 2e-5, own[t], rtol=1e-7)


@pytest.mark.parametrize(
    ("arithmetic", "value", "by_v"),
    [
        ("published", 58983 / 65536, 0.9),
        ("rounded", 58983 / 65536, 58983 / 65536),
        ("real", 0.9, 0.9),
    ],
)
def test_a_velocity_that_decays(arithmetic, value, by_v):
    def velocity(gamma, v):
        rule = maclaurin.momentum(lambda t: 1.0, lambda t: gamma, arithmetic)
        state = maclaurin.MomentumState(jnp.zeros((), jnp.int32), v)
        return rule.update(jnp.zeros(()), state)[0]

    at = jnp.array(0.9), jnp.array(2.0)
    np.testing.assert_allclose(velocity(*at), 2 * value, rtol=1e-15)
    slopes = jax.grad(velocity, (0, 1))(*at)
    np.testing.assert_allclose(slopes, (2.0, by_v), rtol=1e-15)


def test_a_factor_for_each_array():
    rule = maclaurin.momentum(
        lambda t: {"a": jnp.array(2.0), "b": jnp.array(3.0)}, lambda t: 0.5, "real"
    )
    weights = {"a": jnp.ones(2), "b": jnp.ones(1)}
    moves, state = rule.update(weights, rule.init(weights))
    np.testing.assert_array_equal(moves["a"], [-1.0, -1.0])
    np.testing.assert_array_equal(moves["b"], [-1.5])
    assert state.step == 1


@pytest.mark.parametrize("fading", [1e-4, 1.0])
def test_odd_adam_is_their_loop(fading):
    slopes = np.random.default_rng(0).normal(size=(6, 3))
    x, m, v, b1, b2 = np.zeros(3), np.zeros(3), np.zeros(3), 0.1, 0.01
    rule = maclaurin.odd_adam(0.04, fading=fading)
    usual = optax.adam(0.04, b1=0.9, b2=0.99, eps=1e-4)
    ours, state, usual_state = jnp.zeros(3), rule.init(x), usual.init(x)
    for i, g in enumerate(slopes):
        b1t = 1 - (1 - b1) * fading**i
        m = b1t * g + (1 - b1t) * m
        v = b2 * g**2 + (1 - b2) * v
        m_hat, v_hat = m / (1 - (1 - b1) ** (i + 1)), v / (1 - (1 - b2) ** (i + 1))
        x = x - 0.04 * m_hat / (np.sqrt(v_hat) + 1e-4)
        move, state = rule.update(jnp.array(g), state)
        ours = ours + move
        np.testing.assert_allclose(ours, x, rtol=1e-12)
        if fading == 1.0:
            expected, usual_state = usual.update(jnp.array(g), usual_state)
            np.testing.assert_allclose(move, expected, rtol=1e-10)


def test_their_generator_and_the_order_of_their_weights():
    seed = int(hashlib.md5(b"(3, 1, 2)").hexdigest()[:8], 16)
    expected = np.random.RandomState(seed).randn(4)
    np.testing.assert_array_equal(maclaurin.random_state(3, 1, 2).randn(4), expected)
    random = np.random.RandomState(5)
    random.randn(7)
    np.testing.assert_array_equal(maclaurin.drawn_start(5, 7), random.randn(7))

    assert maclaurin.num_weights((2, 3, 1)) == 13
    (first, second) = maclaurin.as_weights(jnp.arange(13.0), (2, 3, 1))
    np.testing.assert_array_equal(first["kernel"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(first["bias"], [6, 7, 8])
    np.testing.assert_array_equal(second["kernel"], [[9], [10], [11]])
    groups = maclaurin.per_group(jnp.arange(4.0))
    assert [float(x) for pair in groups for x in pair.values()] == [0, 1, 2, 3]


def test_rows_are_bytes_without_the_mean_of_training_rows():
    rows = maclaurin.stacked("digits", centred=True).inputs
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=1e-12)
    plain = maclaurin.stacked("digits", centred=False).inputs
    assert plain.dtype == float
    assert (plain.min(), plain.max()) == (0.0, 1.0)


def test_toy_to_all_published_digits():
    found = MaclaurinToy().measure(hg.Reverse(), 0, quiet)
    published = [395.3048970305571, 356.5661601302375, 356.34134257661157]
    np.testing.assert_allclose(found.curves["loss"].y, published, rtol=1e-11)
    np.testing.assert_allclose(height(jnp.zeros(2)), 800 / (1 + np.exp(-1 / 500)))
