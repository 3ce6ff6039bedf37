"""The online driver: what it records, where it resumes, and what it refuses."""

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
from hypergrad.estimators.online_reverse import OnlineReverse
from hypergrad.estimators.real_time import MARTHE, RTHO
from hypergrad.estimators.tower import AdamLevel, SGDLevel, Tower
from hypergrad.online import tune
from tests.problems import cubic, digits, relative, ridge
from tests.test_export import lowers

T = 6
HPARAMS = {"lr": jnp.asarray(0.1), "l2": jnp.linspace(0.1, 0.4, 4)}
ESTIMATORS = {
    "descent": HypergradientDescent(),
    "multiplicative": HypergradientDescent(Multiplicative()),
    "RTHO": RTHO(steps_per_update=2, chunk=2),
    "MARTHE": MARTHE(mu=0.9),
    "online reverse": OnlineReverse(window=3),
    "tower": Tower((SGDLevel(1e-3), AdamLevel(1e-4))),
}
DEFAULT = ("tower",)
NAMES = [
    pytest.param(n, marks=pytest.mark.slow if n not in DEFAULT else ())
    for n in ESTIMATORS
]
ADAM = optax.adam(1e-3)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", NAMES)
def test_two_halves_are_the_whole(name, key):
    """To the bit, optimiser, upper levels and a training in its middle included."""
    problem = ridge(T, batch_size=5)
    run = functools.partial(tune, problem, ESTIMATORS[name], outer=ADAM, key=key)
    whole = run(HPARAMS, num_calls=10)
    one = run(HPARAMS, num_calls=5)
    two = run(one.hparams, num_calls=5, state=one.state)
    assert_same(two.hparams, whole.hparams)
    assert_same(two.state, whole.state)
    join = lambda x, y: jnp.concatenate([x, y])
    assert_same(jax.tree.map(join, one.trajectory, two.trajectory), whole.trajectory)
    assert_same(join(one.values, two.values), whole.values)
    assert relative(whole.hparams, HPARAMS) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_hparams_and_keys(name, key):
    problem = ridge(T, batch_size=5)
    keys = jax.random.split(key, 2)
    scales = jnp.array([0.5, 1.0])
    many = jax.tree.map(lambda x: jnp.multiply.outer(scales, x), HPARAMS)

    def run(hparams, key):
        return tune(problem, ESTIMATORS[name], hparams, ADAM, num_calls=10, key=key)

    table = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(many, keys)
    one = run(HPARAMS, keys[1])
    got = jax.tree.map(lambda x: x[1, 1], (table.trajectory, table.values))
    assert relative(got, (one.trajectory, one.values)) < 1e-12
    assert relative(table.values[0, 1], one.values) > 1e-3, "λ matters"
    assert relative(table.values[1, 0], one.values) > 1e-6, "batches differ"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_lowers_for_every_platform(name, key):
    with jax.enable_x64(False):
        problem, hparams = digits(6, dtype=jnp.float32)

        def run(problem, hparams, key):
            return tune(
                problem, ESTIMATORS[name], hparams, ADAM, num_calls=3, key=key
            )._replace(state=())

        lowers(run, problem, hparams, key)
        shapes = jax.eval_shape(run, problem, hparams, key)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes.hparams)} == {
            np.dtype("float32")
        }


@pytest.mark.slow
def test_first_training_is_that_of_the_key(key):
    """With λ held the weights are those of `hg.train` with the same key."""
    problem = ridge(T, batch_size=5)
    held = tune(problem, RTHO(), HPARAMS, optax.sgd(0.0), num_calls=T, key=key)
    expected = hg.train(problem, HPARAMS, key).weights
    np.testing.assert_array_equal(held.state.estimator.inner.weights, expected)


def test_projection_and_episodic_estimators(key):
    """Gradient descent with any estimator; λ stays where it may be."""
    problem = ridge(T)
    at_most = lambda hp: {**hp, "lr": jnp.minimum(hp["lr"], 0.2)}
    run = functools.partial(tune, problem, num_calls=30, key=key, project=at_most)
    results = [
        run(e, hparams=HPARAMS, outer=optax.sgd(0.05)) for e in (hg.Reverse(), RTHO(T))
    ]
    np.testing.assert_allclose(results[0].hparams["lr"], 0.2)
    assert results[0].values[-1] < 0.9 * results[0].values[0]
    assert relative(results[0].trajectory, results[1].trajectory) < 1e-10


def test_what_is_not_finite_is_recorded_and_skipped(key):
    """The state overflows at step 3 of each training of 4; λ stands still meanwhile."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.asarray(1e100),
        step=lambda hp, s, tick: s * jnp.where(tick.t == 2, 1e300, 1.0) * hp["x"],
        outer_at=lambda hp, s, tick: jnp.tanh(s * 1e-100) + s * 0,
        num_steps=4,
    )
    hparams = {"x": jnp.asarray(1.0), "n": jnp.asarray(3)}
    with pytest.warns(
        hg.HypergradWarning, match=r"in 4 of 8 calls \(first in call 2\)"
    ):
        run = tune(problem, RTHO(), hparams, ADAM, num_calls=8, key=key)
    np.testing.assert_array_equal(run.skipped, [False, False, True, True] * 2)
    assert not run.doubtful.any()
    x = np.append(run.trajectory["x"], run.hparams["x"])
    np.testing.assert_array_equal(np.diff(x) == 0, run.skipped)
    assert int(run.state.outer[0].count) == 4
    assert int(run.hparams["n"]) == 3


def test_equal_calls_share_one_compilation(key):
    traces = []

    def step(hp, s, tick):
        traces.append(1)
        return hp * s

    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=step,
        outer_at=lambda hp, s, tick: s,
        num_steps=4,
    )
    run = functools.partial(tune, problem, OnlineReverse(2), num_calls=3)
    first = run(0.5, ADAM, key=key)
    count = len(traces)
    run(0.7, ADAM, key=jax.random.key(3))
    run(first.hparams, ADAM, key=key, state=first.state)
    assert len(traces) == count


@pytest.mark.parametrize("wrong", [jnp.ones(2), {"a": 2.0}])
def test_a_projection_to_another_form_is_refused(wrong, key):
    with pytest.raises(ValueError, match="project must return λ in the form"):
        tune(cubic(), RTHO(), 2.0, ADAM, num_calls=1, key=key, project=lambda h: wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_calls": 0}, "num_calls must be a Python int >= 1"),
        ({"outer": hg.Outer()}, "outer must be an optax"),
        ({"estimator": RTHO}, "estimator must be a value"),
        ({"estimator": hg.Value()}, "has no hypergradient"),
        ({"estimator": HypergradientDescent()}, "inner_loss_at"),
        ({"estimator": RTHO(2)}, "must divide num_steps"),
    ],
)
def test_wrong_arguments_are_refused(change, message, key):
    arguments = {"estimator": RTHO(), "outer": ADAM, "num_calls": 2} | change
    with pytest.raises(ValueError, match=message):
        tune(cubic(3), hparams=2.0, key=key, **arguments)
