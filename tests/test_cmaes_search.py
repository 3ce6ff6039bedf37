"""CMA-ES behind our log equals the package's own loop, and finds minima."""

import sys

import cmaes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad.searchers.cmaes import CMAES, DiagonalCovariance, FullCovariance
from hypergrad.searchers.outside import seed_of_ask
from tests.searching import SPACE, assert_inside, cube

OPTIMISERS = {FullCovariance(): cmaes.CMA, DiagonalCovariance(): cmaes.SepCMA}


def bowl(coords):
    """A quadratic of several scales about 0.3, [n]."""
    scales = 10.0 ** np.linspace(0, 2, coords.shape[1])
    return np.sum(scales * (np.asarray(coords) - 0.3) ** 2, axis=1)


def run(searcher, space, num_trials, key, function=bowl, cuts=()):
    state = searcher.init(space, num_trials, key)
    for index in range(-(-num_trials // searcher.batch)):
        if index in cuts:
            state = jax.tree.map(np.array, state._replace(key=None))._replace(key=key)
            searcher = CMAES(**vars(searcher))
        coords, state = searcher.ask(space, state)
        state = searcher.tell(space, state, coords, function(coords))
    return state.coords, state.values


@pytest.mark.parametrize("covariance", OPTIMISERS, ids=str)
@pytest.mark.parametrize("batch", [1, 6])
def test_it_is_the_loop_of_the_package(batch, covariance, key):
    """In 4-d a generation of 8 by default: with batches of 6 it is of 12."""
    dim, default, size = 4, 0.8, 8 if batch == 1 else 12
    optimizer = OPTIMISERS[covariance](
        np.full(dim, default),
        0.2,
        bounds=np.tile([0.0, 1.0], (dim, 1)),
        population_size=size,
    )
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    expected = [np.full(dim, default)]
    while len(expected) < 3 * size:
        if len(expected) % batch == 0 or len(expected) == 1:
            number = 0 if len(expected) < batch else len(expected)
            optimizer.reseed_rng(seed_of_ask(seed, number))
        expected.append(optimizer.ask())
        if len(expected) % size == 0:
            told = expected[-size:]
            optimizer.tell(list(zip(told, bowl(np.array(told)).tolist(), strict=True)))

    searcher = CMAES(batch=batch, covariance=covariance)
    space = cube(dim, default=default)
    assert searcher.generation(space) == size
    coords, _ = run(searcher, space, 3 * size, key)
    np.testing.assert_allclose(coords, expected, rtol=1e-12)
    if batch == 6:
        assert len(np.unique(coords, axis=0)) == len(coords)


@pytest.mark.parametrize(("batch", "dim"), [(1, 3), (3, 3), (10, 1)])
def test_a_cut_anywhere_changes_nothing(batch, dim, key):
    searcher = CMAES(batch=batch, population=4)
    space = cube(dim, default=0.6)
    whole, _ = run(searcher, space, 30, key)
    cut, _ = run(searcher, space, 30, key, cuts=range(30))
    np.testing.assert_array_equal(whole, cut)
    np.testing.assert_allclose(whole[0], 0.6)
    other, _ = run(searcher, space, 30, jax.random.key(1))
    assert not np.allclose(whole[1:], other[1:])


def test_it_stays_inside_of_bounds_and_constraints(key):
    def function(coords):
        return np.sum(np.asarray(coords), axis=1)  # The least is in a corner.

    coords, values = run(CMAES(batch=9, sigma=0.6), SPACE, 63, key, function)
    for asked in coords.reshape(-1, 9, SPACE.dim):
        assert_inside(SPACE, asked)
    assert values[-10:].mean() < values[:10].mean()


def test_it_finds_the_minimum_of_a_quadratic(key):
    coords, values = run(CMAES(batch=20), cube(10, default=0.7), 1800, key)
    assert values.min() < 1e-6 * values[0]
    np.testing.assert_allclose(coords[values.argmin()], 0.3, atol=1e-3)


def test_diverged_trials_are_the_last_of_their_generation(key):
    limits = {np.nan: 0.7, -np.inf: 0.7, np.inf: 0.7}
    found = []
    for worst, limit in limits.items():
        outside = lambda coords, worst=worst, limit=limit: np.where(
            np.asarray(coords)[:, 0] > limit, worst, bowl(np.asarray(coords))
        )
        found.append(run(CMAES(batch=8), cube(3, default=0.65), 80, key, outside)[0])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.all(found[0][-16:, 0] < 0.7)
    never = lambda coords: np.full(len(coords), np.nan)
    coords, _ = run(CMAES(batch=8), cube(3), 40, key, never)
    assert np.all(np.isfinite(coords))


def test_a_thousand_coordinates_take_the_diagonal(key):
    space = cube(1000)
    with pytest.raises(ValueError, match="use covariance=DiagonalCovariance"):
        CMAES().describe(space, 50)
    searcher = CMAES(batch=8, sigma=0.1, covariance=DiagonalCovariance())
    _, values = run(searcher, space, 160, key)
    assert values[-8:].mean() < values[1:9].mean()
    assert "; 24 are a generation" in searcher.describe(space, 50)


CHOOSING = hg.Space({"x": hg.Linear(0.0, 1.0), "cell": hg.Choice(("gru", "lstm"))})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CMAES(batch=0), "batch must be a whole number"),
        (lambda: CMAES(sigma=0.0), "sigma must be positive"),
        (lambda: CMAES(sigma=float("nan")), "sigma must be positive"),
        (lambda: CMAES(population=3), "population must be at least 4"),
        (lambda: CMAES().describe(CHOOSING, 9), r"without choices.*got \['cell'\]"),
        (
            lambda: CMAES(covariance=DiagonalCovariance()).describe(cube(1), 9),
            "needs at least 2 dimensions",
        ),
    ],
)
def test_wrong_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ValueError, match=r"pip install 'hypergrad\[search\]'"):
        CMAES().describe(SPACE, 8)
