"""Optuna's samplers behind our log: what they are told, and that no cut is seen."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest

import hypergrad as hg
from hypergrad.searchers.optuna import OptunaSearch
from hypergrad.searchers.optuna_samplers import GP, QMC, TPE, Grid, Random
from hypergrad.study import num_rounds
from tests.searching import SPACE, assert_inside, cube

MIXED = hg.Space(
    {
        "lr": hg.Log(1e-3, 1.0, default=0.1),
        "momentum": hg.Logit(0.1, 0.999, default=0.9),
        "mix": hg.Simplex(shape=(3,)),
        "depth": hg.Choice((1, 2, 4)),
        "cell": hg.Choice(("rnn", "gru", "lstm"), default="gru"),
    }
)
TIES = {"rate": ["lr"], "depth": ["depth"], "cell": ["cell"]}
SAMPLERS = [TPE(startup=3), TPE(multivariate=False, startup=3), QMC(), Random()]
SAMPLERS += [Grid(levels=2, ties=TIES)]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)


def losses(space, coords):
    """A quadratic about u = 0.3, but what has u_1 > 0.7 diverges: [n]."""
    low, high = (np.asarray(bound) for bound in space.bounds())
    u = (np.asarray(coords) - low) / (high - low)
    return np.where(u[:, 1] > 0.7, np.nan, np.sum((u - 0.3) ** 2, axis=1))


def advanced(searcher, space, state, rounds):
    for _ in range(rounds):
        coords, state = searcher.ask(space, state)
        state = searcher.tell(space, state, coords, losses(space, coords))
    return state


@each_sampler
def test_it_begins_at_the_default_stays_inside_and_resumes_at_every_cut(sampler, key):
    searcher, rounds = OptunaSearch(batch=2, sampler=sampler), 4
    whole = advanced(searcher, MIXED, searcher.init(MIXED, 8, key), rounds).coords
    np.testing.assert_allclose(whole[0], MIXED.to_coords(MIXED.defaults()))
    for asked in whole.reshape(rounds, 2, MIXED.dim):
        assert_inside(MIXED, asked)
    assert len(np.unique(whole.round(9), axis=0)) == 8
    for cut in range(1, rounds):
        state = searcher.init(MIXED, 8, key)
        log = state._replace(
            coords=np.where(np.arange(8)[:, None] < 2 * cut, whole, 0.0),
            values=np.pad(losses(MIXED, whole[: 2 * cut]), (0, 8 - 2 * cut)),
            num_told=np.int32(2 * cut),
        )
        # Another process has only the log, and another searcher, equal to this one.
        again = OptunaSearch(batch=2, sampler=sampler)
        resumed = advanced(again, MIXED, log, rounds - cut).coords
        np.testing.assert_array_equal(resumed, whole)


def optunas(sampler, space, values, key, num_trials):
    """The cube's points of one uninterrupted study of Optuna's, after the default."""
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler(seed))
    axes: dict = {n: optuna.distributions.FloatDistribution(0, 1) for n in space.names}
    start = np.asarray(space.to_cube(space.to_coords(space.defaults())))
    study.enqueue_trial(dict(zip(space.names, start.tolist(), strict=True)))
    found = []
    for _ in range(num_trials):
        trial = study.ask(axes)
        found.append(list(trial.params.values()))
        study.tell(trial, values(np.array(found[-1])))
    optuna.logging.set_verbosity(level)
    return np.array(found)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("batch", [1, 3])
def test_points_of_qmc_are_those_of_one_study_of_optunas(batch, key):
    space = cube(3, default=0.9)
    searcher = OptunaSearch(batch=batch, sampler=QMC())
    coords = advanced(searcher, space, searcher.init(space, 9, key), 9 // batch).coords
    whole = optunas(
        lambda seed: optuna.samplers.QMCSampler(scramble=True, seed=seed),
        space,
        lambda u: np.sum((u - 0.3) ** 2),
        key,
        9,
    )
    np.testing.assert_allclose(coords, whole, rtol=1e-12)


def test_every_cell_of_a_grid_once_and_no_more_trials_than_cells(key):
    space = hg.Space({name: hg.Linear(0.0, 1.0, default=0.123) for name in "xy"})
    searcher = OptunaSearch(batch=4, sampler=Grid(levels=3))
    assert searcher.num_trials(space, 100) == 10
    assert searcher.num_trials(space, 7) == 7
    assert num_rounds(searcher, space, 100) == 3
    state = searcher.init(space, 10, key)
    points = advanced(searcher, space, state, 3).coords[1:10]
    middles = (np.arange(3) + 0.5) / 3
    expected = [[x, y] for x in middles for y in middles]
    ordered = points[np.lexsort(points.T[::-1])]
    np.testing.assert_allclose(ordered, expected)
    other = searcher.init(space, 10, jax.random.key(1))
    assert not np.array_equal(advanced(searcher, space, other, 3).coords[1:10], points)


def test_a_grid_of_choices_has_their_options(key):
    grid = Grid(levels=2, ties=TIES)
    searcher = OptunaSearch(sampler=grid)
    assert grid.size(MIXED) == 2 * 3 * 3
    state = advanced(searcher, MIXED, searcher.init(MIXED, 19, key), 19)
    coords = state.coords[1:]
    assert len(np.unique(coords.round(9), axis=0)) == 18
    assert {MIXED.choices(z)["cell"] for z in coords} == {"rnn", "gru", "lstm"}
    # What is tied to no axis keeps its default.
    default = MIXED.to_coords(MIXED.defaults())
    np.testing.assert_allclose(coords[:, 1], np.full(18, default[1]))


def test_tpe_learns_and_random_does_not():
    def distance(sampler, seed):
        """From the minimum, the median of the second half of the trials."""
        space, searcher = cube(2, default=0.95), OptunaSearch(batch=2, sampler=sampler)
        state = searcher.init(space, 40, jax.random.key(seed))
        for _ in range(20):
            coords, state = searcher.ask(space, state)
            values = jnp.sum((coords - 0.3) ** 2, axis=1)
            state = searcher.tell(space, state, coords, values)
        return np.median(np.linalg.norm(state.coords[20:] - 0.3, axis=1))

    tpe, random = (
        np.mean([distance(sampler, seed) for seed in range(3)])
        for sampler in (TPE(startup=8), Random())
    )
    assert tpe < 0.6 * random


def test_diverged_trials_are_the_worst_for_tpe_too(key):
    """It leaves a region where all diverges, though Optuna forgets what failed."""
    space = cube(1, default=0.9)
    searcher = OptunaSearch(sampler=TPE(startup=6))
    state = searcher.init(space, 24, key)
    for _ in range(24):
        coords, state = searcher.ask(space, state)
        values = jnp.where(coords[:, 0] > 0.5, jnp.nan, coords[:, 0])
        state = searcher.tell(space, state, coords, values)
    assert np.mean(state.coords[12:] > 0.5) < 0.2
    nothing = searcher.init(space, 8, key)
    for _ in range(8):
        coords, nothing = searcher.ask(space, nothing)
        nothing = searcher.tell(space, nothing, coords, jnp.full(1, -jnp.inf))
    assert np.all(np.isfinite(nothing.coords))


def test_a_study_through_the_front_door_leaves_optuna_as_it_was(key):
    level = optuna.logging.get_verbosity()
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: jnp.sum((hp["x"] - 0.2) ** 2),
        num_steps=1,
    )
    searcher = OptunaSearch(batch=3, sampler=Random())
    found = hg.search(problem, cube(2), searcher, num_trials=6, key=key)
    assert len(np.unique(found.trials.coords, axis=0)) == 6
    assert optuna.logging.get_verbosity() == level


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptunaSearch(batch=0), "batch must be a whole number"),
        (lambda: TPE(startup=0), "startup must be a whole number"),
        (lambda: Grid(levels=0), "levels must be a whole number"),
        (lambda: Grid(ties={"a": "lr"}), r'write \["lr"\]'),
        (
            lambda: OptunaSearch(sampler=Grid(levels=60)).describe(SPACE, 9),
            "levels must give a grid of at most 65536 cells; got 216000",
        ),
        (
            lambda: Grid(ties={"a": ["lrr"]}).num_trials(SPACE, 9),
            "did you mean 'lr'",
        ),
    ],
)
def test_wrong_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("package", "sampler", "remedy"),
    [("optuna", Random(), "search"), ("torch", GP(), "gp")],
)
def test_a_missing_package_is_named_with_its_remedy(
    package, sampler, remedy, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package {package}.* pip install 'hypergrad\[{remedy}\]'"
    with pytest.raises(ValueError, match=message):
        OptunaSearch(sampler=sampler).describe(SPACE, 8)


@pytest.mark.slow
def test_the_gaussian_process_of_optuna_resumes_too(key):
    pytest.importorskip("torch")
    searcher = OptunaSearch(batch=2, sampler=GP(startup=3))
    whole = advanced(searcher, MIXED, searcher.init(MIXED, 10, key), 5)
    half = advanced(searcher, MIXED, searcher.init(MIXED, 10, key), 3)
    np.testing.assert_array_equal(
        advanced(searcher, MIXED, half, 2).coords, whole.coords
    )
    assert_inside(MIXED, whole.coords)
