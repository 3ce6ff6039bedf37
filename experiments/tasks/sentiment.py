"""What a short text says: words in, one of two classes out.

The phrases are synthetic and made here: for or against, where the order of words
decides ("the plot was dull but the cast was good"). The other source is real: sentences
of Tiny Shakespeare without their last sign, which says whether they are questions.
"""

import collections
import re
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from experiments.data.sources import load
from experiments.data.text import words
from experiments.registry import register
from experiments.supervised.networks import AnyNetwork, Recurrent
from experiments.supervised.task import Count, Source, Supervised

RARE = "<rare>"


@register("sentiment")
class Sentiment(Supervised):
    """Options of the task, beside those of every task on rows.

    Attributes:
        source: "phrases", or sentences of "tiny_shakespeare".
        length: words of a sentence at most; longer ones are left out.
        vocabulary: most frequent words of the sentences; all others are one word.
    """

    question: ClassVar[frozenset[str]] = Supervised.question | {"length", "vocabulary"}
    model: AnyNetwork = Recurrent(units=16)
    source: Literal["phrases", "tiny_shakespeare"] = "phrases"
    length: Count = 12
    vocabulary: Annotated[int, Field(ge=2)] = 300
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "adam"
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate", "decay")
    num_steps: Count = 150
    num_train: Count = 400
    num_valid: Count = 200
    num_test: Count = 800

    def data(self) -> Source:
        """Words by number [n, time], short texts filled up on the left."""
        if self.source == "phrases":
            found = load("phrases").train
            texts, classes = found.inputs, found.targets
        else:
            texts, classes = questions(load("tiny_shakespeare").text, self.length)
            texts, classes = once(frequent(texts, self.vocabulary), classes)
        rows, vocabulary = words(texts)
        tokens = vocabulary.encode_rows(rows, max(map(len, rows)))
        return Source(tokens, classes, num_outputs=2, vocabulary=len(vocabulary))


def questions(text: str, length: int) -> tuple[list[str], np.ndarray]:
    """Sentences of 2 to `length` words, and 1 for questions; as many of either kind.

    Example:
        >>> questions("Is the day so young? Ay me! Sad hours seem long.", 5)
        (['is the day so young', 'sad hours seem long'], array([1, 0], dtype=int32))
    """
    spoken = re.sub(r"(?m)^.*:$", ".", text)  # The names of speakers end sentences.
    texts, classes = [], []
    for sentence, sign in re.findall(r"([^.?!]+)([.?!])", spoken):
        row = re.findall(r"[a-z']+", sentence.lower())
        if 2 <= len(row) <= length and sign != "!":
            texts.append(" ".join(row))
            classes.append(int(sign == "?"))
    kinds = [np.flatnonzero(np.array(classes) == kind) for kind in (0, 1)]
    count = min(map(len, kinds))
    even = [kind[np.linspace(0, len(kind) - 1, count, dtype=int)] for kind in kinds]
    kept = np.sort(np.concatenate(even))
    return [texts[i] for i in kept], np.array(classes, np.int32)[kept]


def once(texts: list[str], classes: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Each text once, and none that is of both classes.

    Example:
        >>> once(["a b", "c", "c", "d", "d"], np.array([0, 0, 0, 0, 1]))
        (['a b', 'c'], array([0, 0]))
    """
    kinds = collections.defaultdict(set)
    for text, kind in zip(texts, classes, strict=True):
        kinds[text].add(int(kind))
    kept = {texts.index(text) for text, found in kinds.items() if len(found) == 1}
    rows = sorted(kept)
    return [texts[i] for i in rows], classes[rows]


def frequent(texts: list[str], vocabulary: int) -> list[str]:
    """The texts with all but their most frequent words as the word `RARE`.

    Example:
        >>> frequent(["to be or not to be"], 3)
        ['to be <rare> <rare> to be']
    """
    rows = [text.split() for text in texts]
    counts = collections.Counter(word for row in rows for word in row)
    known = {word for word, _ in counts.most_common(vocabulary - 1)}
    return [" ".join(w if w in known else RARE for w in row) for row in rows]
