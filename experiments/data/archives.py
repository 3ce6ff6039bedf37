"""Bytes out of files, packed or not; nothing that is unpacked touches the disk.

gzip and zip carry checksums of what they hold: both are verified before anything inside
is believed. The names in a tar are only ever compared, never used as paths.
"""

import contextlib
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments.data.files import DamagedData, damaged

LIMIT = 2**31  # No data set here unpacks to more: what does is no data set.

# What the standard library and numpy raise on bytes that they cannot make sense of.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@contextlib.contextmanager
def reading(path: Path | str, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is the file's fault: a `DamagedData` about `what`."""
    try:
        yield
    except DamagedData:
        raise
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise damaged(path, f"not {what}, or damaged: {reason}") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked if they are gzip."""
    with reading(path, "a readable file"):
        data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    with reading(path, "gzip"), gzip.open(io.BytesIO(data)) as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise damaged(path, f"unpacks to more than {LIMIT} bytes")
    return data


def tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(last part of the name, bytes) of each plain file in a tar, packed or not."""
    data = read_bytes(path)
    with (
        reading(path, "a tar"),
        tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar,
    ):
        ended = 0
        for member in tar:
            ended = tar.offset
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield PurePosixPath(member.name).name, file.read()
        # tarfile takes a broken header for the end, which is a block of zeros.
        if any(data[ended : ended + 512]) or len(data) < ended + 512:
            raise damaged(path, f"the tar breaks off after {ended} bytes")


def zip_members(path: Path, names: list[str]) -> dict[str, bytes]:
    """The bytes of the named members of a zip, {name: bytes}."""
    data = read_bytes(path)
    with reading(path, "a zip"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if absent := [name for name in names if name not in sizes]:
            raise damaged(path, f"holds no {', '.join(absent)}")
        if (total := sum(sizes[name] for name in names)) > LIMIT:
            raise damaged(path, f"claims to unpack to {total} bytes")
        return {name: archive.read(name) for name in names}
