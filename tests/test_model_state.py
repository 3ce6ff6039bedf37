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
