"""Recurrent networks: plain, LSTM and GRU cells, stacked."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hypergrad.models.layers import Dropout, Embedding, check_sizes, choose
from hypergrad.models.sequences import Outputs, check_inputs, pick
from hypergrad.typing import PyTree, Scalar


class Cell(NamedTuple):
    """h' = step(h, a, b) with a = x W + b and b = h U, each of `gates` · units.

    Attributes:
      gates: how many times the units W and U have columns.
      start: `h [B, units] of zeros -> carry`.
      step: `(carry, a, b) -> (carry', h')`.
    """

    gates: int
    start: Callable[[jax.Array], PyTree]
    step: Callable[[PyTree, jax.Array, jax.Array], tuple[PyTree, jax.Array]]

    @staticmethod
    def hidden(carry) -> jax.Array:
        """The h of a carry, which is its last array."""
        return jax.tree.leaves(carry)[-1]


def _rnn(h, a, b):
    """Elman 1990: h' = tanh(a + b)."""
    h = jnp.tanh(a + b)
    return h, h


def _lstm(carry, a, b):
    """Hochreiter et al. 1997: c' = σ(f + 1) c + σ(i) tanh(g), h' = σ(o) tanh(c').

    The 1 is Jozefowicz et al. 2015's: at first, remember.
    """
    c, _ = carry
    i, f, g, o = jnp.split(a + b, 4, -1)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def _gru(h, a, b):
    """Cho et al. 2014: h' = z h + (1 − z) tanh(a_n + r b_n), r and z = σ(a + b)."""
    (a_r, a_z, a_n), (b_r, b_z, b_n) = (jnp.split(x, 3, -1) for x in (a, b))
    r, z = jax.nn.sigmoid(a_r + b_r), jax.nn.sigmoid(a_z + b_z)
    h = z * h + (1 - z) * jnp.tanh(a_n + r * b_n)
    return h, h


CELLS = {
    "rnn": Cell(1, lambda h: h, _rnn),
    "lstm": Cell(4, lambda h: (h, h), _lstm),
    "gru": Cell(3, lambda h: h, _gru),
}


class Recurrent(nnx.Module):
    """h_t = cell(h_{t−1}, x_t), layer upon layer, and y = h W + b.

    Dropout acts on the input of each layer but the first and on that of the head, never
    from step to step.

    Args:
      in_features: of the input [B, L, in_features]; or
      vocabulary: number of tokens, of the integer input [B, L], embedded in `units`.
      units: of each layer.
      layers: number of layers.
      cell: rnn, lstm or gru.
      out_features: of the output.
      outputs: "last" for y at the last step, [B, out_features]; "every" for all steps,
        [B, L, out_features].
      rngs: the streams.

    Raises:
      ValueError: a size is no positive int, not exactly one of `in_features` and
        `vocabulary` is given, or there is no such cell or output.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> model = Recurrent(vocabulary=7, units=8, out_features=2, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((5, 12), int)).shape
      (5, 2)
    """

    def __init__(
        self,
        in_features: int | None = None,
        *,
        vocabulary: int | None = None,
        units: int,
        layers: int = 1,
        cell: Literal["rnn", "lstm", "gru"] = "gru",
        out_features: int,
        outputs: Outputs = "last",
        rngs: nnx.Rngs,
    ):
        check_sizes(units=units, layers=layers, out_features=out_features)
        size = check_inputs(in_features, vocabulary, outputs)
        self.embedding = nnx.data(None)
        if vocabulary is not None:
            self.embedding = Embedding(vocabulary, units, rngs=rngs)
            size = units
        sizes = [size] + [units] * (layers - 1)
        self.layers = nnx.List(_Layer(n, units, cell, rngs=rngs) for n in sizes)
        self.dropout = Dropout(rngs=rngs)
        self.head = nnx.Linear(units, out_features, rngs=rngs)
        self.outputs: Outputs = outputs

    def __call__(self, x: jax.Array, dropout: float | Scalar = 0.0) -> jax.Array:
        """[B, L, in_features], or tokens [B, L], to the outputs."""
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers:
            x = self.dropout(layer(x), dropout)
        return self.head(pick(x, self.outputs))


class _Layer(nnx.Module):
    """One cell run over time."""

    def __init__(self, in_features: int, units: int, cell: str, *, rngs: nnx.Rngs):
        self.cell = choose("cell", cell, CELLS)
        columns = self.cell.gates * units
        self.input = nnx.Linear(in_features, columns, rngs=rngs)
        orthogonal = nnx.initializers.orthogonal(column_axis=0)
        self.recurrent = nnx.Linear(
            units, columns, use_bias=False, kernel_init=orthogonal, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, in] ↦ [B, L, units]; x W is one product for all steps."""
        cell, kernel = self.cell, self.recurrent.kernel[...]
        inputs = jnp.swapaxes(self.input(x), 0, 1)

        def step(carry, a):
            return cell.step(carry, a, cell.hidden(carry) @ kernel)

        zero = jnp.zeros((x.shape[0], kernel.shape[0]), inputs.dtype)
        _, h = jax.lax.scan(step, cell.start(zero), inputs)
        return jnp.swapaxes(h, 0, 1)
