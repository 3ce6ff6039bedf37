"""Learned training images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.tasks.distillation import Distillation
from tests.problems import relative

TINY = {"num_train": 120, "num_valid": 12, "num_test": 10, "num_steps": 3}
TINY |= {"model": {"name": "mlp", "depth": 0}}


@pytest.mark.slow
def test_reverse_is_forward_and_metrics_are_compiled(key):
    task = Distillation(**TINY)
    problem, hparams = task.problem(0), task.space().defaults()
    found = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert np.any(found["images"] != 0)
    assert relative(found, hg.hypergrad(problem, hg.Forward())(hparams, key)) < 1e-6
    state = jax.eval_shape(problem.start, hparams, key)
    assert "accuracy" in jax.eval_shape(task.test(0), state, hparams)


@pytest.mark.slow
def test_what_is_trained_on_is_the_first_images_and_what_is_added(key):
    task = Distillation(**TINY, start="zeros", per_class=2, tune=())
    rows = Distillation(**TINY, start="rows", per_class=2, tune=())
    images = jnp.asarray(rows.splits(0).train.inputs, float)
    np.testing.assert_array_equal(rows.splits(0).train.targets, np.arange(20) // 2)
    nothing = jnp.zeros_like(images)

    def value(task, images):
        return hg.objective(task.problem(0), hg.Reverse())({"images": images}, key)

    np.testing.assert_allclose(value(task, images), value(rows, nothing), rtol=1e-12)
    assert value(task, images) != value(task, nothing)
    np.testing.assert_array_equal(
        task.pictures(0, {"images": images})["learned images"], images
    )


def test_first_images_are_training_rows_or_their_means():
    task = Distillation(**TINY)
    other = super(Distillation, task).splits(0)
    rows = {image.tobytes() for image in other.train.inputs}
    assert all(image.tobytes() in rows for image in task.splits(0).train.inputs)
    means = Distillation(**TINY, start="means").splits(0).train.inputs
    of_seven = other.train.inputs[other.train.targets == 7]
    np.testing.assert_allclose(means[7], of_seven.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(task.splits(0).valid.inputs, other.valid.inputs)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="per_class = 50"):
        Distillation(**TINY, per_class=50).splits(0)
    with pytest.raises(ValidationError, match="fit_on"):
        Distillation(fit_on="both")


@pytest.mark.slow
def test_learned_images_beat_real_ones(key):
    task = Distillation()
    problem, space = task.problem(0), task.space()
    found = hg.search(
        problem,
        space,
        hg.GradientSearch(hg.Outer(learning_rate=0.03), starts=1),
        estimator=hg.Reverse(),
        num_trials=80,
        key=key,
        training_keys=hg.FreshKeys(),
    )

    def tested(hparams):
        state = hg.train(problem, hparams, jax.random.key(7))
        return task.test(0)(state, hparams)["accuracy"]

    assert tested(found.best_hparams) > tested(space.defaults()) + 0.1
