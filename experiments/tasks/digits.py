"""Handwritten digits with wrong labels: an MLP whose whole training is tuned.

The data are scikit-learn's 1,797 images of 8x8 pixels, which its wheel carries. Some
training labels are wrong, the few validation labels are right. λ is a learning-rate
schedule, the momentum and a weight decay per layer; optionally also one weight for each
training image.
"""

import functools
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.registry import Task, register
from hypergrad.models import Model, mlp

NUM_CLASSES = 10


class Split(NamedTuple):
    """Images [n, 64] in [0, 1], the labels shown in training, and the true ones [n]."""

    images: jax.Array
    labels: jax.Array
    true_labels: jax.Array


@register("digits")
class Digits(Task):
    """Options of the task.

    Attributes:
        num_train, num_valid, num_test: images of each set, disjoint, drawn by the seed.
        noise: fraction of training labels replaced by another class.
        hidden: width of each hidden layer.
        num_steps: T.
        batch_size: images a step.
        knots: knots of the piecewise linear learning-rate schedule.
        example_weights: whether λ has a weight in [0, 1] for each training image.
        fit_on: what the weights are trained on; "valid" and "both" are references that
            show what plain training could do with the validation labels.
    """

    question: ClassVar[frozenset[str]] = Task.question | {"noise"}
    num_train: Annotated[int, Field(ge=10)] = 240
    num_valid: Annotated[int, Field(ge=10)] = 50
    num_test: Annotated[int, Field(ge=10)] = 800
    noise: Annotated[float, Field(ge=0, le=1)] = 0.3
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (32, 32)
    num_steps: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=1)] = 50
    knots: Annotated[int, Field(ge=2)] = 8
    example_weights: bool = False
    fit_on: Literal["train", "valid", "both"] = "train"

    @model_validator(mode="after")
    def _sizes_fit(self):
        total, rows = self.num_train + self.num_valid + self.num_test, len(_images()[1])
        if total > rows:
            raise ValueError(
                f"num_train + num_valid + num_test is {total}; there are {rows} images"
            )
        if self.batch_size > self.num_rows:
            raise ValueError(
                f"batch_size {self.batch_size} exceeds the {self.num_rows} images that "
                f'fit_on = "{self.fit_on}" trains on'
            )
        if self.example_weights and self.fit_on != "train":
            raise ValueError('example_weights needs fit_on = "train"')
        return self

    @property
    def fits_validation(self) -> bool:
        """Whether the validation images are among those trained on."""
        return self.fit_on != "train"

    @property
    def num_rows(self) -> int:
        """Images that the weights are trained on."""
        sizes = {"train": self.num_train, "valid": self.num_valid}
        return sizes.get(self.fit_on, self.num_train + self.num_valid)

    def space(self) -> hg.Space:
        """8 knots, momentum, a decay per layer; with weights, one per image."""
        layers = len(self.hidden) + 1
        entries = {
            "rate": hg.Log(1e-3, 1.0, default=0.1, shape=(self.knots,)),
            "momentum": hg.Logit(0.1, 0.98, default=0.9),
            "decay": hg.Log(1e-6, 1.0, default=1e-4, shape=(layers,)),
        }
        if self.example_weights:
            shape = (self.num_train,)
            entries["weights"] = hg.Linear(0.0, 1.0, default=1.0, shape=shape)
        return hg.Space(entries)

    def problem(self, seed: int) -> hg.Problem:
        """Cross-entropy of minibatch SGD with momentum."""
        train, valid, _ = self.splits(seed)
        if self.fit_on == "valid":
            train = valid
        elif self.fit_on == "both":
            train = Split(*map(jnp.concatenate, zip(train, valid, strict=True)))
        rows = jnp.arange(self.num_rows)
        functions = _functions(self.hidden, self.num_steps, self.example_weights)
        return hg.Problem(
            init=functions.init,
            inner_loss=functions.inner_loss,
            outer_loss=functions.outer_loss,
            optimizer=functions.optimizer,
            train=(train.images, train.labels, rows),
            valid=(valid.images, valid.labels),
            num_steps=self.num_steps,
            batch_size=self.batch_size,
        )

    def validation(self, seed: int):
        """Accuracy and loss on the validation images."""
        return self._metrics(self.splits(seed)[1])

    def test(self, seed: int):
        """Accuracy and loss on the test images."""
        return self._metrics(self.splits(seed)[2])

    def schedules(self, hparams):
        """The learning rate over the steps."""
        schedule = hg.PiecewiseLinear(hparams["rate"], self.num_steps)
        return {"learning rate": schedule(jnp.arange(self.num_steps))}

    def distributions(self, seed, hparams):
        """The weights of rightly and of wrongly labelled images."""
        if not self.example_weights:
            return {}
        train, weights = self.splits(seed)[0], hparams["weights"]
        right = train.labels == train.true_labels
        groups = {"right label": weights[right], "wrong label": weights[~right]}
        return {"weight of a training image": groups}

    def splits(self, seed: int) -> tuple[Split, Split, Split]:
        """Train, validation and test images of a seed; they never overlap."""
        images, labels = _images()
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(labels))
        ends = np.cumsum([self.num_train, self.num_valid, self.num_test])
        parts = np.split(order[: ends[-1]], ends[:-1])

        shown = labels.copy()
        wrong = rng.permutation(parts[0])[: round(self.noise * self.num_train)]
        shift = rng.integers(1, NUM_CLASSES, len(wrong))
        shown[wrong] = (labels[wrong] + shift) % NUM_CLASSES
        train, valid, test = (
            Split(*(jnp.asarray(array[part]) for array in (images, shown, labels)))
            for part in parts
        )
        return train, valid, test

    def _metrics(self, split: Split):
        apply = _functions(
            self.hidden, self.num_steps, self.example_weights
        ).model.apply

        def metrics(state, hparams):
            del hparams
            logits = apply(state.weights, split.images)
            correct = jnp.argmax(logits, axis=-1) == split.true_labels
            return {
                "accuracy": jnp.mean(correct.astype(logits.dtype)),
                "loss": jnp.mean(_cross_entropy(logits, split.true_labels)),
            }

        return metrics


@functools.cache
def _functions(hidden, num_steps, example_weights) -> "_Functions":
    """One object for equal options: functions hash by identity, and so trace once."""
    return _Functions(mlp((64, *hidden, NUM_CLASSES)), num_steps, example_weights)


@dataclass(frozen=True)
class _Functions:
    """What the problem is made of."""

    model: Model
    num_steps: int
    example_weights: bool

    def init(self, key, hparams):
        del hparams
        return self.model.init(key)

    def inner_loss(self, weights, hparams, batch):
        images, labels, rows = batch
        logits = hg.outputs(self.model.apply(weights, images))
        losses = _cross_entropy(logits, labels)
        if self.example_weights:
            losses = losses * hparams["weights"][rows]
        kernels = [layer["kernel"] for layer in weights]
        return jnp.mean(losses) + hg.l2(kernels, list(hparams["decay"]))

    def outer_loss(self, weights, hparams, batch):
        del hparams
        images, labels = batch
        return jnp.mean(_cross_entropy(self.model.apply(weights, images), labels))

    def optimizer(self, hparams):
        schedule = hg.PiecewiseLinear(hparams["rate"], self.num_steps)
        return optax.sgd(schedule, momentum=hparams["momentum"])


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16.0).astype(np.float32), labels.astype(np.int32)
