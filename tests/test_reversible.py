"""Momentum run backwards: exact integers, and the gradient of the rounded training."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.api import HypergradWarning
from hypergrad.estimators import reversible_arithmetic as exact
from hypergrad.estimators.base import estimator_key
from hypergrad.estimators.heavy_ball import HeavyBall
from hypergrad.estimators.reversible import Reversible
from tests.oracles import Ridge
from tests.problems import cubic, digits, relative, ridge

T = 12
HPARAMS = {
    "lr": 0.1 + 0.005 * np.arange(T),
    "momentum": 0.7,
    "l2": 0.1 * (1 + np.arange(4.0)),
}


# Segments shorter than a word, so that 12 steps have three, the last one not full.
OURS = {bits: Reversible(bits, spill_every=5) for bits in (32, 64)}


def run(problem, estimator, hparams, key):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypergradWarning)
        return hg.estimate(problem, estimator, hparams, (), key)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "tolerance"), [(64, 1e-9), (32, 1e-4)])
def test_equals_reverse_of_the_training_in_floats(bits, tolerance, key):
    problem = ridge(T, batch_size=5)
    expected = run(problem, hg.Reverse(), HPARAMS, key)
    got = run(problem, OURS[bits], HPARAMS, key)
    assert got.info.recovered
    assert not got.info.doubtful
    assert got.info.rule_error < 1e-14
    for name in HPARAMS:
        assert relative(got.hypergrad[name], expected.hypergrad[name]) < tolerance, name
    assert relative(got.value, expected.value) < tolerance
    assert relative(got.info.state, expected.info.state) < tolerance
    assert jax.tree.structure(got.info.state) == jax.tree.structure(expected.info.state)


def test_closed_form_of_momentum(key):
    value, slope = Ridge.make().momentum(0.1, 0.6, 0.2, T)
    hparams = {"lr": 0.1, "momentum": 0.6, "l2": 0.2}
    got = run(ridge(T), Reversible(64), hparams, key)
    np.testing.assert_allclose(got.value, value, rtol=1e-9)
    np.testing.assert_allclose(got.hypergrad["momentum"], slope, rtol=1e-8)


@pytest.mark.slow
def test_finite_differences(key):
    problem = ridge(T, batch_size=5)
    fn = hg.hypergrad(problem, hg.FiniteDifference(order=4))
    got = run(problem, OURS[64], HPARAMS, key).hypergrad
    assert relative(got, fn(HPARAMS, key)) < 1e-8


@jax.custom_jvp
def straight_through(rounded, smooth):
    """The one number, and the other's derivative."""
    return rounded


@straight_through.defjvp
def _(primals, tangents):
    return primals[0], tangents[1]


def rounded_training(problem, integer_bits=6):
    """Momentum in fixed point of 32 bits, written again in float64.

    All its integers are below 2^53, so float64 holds them exactly. Its derivative by
    `Reverse` is the truth about the rounded map.
    """
    unit = 2.0 ** (integer_bits - 30)

    def grid(x):
        return straight_through(jnp.round(x / unit) * unit, x)

    def start(hp, tick):
        weights = problem.weights(problem.start(hp, tick.key))
        weights = jax.tree.map(lambda x: x.astype(float), weights)
        return jax.tree.map(grid, weights), jax.tree.map(jnp.zeros_like, weights)

    def outer_at(hp, s, tick):
        state = problem.replace_weights(problem.start(hp, tick.key), s[0])
        return problem.outer(hp, state, tick.t, tick.key)

    def step(hp, s, tick):
        (w, v), lr = s, jnp.broadcast_to(hp["lr"], (problem.num_steps,))[tick.t]
        u = exact.dither(estimator_key(tick.key, tick.t), jnp.int32).astype(float)
        gamma = straight_through(
            jnp.round(hp["momentum"] * 2**16) / 2**16, hp["momentum"]
        )
        state = problem.start(hp, tick.key)

        def loss(w):
            state_at = problem.replace_weights(state, w)
            return problem.batch_loss(hp, state_at, tick.t, tick.key)

        def new_v(v, g):
            dropped = jnp.floor((gamma * 2**16 * (v / unit) + u) / 2**16) * unit
            return straight_through(dropped, gamma * v) + grid(g)

        v = jax.tree.map(new_v, v, jax.grad(loss)(w))
        return jax.tree.map(lambda w, v: w + grid(-lr * v), w, v), v

    return hg.Problem.from_step(start, step, outer_at, num_steps=problem.num_steps)


