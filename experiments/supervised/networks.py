"""The models a config can name: {name = "cnn", filters = 8, kernel = 3, ...}.

Every field is a number or a word, so that each may be a discrete hyperparameter of a
search: `[choices] "model.width" = [16, 32]`.
"""

import abc
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import jax
from pydantic import BaseModel, ConfigDict, Field

from hypergrad.models import StatefulModel

if TYPE_CHECKING:
    from flax import nnx

Count = Annotated[int, Field(ge=1)]
Activation = Literal["relu", "tanh", "gelu", "silu"]
Norm = Literal["none", "batch", "layer", "group"]


class Shapes(NamedTuple):
    """What a model must know of its data.

    Attributes:
        row: shape of one arranged row, without the row axis.
        vocabulary: how many tokens there are; 0 where rows are numbers.
        num_outputs: outputs for each row, or for each step of it.
        every: whether there are outputs at every step of a sequence.
    """

    row: tuple[int, ...]
    vocabulary: int
    num_outputs: int
    every: bool


class Network(BaseModel, abc.ABC):
    """A model but for the shapes of its data; configs call it by its field `name`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abc.abstractmethod
    def arrange(self, inputs: jax.Array, tokens: bool) -> jax.Array:
        """Rows [n, ...] in the shape the model reads.

        Raises:
            ValueError: the model has no use for rows of this shape.
        """

    @abc.abstractmethod
    def module(self, shapes: Shapes, rngs: "nnx.Rngs") -> "nnx.Module":
        """The module for data of these shapes."""

    def build(self, shapes: Shapes) -> StatefulModel:
        """The model as a pair of pure functions."""
        from hypergrad.models import from_nnx

        def module(rngs: "nnx.Rngs") -> "nnx.Module":
            return self.module(shapes, rngs)

        return from_nnx(module)

    def _options(self) -> dict[str, Any]:
        return self.model_dump(exclude={"name"})

    def _refuse(self, reason: str, instead: str) -> ValueError:
        name = self.model_dump()["name"]
        return ValueError(f'model "{name}" {reason}: use model {instead}')


class Perceptron(Network):
    """Fully connected layers."""

    name: Literal["mlp"] = "mlp"
    depth: Annotated[int, Field(ge=0)] = 2  # 0 is a linear model
    width: Count = 32
    activation: Activation = "tanh"
    norm: Norm = "none"

    def arrange(self, inputs, tokens):
        """Flat."""
        if tokens:
            raise self._refuse(*_TOKENS)
        return inputs.reshape(len(inputs), -1)

    def module(self, shapes, rngs):
        """`hypergrad.models.MLP`."""
        from hypergrad.models import MLP

        size = math.prod(shapes.row)
        outputs = shapes.num_outputs
        return MLP(size, out_features=outputs, rngs=rngs, **self._options())


class _OfImages(Network):
    filters: Count = 8
    depth: Count = 2
    kernel: Count = 3
    stride: Count = 2
    activation: Activation = "relu"
    norm: Norm = "none"

    def arrange(self, inputs, tokens):
        """[n, height, width, channels]; a plane without channels gets one."""
        if tokens:
            raise self._refuse(*_TOKENS)
        if inputs.ndim not in (3, 4):
            raise self._refuse(
                "needs rows that are images [height, width] or [height, width, "
                f"channels]; these have shape {inputs.shape[1:]}",
                '"mlp"',
            )
        return inputs if inputs.ndim == 4 else inputs[..., None]

    def _all_options(self, shapes: Shapes) -> dict[str, Any]:
        """The fields, what an image is, and how many outputs there are."""
        data = {"image_shape": shapes.row, "out_features": shapes.num_outputs}
        return self._options() | data


class Convolutional(_OfImages):
    """Convolutions, then one dense layer."""

    name: Literal["cnn"] = "cnn"

    def module(self, shapes, rngs):
        """`hypergrad.models.CNN`."""
        from hypergrad.models import CNN

        return CNN(rngs=rngs, **self._all_options(shapes))


class Residual(_OfImages):
    """A convolution, then residual blocks of two, then average and dense layer."""

    name: Literal["residual_cnn"] = "residual_cnn"

    def module(self, shapes, rngs):
        """`hypergrad.models.ResidualCNN`."""
        from hypergrad.models import ResidualCNN

        return ResidualCNN(rngs=rngs, **self._all_options(shapes))


class _OfSequences(Network):
    def arrange(self, inputs, tokens):
        """[n, time] of tokens, or [n, time, features]: an image is read by its rows."""
        if tokens:
            return inputs
        if inputs.ndim < 3:
            raise self._refuse(
                "needs rows that are sequences [time, features]; these have shape "
                f"{inputs.shape[1:]}",
                '"mlp"',
            )
        return inputs.reshape(*inputs.shape[:2], -1)

    def _all_options(self, shapes: Shapes) -> dict[str, Any]:
        """The fields, what a step of the sequence is, and where outputs are."""
        tokens = {"vocabulary": shapes.vocabulary}
        reads = tokens if shapes.vocabulary else {"in_features": shapes.row[-1]}
        outputs = "every" if shapes.every else "last"
        own = {"out_features": shapes.num_outputs, "outputs": outputs}
        return self._options() | reads | own


class Recurrent(_OfSequences):
    """Recurrent layers over time, then one dense layer."""

    name: Literal["recurrent"] = "recurrent"
    cell: Literal["gru", "lstm", "rnn"] = "gru"
    units: Count = 24
    layers: Count = 1

    def module(self, shapes, rngs):
        """`hypergrad.models.Recurrent`."""
        from hypergrad import models

        return models.Recurrent(rngs=rngs, **self._all_options(shapes))


class Transformer(_OfSequences):
    """Blocks of attention and dense layers; causal where every step has outputs."""

    name: Literal["transformer"] = "transformer"
    width: Count = 32
    depth: Count = 1
    heads: Count = 2

    def module(self, shapes, rngs):
        """`hypergrad.models.Transformer`."""
        from hypergrad import models

        length = shapes.row[0]
        return models.Transformer(length=length, rngs=rngs, **self._all_options(shapes))


AnyNetwork = Annotated[
    Perceptron | Convolutional | Residual | Recurrent | Transformer,
    Field(discriminator="name"),
]

_TOKENS = (
    "reads numbers, and the rows of this task are tokens",
    '"recurrent" or "transformer"',
)
