"""Data sets by name, read once a process and never kept on disk: `load("mnist")`.

"digits" comes with scikit-learn; "phrases", "tones" and "seasons" are made here. The
rest are files below HYPERGRAD_DATA, as their publishers format them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import numpy as np

from experiments.data import readers
from experiments.data.files import folder
from experiments.data.phrases import phrases
from experiments.data.seasons import seasons
from experiments.data.sparse import Csr
from experiments.data.tones import tones
from experiments.data.values import Characters, Labelled, Series, Speech, Text

ImageSet = Literal["digits", "mnist", "fashion_mnist", "cifar10"]
RowSet = Literal["a9a", "news20"]
PhraseSet = Literal["phrases"]
CharacterSet = Literal["omniglot"]
SpeechSet = Literal["tones", "spoken_digits"]
SeriesSet = Literal["seasons", "co2", "sunspots", "airline", "etth1"]
TextSet = Literal["tiny_shakespeare", "wikitext2"]

_READERS: Mapping[str, Callable[[], Any]] = {
    "digits": readers.digits,
    "mnist": lambda: readers.idx_images("mnist", readers.DIGITS),
    "fashion_mnist": lambda: readers.idx_images("fashion_mnist", readers.CLOTHES),
    "cifar10": readers.cifar10,
    "a9a": readers.a9a,
    "news20": readers.news20,
    "phrases": phrases,
    "omniglot": readers.omniglot,
    "tones": tones,
    "spoken_digits": readers.spoken_digits,
    "seasons": seasons,
    **{name: functools.partial(readers.series, name) for name in readers.TABLES},
    "tiny_shakespeare": readers.tiny_shakespeare,
    "wikitext2": readers.wikitext2,
}
NAMES = tuple(_READERS)
EMBEDDED = ("digits", "phrases", "tones", "seasons")


@overload
def load(name: ImageSet) -> Labelled[np.ndarray]: ...
@overload
def load(name: RowSet) -> Labelled[Csr]: ...
@overload
def load(name: PhraseSet) -> Labelled[tuple[str, ...]]: ...
@overload
def load(name: CharacterSet) -> Characters: ...
@overload
def load(name: SpeechSet) -> Speech: ...
@overload
def load(name: SeriesSet) -> Series: ...
@overload
def load(name: TextSet) -> Text: ...
def load(name: str) -> Any:
    """The data set of a name, one object for all who ask.

    Args:
        name: one of `NAMES`; those of `EMBEDDED` need no file.

    Raises:
        ValueError: no data set has this name.
        MissingData, DamagedData: a file is not there, or not what it should be.

    Example:
        >>> data = load("digits")
        >>> data.train.inputs.shape, data.test
        ((1797, 8, 8, 1), None)
    """
    if name not in _READERS:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(NAMES)}")
    return _load(name, "" if name in EMBEDDED else folder())


@functools.cache
def _load(name: str, root: str) -> Any:
    del root  # Another folder is another data set.
    return _READERS[name]()
