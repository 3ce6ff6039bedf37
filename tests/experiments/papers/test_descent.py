"""The outer loop that papers share, against its closed form."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.papers.descent import descend
from experiments.papers.images import images

quiet = lambda *_: None


def square(hparams, step):
    """F = ½ ‖λ‖², dF/dλ = λ."""
    squares = (jnp.sum(x**2) for x in hparams.values())
    return 0.5 * sum(squares), hparams


def test_values_norms_and_the_last_point():
    start = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    found = descend(square, start, optax.sgd(0.5), 3, quiet)
    assert found.values == [12.5, 12.5 / 4, 12.5 / 16]
    assert found.norms == [5.0, 2.5, 1.25]
    np.testing.assert_array_equal(found.hparams["a"], [3.0 / 8, 0.0])
    assert found.hparams["b"] == 0.5


def test_projection_after_each_step_and_who_looks():
    seen, told = [], []
    found = descend(
        square,
        {"a": jnp.array(4.0)},
        optax.sgd(0.5),
        2,
        lambda *step: told.append(step),
        project=lambda hparams: {"a": jnp.maximum(hparams["a"], 3.0)},
        look=lambda step, hparams: seen.append((step, float(hparams["a"]))),
    )
    assert seen == [(0, 4.0), (1, 3.0), (2, 3.0)]
    assert told == [(1, 2), (2, 2)]
    assert found.values == [8.0, 4.5]


def test_the_objective_knows_the_outer_step():
    found = descend(
        lambda hparams, step: (jnp.asarray(10.0 * step), hparams),
        {"a": jnp.array(1.0)},
        optax.sgd(0.1),
        3,
        quiet,
    )
    assert found.values == [0.0, 10.0, 20.0]


def test_rows_of_images_in_file_order():
    data = images("digits")
    part = data.rows(10, 30)
    assert part.inputs.shape == (20, 64)
    np.testing.assert_array_equal(part.labels, data.labels[10:30])
    assert 0.0 <= data.inputs.min() < data.inputs.max() <= 1.0
    with pytest.raises(ValueError, match="ask for fewer"):
        data.rows(0, 5000)
