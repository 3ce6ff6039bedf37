"""Hypergradient descent and towers against loops differentiated by hand, in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators.hypergradient_descent import (
    HypergradientDescent,
    Multiplicative,
)
from hypergrad.estimators.tower import AdamLevel, SGDLevel, Tower
from hypergrad.online import tune
from tests.problems import cubic

NUM_CALLS, DECAY = 12, 0.1
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 5))
Y = X @ RNG.normal(size=5) + 0.3 * RNG.normal(size=20)
TABLE = RNG.integers(0, 20, size=(NUM_CALLS + 1, 6))


def gradient(w, t):
    """∇ℓ on the batch of step t, decay included."""
    x, y = X[TABLE[t]], Y[TABLE[t]]
    return x.T @ (x @ w - y) / len(y) + DECAY * w


class SGD:
    def direction(self, g):
        return g


class Nesterov:
    def __init__(self, momentum=0.9):
        self.momentum, self.trace = momentum, 0.0

    def direction(self, g):
        self.trace = g + self.momentum * self.trace
        return g + self.momentum * self.trace


class Adam:
    def __init__(self, b1=0.9, b2=0.999, eps=1e-8):
        self.b1, self.b2, self.eps = b1, b2, eps
        self.m = self.v = self.t = 0

    def direction(self, g):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m, v = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return m / (np.sqrt(v) + self.eps)


def by_hand(inner, alpha, change):
    """[α_t] and w_T where α_{t+1} = change(α_t, h_t, g_{t+1}, u_t), h = −g·u."""
    w, alphas = np.ones(5), []
    for t in range(NUM_CALLS):
        alphas.append(alpha)
        u = inner.direction(gradient(w, t))
        w = w - alpha * u
        g = gradient(w, t + 1)
        alpha = change(alpha, -g @ u, g, u)
    return np.array(alphas), w


@functools.cache  # equal functions share one compilation
def problem(optimizer, num_steps=NUM_CALLS):
    """The same training; its weights are two tensors that share one rate."""

    def loss(w, hp, batch):
        x, y = batch
        residual = x[:, :3] @ w["a"] + x[:, 3:] @ w["b"] - y
        square = jnp.sum(w["a"] ** 2) + jnp.sum(w["b"] ** 2)
        return 0.5 * jnp.mean(residual**2) + 0.5 * DECAY * square

    return hg.Problem(
        init=lambda key, hp: {"a": jnp.ones(3), "b": jnp.ones(2)},
        inner_loss=loss,
        outer_loss=loss,
        optimizer=optimizer,
        train=(X, Y),
        valid=(X, Y),
        num_steps=num_steps,
        batches=hg.IndexTable(jnp.asarray(TABLE)),
    )


INNER = {
    "SGD": (SGD, lambda hp: optax.sgd(hp["lr"]), 0.02, 1e-3),
    "SGDN": (
        Nesterov,
        lambda hp: optax.sgd(hp["lr"], momentum=0.9, nesterov=True),
        0.01,
        1e-4,
    ),
    "Adam": (Adam, lambda hp: optax.adam(hp["lr"]), 0.02, 1e-3),
}


sgd = functools.cache(optax.sgd)


def run(estimator, optimizer, alpha, rate, key):
    return tune(
        problem(optimizer),
        estimator,
        {"lr": alpha},
        sgd(rate),
        num_calls=NUM_CALLS,
        key=key,
    )


def flat(weights):
    return np.concatenate([weights["a"], weights["b"]])


@pytest.mark.parametrize("name", INNER)
def test_additive_rule_is_that_of_the_paper(name, key):
    """Baydin et al. 2018, algorithms 4, 5 and 6, rate and weights at every step."""
    inner, optimizer, alpha, beta = INNER[name]
    alphas, w = by_hand(inner(), alpha, lambda a, h, g, u: a - beta * h)
    got = run(HypergradientDescent(), optimizer, alpha, beta, key)
    np.testing.assert_allclose(got.trajectory["lr"], alphas, rtol=1e-12)
    np.testing.assert_allclose(flat(got.state.estimator.inner.weights), w, rtol=1e-12)
    assert np.ptp(alphas) > 0.05 * alpha, "the rate must have moved"


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_multiplicative_rule_is_that_of_the_paper(name, key):
    inner, optimizer, alpha, beta = INNER[name][:3] + (0.02,)

    def change(a, h, g, u):
        return a * (1 - beta * h / (np.linalg.norm(g) * np.linalg.norm(u)))

    alphas, _ = by_hand(inner(), alpha, change)
    got = run(HypergradientDescent(Multiplicative()), optimizer, alpha, beta, key)
    np.testing.assert_allclose(got.trajectory["lr"], alphas, rtol=1e-12)
    assert np.ptp(alphas) > 0.05 * alpha


def test_adamhd_moves_one_rate_once_a_step_for_all_tensors(key):
    """Peers move the rate after each tensor, so that later tensors use another one."""
    alpha, beta = 0.02, 1e-3
    alphas, _ = by_hand(Adam(), alpha, lambda a, h, g, u: a - beta * h)

    w, adam, last, peer = np.ones(5), Adam(), np.zeros(5), [alpha]
    for t in range(NUM_CALLS):
        g = gradient(w, t)
        u, rate = adam.direction(g), peer[-1]
        for tensor in (slice(0, 3), slice(3, 5)):
            rate += beta * g[tensor] @ last[tensor]
            w[tensor] -= rate * u[tensor]
        peer.append(rate)
        last = u

    got = run(HypergradientDescent(), INNER["Adam"][1], alpha, beta, key)
    np.testing.assert_allclose(got.trajectory["lr"], alphas, rtol=1e-12)
    assert np.max(np.abs(alphas - np.array(peer[1:]))) > 1e-4 * alpha


@pytest.mark.parametrize("rule", [HypergradientDescent(), None])
def test_several_hyperparameters_and_the_momentum_among_them(rule, key):
    """One step is w' = w − α (g + m v): ∂w'/∂α = −(g + m v), ∂w'/∂m = −α v."""
    alpha, momentum, beta = 0.02, 0.8, 1e-3
    estimator = rule or HypergradientDescent(Multiplicative())
    w, v = np.ones(5), np.zeros(5)
    expected = np.array([alpha, momentum])
    trajectory = []
    for t in range(NUM_CALLS):
        trajectory.append(expected)
        alpha, momentum = expected
        direction = gradient(w, t) + momentum * v
        columns = np.stack([-direction, -alpha * v])
        w, v = w - alpha * direction, direction
        g = gradient(w, t + 1)
        h = columns @ g
        if rule is None:
            norms = np.linalg.norm(columns, axis=1) * np.linalg.norm(g)
            h = expected * np.where(norms > 0, h / np.where(norms > 0, norms, 1), 0)
        expected = expected - beta * h

    got = tune(
        problem(lambda hp: optax.sgd(hp["lr"], momentum=hp["momentum"])),
        estimator,
        {"lr": 0.02, "momentum": 0.8},
        optax.sgd(beta),
        num_calls=NUM_CALLS,
        key=key,
    )
    pairs = np.stack([got.trajectory["lr"], got.trajectory["momentum"]], axis=1)
    np.testing.assert_allclose(pairs, trajectory, rtol=1e-12)


