"""Fine-tuning: which layers of a pre-trained network move, and how fast.

A network is trained on one set of classes, its head is thrown away, and the rest is
where training on few rows of another set begins. λ has a learning rate for each layer,
from hardly any to ten times the common one, and may have a decay towards the
pre-trained weights, `start_decay`.

Source: Yosinski et al., How transferable are features in deep neural networks? (2014);
Li, Grandvalet and Davoine, Explicit inductive bias for transfer learning (2018).
"""

from typing import Annotated, Literal

import jax
import numpy as np
from pydantic import Field

import hypergrad as hg
from experiments.registry import register, remembered
from experiments.supervised.networks import AnyNetwork, Convolutional
from experiments.supervised.recipe import Pretrained
from experiments.supervised.task import Source, Supervised
from experiments.tasks.images import image_source

First = Literal["digits", "mnist"]


@register("transfer")
class Transfer(Supervised):
    """Options of the task.

    Attributes:
        source: "digits" goes from the digits 0-4 to 5-9, "mnist" from MNIST to
            Fashion-MNIST.
        pretrain_steps: of Adam at its default rate, on the first set; 0 for none.
        pretrain_rows: of the first set.
    """

    source: First = "digits"
    pretrain_steps: Annotated[int, Field(ge=0)] = 300
    pretrain_rows: Annotated[int, Field(ge=1)] = 600
    model: AnyNetwork = Convolutional()
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate", "layer_rates")
    num_train: Annotated[int, Field(ge=1)] = 60
    num_valid: Annotated[int, Field(ge=1)] = 60
    num_test: Annotated[int, Field(ge=1)] = 700

    def data(self) -> Source:
        """The second set."""
        if self.source == "mnist":
            return image_source("fashion_mnist")
        return _some_digits(5, 10)

    @property
    def pretrained(self) -> bool:
        """Unless there are no steps."""
        return self.pretrain_steps > 0

    def start_from(self, seed: int) -> Pretrained | None:
        """All layers but the head, as trained on the first set."""
        if not self.pretrained:
            return None
        first = Pretraining(
            source=self.source,
            model=self.model,
            optimizer="adam",
            num_steps=self.pretrain_steps,
            num_train=self.pretrain_rows,
            batch_size=min(32, self.pretrain_rows),
        )
        return _pretrain(first, seed)


class Pretraining(Supervised):
    """Plain training on the first set; registered under no name."""

    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate",)
    source: First = "digits"
    num_valid: Annotated[int, Field(ge=1)] = 100
    num_test: Annotated[int, Field(ge=1)] = 100

    def data(self) -> Source:
        """The first set."""
        if self.source == "mnist":
            return image_source("mnist")
        return _some_digits(0, 5)


_train = jax.jit(hg.train)


@remembered
def _pretrain(task: Pretraining, seed: int) -> Pretrained:
    """Once a seed, whatever λ is tried afterwards."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    state = _train(task.problem(seed), task.space().defaults(), key)
    kept = {name: part for name, part in state.weights.items() if name != "head"}
    return Pretrained(kept, state.model_state)


def _some_digits(low: int, high: int) -> Source:
    """The digits low <= d < high, numbered from 0."""
    images, digits = image_source("digits")[:2]
    some = (low <= digits) & (digits < high)
    return Source(images[some], (digits[some] - low).astype(np.int32), high - low)
