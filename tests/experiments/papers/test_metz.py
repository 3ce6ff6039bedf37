"""The Lorenz system against a run and its tangents written out in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers import metz
from experiments.papers.metz import Lorenz, lorenz, lyapunov

SMALL = Lorenz(precision="float64", num_steps=40, num_calls=4, num_draws=3)
TRUTH = np.log(metz.TRUTH[:2])


def quiet(done, total):
    del done, total


def by_hand(hparams, num_steps):
    """F and dF/dλ: s and ∂s/∂(log a, log r) moved along by the product rule."""
    runs = []
    for a, r in (np.exp(hparams), metz.TRUTH[:2]):
        s, z, response, slopes = np.array([1.2, 1.3, 1.6]), [], np.zeros((3, 2)), []
        for _ in range(num_steps):
            x, y, h = s
            jacobian = np.array([[-a, a, 0], [r - h, -1, -x], [y, x, -8 / 3]])
            direct = np.array([[a * (y - x), 0], [0, r * x], [0, 0]])
            response = response + 0.005 * (jacobian @ response + direct)
            move = np.array([a * (y - x), x * (r - h) - y, x * y - 8 / 3 * h])
            s = s + 0.005 * move
            z.append(s[2])
            slopes.append(response[2])
        runs.append((np.array(z), np.array(slopes)))
    (z, slopes), (truth, _) = runs
    return np.mean((z - truth) ** 2), 2 * np.mean((z - truth)[:, None] * slopes, axis=0)


def test_value_and_hypergradient_are_those_by_hand(key):
    value, slope = hg.value_and_hypergrad(lorenz(300), hg.Forward())(
        jnp.array(metz.START), key
    )
    expected = by_hand(np.array(metz.START), 300)
    np.testing.assert_allclose(value, expected[0], rtol=1e-10)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-10)


def test_norms_and_losses():
    found = SMALL.model_copy(update={"lengths": (40,)}).measure(hg.Forward(), 0, quiet)
    for name, at in (("at_start", metz.START), ("near_truth", TRUTH + 1e-3)):
        norm = np.linalg.norm(by_hand(np.array(at), 40)[1])
        np.testing.assert_allclose(found.curves[name].y, [norm], rtol=1e-9)
    # An odd number of draws is made even: two pairs.
    half = 0.04 * np.random.default_rng(0).normal(size=(2, 2))
    for name, at in (("first", metz.START), ("truth", TRUTH)):
        losses = [by_hand(at + e, 40)[0] for e in (*half, *-half)]
        np.testing.assert_allclose(found.numbers[name], np.mean(losses), rtol=1e-10)


def test_the_rate_drops_and_descends_along_the_hypergradient():
    outer = hg.Outer("sgd", learning_rate=1e-3, clip=float("inf"))
    paper = SMALL.model_copy(update={"outer": outer, "drop_after": 2, "sigma": 0.0})
    found = paper.measure(hg.Forward(), 0, quiet)
    at, path = np.array(metz.START), [np.array(metz.START)]
    for rate in (1e-3, 1e-3, 1e-4, 1e-4):
        at = at - rate * by_hand(at, 40)[1]
        path.append(at)
    distances = np.linalg.norm(np.array(path) - TRUTH, axis=1)
    np.testing.assert_allclose(found.curves["distance"].y, distances, rtol=1e-10)
    losses = [by_hand(at, 40)[0] for at in path]
    np.testing.assert_allclose(found.curves["loss"].y, losses, rtol=1e-9)
    assert found.numbers["truth"] < 1e-25


def test_lyapunov_exponent():
    """The largest exponent is .906 in continuous time (Sprott 2003)."""
    assert abs(lyapunov(20_000) - 0.9) < 0.2


@pytest.mark.slow
def test_smoothed_slopes_stay_where_exact_ones_explode():
    lengths = (500, 4000)
    paper = SMALL.model_copy(update={"lengths": lengths})
    exact = paper.measure(hg.Forward(), 0, quiet).curves["at_start"].y
    smooth = hg.NoiseReuseES(0.04, 200, window=20)
    smoothed = paper.measure(smooth, 0, quiet).curves["at_start"].y
    assert exact[1] > 1e7 * exact[0]
    assert 0.5 < smoothed[1] / smoothed[0] < 2
