"""Images: handwritten digits, MNIST, Fashion-MNIST and CIFAR-10 are one task.

They differ in nothing but where their rows come from, so that a config tried on the
embedded digits runs on the others by `--set task.source=mnist`. Validation and test
images may be moved, as those that a model meets in use will be: what training can make
of that is augmentation, whose strengths are hyperparameters.
"""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from experiments.data.sources import ImageSet, load
from experiments.registry import register
from experiments.supervised.task import Source, Splits, Supervised

MOVES = 1  # apart from the seed's other draws


@register("images")
class Images(Supervised):
    """Options of the task.

    Attributes:
        source: the data set; "digits" needs no file.
        test_shift: the most pixels by which each validation and test image is moved up
            or down, and sideways: a whole number, uniform, drawn by the seed.
    """

    question: ClassVar[frozenset[str]] = Supervised.question | {"test_shift"}
    source: ImageSet = "digits"
    test_shift: Annotated[int, Field(ge=0)] = 0

    def data(self) -> Source:
        """Images [n, height, width, channels] in [0, 1]."""
        return image_source(self.source)

    def splits(self, seed: int) -> Splits:
        """As ever, but for what moves."""
        train, *held = super().splits(seed)
        rng = np.random.default_rng([seed, MOVES])
        moved = [
            part._replace(inputs=move(rng, part.inputs, self.test_shift))
            for part in held
        ]
        return Splits(train, *moved)


def image_source(name: ImageSet) -> Source:
    """A data set with the publisher's own test part, if there is one."""
    found = load(name)
    train, test = found.train, found.test
    apart = None if test is None else (test.inputs, test.targets)
    return Source(train.inputs, train.targets, len(found.classes), test=apart)


def move(rng: np.random.Generator, images: np.ndarray, most: int) -> np.ndarray:
    """Each image moved by whole pixels, uniform in [-most, most]²; what enters is zero.

    Args:
        rng: draws the moves.
        images: [n, height, width, channels].
        most: 0 leaves them as they are.

    >>> images = np.arange(1.0, 4.0).reshape(1, 1, 3, 1)
    >>> moved = [move(np.random.default_rng(s), images, 1).ravel() for s in range(9)]
    >>> max(np.abs(row).sum() for row in moved), min(row.sum() for row in moved)
    (np.float64(6.0), np.float64(0.0))
    """
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    top, left = rng.integers(0, 2 * most + 1, (2, n, 1))
    rows, cols = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]]
