"""Sparse rows as papers take them: dealt, and made of length 1, as by scikit-learn."""

from typing import Literal, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

import hypergrad as hg
from experiments.data.sources import load
from experiments.data.sparse import Csr
from hypergrad.sparse import from_csr

RowSource = Literal["news20", "a9a", "digits"]


class Classified(NamedTuple):
    """Rows [n, d] of few entries, and the class of each [n]."""

    inputs: Csr
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Classified":
        """The given rows, in the given order."""
        return Classified(self.inputs.take(rows), self.labels[rows])


class Parts(NamedTuple):
    """The publisher's two parts; of digits, which has one, the first two thirds."""

    train: Classified
    test: Classified
    num_classes: int


def parts(source: RowSource) -> Parts:
    """A data set whose rows are sparse, or taken for it."""
    if source == "digits":
        data = load("digits")
        images = data.train.inputs.reshape(len(data.train), -1)
        every = Classified(_csr(images), data.train.targets)
        cut = 2 * len(data.train) // 3
        halves = np.split(np.arange(len(data.train)), [cut])
        train, test = (every.take(rows) for rows in halves)
    else:
        data = load(source)
        assert data.test is not None
        train = Classified(data.train.inputs, data.train.targets)
        test = Classified(data.test.inputs, data.test.targets)
    return Parts(train, test, len(data.classes))


def halves(
    part: Classified, state: np.random.RandomState, stratify: bool
) -> tuple[Classified, Classified]:
    """Two halves dealt by `train_test_split`.

    Args:
        part: the rows.
        state: the generator, as it is.
        stratify: classes in equal shares.
    """
    rows = np.arange(len(part.labels))
    shares = part.labels if stratify else None
    dealt = train_test_split(rows, test_size=0.5, stratify=shares, random_state=state)
    return part.take(np.asarray(dealt[0])), part.take(np.asarray(dealt[1]))


def matrix(rows: Csr, unit: bool) -> hg.SparseMatrix:
    """The rows in the default float.

    Args:
        rows: of n rows.
        unit: divide each row by its length, as `normalize` of scikit-learn's word
            counts does by default; empty rows stay empty.
    """
    values = rows.data.astype(np.float64)
    if unit:
        owner = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
        squares = np.bincount(owner, values**2, minlength=len(rows))
        values = values / np.sqrt(np.where(squares > 0, squares, 1.0))[owner]
    return from_csr(values, rows.indices, rows.indptr, rows.shape)


def _csr(dense: np.ndarray) -> Csr:
    """The entries of a dense matrix that are not zero."""
    rows, columns = np.nonzero(dense)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    return Csr(dense[rows, columns], columns, starts, dense.shape)
