"""Text as numbers: vocabularies, and windows for predicting what comes next."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.series import stretches
from experiments.data.values import Rows

PAD = ""  # fills rows up on the left; sorts before every other symbol


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by number: characters (joined by nothing) or words (joined by a space).

    Example:
        >>> vocabulary = Vocabulary.of("banana")
        >>> vocabulary.symbols, vocabulary.encode("nab").tolist()
        (('a', 'b', 'n'), [2, 0, 1])
    """

    symbols: tuple[str, ...]
    separator: str = ""

    @classmethod
    def of(cls, tokens: Iterable[str], separator: str = "") -> "Vocabulary":
        """The sorted symbols of some tokens; a text is its characters."""
        return cls(tuple(sorted(set(tokens))), separator)

    def __len__(self) -> int:
        return len(self.symbols)

    @functools.cached_property
    def _number(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Tokens as numbers [n] int32.

        Raises:
            ValueError: a token is not among the symbols.
        """
        try:
            return np.fromiter((self._number[t] for t in tokens), np.int32, len(tokens))
        except KeyError as error:
            raise ValueError(
                f"tokens: got {error.args[0]!r}, expected one of {len(self)} symbols"
            ) from None

    def decode(self, numbers: np.ndarray) -> str:
        """The text of numbers [n]."""
        return self.separator.join(self.symbols[i] for i in numbers)

    def encode_rows(self, rows: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """Rows of tokens as numbers [n, length] int32; short ones start with PAD.

        Raises:
            ValueError: a row is longer, or PAD is needed and not among the symbols.
        """
        if (longest := max(map(len, rows), default=0)) > length:
            raise ValueError(
                f"length: got {length}, expected at least the longest row's {longest}"
            )
        padded = [[PAD] * (length - len(row)) + list(row) for row in rows]
        return self.encode([t for row in padded for t in row]).reshape(-1, length)


def words(texts: Iterable[str]) -> tuple[tuple[list[str], ...], Vocabulary]:
    """The words of each text, between white space, and all of them with PAD."""
    rows = tuple(text.split() for text in texts)
    return rows, Vocabulary.of([PAD, *(word for row in rows for word in row)], " ")


def next_symbol(
    numbers: np.ndarray, length: int, fractions: Sequence[float]
) -> tuple[Rows[np.ndarray], ...]:
    """Windows of text, and the symbol after each symbol: targets[t] = text[t + 1].

    The text is cut into consecutive stretches, and each into windows that share no
    input; no symbol of one stretch is an input or a target of another.

    Args:
        numbers: [n] the encoded text.
        length: symbols a window.
        fractions: of the text, for each part in turn, such as (0.8, 0.1, 0.1).

    Returns:
        For each part, inputs and targets [windows, length] int32.

    Raises:
        ValueError: a part is too short for one window, or fractions exceed 1.

    Example:
        >>> train, valid = next_symbol(np.arange(10), 2, (0.7, 0.3))
        >>> train.inputs.tolist(), train.targets.tolist(), valid.targets.tolist()
        ([[0, 1], [2, 3], [4, 5]], [[1, 2], [3, 4], [5, 6]], [[8, 9]])
    """
    parts = []
    for start, end in stretches(len(numbers), fractions):
        count = (end - start - 1) // length
        if count < 1:
            raise ValueError(
                f"length: got {length} for a part of {end - start} symbols; expected "
                f"at most {end - start - 1}"
            )
        stop = start + count * length
        inputs, targets = numbers[start:stop], numbers[start + 1 : stop + 1]
        parts.append(Rows(inputs.reshape(-1, length), targets.reshape(-1, length)))
    return tuple(parts)
