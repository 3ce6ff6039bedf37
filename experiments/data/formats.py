"""Publishers' formats as numpy arrays, or a `DamagedData` that says what is wrong.

Each reader compares what a file announces with what it holds, and believes neither.
"""

import csv
import io
import math
import struct
import warnings
import wave
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np

from experiments.data.archives import read_bytes, reading, tar_members, zip_members
from experiments.data.files import damaged
from experiments.data.sparse import Csr

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_CIFAR_RECORD = 1 + 3 * 32 * 32
_MISSING = {"", "NA", "NaN", "nan"}


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, packed by gzip or not (LeCun, Cortes, Burges 1998).

    Two zeros, a code of the type, the number of axes, the size of each (big-endian
    int32), then the entries with the last axis fastest.
    """
    data = read_bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise damaged(
            path,
            "not an IDX file",
            got=f"it starts with {data[:4].hex(' ')}",
            expected="00 00, a type 08, 09, 0b, 0c, 0d or 0e, the number of axes",
        )
    kind, axes = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * axes
    if len(data) < start:
        raise damaged(path, f"the header of {axes} axes breaks off")
    shape = struct.unpack(f">{axes}I", data[4:start])
    size = start + kind.itemsize * math.prod(shape)
    if len(data) != size:
        raise damaged(
            path,
            f"the header announces {' x '.join(map(str, shape))} entries of {kind}",
            got=f"{len(data)} bytes",
            expected=f"{size} bytes",
        )
    with reading(path, "an IDX file"):
        array = np.frombuffer(data, kind, offset=start).reshape(shape)
    return array.astype(kind.newbyteorder("="))


def read_cifar_binary(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(images [n, 32, 32, 3] uint8, labels [n] uint8) for "train" and "test".

    The binary version of CIFAR-10 (Krizhevsky 2009), as its tar.gz or unpacked: files
    data_batch_*.bin and test_batch.bin of records of a label and the planes R, G, B.
    """
    if path.is_dir():
        with reading(path, "a readable folder"):
            files = {file.name: file.read_bytes() for file in path.glob("*.bin")}
    else:
        files = {}
        for name, data in tar_members(path):
            if name in files:
                raise damaged(path, f"holds {name} twice")
            files[name] = data
    train = [n for n in files if n.startswith("data_batch_") and n.endswith(".bin")]
    if not train or "test_batch.bin" not in files:
        raise damaged(
            path,
            "lacks a batch",
            got=", ".join(sorted(files)) or "no file",
            expected="data_batch_1.bin ... and test_batch.bin",
        )
    train = sorted(train, key=lambda name: (len(name), name))  # 2 before 10.
    parts = {"train": train, "test": ["test_batch.bin"]}
    return {part: _cifar(path, files, names) for part, names in parts.items()}


def _cifar(path: Path, files: Mapping[str, bytes], names: list[str]):
    for name in names:
        if not files[name] or len(files[name]) % _CIFAR_RECORD:
            raise damaged(
                path,
                f"{name} is no whole number of records",
                got=f"{len(files[name])} bytes",
                expected=f"a multiple of {_CIFAR_RECORD}",
            )
    data = np.frombuffer(b"".join(files[name] for name in names), np.uint8)
    records = data.reshape(-1, _CIFAR_RECORD)
    labels, planes = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32)
    if labels.max() > 9:
        raise damaged(path, f"a label is {labels.max()}", expected="0 to 9")
    return planes.transpose(0, 2, 3, 1), labels


def read_wav(data: bytes, path: Path | str) -> tuple[np.ndarray, int]:
    """(waveform [samples] float32 in [-1, 1], samples a second) of 8 or 16 bits, mono.

    Args:
        data: the bytes of the file.
        path: its name in messages.
    """
    with reading(path, "a wav file"):
        try:
            with wave.open(io.BytesIO(data)) as file:
                channels, width, rate, count = file.getparams()[:4]
                frames = file.readframes(count)
        except (wave.Error, struct.error) as error:
            raise ValueError(str(error)) from error
    if channels != 1 or width not in (1, 2) or rate < 1:
        raise damaged(
            path,
            "not a waveform that can be read",
            got=f"{channels} channels of {8 * width} bits at {rate} Hz",
            expected="1 channel of 8 or 16 bits",
        )
    if len(frames) != count * width:
        raise damaged(
            path,
            f"the header announces {count} samples",
            got=f"{len(frames) // width}",
        )
    if width == 1:  # 8 bits are unsigned, 16 are signed.
        return (np.frombuffer(frames, np.uint8).astype(np.float32) - 128) / 128, rate
    return np.frombuffer(frames, "<i2").astype(np.float32) / 32768, rate


