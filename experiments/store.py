"""Run folders: runs/NAME/CELL-HASH/seed=N/, each written by one process at a time.

    config.json    the resolved tables of the cell       meta.json      where it ran
    metrics.jsonl  trials.jsonl                          the logs, a record a line
    checkpoint.npz checkpoint.previous.npz               the state, two generations
    DONE           the result, written last              lock           who is writing

NAME/measured.json holds what is measured once for all cells that train alike.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from experiments import checkpoints
from experiments.cells import Cell
from experiments.files import (
    StoreError,
    append_jsonl,
    as_lines,
    make_folder,
    read_json,
    read_jsonl,
    refusing,
    write_bytes,
    write_json,
)

Tree = TypeVar("Tree")
Value = TypeVar("Value")
_PACKAGES = ("hypergrad", "jax", "jaxlib", "optax", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class RunFolder:
    """The files of one cell and seed; `open_run` is the way to write to one."""

    path: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None before it did."""
        return read_json(self.path / "DONE")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved tables of the cell, and its labels."""
        return read_json(self.path / "config.json") or {}

    @property
    def meta(self) -> dict[str, Any]:
        """Versions, device, commit, command line."""
        return read_json(self.path / "meta.json") or {}

    def resolve(self, section: str, measured: dict[str, Any]) -> None:
        """Write into the resolved config what was measured instead of given."""
        config = self.config
        config[section] = config.get(section, {}) | measured
        write_json(self.path / "config.json", config)

    def log(self, name: str, *records: dict[str, Any]) -> None:
        """Append to `name`.jsonl: "trials" or "metrics"."""
        append_jsonl(self.path / f"{name}.jsonl", list(records))

    def records(self, name: str) -> list[dict[str, Any]]:
        """What was logged to `name`.jsonl."""
        return read_jsonl(self.path / f"{name}.jsonl")

    def rewind(self, name: str, count: int) -> list[dict[str, Any]]:
        """Keep the first `count` records: those that the checkpoint knows of."""
        path, kept = self.path / f"{name}.jsonl", self.records(name)[:count]
        if len(kept) < count:
            raise StoreError(
                f"{path} holds {len(kept)} records where its checkpoint knows of "
                f"{count}; run without --resume"
            )
        write_bytes(path, as_lines(kept))
        return kept

    def save(self, tree: Any) -> None:
        """Checkpoint a pytree."""
        checkpoints.save(self.path / "checkpoint.npz", tree)

    def load(self, like: Tree) -> Tree | None:
        """The newest whole checkpoint as a tree like `like`; None if there is none."""
        return checkpoints.load(self.path / "checkpoint.npz", like)

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result; from then on the run is done."""
        write_json(self.path / "DONE", result)


def run_path(root: Path, cell: Cell, seed: int) -> Path:
    """runs/NAME/CELL-HASH/seed=N."""
    return root / cell.name / cell.hash / f"seed={seed}"


@contextlib.contextmanager
def open_run(
    root: Path, cell: Cell, seed: int, *, resume: bool = False
) -> Iterator[RunFolder]:
    """The folder of a cell and seed, held by this process until the block ends.

    Without `resume` an earlier run of the same cell and seed is cleared away first.

    Raises:
        StoreError: another process holds it, or it cannot be written.
    """
    folder = RunFolder(run_path(root, cell, seed))
    make_folder(folder.path)
    with _lock(folder.path):
        if not resume:
            _clear(folder.path)
        labels = {"name": cell.name, "study": cell.study, "method": cell.title}
        labels |= {"seed": seed, "hash": cell.hash}
        if not (folder.path / "config.json").exists():
            write_json(folder.path / "config.json", labels | cell.table)
        if not (folder.path / "meta.json").exists():
            write_json(folder.path / "meta.json", metadata())
        yield folder


def measured_once(
    root: Path, name: str, key: str, measure: Callable[[], Value]
) -> Value:
    """`measure()`, or what runs/NAME/measured.json has kept of it under `key`.

    A cost multiple is measured once and holds for every cell that trains alike, for
    every seed, resume and process; the first to write it wins.
    """
    path = root / name / "measured.json"
    kept = read_json(path) or {}
    if key not in kept:
        value = measure()
        make_folder(path.parent)
        with _lock(path.parent, wait=True):
            kept = {key: value} | (read_json(path) or {})
            write_json(path, kept)
    return kept[key]


def metadata() -> dict[str, Any]:
    """Versions, device, git commit, command line and time."""
    import jax

    devices = jax.devices()
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    now = datetime.datetime.now(datetime.UTC)
    return {
        "versions": versions,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": _commit(),
        "command": command_line(),
        "started": now.isoformat(timespec="seconds"),
    }


def command_line() -> str:
    """The command as it can be typed again."""
    return shlex.join(["python", "-m", "experiments", *sys.argv[1:]])


def _commit() -> str | None:
    """The commit of the working folder, marked if it has changes; None outside git."""
    git = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder; the lock dies with the process, however it dies."""
    path = folder / "lock"
    with refusing(path):
        handle = path.open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            handle.seek(0)
            who = handle.read().strip() or "unknown"
            raise StoreError(
                f"{folder} is being written by another process (pid {who}); wait for "
                f"it, or choose another folder with --runs"
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _clear(folder: Path) -> None:
    """Remove what a run wrote, DONE first, and nothing else."""
    names = ("DONE", "checkpoint.npz", "checkpoint.previous.npz", "trials.jsonl")
    for name in (*names, "metrics.jsonl", "meta.json", "config.json"):
        with refusing(folder / name):
            (folder / name).unlink(missing_ok=True)
