"""Every format reads right, and damage of any kind is refused by name."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from experiments.data import formats
from experiments.data.archives import tar_members
from experiments.data.files import DamagedData
from tests.experiments import publishing
from tests.experiments.publishing import write

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 4, (3, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([7, 0, 9], np.uint8)
SAMPLES = RNG.integers(-(2**15), 2**15, 50, dtype=np.int16)
CSR = {
    "data": np.array([1, 2, 3], np.uint16),
    "indices": np.array([4, 0, 2], np.int32),
    "indptr": np.array([0, 1, 3], np.int32),
    "shape": np.array([2, 5]),
    "target": np.array([1, 0], np.uint8),
}


def read_cifar(path):
    parts = formats.read_cifar_binary(path)
    return [*parts["train"], *parts["test"]]


def read_recordings(path):
    return [formats.read_wav(data, name)[0] for name, data in tar_members(path)]


def read_matrix(path):
    matrix, rest = formats.read_npz_csr(path, ["target"])
    return [matrix.dense(), rest["target"]]


def read_svmlight(path):
    matrix, labels = formats.read_svmlight(path, 6)
    return [matrix.dense(), labels]


def read_csv(path):
    return list(formats.read_csv(path, {"day": str, "load": float}).values())


class Format(NamedTuple):
    """A file, what reads it, and what it holds; `sure` if it carries a checksum."""

    name: str
    data: bytes
    read: Callable[[Path], list]
    expected: list
    sure: bool


BATCHES = {
    "x/data_batch_1.bin": publishing.cifar(IMAGES[:1], LABELS[:1]),
    "x/data_batch_2.bin": publishing.cifar(IMAGES[1:2], LABELS[1:2]),
    "x/test_batch.bin": publishing.cifar(IMAGES[2:], LABELS[2:]),
}
MATRIX = np.array([[0, 0, 0, 0, 1], [2, 0, 3, 0, 0]], np.float32)
PIXELS = RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8)
FORMATS = {
    "idx": Format(
        "a-idx3-ubyte",
        publishing.idx(PIXELS),
        lambda path: [formats.read_idx(path)],
        [PIXELS],
        sure=False,
    ),
    "idx.gz": Format(
        "a-idx3-ubyte.gz",
        publishing.idx(PIXELS),
        lambda path: [formats.read_idx(path)],
        [PIXELS],
        sure=True,
    ),
    "cifar": Format(
        "cifar.tar.gz",
        publishing.tar(BATCHES),
        read_cifar,
        [IMAGES[:2], LABELS[:2], IMAGES[2:], LABELS[2:]],
        sure=True,
    ),
    "wav": Format(
        "1_a_2.wav",
        publishing.wav(SAMPLES),
        lambda path: [formats.read_wav(path.read_bytes(), path)[0]],
        [SAMPLES.astype(np.float32) / 2**15],
        sure=False,
    ),
    "wav in tar.gz": Format(
        "recordings.tar.gz",
        publishing.tar({"r/1_a_2.wav": publishing.wav(SAMPLES)}),
        read_recordings,
        [SAMPLES.astype(np.float32) / 2**15],
        sure=True,
    ),
    "svmlight": Format(
        "a9a",
        b"-1 1:1 6:0.5\n+1 \n+1 2:3 # said\n",
        read_svmlight,
        [
            np.array([[1, 0, 0, 0, 0, 0.5], [0] * 6, [0, 3, 0, 0, 0, 0]]),
            np.array([-1.0, 1.0, 1.0]),
        ],
        sure=False,
    ),
    "npz": Format(
        "csr.npz",
        publishing.npz(**CSR),
        read_matrix,
        [MATRIX, CSR["target"]],
        sure=True,
    ),
    "csv": Format(
        "a.csv",
        b'"day","load"\n1,2.5\n2,\n"3",-1e2\n',
        read_csv,
        [np.array(["1", "2", "3"]), np.array([2.5, np.nan, -100.0])],
        sure=False,
    ),
    "text": Format(
        "a.txt",
        "Grüße,\r\nund €\n".encode(),
        lambda path: [np.array(formats.read_text(path))],
        [np.array("Grüße,\r\nund €\n")],
        sure=False,
    ),
}


@pytest.fixture(params=FORMATS)
def case(request):
    return FORMATS[request.param]


def outcome(case, path):
    """What the reader makes of a file: arrays, or the error that names the file."""
    try:
        return case.read(path)
    except DamagedData as error:
        return error


def same(found, expected):
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_every_format_reads_what_was_written(case, tmp_path):
    same(case.read(write(tmp_path / case.name, case.data)), case.expected)


def test_damage_is_refused_or_harmless(case, tmp_path):
    """Truncated anywhere, or up to three bytes changed: never another exception."""
    rng, path = np.random.default_rng(1), write(tmp_path / case.name, case.data)
    whole, refused = path.read_bytes(), 0
    cuts = [whole[: rng.integers(len(whole))] for _ in range(80)]
    flips = []
    for _ in range(160):
        broken = bytearray(whole)
        # Headers are where the trouble is: half of the changes go there.
        end = len(whole) if rng.uniform() < 0.5 else min(64, len(whole))
        for _ in range(rng.integers(1, 4)):
            broken[rng.integers(end)] = rng.integers(256)
        flips.append(bytes(broken))
    for broken in [b"", *cuts, *flips]:
        path.write_bytes(broken)
        found = outcome(case, path)
        if isinstance(found, DamagedData):
            assert case.name in str(found)
            refused += 1
            continue
        if case.sure:
            same(found, case.expected)
        kinds = [np.asarray(array).dtype.kind for array in case.expected]
        assert [np.asarray(array).dtype.kind for array in found] == kinds
    assert refused > 30


@pytest.mark.parametrize("name", ["cifar", "wav in tar.gz"])
def test_a_tar_damaged_before_it_was_packed(name, tmp_path):
    case, rng = FORMATS[name], np.random.default_rng(2)
    path, refused = tmp_path / case.name, 0
    for _ in range(150):
        broken = bytearray(case.data)
        broken[rng.integers(600)] = rng.integers(256)
        broken[rng.integers(len(broken))] = rng.integers(256)
        write(path, bytes(broken[: rng.integers(512, 2 * len(broken))]))
        found = outcome(case, path)
        if isinstance(found, DamagedData):
            assert case.name in str(found) or "1_a_2.wav" in str(found)
            refused += 1
    assert refused > 100


def test_an_npz_damaged_before_it_was_packed(tmp_path):
    rng, path = np.random.default_rng(3), tmp_path / "csr.npz"
    whole = zipfile.ZipFile(io.BytesIO(publishing.npz(**CSR)))
    refused = 0
    for _ in range(200):
        with zipfile.ZipFile(path, "w") as archive:
            for name in whole.namelist():
                member = bytearray(whole.read(name))
                member[rng.integers(len(member))] = rng.integers(256)
                archive.writestr(name, bytes(member))
        found = outcome(FORMATS["npz"], path)
        if isinstance(found, DamagedData):
            assert "csr.npz" in str(found)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_idx_of_every_type(kind, tmp_path):
    array = np.array([[1, 2], [-3, 100]]).astype(kind)
    found = formats.read_idx(write(tmp_path / "a", publishing.idx(array)))
    assert found.dtype == array.dtype
    same([found], [array])


def test_an_idx_header_must_agree_with_the_length(tmp_path):
    data = publishing.idx(PIXELS)
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(DamagedData, match=r"3 x 4 x 5(.|\n)*76 bytes"):
            formats.read_idx(write(tmp_path / "a.gz", wrong))


def test_cifar_unpacked(tmp_path):
    for name, data in BATCHES.items():
        write(tmp_path / name, data)
    same(read_cifar(tmp_path / "x"), FORMATS["cifar"].expected)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ({"data_batch_1.bin": BATCHES["x/test_batch.bin"]}, "lacks a batch"),
        (BATCHES | {"y/test_batch.bin": b""}, "test_batch.bin twice"),
        (BATCHES | {"x/data_batch_2.bin": b"\0" * 3072}, "multiple of 3073"),
        (BATCHES | {"x/data_batch_2.bin": b"\x0a" * 3073}, "a label is 10"),
    ],
)
def test_cifar_refusals(batches, message, tmp_path):
    path = write(tmp_path / "c.tar.gz", publishing.tar(batches))
    with pytest.raises(DamagedData, match=message):
        formats.read_cifar_binary(path)


def test_wav_of_8_bits():
    data = publishing.wav(np.array([0, 128, 255], np.uint8), width=1, rate=4000)
    wave, rate = formats.read_wav(data, "a.wav")
    assert rate == 4000
    np.testing.assert_allclose(wave, [-1, 0, 127 / 128])


def test_wav_in_stereo_is_refused():
    with pytest.raises(DamagedData, match="2 channels of 16 bits"):
        formats.read_wav(publishing.wav(SAMPLES, channels=2), "a.wav")


def test_a_tar_is_never_unpacked_and_its_links_are_not_followed(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("../up", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info, io.BytesIO())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write(Path("a.tar.gz"), buffer.getvalue())
    assert dict(tar_members(path)) == {"up": b""}
    assert [p.name for p in tmp_path.rglob("*")] == ["here", "a.tar.gz"]


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, evil=np.array([{}], object))
    with pytest.raises(DamagedData, match=r"a\.npz: (.|\n)*evil"):
        formats.read_npz(path, ["evil"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": np.array([0, 3, 3, 3])}, "indptr has 4 entries for 2 rows"),
        ({"indptr": np.array([0, 4, 3])}, "does not rise"),
        ({"indptr": np.array([0, 1, 2])}, "does not rise"),
        ({"indices": np.array([0, 1, 5])}, "columns 0 to 5"),
        ({"indices": np.array([-1, 1, 2])}, "columns -1 to 2"),
        ({"indices": np.array([1, 2])}, "3 values have 2 columns"),
        ({"indices": np.array([0.0, 1, 2])}, "indices is float64"),
        ({"data": np.array([1, np.inf, 2])}, "not all finite"),
        ({"shape": np.array([2, 5, 1])}, "shape is"),
        ({"shape": np.array([-1, 5])}, "shape is"),
    ],
)
def test_sparse_arrays_must_fit(change, message, tmp_path):
    path = write(tmp_path / "csr.npz", publishing.npz(**(CSR | change)))
    with pytest.raises(DamagedData, match=message):
        formats.read_npz_csr(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"+1 0:1\n", "svmlight"),
        (b"+1 7:1\n", "svmlight"),
        (b"+1 2:1 1:1\n", "svmlight"),
        (b"+1 2:\n", "svmlight"),
        (b"nan 2:1\n", "label is not finite"),
        (b"+1 2:inf\n", "not all finite"),
        (b"+1 2:1", "no end"),
        (b"# nothing\n", "no row"),
    ],
)
def test_svmlight_refusals(text, message, tmp_path):
    with pytest.raises(DamagedData, match=message):
        formats.read_svmlight(write(tmp_path / "a9a", text), 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"day,lode\n1,2\n", "no one column load"),
        (b"day,load,load\n1,2,3\n", "no one column load"),
        (b"day,load\n1,2\n3\n", "row 2 has 1 cells"),
        (b"day,load\n1,two\n", "load, row 1"),
        (b"day,load\n1,inf\n", "not finite"),
        (b"day,load\n", "no line"),
        (b'day,load\n"1,2\n', "csv"),
    ],
)
def test_csv_refusals(text, message, tmp_path):
    with pytest.raises(DamagedData, match=message):
        read_csv(write(tmp_path / "a.csv", text))


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.data.archives.LIMIT", 1000)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(1001)))
    with pytest.raises(DamagedData, match="more than 1000 bytes"):
        formats.read_text(path)
    path = write(tmp_path / "a.npz", publishing.npz(zeros=np.zeros(1000)))
    with pytest.raises(DamagedData, match="unpack to 8"):
        formats.read_npz(path, ["zeros"])