def test_is_the_derivative_of_the_rounded_training(key):
    problem = ridge(T, batch_size=5)
    truth = run(rounded_training(problem), hg.Reverse(), HPARAMS, key)
    got = run(problem, OURS[32], HPARAMS, key)
    np.testing.assert_array_equal(got.info.state.weights, truth.info.state[0])
    assert relative(got.hypergrad, truth.hypergrad) < 1e-12


@pytest.mark.slow
def test_transformations_agree_with_the_plain_call(key):
    problem, hparams = ridge(T, batch_size=5), jax.tree.map(jnp.asarray, HPARAMS)
    expected = run(problem, OURS[64], hparams, key)
    fn = jax.jit(lambda h, key: OURS[64].estimate(problem, h, (), key)[0])

    scales = jnp.array([0.8, 1.0, 1.2])
    many = jax.tree.map(lambda x: jnp.multiply.outer(scales, x), hparams)
    keys = jnp.stack([jax.random.key(5), key, jax.random.key(6)])
    got = jax.vmap(fn)(many, keys)
    assert jnp.all(got.info.recovered & ~got.info.doubtful)
    one = jax.tree.map(lambda x: x[1], got.hypergrad)
    assert relative(one, expected.hypergrad) < 1e-12
    assert got.value[0] != got.value[1]


def decayed(hp):
    """Decay and clipping before the velocity, a schedule and a scale after it."""
    return optax.chain(
        optax.add_decayed_weights(hp["decay"]),
        optax.clip_by_global_norm(hp["clip"]),
        optax.trace(hp["momentum"]),
        optax.scale_by_schedule(lambda t: -hp["lr"] / (1 + 0.1 * t)),
        optax.stateless(lambda u, w: u * hp["scale"]),
    )


@pytest.mark.slow
def test_what_surrounds_the_momentum_is_read_off_the_problem(key):
    hparams = {
        "decay": 0.03,
        "clip": 0.8,
        "momentum": 0.9,
        "lr": 0.2,
        "scale": jnp.array([1.0, 0.5, 2.0, 0.1]),
        "l2": 0.1,
        "w": jnp.array([0.3, -0.2, 0.1, 0.0]),
    }
    problem = ridge(
        T,
        optimizer=decayed,
        init=lambda key, hp: hp["w"],
        batch_size=5,
        outer_every=5,
    )
    expected = run(problem, hg.Reverse(), hparams, key)
    got = run(problem, Reversible(64), hparams, key)
    assert not got.info.doubtful
    np.testing.assert_allclose(got.value, expected.value, rtol=1e-9)
    for name in hparams:
        assert relative(got.hypergrad[name], expected.hypergrad[name]) < 1e-8, name


@pytest.mark.slow
def test_folds(key):
    data = Ridge.make()
    everyday = ridge(T).dynamics
    problem = hg.Problem.from_folds(
        init=lambda key, hp: jnp.zeros(4),
        inner_loss=everyday.inner_fn.fn,
        outer_loss=everyday.outer_fn.fn,
        optimizer=everyday.optimizer,
        data=(jnp.asarray(data.x), jnp.asarray(data.y)),
        num_folds=2,
        num_steps=T,
    )
    expected = run(problem, hg.Reverse(), HPARAMS, key)
    got = run(problem, OURS[64], HPARAMS, key)
    assert not got.info.doubtful
    assert relative(got.hypergrad, expected.hypergrad) < 1e-8


