"""Files that are whole or absent: atomic writes, and logs that survive a torn line."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypergrad import checkpoints


class StoreError(Exception):
    """A run folder cannot be written or read; what was done before is kept."""


class DamagedError(StoreError):
    """Something in a run folder is not what was written there.

    Args:
        what: where, and what is wrong.
        culprit: the file or folder without which the run can go on.
    """

    def __init__(self, what: str, culprit: str = "it"):
        super().__init__(f"{what}; delete {culprit} and run again with --resume")


_REASONS = {
    errno.ENOSPC: "no space left on the device; what was written before is kept",
    errno.EDQUOT: "the disk quota is used up; what was written before is kept",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EEXIST: "a file stands where a folder should be",
    errno.EISDIR: "a folder stands where a file should be",
}


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a `StoreError` that says it in one line."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        reason = _REASONS.get(code) or (error.strerror or str(error)).lower()
        raise StoreError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it."""
    with refusing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, whole or not at all."""
    with refusing(path):
        checkpoints.write_bytes(path, data)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a value as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is no such file.

    Raises:
        DamagedError: it holds none.
    """
    try:
        return _object(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise DamagedError(f"cannot read {path}: {error}") from error


def append_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    """Add records to a log, a line each, on disk when this returns.

    A line that a kill tore is cut off first; what does not fit the disk is taken back.
    """
    lines = as_lines(records)
    with refusing(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        end = _whole(size, file)
        if end < size:
            file.truncate(end)
        try:
            if file.write(lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def as_lines(records: list[dict[str, Any]]) -> bytes:
    """Records as JSON, a line each."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a torn last line is no record.

    Raises:
        DamagedError: a line before the last is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(_object(line))
        except ValueError as error:
            what = f"{path}, line {number}: not a record: {error}"
            raise DamagedError(what, f"the folder {path.parent}") from error
    return records


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object {{...}}; got {value!r:.40}")
    return value


def _whole(size: int, file: Any) -> int:
    """Where the last whole line of a log of `size` bytes ends."""
    start = size
    while start > 0:
        start = max(start - 65536, 0)
        file.seek(start)
        found = file.read(min(65536, size - start)).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
