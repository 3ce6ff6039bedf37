"""The models a config can name: {name = "cnn", filters = 8, kernel = 3, ...}.

Every field is a number or a word, so that each may be a discrete hyperparameter of a
search: `[choices] "model.width" = [16, 32]`.
"""

import abc
import math
from typing import Annotated, Literal

import jax
from pydantic import BaseModel, ConfigDict, Field

from hypergrad.models import StatefulModel, from_nnx

Count = Annotated[int, Field(ge=1)]
Activation = Literal["relu", "tanh", "gelu", "silu"]
Norm = Literal["none", "batch", "layer", "group"]


class Network(BaseModel, abc.ABC):
    """A model but for the shapes of its data.

    Attributes:
        name: what a config calls it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str

    @abc.abstractmethod
    def arrange(self, inputs: jax.Array, tokens: bool) -> jax.Array:
        """Rows [n, ...] in the shape the model reads.

        Raises:
            ValueError: the model has no use for rows of this shape.
        """

    @abc.abstractmethod
    def module(self, shape: tuple[int, ...], vocabulary, num_outputs, every, rngs):
        """The NNX module for arranged rows of `shape`; see `build`."""

    def build(
        self, shape: tuple[int, ...], vocabulary: int, num_outputs: int, every: bool
    ) -> StatefulModel:
        """The model as a pair of pure functions.

        Args:
            shape: of one arranged row, without the row axis.
            vocabulary: how many tokens there are; 0 where rows are numbers.
            num_outputs: outputs for each row, or for each step of it.
            every: whether there are outputs at every step of a sequence.
        """

        def module(rngs):
            return self.module(shape, vocabulary, num_outputs, every, rngs)

        return from_nnx(module)


class Perceptron(Network):
    """Fully connected layers."""

    name: Literal["mlp"] = "mlp"
    depth: Annotated[int, Field(ge=0)] = 2  # 0 is a linear model
    width: Count = 32
    activation: Activation = "tanh"
    norm: Norm = "none"

    def arrange(self, inputs, tokens):
        """Flat."""
        _refuse_tokens(self, tokens)
        return inputs.reshape(len(inputs), -1)

    def module(self, shape, vocabulary, num_outputs, every, rngs):
        """`hypergrad.models.MLP`."""
        from hypergrad.models import MLP

        return MLP(
            in_features=math.prod(shape),
            width=self.width,
            depth=self.depth,
            out_features=num_outputs,
            activation=self.activation,
            norm=self.norm,
            rngs=rngs,
        )


class Convolutional(Network):
    """Convolutions, then an average over the image, then one dense layer."""

    name: Literal["cnn"] = "cnn"
    filters: Count = 8
    depth: Count = 2
    kernel: Count = 3
    stride: Count = 2
    activation: Activation = "relu"
    norm: Norm = "none"

    def arrange(self, inputs, tokens):
        """[n, height, width, channels]; a plane without channels gets one."""
        _refuse_tokens(self, tokens)
        if inputs.ndim not in (3, 4):
            raise ValueError(
                f'model "{self.name}" needs rows that are images [height, width] or '
                f"[height, width, channels]; these have shape {inputs.shape[1:]}: use "
                'model "mlp"'
            )
        return inputs if inputs.ndim == 4 else inputs[..., None]

    def module(self, shape, vocabulary, num_outputs, every, rngs):
        """`hypergrad.models.CNN`."""
        from hypergrad.models import CNN

        return CNN(**self._fields(shape, num_outputs), rngs=rngs)

    def _fields(self, shape, num_outputs):
        own = self.model_dump(exclude={"name"})
        return own | {"image_shape": shape, "out_features": num_outputs}


class Residual(Convolutional):
    """A convolution, then residual blocks of two, then average and dense layer."""

    name: Literal["residual_cnn"] = "residual_cnn"

    def module(self, shape, vocabulary, num_outputs, every, rngs):
        """`hypergrad.models.ResidualCNN`."""
        from hypergrad.models import ResidualCNN

        return ResidualCNN(**self._fields(shape, num_outputs), rngs=rngs)


class _Sequence(Network):
    def arrange(self, inputs, tokens):
        """[n, time] of tokens, or [n, time, features]: an image is read by its rows."""
        if tokens:
            return inputs
        if inputs.ndim < 3:
            raise ValueError(
                f'model "{self.name}" needs rows that are sequences [time, features]; '
                f'these have shape {inputs.shape[1:]}: use model "mlp"'
            )
        return inputs.reshape(*inputs.shape[:2], -1)

    @staticmethod
    def _reads(shape, vocabulary):
        if vocabulary:
            return {"vocabulary": vocabulary}
        return {"in_features": shape[-1]}


class Recurrent(_Sequence):
    """Recurrent layers over time, then one dense layer."""

    name: Literal["recurrent"] = "recurrent"
    cell: Literal["gru", "lstm", "rnn"] = "gru"
    units: Count = 24
    layers: Count = 1

    def module(self, shape, vocabulary, num_outputs, every, rngs):
        """`hypergrad.models.Recurrent`."""
        from hypergrad import models

        return models.Recurrent(
            units=self.units,
            layers=self.layers,
            cell=self.cell,
            out_features=num_outputs,
            outputs="every" if every else "last",
            rngs=rngs,
            **self._reads(shape, vocabulary),
        )


class Transformer(_Sequence):
    """Blocks of attention and dense layers; causal where every step has outputs."""

    name: Literal["transformer"] = "transformer"
    width: Count = 32
    depth: Count = 1
    heads: Count = 2

    def module(self, shape, vocabulary, num_outputs, every, rngs):
        """`hypergrad.models.Transformer`."""
        from hypergrad import models

        return models.Transformer(
            length=shape[0],
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            out_features=num_outputs,
            outputs="every" if every else "last",
            rngs=rngs,
            **self._reads(shape, vocabulary),
        )


AnyNetwork = Annotated[
    Perceptron | Convolutional | Residual | Recurrent | Transformer,
    Field(discriminator="name"),
]


def _refuse_tokens(network: Network, tokens: bool) -> None:
    if tokens:
        raise ValueError(
            f'model "{network.name}" reads numbers, and the rows of this task are '
            'tokens: use model "recurrent" or "transformer"'
        )
