"""A pytree in one .npz file that is whole or absent, and knows its own sha256.

Orbax and plain archives restore flipped bits without a word; here a damaged file reads
as none at all.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


def encode(tree: Any) -> bytes:
    """The leaves of a pytree as an .npz with their sha256; PRNG keys as their data."""
    leaves = [_as_numpy(leaf) for leaf in jax.tree.leaves(tree)]
    arrays: dict[str, Any] = {f"leaf{index}": leaf for index, leaf in enumerate(leaves)}
    buffer = io.BytesIO()
    np.savez(buffer, sha256=np.frombuffer(_digest(leaves), np.uint8), **arrays)
    return buffer.getvalue()


def digest(tree: Any) -> bytes:
    """The sha256 of the leaves' shapes and bits."""
    return _digest([_as_numpy(leaf) for leaf in jax.tree.leaves(tree)])


def save(path: Path, tree: Any) -> None:
    """Write a pytree to a file in one step."""
    write_bytes(path, encode(tree))


def read(path: Path, like: Tree) -> Tree | None:
    """The pytree in a file, of the structure of `like`; None if damaged or absent.

    Raises:
        ValueError: the file is whole, and holds leaves of other shapes.
    """
    leaves = _read(path)
    if leaves is None:
        return None
    wanted, structure = jax.tree.flatten(like)
    expected = [_as_numpy(leaf) for leaf in wanted]
    if _shapes(leaves) != _shapes(expected):
        raise ValueError(f"{path} holds another kind of state")
    restored = [
        _as_leaf(leaf.view(old.dtype), model)
        for leaf, old, model in zip(leaves, expected, wanted, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step: temporary name, fsync, rename.

    A reader sees the old file or the new one, and so does a machine that lost power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> list[np.ndarray] | None:
    """The leaves in a file, or None unless every one of them is as it was written."""
    try:
        data = io.BytesIO(path.read_bytes())
        with np.load(data, allow_pickle=False) as archive:
            leaves = [archive[f"leaf{i}"] for i in range(len(archive.files) - 1)]
            whole = archive["sha256"].tobytes() == _digest(leaves)
    except Exception:  # A flipped bit can raise anything that zip and numpy know.
        return None
    return leaves if whole else None


def _shapes(leaves: list[np.ndarray]) -> list[Any]:
    """Shapes and sizes of numbers: npz forgets the names of types like bfloat16."""
    return [(leaf.shape, leaf.dtype.itemsize) for leaf in leaves]


def _as_numpy(leaf: Any) -> np.ndarray:
    if _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    if array.dtype.hasobject:
        raise TypeError(f"a checkpoint holds numbers; got {leaf!r}")
    return array


def _as_leaf(array: np.ndarray, model: Any) -> Any:
    if _is_key(model):
        data = jnp.asarray(array)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(model))
    if isinstance(model, bool | int | float):
        return array.item()
    return jnp.asarray(array) if isinstance(model, jax.Array) else array


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _digest(leaves: list[np.ndarray]) -> bytes:
    total = hashlib.sha256()
    for leaf in leaves:
        total.update(f"{leaf.shape}{leaf.dtype.itemsize}".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.digest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
