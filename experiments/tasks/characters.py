"""The next character of a text: a language model on windows of characters.

Training, validation and test windows come from consecutive stretches of the text, never
one inside another; the seed says which windows of its stretch each set gets. The loss
is in nats per character.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from experiments.data.sources import PhraseSet, TextSet, load
from experiments.data.text import Vocabulary, next_symbol
from experiments.registry import register
from experiments.supervised.networks import AnyNetwork, Recurrent
from experiments.supervised.task import Count, Source, Supervised

STRETCHES = (0.8, 0.1, 0.1)
"""Of the text, for training, validation and test."""


@register("characters")
class Characters(Supervised):
    """Options of the task, beside those of every task on rows.

    Attributes:
        source: "phrases" are made here; "wikitext2" has a test text of its own.
        length: characters a window.
    """

    question: ClassVar[frozenset[str]] = Supervised.question | {"length"}
    metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False
    every: ClassVar[bool] = True

    model: AnyNetwork = Recurrent(units=32)
    source: Literal["phrases", "tiny_shakespeare", "wikitext2"] = "phrases"
    length: Count = 24
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "adam"
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate", "decay")
    batch_size: Annotated[int, Field(ge=0)] = 16
    num_steps: Count = 80
    num_train: Count = 600
    num_valid: Count = 100
    num_test: Count = 200

    def data(self) -> Source:
        """Windows [n, length] of characters by number, and what follows each."""
        text, held = _texts(self.source)
        vocabulary = Vocabulary.of(text + held)
        numbers = vocabulary.encode(text)
        if held:
            train, valid = next_symbol(numbers, self.length, _first_two(STRETCHES))
            (test,) = next_symbol(vocabulary.encode(held), self.length, (1.0,))
        else:
            train, valid, test = next_symbol(numbers, self.length, STRETCHES)
        return Source(
            *(train.inputs, train.targets),
            num_outputs=len(vocabulary),
            vocabulary=len(vocabulary),
            valid=(valid.inputs, valid.targets),
            test=(test.inputs, test.targets),
        )


def _texts(source: PhraseSet | TextSet) -> tuple[str, str]:
    """The text, and one that its publisher keeps for testing, or ""."""
    if source == "phrases":
        return "\n".join(load("phrases").train.inputs), ""
    found = load(source)
    return found.text, found.test or ""


def _first_two(fractions):
    first, second, _ = fractions
    return first / (first + second), second / (first + second)
