"""From the files of each data set to its value: names, scales and cross-checks."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import formats
from experiments.data.archives import reading, tar_members
from experiments.data.files import damaged, locate
from experiments.data.series import interpolate
from experiments.data.sparse import Csr
from experiments.data.values import Characters, Labelled, Rows, Series, Speech, Text

DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def digits() -> Labelled[np.ndarray]:
    """1,797 digits of 8x8 pixels from scikit-learn's wheel, without a test part."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return Labelled(Rows(images, labels.astype(np.int32)), None, DIGITS)


def idx_images(name: str, classes: tuple[str, ...]) -> Labelled[np.ndarray]:
    """28x28 images and labels in the four IDX files of MNIST and those after it."""
    parts = {}
    for part in ("train", "t10k"):
        paths = []
        for stem in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            file = f"{name.replace('_', '-')}/{part}-{stem}"
            paths.append(locate(name, f"{file}.gz", file))
        images, labels = formats.read_idx(paths[0]), formats.read_idx(paths[1])
        if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
            got = f"{images.dtype} {list(images.shape)}"
            raise damaged(paths[0], "no images", got=got, expected="uint8 [n, 28, 28]")
        if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
            got, expected = (
                f"{labels.dtype} {list(labels.shape)}",
                f"uint8 [{len(images)}]",
            )
            raise damaged(
                paths[1], "not its images' labels", got=got, expected=expected
            )
        if labels.max(initial=0) >= len(classes):
            raise damaged(paths[1], f"a label is {labels.max()}", expected="0 to 9")
        parts[part] = Rows(_unit(images)[..., None], labels.astype(np.int32))
    return Labelled(parts["train"], parts["t10k"], classes)


def cifar10() -> Labelled[np.ndarray]:
    """32x32 images in colour; all 60,000, or the balanced part of 12,000."""
    path = locate(
        "cifar10",
        "cifar10/cifar-10-binary.tar.gz",
        "cifar10/cifar-10-binary-subset.tar.gz",
        "cifar10/cifar-10-batches-bin",
    )
    parts = formats.read_cifar_binary(path)
    train, test = (
        Rows(_unit(images), labels.astype(np.int32))
        for images, labels in (parts["train"], parts["test"])
    )
    return Labelled(train, test, CIFAR10)


def _unit(pixels: np.ndarray) -> np.ndarray:
    """0 .. 255 as 0 .. 1."""
    return pixels.astype(np.float32) / np.float32(255)


def omniglot() -> Characters:
    """1,623 characters of 50 alphabets, each drawn by the same 20 people."""
    path = locate("omniglot", "omniglot/omniglot_28x28_u8.npz")
    names = ["images", "char", "alphabet", "drawer", "evaluation"]
    arrays = formats.read_npz(path, names)
    shapes = {name: array.shape for name, array in arrays.items()}
    rows = shapes["images"][:1]
    if shapes != dict.fromkeys(names, rows) | {"images": (*rows, 28, 28)}:
        raise damaged(path, f"the arrays do not fit each other: {shapes}")
    return Characters(
        images=_unit(arrays["images"])[..., None],
        characters=arrays["char"].astype(np.int32),
        alphabets=arrays["alphabet"].astype(np.int32),
        drawers=arrays["drawer"].astype(np.int32),
        evaluation=arrays["evaluation"].astype(bool),
    )


def news20() -> Labelled[Csr]:
    """Counts of 130,107 words in 18,846 posts to 20 newsgroups, split by date."""
    parts, classes = {}, ()
    for part in ("train", "test"):
        path = locate("news20", f"news20/news20_counts_{part}.npz")
        counts, rest = formats.read_npz_csr(path, ["target", "target_names"])
        classes = tuple(map(str, rest["target_names"].ravel()))
        parts[part] = _classified(path, counts, rest["target"], len(classes))
    return Labelled(parts["train"], parts["test"], classes)


def a9a() -> Labelled[Csr]:
    """Adults who earn more than 50,000 or not: 123 binary columns, sparse."""
    parts = {}
    for file in ("a9a", "a9a.t"):
        path = locate("a9a", f"a9a/{file}")
        matrix, signs = formats.read_svmlight(path, num_columns=123)
        if not np.all(np.abs(signs) == 1):
            raise damaged(path, "a label is neither -1 nor +1")
        parts[file] = _classified(path, matrix, (signs > 0).astype(np.int32), 2)
    return Labelled(parts["a9a"], parts["a9a.t"], ("at most 50K", "more than 50K"))


