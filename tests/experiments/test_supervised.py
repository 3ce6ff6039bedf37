"""Every hyperparameter that a config can name, through real models on real digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

import hypergrad as hg
from experiments.supervised import vocabulary
from experiments.supervised.networks import AnyNetwork, Perceptron
from experiments.supervised.task import Source, Supervised


class Digits(Supervised):
    """Images of 8x8 pixels, in float64 so that differences can be taken."""

    def data(self):
        images, labels = load_digits(return_X_y=True)
        images = (images / 16.0).reshape(-1, 8, 8, 1)
        return Source(images, labels.astype(np.int32), num_outputs=10)


SMALL = {"num_steps": 4, "batch_size": 6, "num_train": 20, "num_valid": 12}
SMALL |= {"num_test": 10, "model": {"width": 6, "depth": 1}}
CNN = {"name": "cnn", "filters": 3, "depth": 2, "norm": "batch", "activation": "tanh"}

ROWS = {
    # Every name of the vocabulary is in one of these.
    "sgd": ({}, ["rate", "momentum", "decay", "init_scale"]),
    "nesterov, exponential": (
        {"optimizer": "nesterov", "schedule": "exponential"},
        ["rate", "rate_decay", "momentum", "layer_decay", "label_smoothing"],
    ),
    "adam, cosine": (
        {"optimizer": "adam", "schedule": "cosine", "fixed": {"eps": 1e-3}},
        ["rate", "final_rate", "warmup", "b1", "b2", "layer_rates", "class_weights"],
    ),
    "adamw": (
        {"optimizer": "adamw"},
        ["eps", "decay", "clip_norm", "dropout", "example_weights"],
    ),
    "rmsprop, piecewise": (
        {"optimizer": "rmsprop", "schedule": "piecewise", "knots": 3},
        ["rate", "b2", "weight_decays"],
    ),
    "a rate a step": ({"schedule": "table"}, ["rate", "noise", "mixup"]),
    "a rate a step and layer": ({"schedule": "layer_table"}, ["rate", "brightness"]),
    "images, cnn": (
        {"model": CNN},
        ["shift", "rotation", "rescaling", "dropout", "rate", "decay"],
    ),
}
CHEAP = ["a rate a step and layer"]


def rows():
    for name in ROWS:
        yield pytest.param(name, marks=() if name in CHEAP else pytest.mark.slow)


def task_of(name):
    options, tune = ROWS[name]
    return Digits(tune=tune, **(SMALL | options))


@pytest.mark.parametrize("name", list(rows()))
def test_hypergradients_are_those_of_central_differences(name, key):
    task = task_of(name)
    problem, space = task.problem(0), task.space()
    # Away from bounds, where some strengths have kinks.
    z = space.from_cube(0.6 * space.to_cube(space.to_coords(space.defaults())) + 0.17)
    hparams = space.from_coords(z)
    found = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    forward = hg.hypergrad(problem, hg.Forward())(hparams, key)

    @jax.jit
    def value(hparams, key):
        return hg.estimate(problem, hg.Value(), hparams, (), key)[0].value

    for entry in found:
        np.testing.assert_allclose(found[entry], forward[entry], rtol=1e-8, atol=1e-12)
        signs = jax.random.rademacher(jax.random.key(1), found[entry].shape, float)
        direction = signs * hparams[entry]
        slope = jnp.sum(found[entry] * direction)

        def along(h, entry=entry, direction=direction):
            return value(hparams | {entry: hparams[entry] + h * direction}, key)

        errors = [
            abs((along(h) - along(-h)) / (2 * h) - slope) for h in (1e-4, 1e-5, 1e-6)
        ]
        assert min(errors) <= 1e-5 * abs(slope) + 1e-9, (entry, slope, errors)


def test_every_name_of_the_vocabulary_is_proved():
    proved = {name for _, tune in ROWS.values() for name in tune}
    known = {"rate", *vocabulary.GENERAL, *vocabulary.CLASSIFIERS}
    assert proved == known | set(vocabulary.NUMBERS) | set(vocabulary.IMAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": ["rate", "rate"]}, "twice"),
        ({"tune": ["rate"], "fixed": {"rate": 0.1}}, "in tune and in fixed"),
        ({"fixed": {"decay": float("nan")}}, "finite"),
        ({"batch_size": 1000}, "exceeds the 240 rows"),
        ({"tune": ["example_weights"], "fit_on": "both"}, "fit_on"),
        ({"model": {"name": "cnn", "width": 3}}, "width"),
    ],
)
def test_options_that_do_not_agree_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Digits(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": ["rtae"]}, "did you mean 'rate'"),
        ({"tune": ["b1"]}, "no hyperparameter of this task"),
        ({"tune": ["rate_decay"]}, "schedule 'constant'"),
        ({"fixed": {"b1": 0.9}}, "b1"),
        ({"num_train": 1700}, "1797"),
        ({"fixed": {"dropout": 2.0}}, r"fixed.dropout must be 0 or lie in .*got 2"),
        ({"fixed": {"momentun": 0.5}, "tune": ["rate"]}, "did you mean 'momentum'"),
        ({"tune": ["rate", "warmup"], "schedule": "table"}, "'warmup'"),
        ({"tune": ["mixup", "class_weights"]}, "weigh only one"),
    ],
)
def test_names_without_a_meaning_are_refused(options, message):
    task = Digits(**options)

    def use():
        return task.space(), task.problem(0)

    with pytest.raises(ValueError, match=message):
        use()


def test_a_part_of_the_model_changes_nothing_else_of_it():
    class Small(Digits):
        model: AnyNetwork = Perceptron(depth=0, width=5)

    assert Small(model={"activation": "relu"}).model.depth == 0
    assert Small(model={"name": "mlp", "norm": "layer"}).model.width == 5
    assert Small(model={"name": "cnn"}).model.filters == 8


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "piecewise"])
def test_a_schedule_ends_at_the_last_step_whatever_its_warm_up(schedule):
    options = {"schedule": schedule, "num_steps": 40, "knots": 3}
    plain = Digits(**options, tune=["rate"])
    risen = Digits(**options, tune=["rate", "warmup"])
    assert plain.problem(0).num_steps == risen.problem(0).num_steps
    hparams = plain.space().defaults()
    if schedule == "piecewise":
        hparams = {"rate": jnp.array([0.3, 0.2, 0.1])}
    before = plain.schedules(hparams)["learning rate"]
    after = risen.schedules(hparams | {"warmup": 10.0})["learning rate"]
    np.testing.assert_allclose(after[10], before[0], rtol=1e-6)
    np.testing.assert_allclose(after[25], before[20], rtol=0.02)
    assert abs(after[-1] - before[-1]) < 0.02 * before[0]
    assert after[0] == 0


def test_an_oracle_trains_on_right_labels_only():
    task = Digits(**(SMALL | {"batch_size": 5}), label_noise=0.3, fit_on="oracle")
    splits, rows = task.splits(0), task.problem(0).data.train
    right = splits.train.targets == splits.train.truth
    assert len(rows[0]) == task.num_rows == right.sum() + len(splits.valid.inputs)


def test_splits_never_overlap_and_labels_are_wrong_in_training_only():
    task = Digits(label_noise=0.3)
    images = task.data().inputs.reshape(-1, 64)
    names = {row.tobytes(): i for i, row in enumerate(images)}
    parts = [
        {names[row.reshape(-1).tobytes()] for row in part.inputs}
        for part in task.splits(3)
    ]
    train, valid, test = task.splits(3)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert np.sum(train.targets != train.truth) == round(0.3 * task.num_train)
    for part in (valid, test):
        np.testing.assert_array_equal(part.targets, part.truth)
    again, other = task.splits(3), task.splits(4)
    np.testing.assert_array_equal(again.train.inputs, train.inputs)
    assert not np.array_equal(other.train.inputs, train.inputs)


def test_rows_to_fit_on(key):
    for fit_on, rows_of in (("train", 20), ("valid", 12), ("both", 32)):
        task = Digits(**SMALL, fit_on=fit_on)
        assert len(task.problem(0).data.train[0]) == rows_of == task.num_rows
        assert task.fits_validation == (fit_on != "train")


@pytest.mark.slow
def test_training_learns_and_metrics_see_the_model_state(key):
    task = Digits(model=CNN | {"filters": 8}, num_steps=60, num_test=300)
    problem, hparams = task.problem(0), task.space().defaults()
    start = problem.start(hparams, key)
    end = hg.train(problem, hparams, key)
    metrics = jax.jit(task.test(0))
    before, after = metrics(start, hparams), metrics(end, hparams)
    assert after["accuracy"] > before["accuracy"] + 0.4
    assert after["loss"] < before["loss"]
    stale = metrics(end._replace(model_state=start.model_state), hparams)
    assert stale["loss"] != after["loss"]
