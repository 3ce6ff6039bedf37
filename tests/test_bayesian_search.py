"""Bayesian search on functions of known minimum, and how it tames its targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.functions import branin, hartmann6
from hypergrad.hyperparameters import Linear
from hypergrad.searchers import BayesianSearch, RandomSearch
from hypergrad.searchers.features import standardise
from hypergrad.space import Space
from tests.searching import cube, jitted_study, quadratic, study


def seeds(searcher, function, space, num_trials, num_seeds):
    """A few studies: coords [s, n, d], values [s, n]."""
    run = jax.jit(lambda key: study(searcher, space, function, num_trials, key))
    runs = [run(jax.random.key(seed)) for seed in range(num_seeds)]
    return tuple(np.stack(part) for part in zip(*runs, strict=True))


def test_finds_the_minimum_of_branin():
    minimum = 0.397887
    _, bayesian = seeds(BayesianSearch(fit_steps=15), branin, cube(2), 30, 5)
    _, random = seeds(RandomSearch(), branin, cube(2), 30, 5)
    assert bayesian.min() >= minimum - 1e-5
    assert np.median(bayesian.min(1)) < minimum + 0.05
    assert np.median(bayesian.min(1)) < np.median(random.min(1)) - 0.3


def closest_pair(batch):
    gaps = np.linalg.norm(batch[:, None] - batch[None], axis=-1)
    return gaps[np.triu_indices(len(batch), 1)].min()


def test_batches_hold_different_points(key):
    searcher = BayesianSearch(batch=4, fit_steps=5, num_candidates=64)
    coords, _ = jitted_study(searcher, cube(2), quadratic, 20, key)
    for batch in np.asarray(coords).reshape(-1, 4, 2):
        assert closest_pair(batch) > 1e-3


@pytest.mark.slow
def test_batches_find_the_minimum_of_hartmann():
    searcher = BayesianSearch(batch=4, fit_steps=15, num_candidates=256)
    coords, values = seeds(searcher, hartmann6, cube(6), 60, 3)
    # minima at -3.322 and -3.20; random search ends at about -1.7
    assert np.median(values.min(1)) < -3.0
    for batch in coords.reshape(-1, 4, 6):
        assert closest_pair(batch) > 1e-4


@pytest.mark.slow
def test_learns_in_grouped_high_dimension(key):
    space = Space({"a": Linear(0.0, 1.0, shape=20), "b": Linear(0.0, 1.0, shape=20)})
    searcher = BayesianSearch(fit_steps=10, num_candidates=256)
    state = searcher.init(space, 30, key)
    assert state.params.log_length.shape == (2,)
    _, found = jitted_study(searcher, space, quadratic, 30, key)
    _, random = jitted_study(RandomSearch(), space, quadratic, 30, key)
    assert found.min() < 0.8 * random.min()


def test_standardise_tames_what_diverged():
    values = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, jnp.nan, -jnp.inf, 1e30, jnp.nan])
    mask = jnp.arange(9) < 8
    y = np.asarray(standardise(values, mask))
    np.testing.assert_allclose(y[:8].mean(), 0.0, atol=1e-12)
    np.testing.assert_allclose(y[:8].std(), 1.0)
    np.testing.assert_allclose(np.diff(y[:5]), y[1] - y[0])  # the good ones keep shape
    np.testing.assert_allclose(y[5:8], y[5])  # NaN, -inf and 1e30 are all the worst
    assert y[5] > y[4]
    assert y[8] == 0


@pytest.mark.parametrize("values", [[jnp.nan] * 4, [2.0] * 4, [jnp.inf, 1.0, 1.0, 1.0]])
def test_standardise_of_nothing_to_tell_apart_is_zero(values):
    y = standardise(jnp.array(values), jnp.full(4, True))
    np.testing.assert_array_equal(y, np.zeros(4))


def test_standardise_up_to_the_largest_float():
    with jax.enable_x64(False):
        y = standardise(jnp.array([-3e38, 3e38, 3e38, 0.0]), jnp.full(4, True))
        assert np.all(np.isfinite(y))


def test_noise_is_learned_within_one_fit(key):
    """Of a variance that is mostly noise, or all slope; 0.001 is where a fit begins."""
    space, searcher = cube(2), BayesianSearch(warmup=24, refit_every=24, jitter=1e-6)
    coords = jax.random.uniform(key, (24, 2))
    noise = jax.random.normal(jax.random.key(1), (24,))
    for share, low, high in ((0.7, 0.2, 1.0), (0.0, 0.0, 0.01)):
        slope = (coords[:, 0] - 0.5) * jnp.sqrt(12.0)
        values = jnp.sqrt(1 - share) * slope + jnp.sqrt(share) * noise
        state = searcher.tell(space, searcher.init(space, 24, key), coords, values)
        assert low <= jnp.exp(state.params.log_noise) <= high