def read_svmlight(path: Path, num_columns: int) -> tuple[Csr, np.ndarray]:
    """(matrix [n, num_columns], labels [n] float64) of lines `label column:value ...`.

    Columns count from 1 and rise within a line (Joachims 1999).
    """
    from sklearn.datasets import load_svmlight_file

    data = read_bytes(path)
    if not data.endswith(b"\n"):
        raise damaged(path, "the last line has no end", hint="is the file truncated?")
    with reading(path, "svmlight text"):
        # NUL ends the text of a line for C, and what is behind it is lost.
        if b"\0" in data or not data.isascii():
            raise ValueError("a byte that is no ASCII text")
        matrix, labels = load_svmlight_file(
            io.BytesIO(data),
            n_features=num_columns,
            zero_based=False,  # pyright: ignore[reportArgumentType] - or "auto"
        )
        if not np.all(np.isfinite(labels)):
            raise ValueError("a label is not finite")
        found = Csr(matrix.data, matrix.indices, matrix.indptr, matrix.shape)
    if not len(found):
        raise damaged(path, "holds no row")
    return found, labels


def read_npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The named arrays of an npz; pickled objects are refused."""
    arrays = {}
    for name, data in zip_members(path, [f"{name}.npy" for name in names]).items():
        with reading(path, f"an npz with a plain array {name}"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # No header of ours needs one.
                file = io.BytesIO(data)
                try:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                except (TypeError, SyntaxError, TokenError, Warning) as error:
                    raise ValueError(str(error)) from error
            if file.read(1):
                raise ValueError("bytes follow the array")
        arrays[name.removesuffix(".npy")] = array
    return arrays


def read_npz_csr(
    path: Path, names: list[str] | None = None
) -> tuple[Csr, dict[str, np.ndarray]]:
    """The matrix of the arrays data, indices, indptr, shape; other arrays by name."""
    wanted = ["data", "indices", "indptr", "shape"]
    arrays = read_npz(path, [*wanted, *(names or [])])
    data, indices, indptr, shape = (arrays.pop(name) for name in wanted)
    with reading(path, "a sparse matrix"):
        if shape.shape != (2,) or shape.dtype.kind not in "iu":
            raise ValueError(f"shape is {shape!r:.60}")
        matrix = Csr(data, indices, indptr, (int(shape[0]), int(shape[1])))
    return matrix, arrays


def read_csv(path: Path, columns: Mapping[str, type]) -> dict[str, np.ndarray]:
    """The named columns of a csv with a header: `float` [n] float64, or `str` [n].

    A number that is missing (an empty cell, NA or NaN) is NaN; infinity is damage.
    """
    text = io.StringIO(read_text(path), newline="")
    with reading(path, "csv"):
        try:
            lines = [line for line in csv.reader(text, strict=True) if line]
        except csv.Error as error:
            raise ValueError(str(error)) from error
    header, *rows = lines or [[]]
    if absent := [name for name in columns if header.count(name) != 1]:
        raise damaged(
            path,
            f"has no one column {absent[0]}",
            got=f"the columns {', '.join(header)}"[:80],
            expected=", ".join(columns),
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise damaged(
                path, f"row {number} has {len(row)} cells", expected=f"{len(header)}"
            )
    if not rows:
        raise damaged(path, "has a header and no line")
    found = {}
    for name, kind in columns.items():
        cells = [row[header.index(name)] for row in rows]
        found[name] = np.array(cells) if kind is str else _numbers(path, name, cells)
    return found


def _numbers(path: Path, name: str, cells: list[str]) -> np.ndarray:
    numbers = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell.strip() in _MISSING:
            continue
        with reading(path, f"csv with numbers in {name}, row {i + 1}"):
            numbers[i] = float(cell)
            if not math.isfinite(numbers[i]):
                raise ValueError(f"{cell} is not finite")
    return numbers


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, as it stands."""
    data = read_bytes(path)
    if not data:
        raise damaged(path, "is empty")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(
            path, f"not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
