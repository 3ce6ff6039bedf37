"""Short-horizon bias on a noisy quadratic, against closed forms and simulated SGD."""

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.papers.wu import NoisyQuadratic

ONE = NoisyQuadratic(precision="float64", num_steps=6)
TWO = NoisyQuadratic(
    precision="float64",
    curvatures=(0.1, 1.0),
    dimension=2,
    noise=0.01,
    second_moment=1.0,
    num_steps=10,
)


def quiet(done, total):
    del done, total


def test_moments_are_those_of_simulated_sgd():
    rng, rates = np.random.default_rng(0), np.array([0.9, 0.3, 0.5])
    h, noise = (np.asarray(x) for x in TWO.quadratic())
    thetas = np.ones((200_000, 2))
    for rate in rates:
        samples = thetas + np.sqrt(noise) * rng.normal(size=thetas.shape)
        thetas = thetas - rate * h * samples
    loss = 0.5 * np.mean(thetas**2 @ h)
    np.testing.assert_allclose(TWO.losses(rates)[-1], loss, rtol=5e-3)


def test_the_greedy_rate_has_no_better_neighbour():
    quadratic = TWO.quadratic()
    moments = jnp.array([0.7, 0.2])
    best = quadratic.greedy(moments)
    losses = [
        quadratic.loss(quadratic.step(moments, best * f)) for f in (0.99, 1, 1.01)
    ]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("curvature", [1.0, 0.5])
def test_alike_curvatures_are_as_one(curvature):
    alike = {"curvatures": (curvature, curvature), "dimension": 3}
    found = ONE.model_copy(update=alike).measure(hg.Reverse(), 0, quiet)
    steps, moment = np.arange(1, 7), ONE.second_moment
    rates = moment / (1.0 + steps * moment) / curvature
    np.testing.assert_allclose(found.curves["optimal_rate"].y, rates, atol=1e-6)
    np.testing.assert_allclose(found.curves["greedy_rate"].y, rates, rtol=1e-12)
    last = 1.5 * curvature * moment / (1.0 + 6 * moment)
    np.testing.assert_allclose(found.numbers["optimal"], last, rtol=1e-9)


def test_unlike_curvatures_reward_patience():
    found = TWO.measure(hg.Forward(), 0, quiet).numbers
    assert found["optimal"] < 0.5 * min(found["fixed"], found["greedy"])
    stable = TWO.model_copy(update={"stable": True}).measure(hg.Reverse(), 0, quiet)
    assert max(stable.curves["optimal_rate"].y) <= 2.0 * (1 + 1e-12)
    assert found["optimal"] <= stable.numbers["optimal"] < found["fixed"]


@pytest.mark.parametrize(
    "fields",
    [{"curvatures": (1.0, 0.1), "dimension": 2}, {"curvatures": (0.1, 1.0)}],
)
def test_curvatures_out_of_order(fields):
    with pytest.raises(ValidationError, match="the least and the largest"):
        NoisyQuadratic(**fields)
