"""A pytree in one .npz that knows its own sha256, in two generations.

`save` moves the last checkpoint aside before it writes, `load` takes the newest that is
whole: a kill, a full disk or a flipped bit costs the steps since the one before.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.files import StoreError, refusing, write_bytes

Tree = TypeVar("Tree")


def save(path: Path, tree: Any) -> None:
    """Write the leaves of a pytree; PRNG keys as their data."""
    leaves = [_as_numpy(leaf) for leaf in jax.tree.leaves(tree)]
    arrays: dict[str, Any] = {f"leaf{index}": leaf for index, leaf in enumerate(leaves)}
    digest = np.frombuffer(_digest(leaves), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, sha256=digest, **arrays)
    if path.exists():
        with refusing(path):
            path.replace(_previous(path))
    write_bytes(path, buffer.getvalue())


def load(path: Path, like: Tree) -> Tree | None:
    """The newest whole checkpoint as a pytree of the structure of `like`, or None.

    Raises:
        StoreError: there are checkpoints but none is whole, or of another structure.
    """
    damaged = []
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        leaves = _read(candidate)
        if leaves is not None:
            for broken in damaged:  # Else the next save would rotate it over this one.
                broken.unlink()
            return _restore(candidate, leaves, like)
        damaged.append(candidate)
    if damaged:
        names = " and ".join(broken.name for broken in damaged)
        raise StoreError(f"{path.parent}: {names} damaged; run without --resume")
    return None


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


def _restore(path: Path, leaves: list[np.ndarray], like: Tree) -> Tree:
    wanted, structure = jax.tree.flatten(like)
    shapes = [(leaf.shape, leaf.dtype.itemsize) for leaf in leaves]
    expected = [_as_numpy(leaf) for leaf in wanted]
    if shapes != [(leaf.shape, leaf.dtype.itemsize) for leaf in expected]:
        raise StoreError(f"{path} holds another kind of state; run without --resume")
    restored = [
        _as_leaf(leaf.view(old.dtype), model)
        for leaf, old, model in zip(leaves, expected, wanted, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


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


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")