def test_refusals(key):
    with pytest.raises(ValueError, match="from_step"):
        hg.hypergrad(cubic(), Reversible())
    fn = hg.hypergrad(ridge(T), Reversible())
    with pytest.raises(ValueError, match="one velocity a weight"):
        fn({"lr": 0.1, "l2": 0.1}, key)
    adam = ridge(T, optimizer=lambda hp: optax.adam(hp["lr"]))
    with pytest.raises(ValueError, match="one velocity a weight"):
        hg.hypergrad(adam, Reversible())({"lr": 0.1, "l2": 0.1}, key)
    with jax.enable_x64(False), pytest.raises(ValueError, match="x64"):
        hg.hypergrad(ridge(T), Reversible(64))(HPARAMS, key)


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 16},
        {"integer_bits": 17},
        {"smallest_momentum": 0.0},
        {"smallest_momentum": 1.5},
        {"spill_every": 33},
        {"spill_every": 0},
    ],
    ids=str,
)
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError, match=f"Reversible.{next(iter(fields))} must"):
        Reversible(**fields)


def test_model_state_is_refused(key):
    problem = hg.Problem.with_context(
        init=lambda key, hp: (jnp.ones(2), jnp.zeros(())),
        inner_loss=lambda w, hp, batch, c: (jnp.sum(w**2), c.model_state + 1),
        outer_loss=lambda w, hp, batch, c: (jnp.sum(w), c.model_state),
        optimizer=lambda hp: optax.sgd(hp, momentum=0.9),
        train=jnp.ones(3),
        valid=jnp.ones(3),
        num_steps=2,
    )
    with pytest.raises(ValueError, match="model state"):
        hg.hypergrad(problem, Reversible())(0.1, key)


