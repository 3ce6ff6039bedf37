"""Compressed sparse rows, checked at the door.

Row i holds the values data[indptr[i]:indptr[i+1]] in the columns indices[the same].
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Csr:
    """A matrix [n, d] of which few entries are not zero.

    Args:
        data: [entries] numbers, kept as float32.
        indices: [entries] column of each, 0-based.
        indptr: [n + 1] where each row starts, from 0 up to the number of entries.
        shape: (n, d).

    Raises:
        ValueError: the three arrays describe no matrix of this shape.

    Example:
        >>> columns, starts = np.array([2, 0]), np.array([0, 1, 2])
        >>> matrix = Csr(np.array([3.0, 4.0]), columns, starts, (2, 3))
        >>> matrix.dense()
        array([[0., 0., 3.],
               [4., 0., 0.]], dtype=float32)
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        triple = {"data": self.data, "indices": self.indices, "indptr": self.indptr}
        for name, array in triple.items():
            wanted = "iuf" if name == "data" else "iu"
            if array.ndim != 1 or array.dtype.kind not in wanted:
                raise ValueError(
                    f"{name} is {array.dtype}{list(array.shape)}; expected one axis of "
                    f"{'numbers' if name == 'data' else 'integers'}"
                )
        (rows, columns), entries = self.shape, len(self.data)
        if rows < 0 or columns < 0:
            raise ValueError(f"shape is {self.shape}; expected two sizes")
        if len(self.indices) != entries:
            raise ValueError(f"{entries} values have {len(self.indices)} columns")
        if len(self.indptr) != rows + 1:
            raise ValueError(f"indptr has {len(self.indptr)} entries for {rows} rows")
        starts = self.indptr.astype(np.int64)
        if starts[0] != 0 or starts[-1] != entries or np.any(np.diff(starts) < 0):
            raise ValueError(f"indptr does not rise from 0 to the {entries} values")
        if entries and not 0 <= self.indices.min() <= self.indices.max() < columns:
            raise ValueError(
                f"columns {self.indices.min()} to {self.indices.max()} are not all "
                f"among the {columns} of the matrix"
            )
        if not np.all(np.isfinite(self.data)):
            raise ValueError("values are not all finite")
        kept = {"data": self.data.astype(np.float32), "indptr": starts}
        kept["indices"] = self.indices.astype(np.int64)
        for name, array in kept.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> "Csr":
        """The given rows, in the given order."""
        starts, sizes = self.indptr[rows], np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        # Entry k of the result is the (k - indptr[i])-th of its row i.
        entries = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], sizes)
        shape = (len(sizes), self.shape[1])
        return Csr(self.data[entries], self.indices[entries], indptr, shape)

    def dense(self) -> np.ndarray:
        """The whole matrix [n, d] float32; what stands twice is added."""
        matrix = np.zeros(self.shape, np.float32)
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))
        np.add.at(matrix, (rows, self.indices), self.data)
        return matrix

    def frequent_columns(self, count: int) -> np.ndarray:
        """The `count` columns that stand in most rows, ascending; ties to the first."""
        rows = np.bincount(self.indices, minlength=self.shape[1])
        return np.sort(np.argsort(-rows, kind="stable")[:count])

    def columns(self, chosen: np.ndarray) -> "Csr":
        """The given columns, distinct, in the given order."""
        place = np.full(self.shape[1], -1)
        place[chosen] = np.arange(len(chosen))
        new = place[self.indices]
        kept = new >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[self.indptr]
        shape = (self.shape[0], len(chosen))
        return Csr(self.data[kept], new[kept], indptr, shape)