def tower_by_hand(inner, alpha, directions, rates):
    """Every level differentiated by hand; [α_t], [rates after step t]."""
    rates, last = list(rates), [0.0] * len(rates)
    history = []

    def change(alpha, h, g, u):
        slopes = [h]
        for i in range(len(rates) - 1):
            slopes.append(-slopes[i] * last[i])
        for i in reversed(range(len(rates))):
            last[i] = directions[i].direction(slopes[i])
            if i > 0:
                rates[i - 1] -= rates[i] * last[i]
        history.append(list(rates))
        return alpha - rates[0] * last[0]

    alphas, _ = by_hand(inner, alpha, change)
    return alphas, np.array(history)


TOWERS = {
    "SGD/SGD": ("SGD", (SGDLevel(1e-3),), (SGD,)),
    "SGD/SGD/SGD": ("SGD", (SGDLevel(1e-3), SGDLevel(1e-7)), (SGD, SGD)),
    "SGD/Adam": ("SGD", (AdamLevel(1e-3),), (Adam,)),
    "Adam/SGD/Adam/SGD": (
        "Adam",
        (SGDLevel(1e-3), AdamLevel(1e-4), SGDLevel(1e-5)),
        (SGD, Adam, SGD),
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_are_those_differentiated_by_hand(name, key):
    """Chandra et al. 2022: the highest moves first, each level by its last step."""
    inner_name, levels, directions = TOWERS[name]
    inner, optimizer, alpha, _ = INNER[inner_name]
    alphas, rates = tower_by_hand(
        inner(), alpha, [d() for d in directions], [level.rate for level in levels]
    )
    got = run(Tower(levels), optimizer, alpha, 1.0, key)
    np.testing.assert_allclose(got.trajectory["lr"], alphas, rtol=1e-11)
    end = [level.rate for level in got.state.estimator.levels]
    np.testing.assert_allclose(end, rates[-1], rtol=1e-11)
    if len(levels) > 1:
        assert abs(rates[-1, 0] / levels[0].rate - 1) > 0.01, "upper levels must act"


def test_levels_of_a_tower_outlive_a_training(key):
    tower = Tower((SGDLevel(1e-3), SGDLevel(1e-7)))
    short, hparams = problem(INNER["SGD"][1], num_steps=4), {"lr": 0.02}
    run, states = None, []
    for _ in range(5):
        run = tune(
            short,
            tower,
            run.hparams if run else hparams,
            sgd(1.0),
            num_calls=1,
            key=key,
            state=run.state if run else None,
        )
        states.append(run.state.estimator)
    assert [int(state.t) for state in states] == [1, 2, 3, 4, 1]
    (before, _), (after, _) = states[3].levels, states[4].levels
    assert before.rate != 1e-3
    # One product of two slopes, and no fresh start.
    np.testing.assert_allclose(
        after.rate,
        before.rate + 1e-7 * before.direction["lr"] * after.direction["lr"],
        rtol=1e-12,
    )


def test_a_tower_survives_a_gradient_that_is_not_finite(key):
    tower, broken = Tower((AdamLevel(), SGDLevel(1e-7))), problem(INNER["SGD"][1])
    state = tower.init(broken, {"lr": jnp.asarray(0.02)}, key)
    lost, after = hg.estimate(broken, tower, {"lr": 1e308}, state, key)
    assert not np.isfinite(lost.hypergrad["lr"])
    pairs = zip(
        jax.tree.leaves(after.levels), jax.tree.leaves(state.levels), strict=True
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("estimator", "rule"),
    [
        (HypergradientDescent(), lambda slope: slope),
        (HypergradientDescent(Multiplicative()), lambda slope: 0.5 * np.sign(slope)),
        (Tower(), lambda slope: 0.01 * slope),
    ],
)
def test_a_penalty_acts_through_the_step_alone(estimator, rule, key):
    """One step is w' = w − 0.1 (1 + λ) w, h = ℓ'(w') (−0.1 w); n has none."""
    decayed = hg.Problem(
        init=lambda key, hp: jnp.asarray(2.0),
        inner_loss=lambda w, hp, batch: 0.5 * w**2 + 0.5 * hp["l2"] * w**2,
        outer_loss=lambda w, hp, batch: 0.5 * w**2,
        optimizer=lambda hp: optax.sgd(0.1),
        train=jnp.ones(1),
        valid=jnp.ones(1),
        num_steps=1,
    )
    result, _ = hg.estimate(decayed, estimator, {"l2": 0.5, "n": 2}, (), key)
    w = 2 - 0.1 * 1.5 * 2
    expected = rule(1.5 * w * (-0.1 * 2))
    np.testing.assert_allclose(result.hypergrad["l2"], expected, rtol=1e-12)
    assert result.hypergrad["n"].dtype == jax.dtypes.float0


def test_without_an_inner_loss_they_are_refused(key):
    for estimator in (HypergradientDescent(), Tower()):
        with pytest.raises(ValueError, match="inner_loss_at"):
            hg.estimate(cubic(), estimator, 2.0, (), key)
    with_loss = cubic(inner_loss_at=lambda hp, s, tick: s**2)
    result, _ = hg.estimate(with_loss, HypergradientDescent(), 2.0, (), key)
    # Each of three steps: 2 s_{t+1} ∂(λ s_t)/∂λ = 2 λ s_t².
    np.testing.assert_allclose(result.hypergrad, 4 * (1 + 4 + 16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tower(()), "at least one level"),
        (lambda: SGDLevel(-1.0), "rate must be >= 0"),
        (lambda: AdamLevel(b2=1.0), "b2 must be in"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
