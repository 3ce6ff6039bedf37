"""Hybrid search: who goes on, who gives up, and where the next descent begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrad.choices import Choice
from hypergrad.hyperparameters import Linear
from hypergrad.projections import ProbabilitySimplex
from hypergrad.searchers import GradientSearch, Outer
from hypergrad.searchers.base import starts
from hypergrad.searchers.hybrid import HybridSearch
from hypergrad.searchers.proposals import BayesianProposals, RandomProposals
from hypergrad.space import Space
from tests.searching import assert_inside, cube, jitted_study, quadratic, study

SGD = Outer("sgd", learning_rate=0.5)
PLAIN = HybridSearch(SGD, proposals=RandomProposals())


TELL = jax.jit(
    lambda searcher, space, state, *told: searcher.tell(space, state, *told),
    static_argnums=(0, 1),
)


def tell_all(searcher, space, state, rounds):
    """The asks of `rounds`, each a pair of values [s] and gradients [s, d]."""
    asked = []
    for values, grads in rounds:
        coords, state = searcher.ask(space, state)
        told = coords, jnp.asarray(values), jnp.asarray(grads)
        state = TELL(searcher, space, state, *told)
        asked.append(coords)
    return jnp.stack(asked), state


def test_a_leading_descent_is_gradient_search(key):
    outer = Outer("adam", learning_rate=0.02)
    alone = GradientSearch(outer, starts=1)
    hybrid = HybridSearch(outer, patience=30, proposals=RandomProposals())
    expected, _ = jitted_study(alone, cube(3), quadratic, 20, key)
    coords, _ = jitted_study(hybrid, cube(3), quadratic, 20, key)
    np.testing.assert_allclose(coords, expected, rtol=1e-12)


@pytest.mark.parametrize("descents", [1, 3])
def test_reaches_the_minimum_and_goes_on_elsewhere(descents, key):
    searcher = HybridSearch(
        SGD, descents, rung=3, patience=2, proposals=RandomProposals()
    )
    num_trials = 90 * descents
    coords, values = jitted_study(searcher, cube(3), quadratic, num_trials, key)
    assert values.min() < 1e-12
    assert np.sum(np.linalg.norm(np.diff(coords[::descents], axis=0), axis=1) > 0.2) > 1


def test_the_worst_at_equal_age_gives_up(key):
    """Six descents, of which only the first two of each rung lead."""
    searcher = HybridSearch(SGD, 6, rung=2, keep=1 / 3, proposals=RandomProposals())
    space, flat = cube(2), jnp.zeros((6, 2))
    state = searcher.init(space, 60, key)
    values = np.array([3.0, 1.0, 6.0, 2.0, 5.0, 4.0])
    _, state = tell_all(searcher, space, state, [(values + 1, flat), (values, flat)])
    np.testing.assert_array_equal(state.slots.age, [0, 2, 0, 2, 0, 0])
    np.testing.assert_array_equal(state.slots.row, [6, 1, 7, 3, 8, 9])
    assert int(state.num_begun) == 10
    fresh, _ = searcher.ask(space, state)
    drawn = starts(space, key, jnp.arange(10))
    np.testing.assert_array_equal(fresh[jnp.array([0, 2, 4, 5])], drawn[6:])

    # among ten begun, three may go on: 1.0 and 2.0 of old, and the one of 1.5; the two
    # veterans are not judged again before age 4, and then by what others had by then
    values = np.array([9.0, 0.5, 1.5, 1.8, 8.0, 7.0])
    _, state = tell_all(searcher, space, state, [(values, flat)] * 2)
    np.testing.assert_array_equal(state.slots.age, [0, 4, 2, 4, 0, 0])


def test_one_that_gave_up_counts_with_what_it_had(key):
    """Judged at ages 1, 2, 4: who does not lead all before gives up at once."""
    searcher = HybridSearch(
        SGD, rung=1, keep=0.4, patience=3, proposals=RandomProposals()
    )
    space, flat = cube(1), jnp.zeros((1, 1))
    state, seen = searcher.init(space, 20, key), []
    for value in (5.0, 4.0, 6.0, 4.5, 4.2, 3.9):
        _, state = tell_all(searcher, space, state, [([value], flat)])
        seen.append((int(state.slots.row[0]), int(state.slots.age[0])))
    # 0 leads alone until it has waited for patience; the next is not reached yet
    assert seen == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6)]
    np.testing.assert_array_equal(state.record[0, :4], [5.0, 4.0, 4.0, 3.9])

    seen = []
    state = searcher.init(space, 20, key)._replace(
        record=jnp.full_like(state.record, jnp.inf).at[0, :].set(4.1),
    )
    slots = state.slots._replace(row=jnp.ones(1, int))
    state = state._replace(slots=slots, num_begun=jnp.asarray(2))
    for value in (4.0, 4.0, 3.0):
        _, state = tell_all(searcher, space, state, [([value], flat)])
        seen.append((int(state.slots.row[0]), int(state.slots.age[0])))
    assert seen == [(1, 1), (1, 2), (1, 3)]
    state = state._replace(record=state.record.at[0, :].set(2.0))
    _, state = tell_all(searcher, space, state, [([3.0], flat)])
    assert int(state.slots.row[0]) == 2  # behind 2.0 at age 4


def test_a_stalled_descent_retreats_and_then_gives_up(key):
    searcher = HybridSearch(SGD, rung=50, patience=2, proposals=RandomProposals())
    space, ones = cube(1), 0.1 * jnp.ones((1, 1))
    state = searcher.init(space, 30, key)
    asked, state = tell_all(searcher, space, state, [([1.0], ones)] * 3)
    np.testing.assert_allclose(state.slots.descent.scale, [0.25])
    coords, _ = searcher.ask(space, state)
    # from its best, the first point, with a quarter of the step
    np.testing.assert_allclose(coords[0], asked[0, 0] - 0.25 * 0.5 * 0.1)
    _, state = tell_all(searcher, space, state, [([1.0], ones)] * 4)
    np.testing.assert_array_equal(state.slots.row, [1])
    np.testing.assert_allclose(state.slots.descent.scale, [1.0])


def test_a_descent_never_finite_gives_up_at_once(key):
    space, ones = cube(2), jnp.ones((2, 2))
    searcher = HybridSearch(SGD, 2, proposals=RandomProposals())
    state = searcher.init(space, 20, key)
    _, state = tell_all(searcher, space, state, [([jnp.nan, 1.0], ones)])
    np.testing.assert_array_equal(state.slots.row, [2, 1])
    np.testing.assert_array_equal(state.slots.age, [0, 1])
    # a gradient that is not finite later: half a step from the best
    _, state = tell_all(searcher, space, state, [([1.0, 0.5], ones.at[1].set(jnp.inf))])
    np.testing.assert_array_equal(state.slots.descent.scale, [1.0, 0.5])
    assert np.all(np.isfinite(searcher.ask(space, state)[0]))


@pytest.mark.slow
def test_always_diverging_it_draws_on_and_stays_finite(key):
    searcher = HybridSearch(SGD, 2, proposals=BayesianProposals(2, 16, 2))
    coords, _ = jitted_study(searcher, cube(2), lambda z: jnp.nan * z[0], 24, key)
    assert np.all(np.isfinite(coords))
    # where nothing is known EI is largest in corners, and comes back to them
    assert len(np.unique(coords, axis=0)) > 6


SPACE = Space(
    {
        "cell": Choice(("rnn", "gru", "lstm")),
        "mix": Linear(0.0, 1.0, shape=3, constraint=ProbabilitySimplex()),
    }
)


def by_cell(z):
    """The last cell is the best by far."""
    mix = jnp.sum((z[1:] - jnp.array([0.7, 0.3, 0.0])) ** 2)
    return mix + 2.0 - z[0]


def test_the_row_of_a_live_descent_is_never_overwritten(key):
    """Of 4 descents one lives on, while three are lost at each step."""
    space, searcher = cube(2), HybridSearch(descents=4, proposals=RandomProposals())
    state = searcher.init(space, 120, key)
    first = np.asarray(state.begun[0])
    for i in range(30):
        values = jnp.array([1.0 / (i + 1), jnp.inf, jnp.inf, jnp.inf])
        coords, state = searcher.ask(space, state)
        grads = jnp.ones_like(coords)
        state = TELL(searcher, space, state, coords, values, grads)
        rows = np.asarray(state.slots.row)
        assert len(set(rows)) == 4
        if rows[0] != 0:
            break
        np.testing.assert_array_equal(state.begun[0], first)
    assert int(state.num_begun) > len(state.begun)  # It has gone round.


@pytest.mark.parametrize(
    "proposals",
    [
        RandomProposals(),
        pytest.param(BayesianProposals(3, 32, 5), marks=pytest.mark.slow),
    ],
)
def test_choices_are_held_within_a_descent_and_a_simplex_kept(proposals, key):
    searcher = HybridSearch(
        Outer("sgd", learning_rate=0.1), rung=3, patience=2, proposals=proposals
    )
    coords, values = jitted_study(searcher, SPACE, by_cell, 60, key)
    assert_inside(SPACE, coords)
    cells = np.asarray(coords)[:, 0]
    assert set(cells) == {0.0, 1.0, 2.0}
    assert np.mean(cells == 2.0) > 0.3  # much of the budget is where F is least
    changes = np.flatnonzero(np.diff(cells))
    assert np.all(np.diff(changes) >= 3)
    assert values.min() < 0.01


@pytest.mark.slow
def test_proposals_go_where_descents_end_low(key):
    """Of two valleys the deeper is at 0.8; every known start on its side ended low."""
    proposals, space = BayesianProposals(num_candidates=64, fit_steps=20), cube(1)
    begun = jnp.linspace(0.0, 1.0, 12)[:, None].at[8:].set(0.0)
    reached = jnp.where(begun[:, 0] > 0.5, 1.0, 2.0) + (begun[:, 0] - 0.7) ** 2
    found = proposals.propose(
        space, key, jnp.arange(8, 10), begun, reached, jnp.asarray(8)
    )
    assert found.shape == (2, 1)
    assert np.all(found > 0.5)
    warm = proposals.propose(
        space, key, jnp.arange(3, 5), begun, reached, jnp.asarray(3)
    )
    np.testing.assert_array_equal(warm, starts(space, key, jnp.arange(3, 5)))


@pytest.mark.slow
def test_maps_over_keys_and_resumes(key):
    searcher = HybridSearch(
        SGD, 2, rung=2, patience=2, proposals=BayesianProposals(2, 16, 3)
    )
    space, keys = cube(2), jax.random.split(key, 2)
    run = lambda key: study(searcher, space, quadratic, 24, key)[0]
    together = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_allclose(together[1], jax.jit(run)(keys[1]), atol=1e-6)

    ask, tell = (jax.jit(f, static_argnums=0) for f in (searcher.ask, searcher.tell))
    state, seen = searcher.init(space, 24, keys[1]), []
    for _ in range(12):
        leaves, tree = jax.tree.flatten(state._replace(key=()))
        state = jax.tree.unflatten(tree, [jnp.asarray(np.asarray(x)) for x in leaves])
        coords, state = ask(space, state._replace(key=keys[1]))
        values, grads = jax.vmap(jax.value_and_grad(quadratic))(coords)
        state = tell(space, state, coords, values, grads)
        seen.append(coords)
    np.testing.assert_allclose(jnp.concatenate(seen), together[1], atol=1e-6)


@pytest.mark.slow
def test_float32_study_is_finite():
    with jax.enable_x64(False):
        searcher = HybridSearch(SGD, rung=2, proposals=BayesianProposals(2, 16, 3))
        coords, values = jitted_study(
            searcher, cube(2), quadratic, 20, jax.random.key(0)
        )
        assert coords.dtype == jnp.float32
        assert np.all(np.isfinite(coords))
        assert values.min() < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HybridSearch(rung=0), "rung must be"),
        (lambda: HybridSearch(descents=0), "descents must be"),
        (lambda: HybridSearch(patience=0), "patience must be"),
        (lambda: HybridSearch(keep=0.0), "keep must be a share"),
        (lambda: BayesianProposals(warmup=0), "warmup must be"),
        (lambda: BayesianProposals(jitter=0.0), "jitter must be"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_gradients_it_says_what_to_do(key):
    state = PLAIN.init(cube(2), 4, key)
    with pytest.raises(ValueError, match="HybridSearch needs an estimator"):
        PLAIN.tell(cube(2), state, jnp.zeros((1, 2)), jnp.zeros(1))
