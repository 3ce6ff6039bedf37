"""Proximal steps and their fixed points: lasso and elastic net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso

import hypergrad as hg
from hypergrad.curvature import FixedPoint
from hypergrad.estimators.implicit import Implicit
from hypergrad.linear_solvers import GMRES, Dense
from hypergrad.proximal import proximal_sgd, soft_threshold
from tests.problems import relative, squared_error
from tests.test_export import lowers

HPARAMS = {"l1": 0.2, "l2": 0.1}


def data(n=30, d=8):
    rng = np.random.default_rng(5)
    w = np.where(np.arange(d) % 2 == 0, rng.normal(size=d), 0.0)
    x, xv = rng.normal(size=(2, n, d))
    return x, x @ w + 0.3 * rng.normal(size=n), xv, xv @ w


def regression(num_steps=400, dtype=jnp.float64):
    x, y, xv, yv = (jnp.asarray(a, dtype) for a in data())
    return hg.Problem(
        init=lambda key, hp: jnp.zeros(8, dtype),
        inner_loss=lambda w, hp, batch: squared_error(w, batch),
        outer_loss=lambda w, hp, batch: squared_error(w, batch),
        optimizer=lambda hp: proximal_sgd(0.4, l1=hp["l1"], l2=hp["l2"]),
        train=(x, y),
        valid=(xv, yv),
        num_steps=num_steps,
    )


def closed_form(w, l2):
    """On the support S: H_SS w_S = b_S − l1 sign w_S, with H = XᵀX/n + l2 I."""
    x, _, xv, yv = data()
    support = np.flatnonzero(w)
    slope = (xv.T @ (xv @ w - yv) / len(yv))[support]
    h = x.T @ x / len(x) + l2 * np.eye(8)
    v = np.linalg.solve(h[np.ix_(support, support)], slope)
    return {"l1": -v @ np.sign(w[support]), "l2": -v @ w[support]}


@pytest.mark.parametrize(("l1", "l2"), [(0.2, 0.0), (0.2, 0.1), (0.05, 0.3)])
def test_weights_are_those_of_scikit_learn(l1, l2, key):
    x, y, *_ = data()
    if l2 == 0:
        model = Lasso(alpha=l1, fit_intercept=False, tol=1e-12)
    else:
        model = ElasticNet(
            alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-12
        )
    expected = model.fit(x, y).coef_
    train = jax.jit(lambda hp: hg.train(regression(), hp, key).weights)
    got = np.asarray(train({"l1": l1, "l2": l2}))
    np.testing.assert_allclose(got, expected, atol=1e-7)
    assert 0 < np.count_nonzero(got == 0) < 8 or l1 == 0.05
    np.testing.assert_array_equal(got == 0, expected == 0)


@pytest.mark.parametrize(
    "solver",
    [GMRES(), pytest.param(Dense(), marks=pytest.mark.slow)],
    ids=["gmres", "dense"],
)
def test_hypergradient_is_that_of_the_support(solver, key):
    problem = regression()
    fn = hg.value_and_hypergrad(
        problem, Implicit(FixedPoint(), solver=solver), has_aux=True
    )
    (_, info), gradient = fn(HPARAMS, key)
    expected = closed_form(np.asarray(info.state.weights), 0.1)
    for name in HPARAMS:
        np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-8)
    if isinstance(solver, GMRES):
        support = np.count_nonzero(info.state.weights)
        assert int(info.iterations) <= support + 1, "all else costs one iteration"


@pytest.mark.slow
def test_against_unrolling_and_differences(key):
    problem = regression()
    got = hg.hypergrad(problem, Implicit(FixedPoint()))(HPARAMS, key)
    unrolled = hg.hypergrad(problem, hg.Reverse())(HPARAMS, key)
    difference = hg.hypergrad(problem, hg.FiniteDifference(order=4))(HPARAMS, key)
    assert relative(got, unrolled) < 1e-8
    assert relative(got, difference) < 1e-6


def test_the_inner_hessian_is_wrong_here_and_says_so(key):
    with pytest.warns(hg.HypergradWarning, match="training left"):
        got = hg.hypergrad(regression(), Implicit())(HPARAMS, key)
    assert float(got["l1"]) == 0


def test_coefficients_and_rates_of_every_form():
    """A number a layer, a number a weight, a schedule: against the formula."""
    w = {"a": jnp.array([0.5, -2.0, 3.0]), "b": jnp.array([1.0])}
    g = {"a": jnp.array([1.0, 1.0, -1.0]), "b": jnp.array([1.0])}
    l1, l2 = {"a": jnp.array([0.0, 1.0, 8.0]), "b": 2.0}, {"a": 3.0, "b": 0.0}
    optimizer = proximal_sgd(hg.Table(jnp.array([0.5, 0.25])), l1=l1, l2=l2)
    state = optimizer.init(w)
    for rate in (0.5, 0.25):
        updates, state = optimizer.update(g, state, w)
        for name in w:
            u = np.asarray(w[name] - rate * g[name])
            cut = rate * np.broadcast_to(l1[name], u.shape)
            soft = np.sign(u) * np.maximum(np.abs(u) - cut, 0)
            expected = soft / (1 + rate * np.asarray(l2[name]))
            np.testing.assert_allclose(w[name] + updates[name], expected, atol=1e-15)
    with pytest.raises(ValueError, match="needs the weights"):
        optimizer.update(g, state)


def test_derivatives_of_the_soft_threshold():
    w = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    of_w, of_threshold = jax.vmap(jax.grad(soft_threshold, (0, 1)), (0, None))(w, 1.0)
    np.testing.assert_array_equal(of_w, [1, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(of_threshold, [1, 0, 0, 0, 0, 0, -1])


@pytest.mark.slow
def test_lowers_for_every_platform(key):
    with jax.enable_x64(False):
        estimator = Implicit(FixedPoint())
        lowers(
            lambda p, h, k: estimator.estimate(p, h, (), k)[0],
            regression(3, jnp.float32),
            {"l1": jnp.float32(0.1), "l2": jnp.float32(0.1)},
            key,
        )
