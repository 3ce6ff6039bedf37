"""Wu et al. 2018: on a noisy quadratic the best rate of each step is known."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import hypergrad as hg
from tests.catalog import noisy_quadratic


def greedy(a, h, noise, num_steps):
    """α_t = A_t / (h (A_t + s²)): optimal in one dimension, and F at the end."""
    rates = []
    for _ in range(num_steps):
        rate = a / (h * (a + noise**2))
        a = (1 - rate * h) ** 2 * a + (rate * h * noise) ** 2
        rates.append(rate)
    return np.array(rates), 0.5 * h * a


@pytest.mark.parametrize("estimator", [hg.Reverse(), hg.Forward()], ids=str)
def test_fifty_learned_rates_are_those_of_the_closed_form(estimator, key):
    problem = noisy_quadratic(50, h=(1.0,), noise=(1.0,))
    fn = hg.value_and_hypergrad(problem, estimator)

    def objective(log_rates):
        rates = jnp.exp(log_rates)
        value, slope = fn({"lr": rates}, key)
        return float(value), np.asarray(slope["lr"] * rates)

    found = scipy.optimize.minimize(
        objective,
        np.full(50, np.log(0.1)),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-18, "gtol": 1e-14, "maxiter": 2000, "maxcor": 50},
    )
    rates, value = greedy(4.0, 1.0, 1.0, 50)
    assert value == pytest.approx(0.5 * 4 / 201, rel=1e-12)
    np.testing.assert_allclose(rates[:4], [4 / 5, 4 / 9, 4 / 13, 4 / 17])
    np.testing.assert_allclose(found.fun, value, rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.x), rates, rtol=1e-6)