def _classified(
    path: Path, inputs: Csr, labels: np.ndarray, num_classes: int
) -> Rows[Csr]:
    if labels.shape != (len(inputs),) or labels.dtype.kind not in "iu":
        raise damaged(path, f"{len(inputs)} rows have labels {labels.shape}")
    if not np.all((labels >= 0) & (labels < num_classes)):
        raise damaged(path, f"a label is not one of {num_classes} classes")
    return Rows(inputs, labels.astype(np.int32))


_RECORDING = re.compile(r"([0-9])_([a-z]+)_([0-9]{1,4})\.wav")
_RATE = 8000


def spoken_digits() -> Speech:
    """Recordings of 0 .. 9, cut or filled up with silence to 1 s at 8 kHz."""
    path = locate("spoken_digits", "spoken-digits/recordings.tar.gz")
    found = {}
    for name, data in tar_members(path):
        if name.startswith(".") or not name.endswith(".wav"):
            continue
        match = _RECORDING.fullmatch(name)
        key = match and (int(match[1]), match[2], int(match[3]))
        if key is None or key in found:
            problem = "is there twice" if key else "is no DIGIT_SPEAKER_INDEX.wav"
            raise damaged(path, f"{name[:60]!r} {problem}")
        wave, rate = formats.read_wav(data, f"{path}: {name}")
        if rate != _RATE:
            raise damaged(path, f"{name} has {rate} Hz", expected=f"{_RATE} Hz")
        found[key] = np.pad(wave[:_RATE], (0, max(0, _RATE - len(wave))))
    if not found:
        raise damaged(path, "holds no recording", expected="DIGIT_SPEAKER_INDEX.wav")
    keys = sorted(found)
    names = sorted({speaker for _, speaker, _ in keys})
    takes = np.array([take for *_, take in keys], np.int32)
    return Speech(
        waveforms=np.stack([found[key] for key in keys]),
        digits=np.array([digit for digit, *_ in keys], np.int32),
        speakers=np.array([names.index(speaker) for _, speaker, _ in keys], np.int32),
        takes=takes,
        test=takes < 5,  # the publisher's split
        names=tuple(names),
        sample_rate=_RATE,
    )


class Table(NamedTuple):
    """A csv of numbers over time."""

    file: str
    time: str
    channels: tuple[str, ...]


TABLES = {
    "co2": Table("co2_weekly_statsmodels.csv", "date", ("co2",)),
    "sunspots": Table("sunspots_yearly_statsmodels.csv", "YEAR", ("SUNACTIVITY",)),
    "airline": Table("airline-passengers.csv", "Month", ("Passengers",)),
    "etth1": Table(
        *("ETTh1.csv", "date"), ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    ),
}


def series(name: str) -> Series:
    """A csv of `TABLES`: CO2 has 59 weeks without a value, the others none."""
    table = TABLES[name]
    path = locate(name, f"timeseries/{table.file}")
    kinds = {table.time: str} | dict.fromkeys(table.channels, float)
    columns = formats.read_csv(path, kinds)
    times = columns[table.time]
    if not np.all(times[1:] > times[:-1]):  # All are written with leading digits.
        raise damaged(path, f"the column {table.time} does not rise")
    with reading(path, "a series"):
        gappy = np.stack([columns[channel] for channel in table.channels], axis=1)
        values, filled = interpolate(gappy)
    return Series(values, filled, tuple(map(str, times)), table.channels)


def tiny_shakespeare() -> Text:
    """1,115,394 characters of Shakespeare's plays; without a test part."""
    path = locate("tiny_shakespeare", "tinyshakespeare/input.txt")
    return Text(formats.read_text(path), None)


def wikitext2() -> Text:
    """The validation and the test articles of WikiText-2."""
    valid, test = (locate("wikitext2", f"wikitext2/{p}.txt") for p in ("valid", "test"))
    return Text(formats.read_text(valid), formats.read_text(test))
