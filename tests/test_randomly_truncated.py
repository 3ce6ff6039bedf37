"""Random windows: every draw a weighted truncation, their mean the hypergradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators.randomly_truncated import RandomlyTruncated
from tests.oracles import Ridge
from tests.problems import cubic, digits, relative, ridge

HPARAMS = {"lr": 0.1, "l2": np.array([0.1, 0.2, 0.3, 0.4])}


def expectation(estimator, problem, hparams, key):
    """Over all windows and their probabilities, none drawn."""
    windows = estimator.windows(problem.num_steps)
    reach = np.array([survival for _, survival in windows] + [0.0])

    @jax.jit
    def within(hparams, drawn):
        return estimator.estimate_within(problem, hparams, key, drawn).hypergrad

    hparams = jax.tree.map(jnp.asarray, hparams)
    found = [within(hparams, i) for i in range(len(windows))]
    weights = reach[:-1] - reach[1:]
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-14)
    return jax.tree.map(lambda *g: jnp.tensordot(weights, jnp.stack(g), 1), *found)


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(RandomlyTruncated(window=1, survival=0.3), marks=pytest.mark.slow),
        RandomlyTruncated(window=3, growth=3, checkpoint=hg.Segments()),
        RandomlyTruncated(window=99, survival=1.0),
    ],
    ids=str,
)
def test_the_expectation_over_windows_is_the_hypergradient(estimator, key):
    data, steps = Ridge.make(), 13
    exact = data.l2(0.1, HPARAMS["l2"], steps)[1]
    mean = expectation(estimator, ridge(steps), HPARAMS, key)
    assert relative(mean["l2"], exact) < 1e-12
    reverse = hg.hypergrad(ridge(steps), hg.Reverse())(HPARAMS, key)
    assert relative(mean, reverse) < 1e-12


@pytest.mark.slow
def test_the_expectation_with_batches_and_integers_in_the_state(key):
    """Given the key of the training, the windows alone are random."""
    rate = lambda hp: lambda count: -hp["lr"] / (1 + count)
    optimizer = lambda hp: optax.scale_by_schedule(rate(hp))
    problem = ridge(5, batch_size=5, optimizer=optimizer)
    mean = expectation(RandomlyTruncated(window=3), problem, HPARAMS, key)
    exact = hg.hypergrad(problem, hg.Reverse())(HPARAMS, key)
    assert relative(mean, exact) < 1e-12


def test_each_draw_is_a_weighted_truncation(key):
    # s_T = λ^T has T equal terms g = λ^(T−1), and windows of 2, 4, 8, 9.
    estimator, g = RandomlyTruncated(window=2), 2.0**8
    problem = cubic(9)
    assert estimator.windows(9) == ((2, 1), (4, 0.5), (8, 0.25), (9, 0.125))
    for drawn, weight in enumerate([2, 2 + 2 * 2, 2 + 4 + 4 * 4, 2 + 4 + 16 + 8]):
        estimate = estimator.estimate_within(problem, jnp.asarray(2.0), key, drawn)
        np.testing.assert_allclose(estimate.hypergrad, weight * g, rtol=1e-14)
        assert estimate.value == 2.0**9
        assert estimate.info.state == 2.0**9


def test_start_and_direct_terms_have_their_own_lags(key):
    # F = λ s_T, s_0 = λ: dF/dλ = s_T (lag 0) + T λ^(T+1) + λ^(T+1) (lag T).
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp,
        step=lambda hp, s, tick: hp * s,
        outer_at=lambda hp, s, tick: hp * s,
        num_steps=4,
    )
    estimator = RandomlyTruncated(window=2)
    short, long = (
        estimator.estimate_within(problem, jnp.asarray(2.0), key, i).hypergrad
        for i in (0, 1)
    )
    assert (float(short), float(long)) == (3 * 32, (1 + 2 + 2 * 3) * 32)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["cubic", "ridge"])
def test_the_mean_over_keys_is_the_hypergradient(problem, key):
    """Full batches: the key moves nothing but the window."""
    estimator = RandomlyTruncated(window=3, survival=0.6)
    if problem == "cubic":
        draw = hg.hypergrad(cubic(12), estimator)
        hparams, exact, directions = 1.1, 12 * 1.1**11, np.ones((1, 1))
    else:
        draw = hg.hypergrad(ridge(20), estimator)
        hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(HPARAMS["l2"])}
        exact = Ridge.make().l2(0.1, HPARAMS["l2"], 20)[1]
        directions = np.concatenate([np.eye(4), np.ones((1, 4)) / 2])
    keys = jax.random.split(key, 3000)
    draws = jax.jit(jax.vmap(draw, (None, 0)))(hparams, keys)
    draws = np.asarray(draws if problem == "cubic" else draws["l2"])
    along = draws.reshape(3000, -1) @ directions.T
    truth = np.reshape(exact, -1) @ directions.T
    error = along.std(axis=0, ddof=1) / np.sqrt(3000)
    assert np.all(error <= 0.05 * np.abs(truth)), error / truth
    assert np.all(error > 0)
    assert np.all(np.abs(along.mean(axis=0) - truth) <= 4 * error)


def test_windows_are_drawn_with_their_probabilities(key):
    """From the draws alone: cubic's estimate tells which window it was."""
    estimator = RandomlyTruncated(window=2, survival=0.5)
    keys = jax.random.split(key, 4000)
    draws = jax.vmap(hg.hypergrad(cubic(8), estimator), (None, 0))(1.0, keys)
    values, counts = np.unique(np.asarray(draws), return_counts=True)
    assert values.tolist() == [2.0, 6.0, 22.0]
    for count, p in zip(counts, (0.5, 0.25, 0.25), strict=True):
        assert abs(count - 4000 * p) <= 4 * np.sqrt(4000 * p * (1 - p))


