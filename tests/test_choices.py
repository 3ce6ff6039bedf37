"""Choices: discrete coordinates in every searcher, and one program for each option."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad.by_choice import map_by_choice, once_per_choice
from hypergrad.choices import Choice
from hypergrad.hyperparameters import Linear, Log
from hypergrad.searchers.base import starts
from hypergrad.searchers.features import features, groups
from hypergrad.space import Space
from tests.searching import assert_inside, jitted_study, study

CELL = Choice(("rnn", "gru", "lstm"), default="gru")
SPACE = Space(
    {"lr": Log(1e-3, 1.0, shape=2), "cell": CELL, "depth": Choice((1, 2, 4, 8))}
)
KEY = jax.random.key(3)


def options(coords, name, space=SPACE):
    return [space.choices(z)[name] for z in coords]


# One choice.


def test_a_choice_is_the_index_of_its_option():
    assert [CELL.option(z) for z in (-0.5, 0.0, 0.6, 1.4, 2.5)] == [
        *("rnn", "rnn", "gru", "gru", "lstm")
    ]
    assert CELL.default_option == "gru"
    assert Choice((7, 5)).default_option == 7
    z = jnp.array([-3.0, -0.5, 0.49, 0.5, 2.5, 9.0])
    np.testing.assert_array_equal(CELL.project(z), [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(CELL.project(CELL.project(z)), CELL.project(z))
    assert (CELL.size, CELL.shape, hash(CELL)) == (1, (), hash(CELL))


@pytest.mark.parametrize(
    ("options", "default", "message"),
    [
        ((), None, "at least one"),
        ("gru", None, r"write \('gru',\)"),
        (3, None, "must be a tuple"),
        ((1, 2, 1), None, "options must differ; got 1 and 1"),
        ((True, 1), None, "options must differ; got True and 1"),
        ((1, 1.0), None, "options must differ"),
        (([3, 3], [5, 5]), None, "hashable"),
        ((1, None), None, 'as in "none"'),
        ((1, float("nan")), None, "must not hold nan"),
        ((1, 2), 3, "one of"),
        ((0, 1), True, "got True"),
        (("a", "b"), "A", "got 'A'"),
        ({"a", "b"}, None, "order, and that of a set differs"),
        (frozenset((1, 2)), None, "write a tuple"),
        (((1, 2), (3, 4)), (1, 2.0), "one of"),
    ],
)
def test_wrong_choices_say_so(options, default, message):
    with pytest.raises(ValueError, match=message):
        Choice(options, default=default)


def test_true_is_not_one():
    assert Choice((0, 1)) != Choice((False, True))
    assert Choice((False, True)).option(1.0) is True
    assert Choice(range(2)) == Choice([0, 1])


def test_kinds_look_into_tuples():
    nested = Choice(((1, 2), (3, (4, 5))))
    assert nested != Choice(((1.0, 2), (3, (4, 5))))
    assert nested != Choice(((1, 2), (3, (4.0, 5))))
    assert nested.index((3, (4, 5))) == 1
    with pytest.raises(ValueError, match="one of"):
        nested.index((True, 2))


def test_scalars_of_numpy_become_those_of_python():
    widths = Choice(2 ** np.arange(4), default=np.int64(4))
    assert widths == Choice((1, 2, 4, 8), default=4)
    assert [type(option) for option in widths.options] == [int] * 4
    assert widths.ordered
    assert widths.index(np.int64(8)) == 3
    assert Choice([(np.float64(0.5), "a"), (1.0, "b")]) == Choice(
        [(0.5, "a"), (1.0, "b")]
    )


@pytest.mark.parametrize(
    ("options", "ordered"),
    [((1, 2, 8), True), ((0.5, 0.1), True), ((2, 8, 1), False), (("a", "b"), False)],
)
def test_numbers_that_rise_or_fall_are_ordered(options, ordered):
    assert Choice(options).ordered is ordered


# In a space.


def test_lambda_has_no_choices_and_coordinates_have():
    assert SPACE.names == ("lr[0]", "lr[1]", "cell", "depth")
    assert SPACE.dim == 4
    assert SPACE.has_choices
    np.testing.assert_array_equal(SPACE.is_choice, [False, False, True, True])
    assert list(SPACE.defaults()) == list(SPACE.from_coords(jnp.zeros(4))) == ["lr"]
    assert SPACE.default_choices() == {"cell": "gru", "depth": 1}
    z = SPACE.to_coords(SPACE.defaults(), {"depth": 4})
    np.testing.assert_array_equal(z[2:], [1.0, 2.0])
    assert SPACE.choices(z) == {"cell": "gru", "depth": 4}
    SPACE.check(SPACE.from_coords(z))
    assert Space(dict(SPACE.entries)) == SPACE


def test_cube_and_projection_of_choices():
    z = SPACE.from_cube(jnp.array([0.5, 0.5, 0.99, 0.26]))
    assert SPACE.choices(z) == {"cell": "lstm", "depth": 2}
    z = SPACE.project(z)
    np.testing.assert_array_equal(z[2:], [2.0, 1.0])
    np.testing.assert_allclose(SPACE.to_cube(z)[2:], [5 / 6, 3 / 8])
    for end in (0.0, 1.0):
        snapped = SPACE.project(SPACE.from_cube(jnp.full(4, end)))
        assert SPACE.choices(snapped)["depth"] == (8 if end else 1)
    with jax.enable_x64(False):
        z = SPACE.project(SPACE.from_cube(jnp.array([0.1, 0.2, 0.4, 0.6])))
        again = SPACE.project(SPACE.from_cube(SPACE.to_cube(z)))
        np.testing.assert_array_equal(z[2:], again[2:])


def test_the_derivative_along_a_choice_is_zero():
    z = SPACE.to_coords(SPACE.defaults())
    slope = jax.grad(lambda z: SPACE.from_coords(z)["lr"].sum())(z)
    assert np.all(slope[:2] > 0)
    np.testing.assert_array_equal(slope[2:], 0.0)


def test_errors_of_a_space_with_choices():
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        SPACE.to_coords(SPACE.defaults(), {"dept": 2})
    with pytest.raises(ValueError, match="one of"):
        SPACE.to_coords(SPACE.defaults(), {"depth": 3})
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda z: len(SPACE.choices(z)))(jnp.zeros(4))
    with pytest.raises(ValueError, match="or a Choice"):
        Space({"depth": (1, 2)})


def test_ties_move_choices_and_keep_their_defaults():
    ties = SPACE.tie({"size": ("depth", "lr[0]")})
    z = ties.expand(jnp.array([0.99]))
    assert SPACE.choices(z) == {"cell": "gru", "depth": 8}


# Searchers that plan.


def test_random_search_is_uniform_over_options():
    coords = starts(SPACE, KEY, jnp.arange(1, 1201))
    assert_inside(SPACE, coords)
    counts = np.bincount(np.asarray(coords[:, 3], int), minlength=4)
    # 300 expected of each, with a standard deviation of 15
    assert np.all(abs(counts - 300) < 60)


@pytest.mark.parametrize("num_trials", [17])
def test_sobol_search_gives_each_of_four_options_as_often(num_trials):
    coords = hg.SobolSearch().init(SPACE, num_trials, KEY).points
    assert SPACE.choices(coords[0]) == SPACE.default_choices()
    counts = collections.Counter(options(coords[1:], "depth"))
    assert set(counts.values()) == {(num_trials - 1) // 4}


def test_a_grid_over_choices_is_every_combination_once():
    space = Space({"cell": CELL, "depth": Choice((1, 2))})
    assert hg.GridSearch().num_trials(space, 100) == 6
    assert hg.GridSearch().num_trials(space, 6) == 6
    coords = hg.GridSearch().init(space, 6, KEY).points
    assert space.choices(coords[0]) == space.default_choices()
    assert len({tuple(space.choices(z).values()) for z in coords}) == 6
    # five trials do not pay for six combinations, only for the three cells
    assert hg.GridSearch().num_trials(space, 5) == 3


def test_a_grid_in_rounds_has_all_options_that_rounds_can_finish():
    space = Space({"depth": Choice((1, 2, 3, 4, 5, 6)), "x": Linear(0.0, 1.0)})

    def problem(choices):
        return hg.Problem.from_step(
            start=lambda hp, tick: 0.0 * hp["x"],
            step=lambda hp, s, tick: s,
            outer_at=lambda hp, s, tick: s + choices["depth"],
            num_steps=1,
        )

    grid = hg.GridSearch(batch=4)
    result = hg.search(problem, space, grid, num_trials=8, key=KEY)
    # six options, the default among them; the second round repeats two
    np.testing.assert_array_equal(result.trials.values, [1, 2, 3, 4, 5, 6, 1, 2])
    assert "depth: 6 = 5 points" in grid.describe(space, 8)
    # seven trials pay for one round of four, which is too few for all options
    result = hg.search(problem, space, grid, num_trials=7, key=KEY)
    np.testing.assert_array_equal(options(result.trials.coords, "depth", space), 1)
    assert "grid over x: 3 = 3 points" in grid.describe(space, 7)


def test_a_grid_has_exactly_the_options_beside_its_levels():
    coords = jax.jit(lambda key: hg.GridSearch().init(SPACE, 60, key).points)(KEY)
    assert hg.GridSearch().num_trials(SPACE, 60) == 1 + 3 * 4 * 4
    assert len(coords) == 49
    counts = collections.Counter(tuple(SPACE.choices(z).values()) for z in coords[1:])
    assert set(counts.values()) == {4}
    assert len(counts) == 12
    assert "4×3×4 = 48 points" in hg.GridSearch().describe(SPACE, 60)


def test_a_grid_may_tie_choices():
    ties = {"size": ("depth", "cell"), "rate": ("lr",)}
    coords = hg.GridSearch(ties=ties).init(SPACE, 14, KEY).points[1:]
    assert options(coords[::3], "depth") == [1, 2, 4, 8]
    assert options(coords[::3], "cell") == ["rnn", "gru", "gru", "lstm"]


# The Gaussian process.


def test_unequal_options_are_all_as_far_from_each_other():
    coords = jnp.array([[-1.0, -1, i, j] for i in range(3) for j in range(4)])
    cube = jax.vmap(SPACE.to_cube)(coords)
    inputs = np.asarray(features(SPACE, cube))
    assert inputs.shape == (12, len(groups(SPACE))) == (12, 6)
    assert groups(SPACE) == (0, 1, 2, 2, 2, 3)
    gaps = np.linalg.norm(inputs[:, None] - inputs[None], axis=-1)
    same_depth = gaps[::4, ::4]  # three cells
    np.testing.assert_allclose(same_depth, 1.0 - np.eye(3), atol=1e-12)
    np.testing.assert_allclose(gaps[0, :4], [0, 0.25, 0.5, 0.75], atol=1e-12)


HILLS = {"a": 0.6, "b": 0.2, "c": 0.0, "d": 0.4}
PLACES = {"a": 0.1, "b": 0.5, "c": 0.8, "d": 0.3}
HILLY = Space({"x": Linear(0.0, 1.0), "hill": Choice(tuple(HILLS))})


def hilly(z):
    """F = height of the option + (x - its place)², least at "c" and 0.8."""
    index = HILLY.project(z)[1].astype(int)
    heights, places = (jnp.array(list(d.values())) for d in (HILLS, PLACES))
    return heights[index] + (z[0] - places[index]) ** 2


@pytest.mark.slow
def test_bayesian_search_finds_the_best_of_unordered_options():
    searcher = hg.BayesianSearch(fit_steps=5, num_candidates=64)
    run = jax.jit(lambda key: study(searcher, HILLY, hilly, 24, key))
    ends = []
    for seed in range(2):
        coords, values = run(jax.random.key(seed))
        assert_inside(HILLY, coords)
        best = coords[np.argmin(values)]
        assert HILLY.choices(best) == {"hill": "c"}
        ends.append(values.min())
    assert max(ends) < 1e-2


# Gradient search.


@functools.partial(jax.jit, static_argnums=(0, 1))
def place(num_starts, space, key):
    return hg.GradientSearch(starts=num_starts).init(space, 90, key).coords


def test_starts_go_through_the_choices_before_one_comes_again():
    space = Space(
        {"x": Linear(0.0, 1.0), "a": Choice((1, 2, 3)), "b": Choice(("p", "q"))}
    )
    orders = set()
    for seed in range(4):
        coords = place(15, space, jax.random.key(seed))
        assert space.choices(coords[0]) == {"a": 1, "b": "p"}
        combinations = [tuple(space.choices(z).values()) for z in coords]
        assert len(set(combinations[:6])) == 6
        assert combinations[6:12] == combinations[:6]
        assert combinations[12:] == combinations[:3]
        np.testing.assert_array_equal(coords[:6, 0], 0.5)  # each first at default λ
        assert len(np.unique(coords[6:, 0])) == 9
        orders.add(tuple(combinations[:6]))
    assert len(orders) > 1


def test_too_many_combinations_are_drawn():
    wide = {f"c{i}": Choice(tuple(range(8))) for i in range(12)}  # 7e10 combinations
    space = Space({"x": Linear(0.0, 1.0)} | wide)
    coords = place(6, space, KEY)
    assert space.choices(coords[0]) == space.default_choices()
    assert len({tuple(space.choices(z).values()) for z in coords}) == 6


@pytest.mark.parametrize(
    "name",
    [
        "adam",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("sgd", "momentum", "nesterov", "rmsprop")
        ),
    ],
)
def test_no_optimiser_moves_a_choice(name):
    """Slopes along choices, diverged trials and restarts leave them in place."""
    searcher = hg.GradientSearch(hg.Outer(name, learning_rate=5.0), starts=4)
    state = searcher.init(SPACE, 40, KEY)
    first = np.asarray(state.coords[:, 2:])
    tell = jax.jit(searcher.tell, static_argnums=0)
    rng = np.random.default_rng(0)
    for i in range(6):
        coords, state = searcher.ask(SPACE, state)
        np.testing.assert_array_equal(coords[:, 2:], first)
        values = jnp.asarray(rng.normal(size=4)).at[0].set(jnp.nan)  # never finite
        values = values.at[1].set(jnp.inf if i % 2 else 1.0)
        grads = jnp.asarray(rng.normal(size=(4, 4))).at[2, 3].set(jnp.nan)
        state = tell(SPACE, state, coords, values, grads)
    assert np.isfinite(state.best.value[2])  # NaN along a choice is no failure
    assert not np.isfinite(state.best.value[0])


def test_gradient_search_needs_something_to_descend_in():
    space = Space({"depth": Choice((1, 2))})
    for ask in (lambda s: s.init(space, 8, KEY), lambda s: s.describe(space, 8)):
        with pytest.raises(ValueError, match="choices only, \\['depth'\\]"):
            ask(hg.GradientSearch())
    text = hg.GradientSearch(starts=5).describe(SPACE, 20)
    assert "2 dimensions and 2 choices; descends in 5 of 12 combinations" in text


# Studies.

traces = collections.Counter()


def hill_problem(choices):
    """F(x) of `hilly` as a problem; its loss counts how often it is traced."""
    traces["problem", choices["hill"]] += 1

    def outer(hparams, state, tick):
        traces["program", choices["hill"]] += 1
        return HILLS[choices["hill"]] + (hparams["x"] - PLACES[choices["hill"]]) ** 2

    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: s,
        outer_at=outer,
        num_steps=1,
    )


def hill_study(searcher, num_trials, **changes):
    estimator = hg.Forward() if searcher.needs_gradient else hg.Value()
    arguments = {"estimator": estimator, "num_trials": num_trials, "key": KEY}
    return hg.search(hill_problem, HILLY, searcher, **(arguments | changes))


def test_gradient_search_finds_the_best_option_and_its_hparams():
    """The optimum of x depends on the option: each start finds that of its own."""
    searcher = hg.GradientSearch(hg.Outer("sgd", learning_rate=0.25), starts=4)
    result = hill_study(searcher, 80)
    assert result.best_choices == {"hill": "c"}
    np.testing.assert_allclose(result.best_hparams["x"], 0.8, atol=1e-4)
    last = {HILLY.choices(z)["hill"]: float(z[0]) for z in result.trials.coords[-4:]}
    assert last == pytest.approx(PLACES, abs=1e-4)
    by_hand, _ = jitted_study(searcher, HILLY, hilly, 80, jax.random.split(KEY)[0])
    np.testing.assert_allclose(result.trials.coords, by_hand, atol=1e-9)


@pytest.mark.parametrize(
    "execution", [pytest.param(hg.Loop(), marks=pytest.mark.slow), hg.Chunk(2)]
)
def test_one_program_for_each_distinct_choice(execution):
    traces.clear()
    result = hill_study(hg.RandomSearch(batch=5), 30, execution=execution)
    seen = set(options(result.trials.coords, "hill", HILLY))
    assert len(seen) == 4
    counts = [traces["program", hill] for hill in seen]
    assert counts == [counts[0]] * 4
    assert [traces["problem", hill] for hill in seen] == [1] * 4
    expected = jax.vmap(hilly)(result.trials.coords)
    np.testing.assert_allclose(result.trials.values, expected, rtol=1e-12)
    once = traces["program", "a"]
    traces.clear()
    hill_study(hg.RandomSearch(batch=5), 5, execution=execution)
    assert max(traces["program", hill] for hill in HILLS) == once


def test_the_loop_in_python_gives_the_numbers_of_the_scan():
    """One option is as good as none: all else being equal the trials are equal."""
    plain, keys = Space({"x": Linear(0.0, 1.0)}), hg.FreshKeys()
    problem = hill_problem({"hill": "b"})
    searcher = hg.GradientSearch(starts=3)
    scan = hg.search(
        *(problem, plain, searcher),
        estimator=hg.Forward(),
        num_trials=12,
        key=KEY,
        training_keys=keys,
    )
    state = searcher.init(plain, 12, jax.random.split(KEY)[0])
    _, trials = hg.study.advance_by_choice(
        lambda choices: problem,
        plain,
        searcher,
        hg.Forward(),
        state,
        jax.random.split(KEY)[1],
        4,
        training_keys=keys,
    )
    for a, b in zip(scan.trials, trials, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_space_of_choices_alone():
    space = Space({"hill": HILLY.discrete["hill"]})

    def problem(choices):
        return hg.Problem.from_step(
            start=lambda hp, tick: jnp.zeros(()),
            step=lambda hp, s, tick: s,
            outer_at=lambda hp, s, tick: HILLS[choices["hill"]] + s,
            num_steps=1,
        )

    result = hg.search(problem, space, hg.GridSearch(), num_trials=4, key=KEY)
    assert sorted(result.trials.values) == [0.0, 0.2, 0.4, 0.6]
    assert result.best_choices == {"hill": "c"}
    assert result.best_hparams == {}


def test_what_a_study_of_choices_refuses():
    plain = Space({"x": Linear(0.0, 1.0)})
    arguments = {"num_trials": 1, "key": KEY}
    with pytest.raises(ValueError, match=r"function .* \['hill'\]"):
        hg.search(hill_problem({"hill": "a"}), HILLY, hg.RandomSearch(), **arguments)
    with pytest.raises(ValueError, match="must be a Problem"):
        hg.search("a", plain, hg.RandomSearch(), **arguments)
    one = hg.search(
        lambda choices: hill_problem({"hill": "a"} | choices),
        *(plain, hg.RandomSearch()),
        **arguments,
    )
    assert one.best_choices == {}


@pytest.mark.parametrize("width", [1, 2, 4, 7, 64])
def test_pieces_are_few_widths_and_little_is_thrown_away(width):
    """Widths are powers of two below `width`; less than twice the rows are run."""
    space, calls = Space({"n": Choice(tuple(range(65)))}), []
    # option i has i rows
    coords = jnp.repeat(jnp.arange(65.0), jnp.arange(65))[:, None]

    def run(choices, rows):
        calls.append((choices["n"], len(rows)))
        return rows

    found = map_by_choice(run, space, coords, width)
    np.testing.assert_array_equal(found, np.arange(len(coords)))
    widths = {k for _, k in calls}
    assert widths <= {1, 2, 4, 8, 16, 32, width}
    assert len(widths) <= 2 + np.log2(width)
    assert max(widths) <= width
    for option in range(1, 65):
        done = sum(k for n, k in calls if n == option)
        assert option <= done < 2 * option or done == option


def test_as_many_options_as_rows_side_by_side_waste_nothing():
    space, calls = Space({"n": Choice(tuple(range(8)))}), []

    def run(choices, rows):
        calls.append(len(rows))
        return rows

    map_by_choice(run, space, jnp.arange(8.0)[:, None], hg.Vmap().width(8))
    assert calls == [1] * 8


@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_rows_come_back_in_their_order(width):
    coords = jnp.array([[0.0], [2], [0], [1], [0], [2], [0]])
    space = Space({"n": Choice((10, 20, 30))})
    calls = []

    def run(choices, rows):
        assert len(rows) in {min(k, width) for k in (1, 2, 4)}
        calls.append(choices["n"])
        return {"n": choices["n"] + rows, "none": None}

    found = map_by_choice(run, space, coords, width)
    np.testing.assert_array_equal(found["n"], [10, 31, 12, 23, 14, 35, 16])
    assert found["none"] is None
    assert len(calls) == -(-4 // width) + -(-2 // width) + 1


def test_what_is_made_once_for_a_choice_is_kept():
    make = once_per_choice(lambda choices: [choices["n"]])
    assert make({"n": True}) is make({"n": True})
    assert make({"n": True}) is not make({"n": 2})
    both = once_per_choice(dict)
    assert both({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert both({"b": 1, "a": 2}) == {"a": 2, "b": 1}
    assert both({"b": 2, "a": 1}) is both({"a": 1, "b": 2})
