"""Sparse matrices of data: rows of features most of which are zero.

    (A W)_i = Σ over the entries (i, j, a) of A of a W_j

`A @ W` takes the place of a dense matrix of inputs in a linear layer. It is linear in
both, with derivatives of any order and mode. The arrays of a matrix do not share an
axis of rows, so batches of it cannot be gathered: train on all of it (`FullBatch`).
"""

from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

_LEAVES = ("values", "rows", "cols")


@final
@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class SparseMatrix:
    """The matrix of a shape whose entries are 0 but for A[rows, cols] = values.

    Entries at the same place are added up. A pytree: the three arrays are leaves.

    Attributes:
        values: [nnz].
        rows: integers [nnz], in any order.
        cols: integers [nnz].
        shape: (n, d), static.

    Raises:
        ValueError: the arrays differ in shape, or rows and cols, where they are known,
            are no integers in 0 ... n − 1 and 0 ... d − 1.

    >>> rows, cols = jnp.array([0, 1]), jnp.array([2, 0])
    >>> a = SparseMatrix(jnp.array([2.0, 3.0]), rows, cols, (2, 3))
    >>> print(a @ jnp.array([4.0, 5.0, 6.0]))
    [12. 12.]
    """

    values: Array
    rows: Array
    cols: Array
    shape: tuple[int, int]

    def __post_init__(self):
        shapes = [jnp.shape(x) for x in (self.values, self.rows, self.cols)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"values, rows and cols must be of one shape [nnz]; got {shapes}"
            )
        _check_indices("rows", self.rows, self.shape[0], self.shape)
        _check_indices("cols", self.cols, self.shape[1], self.shape)

    def tree_flatten_with_keys(self):
        """The three arrays are leaves."""
        key = jax.tree_util.GetAttrKey
        return [(key(name), getattr(self, name)) for name in _LEAVES], self.shape

    @classmethod
    def tree_unflatten(cls, shape, leaves):
        """Inverse of `tree_flatten_with_keys`; leaves may be anything."""
        self = object.__new__(cls)
        for name, value in zip((*_LEAVES, "shape"), (*leaves, shape), strict=True):
            object.__setattr__(self, name, value)
        return self

    def __matmul__(self, dense: Array) -> Array:
        """`matmul(self, dense)`."""
        return matmul(self, dense)


def _check_indices(name: str, indices: ArrayLike, size: int, shape) -> None:
    """Indices in 0 ... size − 1; JAX would clip or drop others without a word."""
    if isinstance(indices, Tracer):
        return
    indices = np.asarray(indices)
    if indices.size == 0:
        return
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"{name} must be integers; got {indices.dtype}")
    if not 0 <= indices.min() <= indices.max() < size:
        raise ValueError(
            f"{name} must lie in 0 ... {size - 1} for the shape {shape}; got "
            f"{indices.min()} ... {indices.max()}"
        )


def matmul(matrix: SparseMatrix, dense: Array) -> Array:
    """A W: the rows of W that A asks for, weighted and added up.

    Memory nnz · k for W of k columns, time likewise.

    Args:
        matrix: A, of shape (n, d).
        dense: W, [d] or [d, k].

    Returns:
        [n] or [n, k].

    Raises:
        ValueError: W has not d rows.

    >>> print(matmul(from_csr([1.0, 2.0], [0, 0], [0, 1, 2], (2, 1)), jnp.ones((1, 1))))
    [[1.]
     [2.]]
    """
    dense = jnp.asarray(dense)
    num_rows, num_cols = matrix.shape
    if dense.ndim not in (1, 2) or dense.shape[0] != num_cols:
        raise ValueError(
            f"dense must have shape ({num_cols},) or ({num_cols}, k) to be multiplied "
            f"by a sparse matrix of shape {matrix.shape}; got {dense.shape}"
        )
    values = matrix.values if dense.ndim == 1 else matrix.values[:, None]
    terms = values * dense[matrix.cols]
    return jax.ops.segment_sum(terms, matrix.rows, num_segments=num_rows)


def from_csr(
    data: ArrayLike, indices: ArrayLike, indptr: ArrayLike, shape: tuple[int, int]
) -> SparseMatrix:
    """A_ij = data[k] for the k of row i, indptr[i] ≤ k < indptr[i + 1], j = indices[k].

    These are the arrays of a `scipy.sparse.csr_matrix` and of its `.npz` file.

    Args:
        data: [nnz]; integers become floats.
        indices: [nnz].
        indptr: [n + 1], from 0 up to nnz.
        shape: (n, d).

    Raises:
        ValueError: the arrays do not describe a matrix of this shape.

    >>> print(from_csr([1.0, 2.0], [0, 2], [0, 1, 2], (2, 3)).rows)
    [0 1]
    """
    num_rows, num_cols = map(int, shape)
    data, columns, ends = np.asarray(data), np.asarray(indices), np.asarray(indptr)
    counts = np.diff(ends)
    if ends.shape != (num_rows + 1,) or ends[0] != 0 or np.any(counts < 0):
        raise ValueError(
            f"indptr must be [{num_rows + 1}] for {num_rows} rows, begin at 0 and not "
            f"decrease; got shape {ends.shape}"
        )
    if not data.shape == columns.shape == (ends[-1],):
        raise ValueError(
            f"data and indices must have indptr's {ends[-1]} entries; got "
            f"{data.shape} and {columns.shape}"
        )
    _check_indices("indices", columns, num_cols, shape)
    return SparseMatrix(
        jnp.asarray(data, jnp.result_type(float, data)),
        jnp.asarray(np.repeat(np.arange(num_rows), counts), jnp.int32),
        jnp.asarray(columns, jnp.int32),
        (num_rows, num_cols),
    )