FAULTS = {
    "momentum below the smallest": ({"momentum": 0.3}, "momentum lies outside"),
    "momentum above one": ({"momentum": 1.1}, "momentum lies outside"),
    "beyond the grid": ({"lr": 90.0}, "left ±64"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told(name, key):
    change, text = FAULTS[name]
    hparams = {"lr": 0.1, "momentum": 0.7, "l2": 0.1} | change
    fn = hg.value_and_hypergrad(ridge(T), Reversible(), has_aux=True)
    with pytest.warns(HypergradWarning, match=text):
        (value, info), slope = fn(hparams, key)
    assert info.doubtful
    assert bool(jnp.isnan(value)) == bool(info.out_of_range)
    assert bool(jnp.isnan(slope["lr"])) == bool(info.out_of_range)


def nesterov(hp):
    return optax.sgd(hp["lr"], hp["momentum"], nesterov=True)


def decoupled_decay(hp):
    return optax.chain(
        optax.trace(hp["momentum"]),
        optax.add_decayed_weights(1e-4),
        optax.scale_by_learning_rate(hp["lr"]),
    )


def clipped_update(hp):
    return optax.chain(optax.sgd(hp["lr"], hp["momentum"]), optax.clip(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [nesterov, clipped_update])
def test_another_rule_is_told(optimizer, key):
    hparams = {"lr": 0.1, "momentum": 0.7, "l2": 0.1}
    fn = hg.hypergrad(ridge(T, optimizer=optimizer), Reversible())
    with pytest.warns(HypergradWarning, match="the optimiser is not"):
        fn(hparams, key)


@pytest.mark.parametrize(
    ("optimizer", "least"),
    [(None, 0.0), (decayed, 0.0), (nesterov, 1e-2), (decoupled_decay, 1e-6)],
)
def test_rule_error(optimizer, least, key):
    hparams = {"lr": 0.1, "momentum": 0.7, "l2": 0.1}
    hparams |= {"decay": 0.1, "clip": 0.5, "scale": jnp.linspace(0.5, 2, 4)}
    problem = ridge(T, **({"optimizer": optimizer} if optimizer else {}))
    error = jax.jit(lambda h: HeavyBall.of(problem, h, key).error(h, 3))(hparams)
    assert least <= error
    assert least > 0 or error < 1e-15


def test_a_rule_that_bends_only_far_out_is_told(key):
    """An update clipped after the momentum is that of the ball until it is large."""
    hparams = {"lr": 0.1, "momentum": 0.7, "l2": 0.1}
    ball = HeavyBall.of(ridge(T, optimizer=clipped_update), hparams, key)
    sizes = jnp.asarray([1.0, 2.0**6])
    near, far = jax.jit(jax.vmap(lambda size: ball.error(hparams, 0, size)))(sizes)
    assert near < 1e-15
    assert far > 1e-3


@pytest.mark.slow
def test_a_full_stack_is_told(key, monkeypatch):
    monkeypatch.setattr(exact, "capacity", lambda num_steps, smallest: 1)
    hparams = {"lr": 0.1, "momentum": 0.6, "l2": 0.1}
    info = run(ridge(200), Reversible(smallest_momentum=0.6), hparams, key).info
    assert info.stack_full
    assert info.wrong_bits > 0
    estimator = Reversible(smallest_momentum=0.6)
    text = estimator.doubt(info) or ""
    assert "were full" in text
    assert "missed the start" in text


def compare_with_the_truth(num_steps, x64, key):
    """Relative errors of the hypergradient, by name, and of all of it."""
    dtype = jnp.float64 if x64 else jnp.float32
    with jax.enable_x64(x64):
        problem, hparams = digits(num_steps, dtype=dtype)
        start = problem.weights(problem.start(hparams, key))
        got = run(problem, Reversible(smallest_momentum=0.8), hparams, key)
    assert not got.info.doubtful

    # The truth has the same start, rows and λ; its sums are in float64.
    start, hparams = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), (start, hparams)
    )
    problem, _ = digits(num_steps)
    init = lambda key, hp: (start, ())
    dynamics = dataclasses.replace(problem.dynamics, init_fn=init)
    same = rounded_training(problem.replace(dynamics=dynamics))
    truth = run(same, hg.Reverse(), hparams, key)
    errors = {k: relative(got.hypergrad[k], truth.hypergrad[k]) for k in hparams}
    return errors, relative(got.hypergrad, truth.hypergrad)


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
def test_thousand_steps_equal_the_truth_of_the_rounded_map(x64, key):
    errors, overall = compare_with_the_truth(1000, x64, key)
    assert overall < (1e-10 if x64 else 1e-4)
    assert max(errors.values()) < (1e-10 if x64 else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
def test_every_lane_of_a_vmap_is_undone(x64, key):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        problem, hparams = digits(1000, dtype=dtype)
        scales = jnp.array([0.3, 1.0, 3.0], dtype)
        many = hparams | {"lr": jnp.multiply.outer(scales, hparams["lr"])}
        axes = {"lr": 0, "momentum": None, "l2": None}
        fn = lambda h, key: Reversible().estimate(problem, h, (), key)[0].info
        keys = jax.random.split(key, 3)
        info = jax.jit(jax.vmap(jax.vmap(fn, (axes, None)), (None, 0)))(many, keys)
    assert info.recovered.shape == (3, 3)
    assert jnp.all(info.recovered & ~info.doubtful)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "x64"), [(32, False), (32, True), (64, True)])
def test_ten_thousand_steps_are_undone_bit_for_bit(bits, x64, key):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        problem, hparams = digits(10_000, dtype=dtype)

        def compiled(estimator):
            fn = lambda problem, h, key: estimator.estimate(problem, h, (), key)[0]
            return jax.jit(fn).lower(problem, hparams, key).compile()

        ours = compiled(Reversible(bits, smallest_momentum=0.8))
        stored = compiled(hg.Reverse())
        got, expected = (fn(problem, hparams, key) for fn in (ours, stored))
        assert got.info.recovered
        assert not got.info.doubtful
        assert relative(got.hypergrad, expected.hypergrad) < 1e-3
        small, large = (
            fn.memory_analysis().temp_size_in_bytes for fn in (ours, stored)
        )
        assert large > 100 * small
