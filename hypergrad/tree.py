"""Pytrees as vectors, and as a differentiable part beside a part that is not."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from hypergrad.typing import PyTree, Scalar

ravel = ravel_pytree
"""`ravel(tree) -> (vector, unravel)`, JAX's own."""


def is_inexact(leaf) -> bool:
    """Whether a leaf carries a tangent: floating or complex, not integer or key."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Split a tree into (leaves that carry a tangent, the rest), holes being None."""
    inexact = jax.tree.map(lambda leaf: leaf if is_inexact(leaf) else None, tree)
    others = jax.tree.map(lambda leaf: None if is_inexact(leaf) else leaf, tree)
    return inexact, others


def combine(inexact: PyTree, others: PyTree) -> PyTree:
    """Inverse of `partition`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, inexact, others, is_leaf=lambda x: x is None
    )


def without_tangent(others: PyTree) -> PyTree:
    """JAX's zero tangent (dtype float0) for every leaf that carries none."""
    return jax.tree.map(lambda x: np.zeros(jnp.shape(x), jax.dtypes.float0), others)


def as_arrays(tree: PyTree) -> PyTree:
    """Every leaf as an array of strong dtype, so that 0.1 and array(0.1) trace once."""

    def strong(leaf):
        array = jnp.asarray(leaf)
        return jax.lax.convert_element_type(array, array.dtype)

    return jax.tree.map(lambda x: strong(x) if not _is_key(x) else x, tree)


def _is_key(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def cast_floats(tree: PyTree, dtype) -> PyTree:
    """Every floating leaf in `dtype`; complex, integers and keys untouched."""

    def cast(leaf):
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(cast, tree)


def vdot(a: PyTree, b: PyTree) -> Scalar:
    """⟨a, b⟩ over the leaves that carry a tangent."""
    a, _ = partition_tangent(a)
    b, _ = partition_tangent(b)
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def partition_tangent(tree: PyTree) -> tuple[PyTree, PyTree]:
    """`partition` for tangents, whose empty leaves have dtype float0."""
    keep = lambda x: x.dtype != jax.dtypes.float0  # noqa: E731
    tree = jax.tree.map(
        lambda x: x if isinstance(x, np.ndarray) else jnp.asarray(x), tree
    )
    return (
        jax.tree.map(lambda x: x if keep(x) else None, tree),
        jax.tree.map(lambda x: None if keep(x) else x, tree),
    )


def zeros_of(fn, *args) -> PyTree:
    """Zeros like the result of `fn(*args)`, which is traced and not run."""
    shapes = jax.eval_shape(fn, *args)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def axpy(alpha, x: PyTree, y: PyTree) -> PyTree:
    """Alpha · x + y."""
    return jax.tree.map(lambda xi, yi: alpha * xi + yi, x, y)


def norm(tree: PyTree) -> Scalar:
    """‖tree‖₂: no square underflows, and the derivative at 0 is 0 instead of NaN."""
    leaves = jax.tree.leaves(partition_tangent(tree)[0])
    if not leaves:
        return jnp.zeros(())
    sizes = [jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0)) for x in leaves]
    largest = functools.reduce(jnp.maximum, sizes)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    square = sum(jnp.sum((x / scale) ** 2) for x in leaves)
    nothing = square == 0  # written so that a NaN stays one
    return jnp.where(nothing, 0, scale * jnp.sqrt(jnp.where(nothing, 1, square)))


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no leaf holds an infinity or a NaN."""
    inexact, _ = partition_tangent(tree)
    checks = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(inexact)]
    return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(True)


def size(tree: PyTree) -> int:
    """How many numbers the leaves hold together."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))
