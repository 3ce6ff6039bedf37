"""Cells by hand, λ and the weights in turn by hand, and the limits of a tiny search."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from experiments.papers.alternating import alternate
from experiments.papers.darts import Darts
from experiments.papers.darts_cells import (
    OPERATIONS,
    drawn,
    edges_into,
    strongest,
)


def quiet(done, total):
    del done, total


def test_two_edges_into_each_node_are_kept():
    rng = np.random.default_rng(0)
    for cell in (drawn(rng, 3), strongest(rng.uniform(size=(9, 5)), 3)):
        assert cell.shape == (9, len(OPERATIONS))
        assert set(cell.ravel()) == {0.0, 1.0}
        assert not cell[:, OPERATIONS.index("none")].any()
        for edges in edges_into(3):
            rows = cell[edges.start : edges.stop].sum(axis=1)
            assert sorted(rows)[-2:] == [1, 1]
            assert rows.sum() == 2


def test_a_step_of_each_in_turn(key):
    """With ℓ = (w − λ)²/2 and outer w²/2: both move on the λ before and after."""
    problem = hg.Problem(
        init=lambda key, hp: jnp.asarray(2.0),
        inner_loss=lambda w, hp, batch: 0.5 * (w - hp) ** 2,
        outer_loss=lambda w, hp, batch: 0.5 * w**2,
        optimizer=lambda hp: optax.sgd(0.3),
        train=jnp.zeros(1),
        valid=jnp.zeros(1),
        num_steps=4,
    )
    seen = []
    found = alternate(
        problem,
        hg.OneStep(),
        jnp.asarray(1.0),
        optax.sgd(0.5),
        key,
        quiet,
        looks=2,
        look=lambda step, hparams, state: seen.append((step, float(hparams))),
    )
    w, lam, values, path = 2.0, 1.0, [], [1.0]
    for _ in range(4):
        after = w - 0.3 * (w - lam)
        values.append(0.5 * after**2)
        lam = lam - 0.5 * 0.3 * after
        w = w - 0.3 * (w - lam)
        path.append(lam)
    np.testing.assert_allclose(found.values, values, rtol=1e-12)
    np.testing.assert_allclose(found.state.weights, w, rtol=1e-12)
    assert [step for step, _ in seen] == [0, 2, 4]
    np.testing.assert_allclose([x for _, x in seen], path[::2], rtol=1e-12)

    held = alternate(problem, None, jnp.asarray(1.0), optax.sgd(0.5), key, quiet)
    assert held.hparams == 1.0
    np.testing.assert_allclose(held.state.weights, 1.0 + 0.7**4, rtol=1e-12)


@pytest.mark.slow
def test_limits_of_a_tiny_search():
    paper = Darts(
        precision="float64",
        source="digits",
        num_search=60,
        num_test=40,
        channels=2,
        cells=1,
        nodes=1,
        batch_size=10,
        num_steps=3,
        retrain_steps=2,
        num_random=1,
    )
    found = paper.measure(hg.Darts(), 0, quiet)
    assert found.numbers["gap"] < 1e-5
    assert found.numbers["gap_first"] < 1e-12
    weights = [found.curves[name].y for name in OPERATIONS]
    np.testing.assert_allclose(np.sum(weights, axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.array(weights)[:, 0], 0.2, atol=2e-3)
    assert 0 <= found.numbers["error"] <= 100
