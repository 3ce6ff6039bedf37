"""Run folders: runs/NAME/CELL-HASH/seed=N/, each written by one process at a time.

    config.json    the resolved tables of the cell       meta.json      where it ran
    metrics.jsonl  trials.jsonl                          the logs, a record a line
    checkpoint.npz checkpoint.previous.npz               the state, two generations
    DONE           the result, written last              lock           who is writing
    FAILED         what went wrong, in place of DONE

NAME/measured.json holds what is measured once for all cells that train alike, and
NAME/leader is locked by the one command that gives out the jobs below NAME.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from experiments.configs.cells import Cell
from experiments.configs.papers import PaperCell
from experiments.storage import checkpoints
from experiments.storage.files import (
    DamagedError,
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

Kept = Cell | PaperCell  # what a run folder is of
Tree = TypeVar("Tree")
Value = TypeVar("Value")
PATIENCE = 5.0  # seconds for a worker to notice that its leader has been killed
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
    def failure(self) -> dict[str, Any] | None:
        """What `fail` wrote: message, traceback and when; None if nothing failed."""
        return read_json(self.path / "FAILED")

    @property
    def saved(self) -> int | None:
        """When the last checkpoint was written, in ns: it changes with progress."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "checkpoint.npz").stat().st_mtime_ns
        return None

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
        path, config = self.path / "config.json", self.config
        known = config.get(section)
        if not isinstance(known, dict):
            raise DamagedError(f"{path} has no table {section!r}")
        write_json(path, config | {section: known | measured})

    def log(self, name: str, *records: dict[str, Any]) -> None:
        """Append to `name`.jsonl: "trials" or "metrics"."""
        append_jsonl(self.path / f"{name}.jsonl", list(records))

    def records(self, name: str) -> list[dict[str, Any]]:
        """What was logged to `name`.jsonl."""
        return read_jsonl(self.path / f"{name}.jsonl")

    def trials(self, *numbers: str) -> list[dict[str, Any]]:
        """The records of the trials, each of which has the `numbers` asked for.

        Raises:
            DamagedError: one has not.
        """
        records = self.records("trials")
        for line, record in enumerate(records, start=1):
            for name in numbers:
                if not isinstance(record.get(name), int | float):
                    found = f"{name!r} is {record.get(name)!r:.40}, not a number"
                    path = self.path / "trials.jsonl"
                    raise DamagedError(f"{path}, line {line}: {found}", self._all)
        return records

    def rewind(self, name: str, count: int) -> list[dict[str, Any]]:
        """Keep the first `count` records: those that the checkpoint knows of."""
        path, kept = self.path / f"{name}.jsonl", self.records(name)[:count]
        if len(kept) < count:
            what = f"{path} holds {len(kept)} records where its checkpoint knows of"
            raise DamagedError(f"{what} {count}", self._all)
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

    def fail(self, message: str, traceback: str = "") -> None:
        """Record why there is no result; `--resume` runs it again."""
        told = {"message": message, "traceback": traceback, "when": _now()}
        write_json(self.path / "FAILED", told)

    @property
    def _all(self) -> str:
        """What to delete where files no longer fit each other."""
        return f"the folder {self.path}"


def run_path(root: Path, cell: Kept, seed: int) -> Path:
    """runs/NAME/CELL-HASH/seed=N."""
    return root / cell.name / cell.hash / f"seed={seed}"


@contextlib.contextmanager
def open_run(
    root: Path, cell: Kept, seed: int, *, resume: bool = False
) -> Iterator[RunFolder]:
    """The folder of a cell and seed, held by this process until the block ends.

    Without `resume` an earlier run of the same cell and seed is cleared away first.

    Raises:
        StoreError: another process holds it, or it cannot be written.
    """
    folder = RunFolder(run_path(root, cell, seed))
    make_folder(folder.path)
    with _lock(folder.path):
        if resume:
            _remove(folder.path, "FAILED", *_torn(folder.path))
        else:
            _clear(folder.path)
        labels = {"name": cell.name, "study": cell.study, "method": cell.title}
        labels |= {"seed": seed, "hash": cell.hash}
        if not (folder.path / "config.json").exists():
            write_json(folder.path / "config.json", labels | cell.table)
        if not (folder.path / "meta.json").exists():
            write_json(folder.path / "meta.json", metadata())
        yield folder


def free_run(root: Path, cell: Kept, seed: int, *, keep: bool) -> None:
    """Make a run's folder, see that nobody writes to it, and clear it unless `keep`.

    A worker whose leader was killed may hold it for a moment.

    Raises:
        StoreError: another process holds it for longer, or it cannot be cleared.
    """
    folder = run_path(root, cell, seed)
    make_folder(folder)
    with _lock(folder, patience=PATIENCE):
        if not keep:
            _clear(folder)


@contextlib.contextmanager
def leading(root: Path, name: str) -> Iterator[None]:
    """Be the one process that gives out the jobs of runs/NAME until the block ends.

    Raises:
        StoreError: another process is.
    """
    make_folder(root / name)
    with _lock(root / name, "leader", patience=1.0):  # `is_led` holds it for a moment.
        yield


def is_led(folder: Path) -> bool:
    """Whether some process is at work on runs/NAME now."""
    if not (folder / "leader").exists():
        return False
    try:
        with _lock(folder, "leader"):
            return False
    except StoreError:
        return True


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
        with _lock(path.parent, patience=math.inf):
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
    return {
        "versions": versions,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": _commit(),
        "command": command_line(),
        "started": _now(),
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _lock(folder: Path, name: str = "lock", *, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder; the lock dies with the process, however it dies."""
    path, deadline = folder / name, time.monotonic() + patience
    with refusing(path):
        handle = path.open("a+")
    with handle:
        while not _locked(handle):
            if time.monotonic() > deadline:
                handle.seek(0)
                who = handle.read().strip() or "unknown"
                raise StoreError(
                    f"{folder} is being written by another process (pid {who}); wait "
                    f"for it, or choose another folder with --runs"
                )
            time.sleep(0.01)
        with refusing(path):
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
        yield


def _locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(folder: Path) -> None:
    """Remove what a run wrote, DONE first, and nothing else."""
    names = ("DONE", "FAILED", "checkpoint.npz", "checkpoint.previous.npz")
    logs = ("trials.jsonl", "metrics.jsonl", "meta.json", "config.json")
    _remove(folder, *names, *logs, *_torn(folder))


def _torn(folder: Path) -> list[str]:
    """Names of files that a kill has kept from getting theirs."""
    return [path.name for path in folder.glob(".*.tmp")]


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        with refusing(folder / name):
            (folder / name).unlink(missing_ok=True)
