"""What every searcher promises, and the searches that are planned beforehand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import qmc

from hypergrad.hyperparameters import Linear
from hypergrad.searchers import (
    BayesianSearch,
    GradientSearch,
    GridSearch,
    Outer,
    RandomSearch,
    SobolSearch,
)
from hypergrad.searchers.base import starts
from hypergrad.space import Space
from hypergrad.study import num_rounds
from tests.searching import SPACE, assert_inside, cube, quadratic, study

SEARCHERS = [
    RandomSearch(),
    SobolSearch(batch=3),
    GridSearch(batch=2, ties={"rate": ("lr",), "momentum": ("momentum",)}),
    BayesianSearch(batch=2, warmup=4, refit_every=4, num_candidates=64, fit_steps=8),
    GradientSearch(Outer("adam", learning_rate=0.3, final=0.1), starts=3),
]
each_searcher = pytest.mark.parametrize(
    "searcher", SEARCHERS, ids=[type(searcher).__name__ for searcher in SEARCHERS]
)
# What holds for all of them

NUM_TRIALS = 18
CASES = {
    "sane": (0, jnp.inf),
    "other key": (1, jnp.inf),
    "partly diverging": (0, 0.6),
    "always diverging": (0, -1.0),
}


def diverging(z, limit):
    """A quadratic, but NaN, infinite or 1e30 where u_0 or u_1 is beyond the limit."""
    u = SPACE.to_cube(z)
    worse = jnp.where(u[1] > limit, jnp.inf, 1e30)
    bad = jnp.where(u[2] > 0.6, worse, jnp.nan)
    return jnp.where(jnp.max(u[:2]) > limit, bad, quadratic(u))


@functools.cache
def studies(searcher):
    """Four studies, vmapped over key and limit, in one program: case -> its result."""
    keys, limits = zip(*CASES.values(), strict=True)
    run = lambda key, limit: study(
        searcher, SPACE, functools.partial(diverging, limit=limit), NUM_TRIALS, key
    )
    keys = jnp.stack([jax.random.key(seed) for seed in keys])
    coords, values = jax.jit(jax.vmap(run))(keys, jnp.array(limits))
    return dict(zip(CASES, zip(coords, values, strict=True), strict=True))


@each_searcher
def test_trial_zero_is_the_default_and_all_are_inside(searcher):
    for case, (coords, _) in studies(searcher).items():
        np.testing.assert_allclose(
            coords[0], SPACE.to_coords(SPACE.defaults()), rtol=1e-12
        )
        assert_inside(SPACE, coords)
        if "diverging" not in case:
            assert len(np.unique(np.asarray(coords[:9]).round(9), axis=0)) == 9


@each_searcher
@pytest.mark.parametrize("case", ["other key", "partly diverging"])
def test_scan_and_vmap_equal_a_loop(searcher, case):
    seed, limit = CASES[case]
    coords, _ = studies(searcher)[case]
    ask, tell, evaluate = loop_parts(searcher)
    state = searcher.init(SPACE, NUM_TRIALS, jax.random.key(seed))
    for expected in coords.reshape(-1, searcher.batch, SPACE.dim):
        asked, state = ask(SPACE, state)
        np.testing.assert_allclose(asked, expected, rtol=1e-6, atol=1e-6)
        values, grads = evaluate(asked, limit)
        state = tell(SPACE, state, asked, values, grads)


@functools.cache
def loop_parts(searcher):
    evaluate = jax.vmap(jax.value_and_grad(diverging), in_axes=(0, None))
    return (
        jax.jit(searcher.ask, static_argnums=0),
        jax.jit(searcher.tell, static_argnums=0),
        jax.jit(evaluate),
    )


@each_searcher
def test_diverged_runs_are_data(searcher):
    for case in ("partly diverging", "always diverging"):
        coords, values = studies(searcher)[case]
        assert not np.isfinite(values[0]) or values[0] == 1e30
        assert np.all(np.isfinite(coords))
    _, values = studies(searcher)["partly diverging"]
    assert np.nanmin(values) < 1.0


def test_keys_differ_unless_the_search_is_deterministic():
    for searcher in SEARCHERS:
        first, second = (studies(searcher)[case][0] for case in ("sane", "other key"))
        assert np.allclose(first, second) == isinstance(searcher, GridSearch)


@each_searcher
def test_values_that_hash_print_and_rebuild(searcher):
    table = {
        field.name: getattr(searcher, field.name)
        for field in dataclasses.fields(searcher)
        if field.init
    }
    rebuilt = type(searcher)(**table)
    assert rebuilt == searcher
    assert hash(rebuilt) == hash(searcher)
    assert repr(rebuilt) == repr(searcher)
    assert dataclasses.replace(searcher).batch == searcher.batch


# What a backend compiles to a library call; XLA promises no stability for these names.
_CUSTOM_CALLS = [
    jax.export.DisabledSafetyCheck.custom_call(name)
    for name in ("cusolver_potrf_ffi", "cu_threefry2x32_ffi")
]


@each_searcher
def test_float32_lowers_for_every_platform(searcher):
    with jax.enable_x64(False):
        state = searcher.init(SPACE, 12, jax.random.key(0))
        coords = jnp.zeros((searcher.batch, SPACE.dim))
        values = jnp.zeros(searcher.batch)

        def round_trip(state, values, grads):
            asked, state = searcher.ask(SPACE, state)
            return asked, searcher.tell(SPACE, state, asked, values, grads)

        exported = jax.export.export(
            jax.jit(round_trip),
            platforms=("cpu", "cuda", "tpu"),
            disabled_checks=_CUSTOM_CALLS,
        )(state, values, coords)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "f64" not in exported.mlir_module()
    assert "callback" not in exported.mlir_module()


def test_a_searcher_describes_itself_and_uses_its_whole_budget():
    assert RandomSearch().num_trials(SPACE, 17) == 17
    expected = "RandomSearch(batch=1): 17 trials in 6 dimensions"
    assert RandomSearch().describe(SPACE, 17) == expected


def test_random_bayesian_and_gradient_search_share_their_starts():
    expected = starts(SPACE, jax.random.key(0), jnp.arange(3))
    for searcher in SEARCHERS:
        if isinstance(searcher, RandomSearch | BayesianSearch | GradientSearch):
            coords, _ = studies(searcher)["sane"]
            np.testing.assert_allclose(coords[:3], expected, rtol=1e-12)


# Grid


@pytest.mark.parametrize("budget", [1, 3, 30, 151])
@pytest.mark.parametrize("num_axes", [1, 3, 7])
def test_grid_is_the_largest_full_factorial_in_the_budget(budget, num_axes, key):
    space = Space({f"x{i}": Linear(0.0, 1.0, default=0.123) for i in range(num_axes)})
    grid = GridSearch()
    num = grid.num_trials(space, budget)
    assert num <= budget
    points = np.asarray(grid.init(space, budget, key).points)
    assert points.shape == (num, num_axes)
    assert len(np.unique(points.round(9), axis=0)) == num

    levels = [len(np.unique(column.round(9))) for column in points[1:].T]
    assert np.prod(levels) == num - 1 or num == 1
    if num > 1:
        assert max(levels) - min(levels) <= 1
        assert sorted(levels, reverse=True) == levels
        # one more level on the next axis would not fit
        grown = list(levels)
        grown[levels.index(min(levels))] += 1
        assert 1 + np.prod(grown) > budget


def test_grid_ties_move_together_and_the_rest_stays(key):
    ties = {"rate": ["lr"], "momentum": ["momentum"]}
    grid = GridSearch(ties=ties)
    assert grid == GridSearch(ties=(("rate", ("lr",)), ("momentum", ("momentum",))))
    points = grid.init(SPACE, 26, key).points
    assert len(points) == 26
    u = np.asarray(jax.vmap(SPACE.to_cube)(points))
    default = np.asarray(SPACE.to_cube(points[0]))
    np.testing.assert_allclose(u[1:, 0], u[1:, 1])
    np.testing.assert_allclose(u[1:, 0], u[1:, 2])
    np.testing.assert_allclose(u[1:, 4:], np.tile(default[4:], (25, 1)))
    np.testing.assert_allclose(np.unique(u[1:, 0].round(9)), (np.arange(5) + 0.5) / 5)
    np.testing.assert_allclose(np.unique(u[1:, 3].round(9)), (np.arange(5) + 0.5) / 5)
    assert grid.describe(SPACE, 26) == (
        "grid over rate × momentum: 5×5 = 25 points and the default; "
        "tied: rate (3 coordinates); 2 coordinates stay at their default"
    )


def test_grid_asks_beyond_its_end_begin_again(key):
    grid = GridSearch(batch=12)
    asked, _ = grid.ask(cube(1), grid.init(cube(1, default=0.1), 10, key))
    assert len(np.unique(asked[:10])) == 10
    np.testing.assert_array_equal(asked[10:], asked[:2])


@pytest.mark.parametrize("batch", [1, 2, 4, 7])
@pytest.mark.parametrize("budget", [8, 30])
def test_grid_in_rounds_is_the_grid_that_was_told(batch, budget, key):
    """All of its points are tried, in no more rounds than that takes."""
    space, grid = cube(2, default=0.123), GridSearch(batch=batch)
    rounds = num_rounds(grid, space, budget)
    assert rounds * batch <= budget
    points = grid.init(space, rounds * batch, key).points
    count = len(points)
    assert grid.num_trials(space, budget) == count
    assert (rounds - 1) * batch < count <= rounds * batch
    whole = GridSearch().init(space, budget // batch * batch, key).points
    np.testing.assert_array_equal(points, whole)
    told = grid.describe(space, budget)
    assert told == grid.describe(space, rounds * batch)
    assert f"= {count - 1} points" in told
    again = rounds * batch - count
    assert (f"last round does {again} of its trials again" in told) is (again > 0)


# Sobol


def in_cube(searcher, space, num_trials, key):
    points = searcher.init(space, num_trials, key).points[1:]
    return np.asarray(jax.vmap(space.to_cube)(points))


def test_sobol_spreads_more_evenly_than_random():
    space = cube(3)
    for seed in range(5):
        key = jax.random.key(seed)
        sobol = qmc.discrepancy(in_cube(SobolSearch(), space, 129, key))
        random = qmc.discrepancy(in_cube(RandomSearch(), space, 129, key))
        assert sobol < 0.5 * random


def test_sobol_shift_keeps_the_net_and_depends_on_the_key():
    space = cube(2)
    first = in_cube(SobolSearch(), space, 65, jax.random.key(0))
    second = in_cube(SobolSearch(), space, 65, jax.random.key(1))
    assert np.abs(first - second).min() > 0
    for points in (first, second):
        # of 64 points, one in each of the 64 cells of every dyadic partition
        for columns, rows in ((64, 1), (8, 8), (2, 32)):
            cells = np.floor(points * [columns, rows]) @ [rows, 1]
            assert len(np.unique(cells)) == 64


def test_sobol_in_float32_keeps_its_points_apart():
    with jax.enable_x64(False):
        points = in_cube(SobolSearch(), cube(200), 257, jax.random.key(0))
    assert points.dtype == np.float32
    assert all(len(np.unique(column)) == 256 for column in points.T)
    assert points.min() >= 0
    assert points.max() <= 1


# Wrong input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Outer("adm"), "did you mean 'adam'"),
        (lambda: Outer(learning_rate=-1.0), "learning_rate must be positive"),
        (lambda: Outer(learning_rate=float("inf")), "learning_rate must be finite"),
        (lambda: Outer(b1=1.0), "b1 must be in"),
        (lambda: Outer(final=2.0), "final must be in"),
        (lambda: RandomSearch(batch=0), "batch must be a whole number"),
        (lambda: GradientSearch(starts=0), "starts must be a whole number"),
        (lambda: BayesianSearch(warmup=0), "warmup must be a whole number"),
        (lambda: BayesianSearch(jitter=0.0), "jitter must be positive"),
        (lambda: GridSearch(ties={}), "at least one axis"),
        (lambda: GridSearch(ties={"a": "rate"}), r'axis .a. .* write \["rate"\]'),
        (
            lambda: GridSearch(ties={"rate": ("lrr",)}).num_trials(SPACE, 9),
            "did you mean 'lr'",
        ),
    ],
)
def test_wrong_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
