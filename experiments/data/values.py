"""What a data set is once read: frozen values whose numpy arrays cannot be written."""

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import numpy as np

from experiments.data.sparse import Csr

# Dense rows, sparse rows, or texts.
Inputs = TypeVar("Inputs", np.ndarray, Csr, tuple[str, ...])


def _freeze(value: object) -> None:
    """Lock the arrays of a value, which everyone in the process shares."""
    for field in fields(value):  # type: ignore[arg-type]
        array = getattr(value, field.name)
        if isinstance(array, np.ndarray):
            array.flags.writeable = False


@dataclass(frozen=True)
class Rows(Generic[Inputs]):
    """Examples, one a row.

    Attributes:
        inputs: [n, ...] float32, a sparse matrix [n, d], or n texts.
        targets: [n] int32 classes, or [n, k] float32.
    """

    inputs: Inputs
    targets: np.ndarray

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"inputs and targets differ: got {len(self.inputs)} and "
                f"{len(self.targets)} rows, expected equally many"
            )
        _freeze(self)

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Labelled(Generic[Inputs]):
    """Rows with a class each, and the publisher's own test part if there is one."""

    train: Rows[Inputs]
    test: Rows[Inputs] | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Characters:
    """Handwritten characters [n, 28, 28, 1] in [0, 1], ink is 1; few of each.

    Attributes:
        images: float32.
        characters, alphabets, drawers: [n] int32.
        evaluation: [n], True for the alphabets that the publisher keeps for testing.
    """

    images: np.ndarray
    characters: np.ndarray
    alphabets: np.ndarray
    drawers: np.ndarray
    evaluation: np.ndarray

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True)
class Speech:
    """One spoken digit a row: waveforms [n, samples] in [-1, 1], float32.

    Attributes:
        digits: [n] int32, what is said.
        speakers: [n] int32, who says it, an index into `names`.
        takes: [n] int32, the how-manieth recording of this digit by this speaker.
        test: [n], True for the recordings kept for testing.
    """

    waveforms: np.ndarray
    digits: np.ndarray
    speakers: np.ndarray
    takes: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    sample_rate: int

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True)
class Series:
    """Channels over time, at even steps.

    Attributes:
        values: [time, channels] float64, without gaps.
        filled: [time, channels], True where the file has no value and `values` is the
            straight line between the neighbours.
        times: the publisher's name of each step, or () where steps are only counted.
        channels: their names.
    """

    values: np.ndarray
    filled: np.ndarray
    times: tuple[str, ...]
    channels: tuple[str, ...]

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True)
class Text:
    """Running text, and the publisher's own test part if there is one."""

    text: str
    test: str | None
