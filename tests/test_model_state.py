"""Model state (running averages): each estimator is right about it, or says no.

ℓ = ½ mean (x w + λ_s − y)² + λ_d ‖w‖²/2 is ridge regression; the state is the running
mean m ← ½ m + ½ mean(x w + λ_s) of its outputs, which the outer loss subtracts. So F
depends on λ through w, through m and, along every step, through both.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators.bilevel import model_state_matters
from hypergrad.training import Context, InnerState

HPARAMS = {"decay": 0.1, "shift": 0.4}
RATE = 0.3


@functools.cache
def problem(num_steps, seen=True, velocity=None):
    rng = np.random.default_rng(0)
    x, xv = rng.normal(size=(8, 2)) + 1, rng.normal(size=(8, 2))
    y, yv = rng.normal(size=(8,)), rng.normal(size=(8,))

    def inner(w, hp, batch, context: Context):
        x, y = batch
        z = hg.outputs(x @ w + hp["shift"])
        state = 0.5 * context.model_state + 0.5 * jnp.mean(z)
        return 0.5 * jnp.mean((z - y) ** 2) + hg.l2(w, hp["decay"]), state

    def outer(w, hp, valid, context: Context):
        x, y = valid
        average = context.model_state if seen else 0.2
        return 0.5 * jnp.mean((x @ w - average - y) ** 2), context.model_state

    return hg.Problem.with_context(
        init=lambda key, hp: (jnp.zeros(2), jnp.zeros(())),
        inner_loss=inner,
        outer_loss=outer,
        optimizer=lambda hp: optax.sgd(RATE, momentum=velocity),
        train=(x, y),
        valid=(xv, yv),
        num_steps=num_steps,
    )


def estimate(problem, estimator, key):
    return hg.estimate(problem, estimator, HPARAMS, (), key)[0]


def closed_form():
    """dF/dλ at the end of training: that of the ridge solution and of its mean."""
    (x, y), (xv, yv) = problem(1).data.train, problem(1).data.valid

    def F(hp):
        hessian = x.T @ x / len(x) + hp["decay"] * jnp.eye(2)
        w = jnp.linalg.solve(hessian, x.T @ (y - hp["shift"]) / len(x))
        m = jnp.mean(x @ w + hp["shift"])
        return 0.5 * jnp.mean((xv @ w - m - yv) ** 2)

    return jax.grad(F)(HPARAMS)


@pytest.mark.parametrize(
    "estimator",
    [
        hg.Reverse(),
        hg.Implicit(operator=hg.FixedPoint()),
        hg.Forward(),
        hg.RTHO(),
        pytest.param(hg.MARTHE(mu=1.0), marks=pytest.mark.slow),
        pytest.param(hg.FiniteDifference(), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_those_that_see_the_whole_state_are_right(estimator, key):
    result = estimate(problem(200), estimator, key)
    chex.assert_trees_all_close(result.hypergrad, closed_form(), rtol=1e-7)
    assert estimator.doubt(result.info) is None


BILEVEL = [
    hg.SABA(num_batches=2),
    hg.StocBiO(),
    hg.F2SA(),
    hg.BOME(),
    hg.SelfTuning(),
    hg.DeltaSTN(),
]


@pytest.mark.parametrize(
    "estimator",
    [
        hg.Implicit(),
        hg.SOBA(),
        pytest.param(hg.Implicit(operator=hg.GaussNewton()), marks=pytest.mark.slow),
        *(pytest.param(e, marks=pytest.mark.slow) for e in BILEVEL),
    ],
    ids=str,
)
def test_those_that_hold_it_are_doubtful_where_it_matters(estimator, key):
    with pytest.warns(hg.HypergradWarning, match="model's state"):
        result = estimate(problem(200), estimator, key)
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b), result.hypergrad, closed_form())
    assert max(jax.tree.leaves(gap)) > 1e-3  # rightly so
    result = estimate(problem(200, seen=False), estimator, key)
    assert estimator.doubt(result.info) is None


def test_reversible_refuses_it(key):
    with pytest.raises(ValueError, match="model state.*Reverse"):
        estimate(problem(200, velocity=0.9), hg.Reversible(), key)


def test_those_of_the_last_step_see_what_it_does_to_the_state(key):
    short = problem(3)
    right = jax.jit(lambda: estimate(short, hg.Reverse(window=1), key).hypergrad)()
    one_step = estimate(short, hg.OneStep(), key)
    chex.assert_trees_all_close(one_step.hypergrad, right, rtol=1e-12)
    darts = estimate(short, hg.Darts(rate=RATE), key)
    chex.assert_trees_all_close(darts.hypergrad, right, rtol=1e-8)


@pytest.mark.slow
def test_online_windows_add_up(key):
    whole = estimate(problem(6), hg.Reverse(), key).hypergrad
    online = estimate(problem(6), hg.OnlineReverse(window=6), key).hypergrad
    chex.assert_trees_all_close(online, whole, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [hg.UORO(), hg.RandomDirections(4)], ids=str)
def test_random_estimates_are_right_in_the_mean(estimator, key):
    report = hg.verify(problem(6), estimator, HPARAMS, key, num_keys=400, precision=0.1)
    assert report.ok, report


@pytest.mark.slow
def test_a_state_that_nothing_moves_raises_no_doubt(key):
    """Frozen averages are seen by the outer loss, and are no function of λ."""
    base = problem(60)
    frozen = base.dynamics

    def inner(w, hp, batch, context):
        return frozen.inner_fn(w, hp, batch, context)[0], context.model_state

    held = hg.Problem.with_context(
        init=lambda key, hp: (jnp.zeros(2), jnp.asarray(0.3)),
        inner_loss=inner,
        outer_loss=frozen.outer_fn,
        optimizer=frozen.optimizer,
        train=base.data.train,
        valid=base.data.valid,
        num_steps=60,
    )
    result = estimate(held, hg.SOBA(), key)
    assert hg.SOBA().doubt(result.info) is None
    assert isinstance(result.info.state, InnerState)


def drifting(start, inner, outer, num_steps):
    """ℓ(w, λ, m) with its m', and f(w, m): sgd on two weights, λ a number."""
    return hg.Problem.with_context(
        init=lambda key, hp: (jnp.zeros(2), start),
        inner_loss=lambda w, hp, batch, context: inner(w, hp, context.model_state),
        outer_loss=lambda w, hp, batch, context: (
            outer(w, context.model_state),
            context.model_state,
        ),
        optimizer=lambda hp: optax.sgd(RATE),
        train=jnp.ones(1),
        valid=(),
        num_steps=num_steps,
    )


