"""Linear models against closed forms and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import hypergrad as hg
from experiments.tasks.linear import A9A_ENDS, Linear
from tests.problems import relative

TINY = {"num_train": 40, "num_valid": 30, "num_test": 20}


def trained(task, hparams, key):
    problem = task.problem(0)
    state = jax.jit(lambda hp: hg.train(problem, hp, key))(hparams)
    return problem, np.asarray(state.weights)


def spread(task, value):
    """A penalty for each of 64 pixels."""
    sizes = {"one": 64, "feature": 1, "group": 8}
    return np.repeat(np.atleast_1d(value), sizes[task.penalty])


@pytest.mark.parametrize(
    "penalty",
    ["group", *(pytest.param(p, marks=pytest.mark.slow) for p in ("feature", "one"))],
)
def test_ridge_and_its_hypergradient_are_those_of_the_closed_form(penalty, key):
    task = Linear(loss="ridge", penalty=penalty, num_steps=400, **TINY)
    decay = np.random.default_rng(0).uniform(0.02, 0.2, task.space().dim)
    decay = jnp.asarray(decay if penalty != "one" else decay[0])
    problem, found = trained(task, {"decay": decay}, key)
    (x, labels), (xv, valid_labels) = (problem.data.train, problem.data.valid)

    def solution(decay):
        decay = jnp.broadcast_to(decay.reshape(-1, 1), (decay.size, 64 // decay.size))
        hessian = x.T @ x / len(x) + jnp.diag(decay.ravel())
        return jnp.linalg.solve(hessian, x.T @ jax.nn.one_hot(labels, 10) / len(x))

    def value(decay):
        error = xv @ solution(decay) - jax.nn.one_hot(valid_labels, 10)
        return 0.5 * jnp.sum(error**2) / len(xv)

    np.testing.assert_allclose(found, solution(decay), atol=1e-8)
    estimator = hg.Implicit() if penalty == "group" else hg.Reverse()
    got = hg.hypergrad(problem, estimator)({"decay": decay}, key)["decay"]
    assert relative(got, jax.grad(value)(decay)) < 1e-5


def test_inputs_are_scaled_to_a_curvature_of_one():
    for loss, bound in (("ridge", 1.0), ("logistic", 0.5)):
        x, _ = Linear(loss=loss, **TINY).problem(0).data.train
        curvature = bound * np.linalg.eigvalsh(x.T @ x / len(x)).max()
        np.testing.assert_allclose(curvature, 1.0, rtol=1e-6)


def test_logistic_weights_are_those_of_scikit_learn(key):
    task = Linear(num_steps=400, **TINY)
    problem, found = trained(task, {"decay": jnp.asarray(0.02)}, key)
    x, y = map(np.asarray, problem.data.train)
    sklearn = LogisticRegression(
        C=1 / (0.02 * len(x)), fit_intercept=False, tol=1e-10, max_iter=1000
    )
    expected = sklearn.fit(x, y).coef_.T
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(p, marks=pytest.mark.slow)
        for p in ("logistic", "ridge", "elastic_net")
    ],
)
def test_reverse_is_forward_and_metrics_are_compiled(loss, key):
    task = Linear(loss=loss, penalty="group", num_steps=4, **TINY)
    problem, hparams = task.problem(1), task.space().defaults()
    found = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert relative(found, hg.hypergrad(problem, hg.Forward())(hparams, key)) < 1e-6
    F, info = hg.objective(problem, hg.Reverse(), has_aux=True)(hparams, key)
    metrics = jax.jit(task.validation(1))(info.state, hparams)
    np.testing.assert_allclose(metrics["loss"], F, rtol=1e-6)


@pytest.mark.slow
def test_elastic_net_by_its_fixed_point(key):
    task = Linear(loss="elastic_net", num_steps=3000, **TINY)
    problem, hparams = (
        task.problem(0),
        {"l1": jnp.asarray(0.01), "decay": jnp.asarray(0.02)},
    )
    implicit = hg.hypergrad(problem, hg.Implicit(hg.FixedPoint()))(hparams, key)
    assert relative(implicit, hg.hypergrad(problem, hg.Reverse())(hparams, key)) < 1e-6
    _, weights = trained(task, hparams, key)
    assert 0.2 < np.mean(weights == 0) < 0.95


def test_splits_are_disjoint_and_both_are_trained_on():
    parts = Linear(**TINY).splits(3)
    rows = [{row.tobytes() for row in part.inputs.toarray()} for part in parts]
    assert [len(part) for part in rows] == [40, 30, 20]
    assert len(set.union(*rows)) == 90
    both = Linear(fit_on="both", **TINY)
    assert both.fits_validation
    assert len(both.problem(3).data.train[0]) == 70


@pytest.mark.slow
def test_a9a_is_sparse_and_its_attributes_are_groups(real_data, key):
    task = Linear(source="a9a", penalty="group", num_steps=400)
    rows = np.asarray(task.splits(0)[0].inputs.todense()) != 0
    starts = [0, *A9A_ENDS[:-1]]
    assert np.add.reduceat(rows, starts, axis=1).max() == 1
    assert task.space().dim == len(A9A_ENDS)
    problem, hparams = task.problem(0), task.space().defaults()
    assert isinstance(problem.data.train[0], hg.SparseMatrix)
    state = hg.train(problem, hparams, key)
    assert task.test(0)(state, hparams)["accuracy"] > 0.8


@pytest.mark.slow
def test_news20_has_a_penalty_for_each_word(real_data, key):
    task = Linear(source="news20", penalty="feature", num_train=500, num_steps=50)
    lengths = np.linalg.norm(task.splits(0)[0].inputs.toarray(), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    problem, hparams = task.problem(0), task.space().defaults()
    found = hg.hypergrad(problem, hg.Reverse())(hparams, key)["decay"]
    assert found.shape == (130107,)
    assert np.isfinite(found).all()
    assert np.any(found != 0)
