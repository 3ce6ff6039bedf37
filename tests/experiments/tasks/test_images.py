"""Images of four data sets: splits, moved images, hypergradients."""

import jax
import numpy as np
import pytest

import hypergrad as hg
from experiments.tasks.images import Images, move
from tests.problems import relative

TINY = {"num_steps": 3, "batch_size": 6, "num_train": 20, "num_valid": 12}
TINY |= {"num_test": 10, "model": {"width": 6, "depth": 1}}
CNN = {"name": "cnn", "filters": 3, "depth": 1, "norm": "batch"}
STRENGTHS = ("shift", "rotation", "rescaling", "noise", "mixup")


def as_set(rows):
    return {image.tobytes() for image in rows.inputs}


def test_splits_are_disjoint_whatever_moves():
    train, valid, test = map(as_set, Images().splits(3))
    assert len(train | valid | test) == len(train) + len(valid) + len(test) == 1140
    plain, moved = Images().splits(3), Images(test_shift=2).splits(3)
    np.testing.assert_array_equal(plain.train.inputs, moved.train.inputs)
    for before, after in zip(plain[1:], moved[1:], strict=True):
        assert not np.array_equal(before.inputs, after.inputs)
        np.testing.assert_array_equal(before.targets, after.targets)
    again = Images(test_shift=2).splits(3)
    np.testing.assert_array_equal(moved.test.inputs, again.test.inputs)


def test_moves_are_whole_pixels_of_every_size_up_to_the_largest():
    rng = np.random.default_rng(0)
    images = rng.uniform(1, 2, (400, 5, 4, 2))
    found = set()
    for before, after in zip(images, move(rng, images, 1), strict=True):
        (y, x), shown = offset(after), after[after.any(axis=-1)]
        found.add((y, x))
        rows, cols = slice(max(0, -y), 5 - max(0, y)), slice(max(0, -x), 4 - max(0, x))
        np.testing.assert_array_equal(before[rows, cols].reshape(-1, 2), shown)
    assert found == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    np.testing.assert_array_equal(move(rng, images, 0), images)


def offset(image):
    """How far an image without zeros was moved: where its zeros are."""
    empty = ~image.any(axis=-1)
    rows, cols = empty.all(axis=1), empty.all(axis=0)
    return int(rows[0]) - int(rows[-1]), int(cols[0]) - int(cols[-1])


CASES = {
    "mlp": {"tune": ("rate", "momentum"), "test_shift": 1},
    "cnn": {"model": CNN, "tune": ("rate", "momentum", "dropout", *STRENGTHS)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_reverse_is_forward(name, key):
    task = Images(**(TINY | CASES[name]))
    problem, hparams = task.problem(0), task.space().defaults()
    value, found = hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)
    forward = hg.hypergrad(problem, hg.Forward())(hparams, key)
    assert np.isfinite(value)
    # Images are float32, and what augmentation does to them is too.
    assert relative(found, forward) < 1e-6


def test_value_is_the_validation_loss_of_the_trained_model(key):
    task = Images(**(TINY | CASES["mlp"]))
    problem, hparams = task.problem(0), task.space().defaults()
    found, _ = hg.estimate(problem, hg.Value(), hparams, (), key)
    scores = jax.jit(task.validation(0))(found.info.state, hparams)
    assert np.isfinite(found.value)
    np.testing.assert_allclose(scores["loss"], found.value, rtol=1e-6)
    assert 0 <= scores["accuracy"] <= 1


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("mnist", (28, 28, 1)),
        ("fashion_mnist", (28, 28, 1)),
        pytest.param("cifar10", (32, 32, 3), marks=pytest.mark.slow),
    ],
)
def test_the_same_task_on_published_images(source, shape, real_data):
    train, valid, test = Images(source=source, num_test=300).splits(0)
    for part, size in ((train, 240), (valid, 100), (test, 300)):
        assert part.inputs.shape == (size, *shape)
        assert part.inputs.dtype == np.float32
        assert part.inputs.min() >= 0
        assert part.inputs.max() <= 1
        assert np.ptp(part.truth) == 9
    assert not (as_set(train) & as_set(valid))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_training_beats_no_training(name, key):
    task = Images(**CASES[name] | {"num_steps": 60})
    problem, hparams = task.problem(0), task.space().defaults()
    metrics = jax.jit(task.test(0))
    before = metrics(problem.start(hparams, key), hparams)
    after = metrics(hg.train(problem, hparams, key), hparams)
    # The MLP is tested on moved images, of which it knows a third, untuned.
    assert after["accuracy"] > before["accuracy"] + 0.2
