"""Gradient search: every optimiser, the edges of a space, and cliffs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrad.choices import Choice
from hypergrad.hyperparameters import Linear
from hypergrad.projections import CappedSimplex
from hypergrad.searchers import GradientSearch, Outer
from hypergrad.searchers.base import starts
from hypergrad.space import Space
from tests.searching import SPACE, assert_inside, cube, jitted_study, quadratic


@pytest.mark.parametrize(
    ("outer", "num_steps"),
    [
        (Outer("sgd", learning_rate=0.5), 40),
        (Outer("momentum", learning_rate=0.1, momentum=0.6), 60),
        (Outer("nesterov", learning_rate=0.1, momentum=0.6), 60),
        (Outer("adam", learning_rate=0.1, final=0.0), 300),
        (Outer("rmsprop", learning_rate=0.01, b2=0.9, final=0.0), 300),
    ],
)
def test_every_optimiser_reaches_the_minimum(outer, num_steps, key):
    searcher = GradientSearch(outer, starts=3)
    coords, _ = jitted_study(searcher, cube(4), quadratic, 3 * num_steps, key)
    np.testing.assert_allclose(coords[-3:], 0.3, atol=1e-6)


def test_minimum_on_the_bounds_and_on_a_constraint(key):
    target = jnp.array([1.4, 0.9, 0.8, -0.5])
    space = Space(
        {
            "a": Linear(0.0, 1.0),
            "b": Linear(0.0, 1.0, shape=3, constraint=CappedSimplex(1.0)),
        }
    )
    searcher = GradientSearch(Outer("sgd", learning_rate=0.5), starts=2)
    coords, _ = jitted_study(
        searcher, space, lambda z: 0.5 * jnp.sum((z - target) ** 2), 80, key
    )
    # nearest point of {b >= 0, Σ b <= 1} to (0.9, 0.8, -0.5), by hand
    np.testing.assert_allclose(coords[-1], [1.0, 0.55, 0.45, 0.0], atol=1e-9)
    assert_inside(space, coords)


def test_takes_the_step_of_its_optimiser(key):
    searcher = GradientSearch(Outer("sgd", learning_rate=0.1), starts=2)
    space = cube(3)
    state = searcher.init(space, 10, key)
    coords, state = searcher.ask(space, state)
    grads = jnp.arange(6.0).reshape(2, 3) / 10
    state = searcher.tell(space, state, coords, jnp.ones(2), grads)
    moved, _ = searcher.ask(space, state)
    np.testing.assert_allclose(moved, jnp.clip(coords - 0.1 * grads, 0, 1))


def test_steps_back_from_a_cliff(key):
    """F falls towards 0.62 and is NaN from there on: steps of 0.1 would fall off."""

    def cliff(z):
        return jnp.where(z[0] < 0.62, -z[0], jnp.nan)

    searcher = GradientSearch(Outer("adam", learning_rate=0.1), starts=1)
    coords, values = jitted_study(searcher, cube(1), cliff, 40, key)
    assert np.isnan(values).any()
    assert np.all(np.isfinite(coords))
    np.testing.assert_allclose(np.nanmin(values), -0.62, atol=1e-3)


def test_a_failure_costs_its_own_start_only(key):
    searcher = GradientSearch(Outer("sgd", learning_rate=0.1), starts=2)
    space, ones = cube(2), jnp.ones((2, 2))
    state = searcher.init(space, 10, key)
    first, state = searcher.ask(space, state)
    state = searcher.tell(space, state, first, jnp.array([1.0, 2.0]), ones)
    second, state = searcher.ask(space, state)

    # start 0 diverges in its gradient only; start 1 goes on
    grads = ones.at[0, 1].set(jnp.inf)
    state = searcher.tell(space, state, second, jnp.array([0.5, 1.5]), grads)
    third, state = searcher.ask(space, state)
    np.testing.assert_allclose(third[0], first[0] - 0.05)  # from its best, half a step
    np.testing.assert_allclose(third[1], jnp.clip(second[1] - 0.1, 0, 1))
    np.testing.assert_array_equal(state.scale, [0.5, 1.0])
    np.testing.assert_array_equal(state.best.value, [1.0, 1.5])


def test_a_start_never_finite_is_drawn_again(key):
    searcher = GradientSearch(starts=2)
    space = cube(2)
    state = searcher.init(space, 10, key)
    first, state = searcher.ask(space, state)
    values = jnp.array([jnp.nan, 1.0])
    state = searcher.tell(space, state, first, values, jnp.ones((2, 2)))
    second, _ = searcher.ask(space, state)
    np.testing.assert_array_equal(second[0], starts(space, key, jnp.array([2]))[0])
    assert state.scale[0] == 1.0


def test_exploding_gradients_are_clipped_in_float32():
    with jax.enable_x64(False):
        outer = Outer("sgd", learning_rate=0.1, clip=2.0).transformation()
        for size in (1e-30, 1e-3, 1e20, 3e38):
            grads = size * jnp.array([0.6, -0.8])
            step, _ = outer.update(grads, outer.init(grads))
            expected = -0.1 * min(size, 2.0) * np.array([0.6, -0.8])
            np.testing.assert_allclose(step, expected, rtol=1e-5)
        step, _ = outer.update(jnp.zeros(2), outer.init(jnp.zeros(2)))
        np.testing.assert_array_equal(step, np.zeros(2))


def test_gradient_search_without_gradients_says_what_to_do(key):
    searcher = GradientSearch(starts=1)
    state = searcher.init(SPACE, 3, key)
    coords, state = searcher.ask(SPACE, state)
    with pytest.raises(ValueError, match="estimator that gives a hypergradient"):
        searcher.tell(SPACE, state, coords, jnp.zeros(1))


TELL = jax.jit(
    lambda searcher, space, state, *told: searcher.tell(space, state, *told),
    static_argnums=(0, 1),
)


def told(searcher, space, state, values, grads):
    coords, state = searcher.ask(space, state)
    return TELL(searcher, space, state, coords, jnp.asarray(values), grads)


def test_never_out_of_patience_is_the_search_without(key):
    outer = Outer("adam", learning_rate=0.1, final=0.2)
    plain, _ = jitted_study(GradientSearch(outer, 2), cube(3), quadratic, 30, key)
    patient = GradientSearch(outer, 2, patience=16)
    coords, _ = jitted_study(patient, cube(3), quadratic, 30, key)
    np.testing.assert_array_equal(coords, plain)


def test_out_of_patience_a_start_begins_anew(key):
    space = cube(2)
    searcher = GradientSearch(Outer("sgd", learning_rate=0.1), starts=2, patience=2)
    state, ones = searcher.init(space, 20, key), 0.1 * jnp.ones((2, 2))
    state = told(searcher, space, state, [1.0, 1.0], ones)
    # start 0 falls by too little, start 1 falls; then 0 has waited for two steps
    state = told(searcher, space, state, [0.9995, 0.9], ones)
    second, _ = searcher.ask(space, state)
    state = told(searcher, space, state, [0.9994, 0.8], ones)
    third, _ = searcher.ask(space, state)
    np.testing.assert_array_equal(third[0], starts(space, key, jnp.array([2]))[0])
    np.testing.assert_allclose(third[1], jnp.clip(second[1] - 0.01, 0, 1))
    np.testing.assert_array_equal(state.best.value, [jnp.inf, 0.8])
    np.testing.assert_array_equal(state.age, [0, 3])
    # both at once: two different points
    state = told(searcher, space, state, [1.0, 0.8], ones)
    state = told(searcher, space, state, [1.0, 0.8], ones)
    state = told(searcher, space, state, [1.0, 0.8], ones)
    begun = int(state.num_begun)
    assert begun == 5
    drawn = starts(space, key, jnp.array([3, 4]))
    for row in drawn:
        assert np.any(np.all(np.isclose(state.best.coords, row), axis=1)) or np.any(
            np.all(np.isclose(state.coords, row), axis=1)
        )


def test_small_steps_of_one_sign_are_not_a_stall(key):
    searcher = GradientSearch(Outer("sgd"), starts=1, patience=3)
    state = searcher.init(cube(1), 40, key)
    for step in range(12):  # 0.04% a step, 0.1% in three
        value = 1.0 - 4e-4 * step
        state = told(searcher, cube(1), state, [value], jnp.zeros((1, 1)))
    assert int(state.num_begun) == 1


def test_patience_takes_the_next_combination_of_choices(key):
    space = Space({"cell": Choice(("rnn", "gru", "lstm")), "x": Linear(0.0, 1.0)})
    searcher = GradientSearch(Outer("sgd", learning_rate=0.5), starts=1, patience=2)

    def function(z):
        return (z[1] - 0.3) ** 2 + z[0] + jnp.where(z[0] == 1.0, jnp.nan, 0.0)

    coords, _ = jitted_study(searcher, space, function, 14, key)
    assert_inside(space, coords)
    cells = np.asarray(coords)[:, 0]
    assert set(cells) == {0.0, 1.0, 2.0}
    assert np.sum(cells == 1.0) <= 2  # diverging everywhere, it is left at once


def test_patience_finds_the_deeper_valley(key):
    """The default lies above a shallow valley, which a descent does not leave."""

    def valleys(z):
        return jnp.minimum((z[0] - 0.45) ** 2 + 0.1, 4 * (z[0] - 0.85) ** 2)

    outer, space = Outer("sgd", learning_rate=0.1), cube(1)
    _, stuck = jitted_study(GradientSearch(outer, 1), space, valleys, 60, key)
    patient = GradientSearch(outer, 1, patience=3)
    _, found = jitted_study(patient, space, valleys, 60, key)
    assert found.min() < 1e-3 < 0.09 < stuck.min()


def test_patience_must_be_a_whole_number():
    with pytest.raises(ValueError, match="patience must be"):
        GradientSearch(patience=0)
