"""Implicit hypergradients of few products against series, sketches and a rerun."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers import grazzi_regression as regression
from experiments.papers.hataya_logreg import HatayaLogisticRegression


def silent(done, total):
    pass


def implicit(solver):
    return hg.Implicit(solver=solver, tolerance=1e9)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_numpy(halves, solve, num_steps, outer_steps):
    """The whole protocol without JAX: losses before each outer step."""
    (x, y), (v, z) = halves
    lam, velocity, losses = np.ones(x.shape[1]), np.zeros(x.shape[1]), []
    for _ in range(outer_steps):
        w = np.zeros(x.shape[1])
        for _ in range(num_steps):
            w = w - 0.1 * (x.T @ (sigmoid(x @ w) - y) / len(x) + lam * w)
        logits = v @ w
        losses.append(np.mean(np.logaddexp(0, logits) - z * logits))
        s = sigmoid(x @ w)
        hessian = x.T @ ((s * (1 - s))[:, None] * x) / len(x) + np.diag(lam)
        slope = v.T @ (sigmoid(logits) - z) / len(v)
        velocity = 0.9 * velocity - w * solve(hessian, slope)
        lam = np.maximum(lam - velocity, 1e-8)
    return losses


def series(hessian, b):
    """α Σ_{k=0}^{5} (I − α H)^k b: five products, six terms."""
    term, total = b, b
    for _ in range(5):
        term = term - 0.1 * hessian @ term
        total = total + term
    return 0.1 * total


@pytest.mark.parametrize(
    ("solver", "solve"),
    [
        (hg.Dense(), np.linalg.solve),
        pytest.param(
            hg.CG(max_iterations=8, tolerance=0.0),
            np.linalg.solve,
            marks=pytest.mark.slow,
        ),
        (hg.Neumann(max_iterations=6, scale=0.1, tolerance=0.0), series),
    ],
    ids=["dense", "cg", "neumann"],
)
def test_the_protocol_against_numpy(solver, solve):
    paper = HatayaLogisticRegression(
        num_rows=60, dimension=8, num_steps=50, num_outer_steps=12
    )
    found = paper.measure(implicit(solver), 3, silent)
    halves = regression.drawn("synthetic", 60, 8, seed=3)
    expected = by_numpy(halves, solve, 50, 12)
    np.testing.assert_allclose(found.curves["loss"].y, expected, rtol=1e-6)
    assert found.curves["loss"].x[0] == 1
    assert found.numbers["finite"] == 1


def test_all_columns_of_the_hessian_are_its_inverse(key):
    problem = regression.problem(regression.drawn("synthetic", 60, 8, 0), 0.1, 50)
    lam = jnp.linspace(0.1, 1.0, 8)
    exact = hg.hypergrad(problem, implicit(hg.Dense()))(lam, key)
    all_columns = implicit(hg.Nystrom(rank=8, rho=1e-7))
    np.testing.assert_allclose(
        hg.hypergrad(problem, all_columns)(lam, key), exact, 1e-4
    )


def test_halves_are_in_the_order_of_drawing():
    random = np.random.RandomState(5)
    true, inputs = random.randn(3), random.randn(10, 3)
    labels = inputs @ true + 0.1 * random.randn(10) > 0
    halves = regression.drawn("synthetic", 10, 3, seed=5)
    np.testing.assert_array_equal(halves.train[0], inputs[:5])
    np.testing.assert_array_equal(halves.valid[1], labels[5:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypergrad.HypergradWarning")
def test_a_small_rho_is_finite_in_float32_until_training_diverges():
    """ρ = .01 is; with ρ = 1e-5 one step takes λ beyond 2 / η, and NaN is recorded."""
    with jax.enable_x64(False):
        for rho, finite in ((1e-2, True), (1e-5, False)):
            found = HatayaLogisticRegression(num_outer_steps=30).measure(
                implicit(hg.Nystrom(rank=5, rho=rho)), 0, silent
            )
            assert (found.numbers["finite"] == 1) == finite
            assert found.numbers["explained"] == 1
