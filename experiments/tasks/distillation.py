"""Dataset distillation: training images themselves are the hyperparameters.

    w_T(λ): T steps on images x_0 + λ, a few of each class,   F = its loss on real rows

λ holds what is added to the pixels of the first images x_0, and may hold the learning
rate, decay and the rest of the recipe beside it. λ = 0 trains on the first images as
they are, which is what the learned ones have to beat.

Source: Maclaurin, Duvenaud and Adams, Gradient-based hyperparameter optimization
through reversible learning (2015), section 3.3; Wang et al., Dataset distillation
(2018).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, cast

import numpy as np
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.registry import register
from experiments.supervised.networks import AnyNetwork, Perceptron
from experiments.supervised.task import Count, Rows, Source, Splits, Supervised
from experiments.tasks.images import image_source
from hypergrad.training import Training

NUM_CLASSES = 10  # of every source


@register("distillation")
class Distillation(Supervised):
    """Options of the task, beside those of `Supervised`.

    Attributes:
        source: the data set; "digits" needs no file.
        per_class: learned images of each class.
        start: what they start from: "rows" are training rows of their class, "means"
            the mean of all of these, "zeros" black images.
        reach: the most that a pixel may move.
        tune: what is learned beside the images; may be nothing.
        num_train: rows from which the first images are taken.
    """

    source: ImageSet = "digits"
    per_class: Count = 1
    start: Literal["rows", "means", "zeros"] = "rows"
    reach: Annotated[float, Field(gt=0)] = 1.0
    model: AnyNetwork = Perceptron(depth=1)
    tune: tuple[str, ...] = ("rate", "decay")
    batch_size: Annotated[int, Field(ge=0)] = 0
    num_steps: Count = 30
    num_valid: Count = 300

    @model_validator(mode="after")
    def _images_are_trained_on(self):
        if self.fit_on != "train" or self.label_noise:
            raise ValueError(
                'distillation trains on its own images: fit_on must be "train" and '
                f"label_noise 0; got {self.fit_on!r} and {self.label_noise}"
            )
        return self

    @property
    def num_rows(self) -> int:
        """The learned images."""
        return NUM_CLASSES * self.per_class

    def data(self) -> Source:
        """Images [n, height, width, channels] in [0, 1]."""
        return image_source(self.source)

    def splits(self, seed: int) -> Splits:
        """Those of the seed, the first images for training rows."""
        splits = super().splits(seed)
        labels = np.repeat(np.arange(NUM_CLASSES, dtype=np.int32), self.per_class)
        parts = [self._first(splits.train, label) for label in range(NUM_CLASSES)]
        return splits._replace(train=Rows(np.concatenate(parts), labels, labels))

    def space(self) -> hg.Space:
        """`images`, and the hyperparameters of `tune`."""
        shape = (self.num_rows, *self.data().inputs.shape[1:])
        images = hg.Linear(-self.reach, self.reach, default=0.0, shape=shape)
        tuned = dict(super().space().entries) if self.tune else {}
        return hg.Space({**tuned, "images": images})

    def problem(self, seed: int) -> hg.Problem:
        """That of the first images, with λ added to them."""
        problem = super().problem(seed)
        training = cast(Training, problem.dynamics)
        learned = _LearnedImages(training.inner_fn)
        return problem.replace(dynamics=replace(training, inner_fn=learned))

    def pictures(self, seed, hparams):
        """The learned images."""
        return {"learned images": self.splits(seed).train.inputs + hparams["images"]}

    def _first(self, rows: Rows, label: int) -> np.ndarray:
        """The first images of a class, [per_class, height, width, channels]."""
        of_class = rows.inputs[rows.targets == label]
        if self.start == "rows" and len(of_class) < self.per_class:
            raise ValueError(
                f"num_train = {self.num_train} rows hold {len(of_class)} of class "
                f"{label} for per_class = {self.per_class}: ask for more"
            )
        if self.start == "rows":
            return of_class[: self.per_class]
        image = of_class.mean(axis=0) if self.start == "means" else 0 * rows.inputs[0]
        return np.repeat(image[None], self.per_class, axis=0)


@dataclass(frozen=True)
class _LearnedImages:
    """The inner loss of rows to which λ has been added."""

    inner_fn: Callable

    def __call__(self, weights, hparams, batch, context):
        inputs, targets, rows = batch
        moved = inputs + hparams["images"][rows]
        return self.inner_fn(weights, hparams, (moved, targets, rows), context)