@pytest.mark.slow
def test_transformations_agree_with_the_plain_call(key):
    problem, estimator = cubic(5), RandomlyTruncated(window=2)
    fn = hg.value_and_hypergrad(problem, estimator)
    keys = jax.random.split(key, 4)
    plain = [fn(1.5, k) for k in keys]
    assert len({float(slope) for _, slope in plain}) > 1, "keys draw the window"
    over_keys = jax.vmap(fn, (None, 0))(1.5, keys)
    assert relative(over_keys, jax.tree.map(lambda *x: jnp.stack(x), *plain)) < 1e-12
    assert relative(jax.jit(fn)(1.5, keys[1]), plain[1]) < 1e-12
    over_hparams = jax.vmap(fn, (0, None))(jnp.array([0.5, 1.5]), keys[2])
    assert relative([x[1] for x in over_hparams], plain[2]) < 1e-12
    objective = hg.objective(problem, estimator)
    assert relative(jax.grad(objective)(1.5, keys[3]), plain[3][1]) < 1e-12
    assert plain[0][0] == 1.5**5


def test_what_it_says_of_itself():
    estimator = RandomlyTruncated()
    assert estimator.target is hg.Target.OBJECTIVE
    assert estimator.unbiased
    assert not estimator.exact


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window", 0, "window must be >= 1, got 0"),
        ("growth", 1, "growth must be >= 2, got 1"),
        ("survival", 0.0, r"survival must be in \(0, 1\], got 0.0"),
        ("survival", 1.5, r"survival must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        RandomlyTruncated(**{field: value})


def test_losses_along_the_way_and_second_derivatives_are_refused(key):
    with pytest.raises(ValueError, match="no sweep could stop early"):
        hg.hypergrad(cubic(4, outer_every=2), RandomlyTruncated())
    objective = hg.objective(cubic(4), RandomlyTruncated())
    with pytest.raises(TypeError, match="second derivatives"):
        jax.grad(jax.grad(objective))(2.0, key)


@pytest.mark.slow
def test_lowers_for_every_platform(key):
    with jax.enable_x64(False):
        problem, hparams = digits(6, dtype=jnp.float32)
        estimator = RandomlyTruncated(window=2)
        exported = jax.export.export(
            jax.jit(lambda p, h, k: estimator.estimate(p, h, (), k)[0]),
            platforms=("cpu", "cuda", "tpu"),
        )(problem, hparams, key)
        text = exported.mlir_module()
    assert "f64" not in text
    assert "callback" not in text
