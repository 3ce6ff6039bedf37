"""A checkpoint file in two generations.

`save` moves the last checkpoint aside before it writes, `load` takes the newest that is
whole: a kill, a full disk or a flipped bit costs the steps since the one before.
"""

from pathlib import Path
from typing import Any, TypeVar

from experiments.storage.files import DamagedError, refusing, write_bytes
from hypergrad import checkpoints

Tree = TypeVar("Tree")


def save(path: Path, tree: Any) -> None:
    """Write the leaves of a pytree; PRNG keys as their data."""
    data = checkpoints.encode(tree)
    if path.exists():
        with refusing(path):
            path.replace(_previous(path))
    write_bytes(path, data)


def load(path: Path, like: Tree) -> Tree | None:
    """The newest whole checkpoint as a pytree of the structure of `like`, or None.

    Raises:
        DamagedError: there are checkpoints but none is whole, or of another structure.
    """
    damaged, culprit = [], f"the folder {path.parent}"
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            tree = checkpoints.read(candidate, like)
        except ValueError as error:
            raise DamagedError(str(error), culprit) from error
        if tree is not None:
            for broken in damaged:  # Else the next save would rotate it over this one.
                broken.unlink()
            return tree
        damaged.append(candidate)
    if damaged:
        names = " and ".join(broken.name for broken in damaged)
        raise DamagedError(f"{path.parent}: {names} damaged", culprit)
    return None


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")
