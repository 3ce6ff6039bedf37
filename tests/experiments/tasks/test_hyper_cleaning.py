"""Wrong labels found by a weight for each row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.tasks.hyper_cleaning import HyperCleaning, f1
from tests.problems import relative

TINY = {"num_train": 20, "num_valid": 12, "num_test": 10, "num_steps": 3}


@pytest.mark.slow
def test_reverse_is_forward_and_metrics_are_compiled(key):
    task = HyperCleaning(total=10.0, **TINY)
    problem, hparams = task.problem(0), task.space().defaults()
    np.testing.assert_allclose(hparams["example_weights"], 0.5)
    found = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert relative(found, hg.hypergrad(problem, hg.Forward())(hparams, key)) < 1e-6
    state = jax.eval_shape(problem.start, hparams, key)
    metrics = jax.eval_shape(task.test(0), state, hparams)
    assert {"accuracy", "accuracy_retrained", "f1"} <= set(metrics)


@pytest.mark.slow
def test_weights_of_zero_are_as_good_as_no_rows(key):
    """Training on the right rows and validation, by `oracle` and by weights."""
    task = HyperCleaning(**TINY)
    train = task.splits(0).train
    right = train.targets == train.truth
    oracle = HyperCleaning(**TINY, fit_on="oracle", tune=["decay"], fixed=task.fixed)
    problem = oracle.problem(0)
    assert len(problem.data.train[0]) == right.sum() + 12
    np.testing.assert_array_equal(problem.data.train[1][:-12], train.truth[right])
    state = hg.train(problem, {"decay": 0.0}, key)
    weights = {"example_weights": jnp.asarray(right, float)}
    found = task.test(0)(state, weights)
    np.testing.assert_allclose(found["loss_retrained"], found["loss"], rtol=1e-5)
    assert found["f1"] == 1


def test_precision_and_recall_are_those_of_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support

    removed, wrong = np.random.default_rng(0).integers(0, 2, (2, 50)).astype(bool)
    expected = precision_recall_fscore_support(wrong, removed, average="binary")[:3]
    found = f1(removed=removed, wrong=wrong)
    got = [found[name] for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(got, expected)
    nothing = f1(removed=jnp.zeros(3, bool), wrong=jnp.ones(3, bool))
    assert nothing["precision"] == nothing["f1"] == 0


def test_weights_obey_their_total():
    space = HyperCleaning(total=5.0, **TINY).space()
    z = space.project(jnp.linspace(-1.0, 2.0, 20))
    np.testing.assert_allclose(jnp.sum(z), 5.0)
    with pytest.raises(ValidationError, match="total is that of example_weights"):
        HyperCleaning(total=5.0, tune=["decay"])


@pytest.mark.slow
def test_wrong_labels_are_found(key):
    task = HyperCleaning()
    problem, space = task.problem(0), task.space()
    found = hg.search(
        problem,
        space,
        hg.GradientSearch(hg.Outer(learning_rate=0.05), starts=1),
        estimator=hg.Reverse(),
        num_trials=60,
        key=key,
    )

    def tested(hparams):
        return task.test(0)(hg.train(problem, hparams, key), hparams)

    before, after = tested(space.defaults()), tested(found.best_hparams)
    assert after["f1"] > 0.6
    assert after["precision"] > 0.9
    assert after["accuracy"] > before["accuracy"] + 0.05
    assert after["accuracy_retrained"] > before["accuracy_retrained"] + 0.01
    assert task.pictures(0, found.best_hparams)["rows of the least weight"].ndim == 4
