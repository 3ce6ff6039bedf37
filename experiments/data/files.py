"""Where the files of a data set are, and whether they are the publisher's.

They lie under the folder that the environment variable HYPERGRAD_DATA names. A file
counts as whole if its sha256 is one that `published` knows for its path, or one that a
SHA256SUMS file at the top of that folder lists for it. Nothing is downloaded.
"""

import functools
import hashlib
import os
from pathlib import Path

from experiments.configs.faults import ConfigError, Fault
from experiments.data.published import SHA256, URLS

VARIABLE = "HYPERGRAD_DATA"
SUMS = "SHA256SUMS"


class MissingData(ConfigError):
    """A file of a data set is not where it was looked for."""


class DamagedData(ConfigError):
    """A file of a data set is not what its checksum or its format says."""


def damaged(path: Path | str, message: str, **details: str) -> DamagedData:
    """The error about one file; `details` are those of a `Fault`."""
    return DamagedData([Fault(str(path), (), message, **details)])


def folder() -> str:
    """What HYPERGRAD_DATA says, or nothing."""
    return os.environ.get(VARIABLE, "")


def locate(name: str, *files: str) -> Path:
    """The path of a file of the data set `name`, its checksum in order.

    Args:
        name: the data set.
        files: paths below HYPERGRAD_DATA; the first that exists is taken. A folder is
            a file of every `.bin` in it.

    Raises:
        MissingData: HYPERGRAD_DATA is not set, names no folder, or has no such file.
        DamagedData: the checksum is not one that is known or listed.
    """
    if not folder():
        raise _missing(name, f"${VARIABLE}", f"{VARIABLE} is not set", files)
    root = Path(folder()).expanduser().absolute()
    if not root.is_dir():
        raise _missing(name, str(root), f"{VARIABLE} names no folder", files)
    for file in files:
        path = root / file
        if path.is_dir():
            for part in sorted(path.glob("*.bin")):
                _check(part, f"{file}/{part.name}", root)
            return path
        if path.exists():
            _check(path, file, root)
            return path
    raise _missing(name, str(root / files[0]), "no such file", files)


def _missing(name: str, path: str, message: str, files: tuple[str, ...]) -> MissingData:
    fault = Fault(
        path,
        (),
        f'the data set "{name}" needs a file: {message}',
        expected=f"{VARIABLE} names the folder that holds {' or '.join(files)}",
        hint=f"get it from {URLS[name]}; nothing is downloaded for you",
    )
    return MissingData([fault])


def _check(path: Path, file: str, root: Path) -> None:
    known, got = SHA256.get(file, ()), sha256(path)
    if got in known or (got, file) in _listed(root):
        return
    raise damaged(
        path,
        "truncated, or another edition than the publisher's",
        got=f"sha256 {got}",
        expected=" or ".join(known) or f"a checksum listed in {root / SUMS}",
        hint=f'to accept it as it is, add the line "{got}  {file}" to {root / SUMS}',
    )


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal; each edition of it is read once."""
    try:
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error


@functools.cache
def _sha256(path: Path, size: int, modified: int) -> str:
    del size, modified  # They tell the editions of a file apart.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(root: Path) -> set[tuple[str, str]]:
    """(checksum, path) of each line that `sha256sum` would write."""
    try:
        lines = (root / SUMS).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise damaged(root / SUMS, f"cannot be read: {error.strerror}") from error
    pairs = (line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    return {(digest.lower(), path.strip().lstrip("*./")) for digest, path in pairs}
