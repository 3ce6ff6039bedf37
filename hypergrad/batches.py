"""Which training rows a step sees: a value, whose indices are a function of the step.

Indices are computed inside the scan from the run's key and the step number, so that
replaying step t (recomputation, restart, another estimator) sees the same rows exactly.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad.sparse import SparseMatrix
from hypergrad.typing import Batch, Key, PyTree


def num_rows(data: PyTree) -> int:
    """The common leading length n of all leaves of a data pytree."""
    _refuse_sparse(data)
    shapes = [tuple(jnp.shape(leaf)) for leaf in jax.tree.leaves(data)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"data leaves must share one leading axis (rows), got shapes {shapes}"
        )
    return shapes[0][0]


class Batches(ABC):
    """How a step gets its rows from the training pytree."""

    @abstractmethod
    def gather(self, data: PyTree, t: jax.Array, key: Key) -> Batch:
        """The batch of step `t` in the run of `key`."""


def _refuse_sparse(data: PyTree) -> None:
    for leaf in jax.tree.leaves(data, is_leaf=lambda x: isinstance(x, SparseMatrix)):
        if isinstance(leaf, SparseMatrix):
            raise ValueError(
                f"data hold a SparseMatrix of shape {leaf.shape}, whose arrays have an "
                "entry and not a row at each index, so that its rows cannot be "
                "gathered: use batches=FullBatch(), or dense rows"
            )


def _rows(data: PyTree, indices: jax.Array) -> Batch:
    _refuse_sparse(data)
    return jax.tree.map(lambda leaf: jnp.take(leaf, indices, axis=0), data)


def _check_size(size: int, n: int) -> None:
    if not 1 <= size <= n:
        raise ValueError(
            f"batch size must lie in 1..{n} (the rows of train), got {size}"
        )


@jax.tree_util.register_static
@dataclass(frozen=True)
class FullBatch(Batches):
    """All rows at every step."""

    def gather(self, data, t, key):
        """The data itself."""
        return data


@jax.tree_util.register_static
@dataclass(frozen=True)
class WithReplacement(Batches):
    """`size` rows drawn uniformly, independently at every step."""

    size: int

    def gather(self, data, t, key):
        """Rows drawn with `fold_in(key, t)`."""
        n = num_rows(data)
        _check_size(self.size, n)
        # Not the default integer type: float64 must not change which rows are drawn.
        step_key, shape = jax.random.fold_in(key, t), (self.size,)
        return _rows(data, jax.random.randint(step_key, shape, 0, n, jnp.int32))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Epochs(Batches):
    """`size` rows in the order of a fresh permutation for each epoch.

    An epoch has n // size steps; the n mod size rows left over sit that epoch out. The
    permutation is recomputed at each step (cost of sorting n keys) so that steps stay
    independent of each other.
    """

    size: int

    def gather(self, data, t, key):
        """Rows `size·i .. size·(i+1)` of the permutation of epoch `fold_in(key, e)`."""
        n = num_rows(data)
        _check_size(self.size, n)
        epoch, i = jnp.divmod(t, n // self.size)
        order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
        return _rows(data, jax.lax.dynamic_slice(order, (i * self.size,), (self.size,)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IndexTable(Batches):
    """Row t of a table of indices, so that a paper's own draws can be replayed.

    Attributes:
      indices: integers of shape (rows of the table, batch); step t uses row t modulo
        the table's length. A leaf: another table of equal shape does not retrace.
    """

    indices: jax.Array

    def gather(self, data, t, key):
        """Rows `indices[t mod len(indices)]`."""
        return _rows(data, self.indices[t % self.indices.shape[0]])


def as_batches(batches: Batches | None, batch_size: int | None) -> Batches:
    """The value meant by the two ways of saying it; None, None is the full batch."""
    if batches is not None and batch_size is not None:
        raise ValueError("give either batches= or batch_size=, not both")
    if batches is not None:
        return batches
    return FullBatch() if batch_size is None else WithReplacement(batch_size)
