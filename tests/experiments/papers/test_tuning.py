"""The online loop in pieces is the loop in one."""

import jax
import numpy as np
import optax

import hypergrad as hg
from experiments.papers.tuning import tuned
from experiments.papers.vicol_influence import influence_balancing


def test_pieces_and_looks(key):
    problem, outer = influence_balancing(43, outer_every=1, units=5), optax.sgd(1e-3)
    told = []
    found = tuned(
        problem,
        hg.RTHO(),
        0.5,
        outer,
        43,
        key,
        lambda done, total: told.append((done, total)),
        looks=10,
    )
    whole = hg.tune(problem, hg.RTHO(), 0.5, outer, num_calls=43, key=key)
    np.testing.assert_array_equal(found.hparams, whole.hparams)
    assert found.calls[0] == 0
    assert found.calls[-1] == 43
    assert len(found.calls) == 11
    every = np.append(whole.trajectory, whole.hparams)
    np.testing.assert_array_equal(found.path, every[found.calls])
    assert told[-1] == (43, 43)
    assert len(told) > 5


def test_few_calls_of_a_tree(key):
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jax.numpy.zeros(()),
        step=lambda hp, s, tick: s + hp["a"],
        outer_at=lambda hp, s, tick: s,
        num_steps=1,
    )
    found = tuned(
        problem, hg.Reverse(), {"a": 1.0}, optax.sgd(1.0), 2, key, lambda *_: None
    )
    np.testing.assert_array_equal(found.path["a"], [1.0, 0.0, -1.0])
