"""Bayesian search with slopes: what it learns from them, and which it drops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrad.choices import Choice
from hypergrad.hyperparameters import Linear, Log
from hypergrad.projections import ProbabilitySimplex
from hypergrad.searchers import BayesianSearch
from hypergrad.searchers.bayesian_gradient import GradientBayesianSearch
from hypergrad.searchers.features import tame
from hypergrad.space import Space
from tests.searching import assert_inside, cube, jitted_study, quadratic, study

SMALL = GradientBayesianSearch(
    warmup=2, refit_every=4, fit_steps=5, num_candidates=32, slopes=3
)


def told(searcher, space, coords, values, grads, num_trials=8):
    """The state after these trials, without a fit: in a cube, whose z are its u."""
    state = searcher.init(space, num_trials, jax.random.key(1))
    count = len(values)
    return state._replace(
        cube=state.cube.at[:count].set(coords),
        values=state.values.at[:count].set(values),
        slopes=state.slopes.at[:count].set(grads),
        num_told=jnp.asarray(count),
    )


@pytest.mark.slow
def test_reaches_a_minimum_that_values_alone_do_not(key):
    def minimum(search):
        searcher = search(warmup=2, refit_every=4, fit_steps=5, num_candidates=32)
        return jitted_study(searcher, cube(6), quadratic, 14, key)[1].min()

    assert minimum(GradientBayesianSearch) < 0.01 * minimum(BayesianSearch)


@pytest.mark.slow
def test_slopes_are_those_in_the_cube_in_units_of_the_targets():
    space = Space({"lr": Log(1e-3, 1.0), "x": Linear(-2.0, 4.0)})
    coords = jax.vmap(space.from_cube)(jnp.array([[0.2, 0.3], [0.6, 0.9]]))
    values, grads = jnp.array([1.0, 3.0]), jnp.array([[0.5, 0.1], [0.2, -0.3]])
    state = SMALL.init(space, 8, jax.random.key(1))
    state = SMALL.tell(space, state, coords, values, grads)
    slopes = np.asarray(grads) * [np.log(1e3), 6.0]
    np.testing.assert_allclose(state.slopes[:2], slopes)
    mask = jnp.arange(len(state.values)) < 2
    data = SMALL._data(
        space, state, state.cube, tame(state.values, mask).values, state.num_told
    )
    num = len(state.values)
    np.testing.assert_allclose(data.targets[:2], [-1.0, 1.0])  # 2 of F are 2 of y
    np.testing.assert_allclose(data.targets[num : num + 4], slopes.reshape(-1))
    np.testing.assert_array_equal(data.mask[num:], np.arange(2 * num) < 4)


def test_doubtful_slopes_are_dropped_and_their_values_kept():
    rng = np.random.default_rng(0)
    coords = jnp.asarray(rng.uniform(size=(8, 2)))
    values = jnp.array([0.0, 1.0, 2.0, 3.0, 1.5, 0.5, 1e9, jnp.nan])
    grads = jnp.ones((8, 2)).at[1, 0].set(jnp.nan).at[2, 1].set(jnp.inf)
    grads = grads.at[3].set(1e6)  # steeper than any value could follow
    space = cube(2)
    state = told(SMALL, space, coords, values, grads, num_trials=9)
    targets = tame(state.values, jnp.arange(10) < 8).values
    data = SMALL._data(space, state, state.cube, targets, state.num_told)
    mask = np.asarray(data.mask)
    np.testing.assert_array_equal(mask[:10], np.arange(10) < 8)
    kept = mask[10:].reshape(10, 2)
    # 6 was tamed, 7 diverged, 8 and 9 are not told
    np.testing.assert_array_equal(kept.all(1), [1, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(kept.any(1), kept.all(1))
    assert np.all(np.isfinite(data.targets))


@pytest.mark.slow
def test_it_learns_and_asks_among_doubtful_slopes():
    coords = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 2)))
    values = jnp.array([0.0, 1.0, 1e30, jnp.nan])
    grads = jnp.ones((4, 2)).at[1, 0].set(jnp.nan).at[0, 0].set(1e30)
    state = told(SMALL, cube(2), coords, values, grads)
    params = jax.jit(SMALL.fit, static_argnums=0)(cube(2), state)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
    asked, _ = SMALL.ask(cube(2), state)
    assert np.all(np.isfinite(asked))


@pytest.mark.parametrize(
    "values", [[1.0, 1.0], [jnp.nan, jnp.nan]], ids=["equal", "diverged"]
)
def test_values_that_say_nothing_leave_no_slope(values):
    coords = jnp.array([[0.1, 0.2], [0.3, 0.4]])
    state = told(SMALL, cube(2), coords, jnp.array(values), jnp.ones((2, 2)))
    zeros = jnp.zeros_like(state.values)
    data = SMALL._data(cube(2), state, state.cube, zeros, state.num_told)
    assert not np.any(data.mask[len(state.values) :])
    assert np.all(np.isfinite(data.targets))


@pytest.mark.slow
def test_choices_have_no_slope_and_a_simplex_is_kept(key):
    space = Space(
        {
            "cell": Choice(("rnn", "gru", "lstm")),
            "mix": Linear(0.0, 1.0, shape=3, constraint=ProbabilitySimplex()),
            "depth": Choice((1, 2, 3)),
        }
    )

    def function(z):
        mix = jnp.sum((z[1:4] - jnp.array([0.7, 0.3, 0.0])) ** 2)
        return mix + 0.3 * jnp.square(z[0] - 1.0) + 0.1 * z[4]

    coords, values = jitted_study(SMALL, space, function, 16, key)
    assert_inside(space, coords)
    assert len(np.unique(np.asarray(coords)[:, 0])) > 1
    assert values.min() < 0.1

    state = told(SMALL, space, coords[:2], values[:2], jnp.ones((2, 5)))
    data = SMALL._data(space, state, state.cube, state.values, state.num_told)
    along = np.asarray(data.observed.directions)
    assert along.shape[1] == 7  # one-hot of 3, mix of 3, depth
    np.testing.assert_array_equal(along[:, [0, 1, 2, 6]], 0.0)
    assert np.any(along[:, 3:6])


@pytest.mark.slow
def test_large_dimensions_observe_few_directions(key):
    searcher = GradientBayesianSearch(
        warmup=2, refit_every=8, fit_steps=5, num_candidates=32, slopes=2
    )
    space = cube(40)
    state = searcher.init(space, 12, key)
    data = searcher._data(space, state, state.cube, state.values, state.num_told)
    assert len(data.targets) == 13 * 3
    _, values = jitted_study(searcher, space, quadratic, 12, key)
    assert values.min() < 0.2 * values[0]


@pytest.mark.slow
def test_maps_over_keys_resumes_and_batches(key):
    searcher = GradientBayesianSearch(
        batch=2, warmup=2, refit_every=4, fit_steps=3, num_candidates=16
    )
    space, keys = cube(2), jax.random.split(key, 2)
    run = lambda key: study(searcher, space, quadratic, 8, key)[0]
    together = jax.jit(jax.vmap(run))(keys)
    for row, one in zip(together, keys, strict=True):
        np.testing.assert_allclose(row, jax.jit(run)(one), atol=1e-6)
    for pair in np.asarray(together[0]).reshape(4, 2, 2)[1:]:
        assert np.abs(pair[0] - pair[1]).max() > 1e-4

    tell, ask = (
        jax.jit(searcher.tell, static_argnums=0),
        jax.jit(searcher.ask, static_argnums=0),
    )
    state, seen = searcher.init(space, 8, keys[0]), []
    for _ in range(4):
        state = jax.tree.map(jnp.asarray, jax.device_get(state._replace(key=keys[0])))
        coords, state = ask(space, state._replace(key=keys[0]))
        values, grads = jax.vmap(jax.value_and_grad(quadratic))(coords)
        state = tell(space, state, coords, values, grads)
        seen.append(coords)
    np.testing.assert_allclose(jnp.concatenate(seen), together[0], atol=1e-6)


@pytest.mark.slow
def test_float32_study_is_finite():
    with jax.enable_x64(False):
        coords, values = jitted_study(SMALL, cube(2), quadratic, 10, jax.random.key(0))
        assert coords.dtype == jnp.float32
        assert np.all(np.isfinite(coords))
        assert values.min() < 1e-2


def test_without_gradients_or_without_slopes_says_what_to_do(key):
    state = SMALL.init(cube(2), 4, key)
    with pytest.raises(ValueError, match="estimator that gives a hypergradient"):
        SMALL.tell(cube(2), state, jnp.zeros((1, 2)), jnp.zeros(1))
    with pytest.raises(ValueError, match="continuous hyperparameter"):
        SMALL.init(Space({"depth": Choice((1, 2))}), 4, key)
    with pytest.raises(ValueError, match="slopes must be"):
        GradientBayesianSearch(slopes=0)
