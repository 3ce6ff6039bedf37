"""A searcher in Python is asked and told in a loop, and its state is its log."""

from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad.searchers.host import HostSearch
from hypergrad.study import advance
from tests.searching import SPACE, assert_inside, cube


@final
@dataclass(frozen=True)
class NearTheBest(HostSearch):
    """A Gaussian about the best trial so far: it learns, and it has a stream."""

    def propose(self, space, known, count, num_trials, seed):
        best = np.argmin(np.append(known.values, np.inf))
        center = known.coords[best] if len(known.values) else np.zeros(space.dim)
        draws = np.random.default_rng((seed, len(known.values)))
        return center + 0.1 * draws.standard_normal((count, space.dim))


def bowl(width=1.0):
    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: width * jnp.sum((hp["x"] - 0.3) ** 2),
        num_steps=1,
    )


def test_it_begins_at_the_default_learns_and_stays_inside(key):
    space = cube(3, default=0.9)
    study = hg.search(bowl(), space, NearTheBest(batch=2), num_trials=60, key=key)
    np.testing.assert_allclose(study.trials.coords[0], 0.9)
    assert_inside(space, study.trials.coords)
    assert study.best_value < 0.1 * study.trials.values[0]


def test_a_log_cut_anywhere_goes_on_identically(key):
    searcher = NearTheBest(batch=2)

    def run(state, rounds):
        for _ in range(rounds):
            coords, state = searcher.ask(SPACE, state)
            state = searcher.tell(SPACE, state, coords, jnp.sum(coords**2, axis=1))
        return state

    whole = run(searcher.init(SPACE, 12, key), 6)
    half = jax.tree.map(jnp.copy, run(searcher.init(SPACE, 12, key), 3))
    resumed = run(half, 3)
    np.testing.assert_array_equal(whole.coords, resumed.coords)


def test_telling_leaves_the_state_it_was_given_alone(key):
    searcher = NearTheBest(batch=1)
    state = searcher.init(SPACE, 4, key)
    coords, state = searcher.ask(SPACE, state)
    searcher.tell(SPACE, state, coords, jnp.ones(1))
    assert state.num_told == 0
    np.testing.assert_array_equal(state.coords, 0.0)


def test_it_chooses_too(key):
    space = hg.Space(
        {"x": hg.Linear(0.0, 1.0, shape=2), "width": hg.Choice((1.0, 9.0))}
    )
    study = hg.search(
        lambda choices: bowl(choices["width"]),
        space,
        NearTheBest(batch=3),
        num_trials=6,
        key=key,
    )
    widths = [space.choices(z)["width"] for z in study.trials.coords]
    expected = [
        w * np.sum((space.from_coords(z)["x"] - 0.3) ** 2)
        for w, z in zip(widths, study.trials.coords, strict=True)
    ]
    np.testing.assert_allclose(study.trials.values, expected, rtol=1e-6)


def test_one_program_cannot_hold_it(key):
    searcher = NearTheBest()
    state = searcher.init(cube(2), 4, key)
    with pytest.raises(ValueError, match="on the host: use search"):
        advance(bowl(), cube(2), searcher, hg.Value(), state, key, 4)


def test_a_batch_is_positive():
    with pytest.raises(ValueError, match="batch must be a whole number"):
        NearTheBest(batch=0)
