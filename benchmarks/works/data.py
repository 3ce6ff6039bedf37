"""Digits at two sizes, and tables of batches that every library can replay."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.works.base import floats


class Split(NamedTuple):
    """Training rows and validation rows, each (inputs, labels)."""

    train: tuple
    valid: tuple


def digits(num_train: int = 1200, enlarged: bool = False) -> Split:
    """scikit-learn's 1797 digits in [0, 1], shuffled once.

    Args:
      num_train: rows to train on; those left over validate.
      enlarged: 28 × 28 pixels for 8 × 8, each repeated and the border cut.
    """
    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    inputs, labels = inputs[order] / 16.0, labels[order].astype(np.int32)
    if enlarged:
        images = np.kron(inputs.reshape(-1, 8, 8), np.ones((1, 4, 4)))
        inputs = images[:, 2:-2, 2:-2].reshape(len(labels), -1)
    train = floats(inputs[:num_train]), labels[:num_train]
    return Split(train, (floats(inputs[num_train:]), labels[num_train:]))


def batch_table(num_rows: int, steps: int, size: int) -> np.ndarray:
    """Row numbers [T, size], drawn with replacement."""
    rng = np.random.default_rng(1)
    return rng.integers(0, num_rows, (steps, size)).astype(np.int32)
