"""Test functions: their minima, their slopes, and a default that is nowhere special."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import hypergrad as hg
from experiments.configs.cells import load
from experiments.registry import load_tasks
from experiments.tasks.functions import LEAST, Function

BEST = {
    "branin": [(np.pi + 5) / 15, 2.275 / 15],
    "hartmann6": [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573],
    "rosenbrock": [0.5 + 0.5 / 2.048] * 5,
}


@pytest.mark.parametrize("name", BEST)
def test_the_minimum_is_the_least_and_the_default_is_not_near(name, key):
    task = Function(function=name, dim=5)
    problem, space = task.problem(0), task.space()
    F = jax.jit(jax.value_and_grad(hg.objective(problem, hg.Reverse())))
    found = minimize(
        lambda u: float(F({"x": jnp.asarray(u)}, key)[0]),
        np.array(BEST[name]),
        jac=lambda u: np.asarray(F({"x": jnp.asarray(u)}, key)[1]["x"]),
        tol=1e-12,
    )
    np.testing.assert_allclose(found.fun, LEAST[name], atol=1e-9)
    np.testing.assert_allclose(found.x, BEST[name], atol=1e-4)
    at = space.defaults()
    value, slope = F(at, key)
    assert value > LEAST[name] + 0.1
    assert jnp.linalg.norm(slope["x"]) > 0.1
    assert np.all(np.abs(np.asarray(at["x"]) - 0.5) > 0.01)
    # The minimum is inside of the bounds.
    space.check({"x": jnp.asarray(found.x)})


def test_exact_estimators_give_its_slope(key):
    task = Function(function="rosenbrock", dim=3)
    hparams = task.space().defaults()
    exact, tangent = hg.Reverse(), hg.Forward()
    first, second = (
        hg.hypergrad(task.problem(0), estimator)(hparams, key)["x"]
        for estimator in (exact, tangent)
    )
    x = 2.048 * (2 * np.asarray(hparams["x"]) - 1)
    expected = np.zeros(3)
    expected[:-1] += -400 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2 * (1 - x[:-1])
    expected[1:] += 200 * (x[1:] - x[:-1] ** 2)
    np.testing.assert_allclose(first, 4.096 * expected, rtol=1e-12)
    np.testing.assert_allclose(second, first, rtol=1e-12)


def test_all_seeds_see_one_function_and_validation_is_test(key):
    task = Function(function="hartmann6")
    assert task.metric == "regret"
    assert not task.higher_is_better
    hparams = task.space().defaults()
    states = [hg.train(task.problem(seed), hparams, key) for seed in (0, 1)]
    results = [
        metrics(state, hparams)["regret"]
        for state in states
        for metrics in (task.validation(0), task.test(3))
    ]
    np.testing.assert_array_equal(results, np.full(4, results[0]))
    assert results[0] > 0


@pytest.mark.parametrize(
    ("written", "built"),
    [
        ('{name="OptunaSearch", batch=4, sampler={name="TPE"}}', "TPE(multivariate"),
        ('{name="OptunaSearch", sampler="QMC"}', "QMC()"),
        ('{name="OptunaSearch", sampler={name="Grid", ties=[["a", ["x"]]]}}', "Grid("),
        ('"CMAES"', "CMAES(batch=1"),
        ('{name="CMAES", covariance="DiagonalCovariance"}', "DiagonalCovariance()"),
    ],
)
def test_a_config_names_searchers_of_other_libraries(written, built):
    load_tasks()
    file = Path(__file__).parents[3] / "paper_configs" / "regret.toml"
    (cell,) = load(file, [f"searcher={written}"], mode="run").cells
    assert built in repr(cell.searcher)