def half(x):
    return 0.5 * jnp.sum(x**2)


def teacher(num_steps):
    """The inner loss pulls towards the average of the weights, and so w* = λ."""
    return drifting(
        jnp.zeros(2),
        lambda w, hp, m: (half(w - hp) + half(w - m), 0.9 * m + 0.1 * w),
        lambda w, m: half(w - 2),
        num_steps,
    )


def two_lags(num_steps):
    """The outer loss sees the weights of two steps before."""
    return drifting(
        (jnp.zeros(2), jnp.zeros(2)),
        lambda w, hp, m: (half(w - hp), (w, m[0])),
        lambda w, m: half(w - 2) + half(m[1] - 2),
        num_steps,
    )


def buffer(num_steps):
    """The same with five steps, in a single array."""
    return drifting(
        jnp.zeros((5, 2)),
        lambda w, hp, m: (half(w - hp), jnp.concatenate([w[None], m[:-1]])),
        lambda w, m: half(m[-1] - 2),
        num_steps,
    )


def of_lambda(num_steps):
    """The state is λ, and weighs the inner loss."""
    return drifting(
        jnp.ones(()),
        lambda w, hp, m: (m * half(w - 1) + half(w), hp),
        lambda w, m: half(w - 2),
        num_steps,
    )


def from_zero(num_steps):
    """The outer loss is flat in the state where it starts."""
    return drifting(
        jnp.zeros(2),
        lambda w, hp, m: (half(w - hp), 0.5 * m + 0.5 * hp),
        lambda w, m: half(m),
        num_steps,
    )


def constant(num_steps):
    """Both losses see a state that nothing moves."""
    return drifting(
        jnp.ones(2),
        lambda w, hp, m: (half(w - hp) + half(w - m), m),
        lambda w, m: half(w - m),
        num_steps,
    )


def fading(num_steps):
    """Both see one that moves by itself."""
    return drifting(
        jnp.ones(2),
        lambda w, hp, m: (half(w - hp) + half(w - m), 0.5 * m[::-1]),
        lambda w, m: half(w - m),
        num_steps,
    )


def unseen(num_steps):
    """Nobody sees one that moves with the weights."""
    return drifting(
        jnp.ones(2),
        lambda w, hp, m: (half(w - hp), 0.5 * m + w),
        lambda w, m: half(w - 2),
        num_steps,
    )


@pytest.mark.parametrize("make", [teacher, two_lags, buffer, of_lambda, from_zero])
def test_a_state_matters_that_moves_and_is_seen(make, key):
    state = make(9).start(jnp.asarray(3.0), key)
    assert jax.jit(model_state_matters)(make(9), 3.0, state, key)


@pytest.mark.parametrize("make", [constant, fading, unseen])
def test_a_state_does_not_matter_that_is_not_moved_or_not_seen(make, key):
    state = make(9).start(jnp.asarray(3.0), key)
    assert not jax.jit(model_state_matters)(make(9), 3.0, state, key)


@pytest.mark.parametrize(
    ("make", "num_steps", "truth", "estimator"),
    [
        (teacher, 1000, 2.0, hg.Implicit()),
        pytest.param(teacher, 1000, 2.0, hg.StocBiO(), marks=pytest.mark.slow),
        pytest.param(teacher, 1000, 2.0, hg.F2SA(), marks=pytest.mark.slow),
        pytest.param(two_lags, 60, 4.0, hg.Implicit(), marks=pytest.mark.slow),
        pytest.param(two_lags, 60, 4.0, hg.StocBiO(), marks=pytest.mark.slow),
    ],
)
def test_those_that_hold_a_state_that_matters_doubt(
    make, num_steps, truth, estimator, key
):
    problem, hparams = make(num_steps), jnp.asarray(3.0)
    with pytest.warns(hg.HypergradWarning, match="inner gradient sees"):
        wrong, _ = hg.estimate(problem, estimator, hparams, (), key)
    assert abs(wrong.hypergrad - truth) > 0.5
    right, _ = hg.estimate(problem, hg.Reverse(), hparams, (), key)
    np.testing.assert_allclose(right.hypergrad, truth, rtol=1e-6)


def test_implicit_raises_no_doubt_by_a_constant_state(key):
    result, _ = hg.estimate(constant(60), hg.Implicit(), jnp.asarray(3.0), (), key)
    assert not result.info.doubtful
    np.testing.assert_allclose(result.hypergrad, 1.0, rtol=1e-6)
