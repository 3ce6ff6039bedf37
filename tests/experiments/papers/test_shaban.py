"""Truncated back-propagation on a quadratic, where every part has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers.shaban import ShabanToy, outer_loss

SMALL = ShabanToy(precision="float64", num_steps=12, windows=(4,))


def quiet(done, total):
    del done, total


def closed_form(toy, window):
    """(I − A^K) ∇f(w_T) with A = I − γG and w_T = (I − A^T) λ."""
    factor = 1 - toy.rate * np.array(toy.curvatures)
    weights = (1 - factor**toy.num_steps) * np.array(toy.hparams)
    return (1 - factor**window) * np.asarray(jax.grad(outer_loss)(jnp.array(weights)))


def test_every_window_is_its_closed_form(key):
    hparams = jnp.array(SMALL.hparams)
    for window in (4, 12):
        part = hg.hypergrad(SMALL.problem(), hg.Reverse(window=window))(hparams, key)
        np.testing.assert_allclose(part, closed_form(SMALL, window), rtol=1e-12)


def test_errors_are_those_of_the_closed_form_and_below_the_bound():
    found = SMALL.measure(hg.Forward(), 0, quiet)
    whole = closed_form(SMALL, SMALL.num_steps)
    errors = [
        np.linalg.norm(closed_form(SMALL, window) - whole) / np.linalg.norm(whole)
        for window in range(1, SMALL.num_steps)
    ]
    np.testing.assert_allclose(found.curves["relative_error"].y, errors, rtol=1e-10)
    assert 0.5 < found.numbers["worst"] < 1
    assert found.numbers["gap"] < 1e-14
    assert found.numbers["least_cosine"] > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hparams": (1.0,)}, "hparams and curvatures are as long"),
        ({"windows": (0,)}, "windows are from 1 to num_steps"),
        ({"windows": (13,)}, "windows are from 1 to num_steps"),
    ],
)
def test_options_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SMALL.model_copy(update=fields).measure(hg.Reverse(), 0, quiet)
