"""Cells whose edges are mixtures of operations, and cells that keep some (DARTS).

A mixture is a table [edges, operations]: y = Σ_o mix[edge, o] o(x) on each edge. One of
zeros and ones is a cell with one operation on the edges that are kept.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hypergrad.models.layers import Conv, patches
from hypergrad.models.norms import make_norm

Operation = Literal["none", "skip", "average", "conv1", "conv3"]
OPERATIONS: tuple[Operation, ...] = ("none", "skip", "average", "conv1", "conv3")
KEPT = 2  # edges into each node
INPUTS = 2  # of a cell


def edges_into(nodes: int) -> list[range]:
    """The edges into each node: from the cell's inputs and from the nodes before.

    >>> edges_into(2)
    [range(0, 2), range(2, 5)]
    """
    counts = np.cumsum([0, *(INPUTS + node for node in range(nodes))])
    return [range(a, b) for a, b in zip(counts[:-1], counts[1:], strict=True)]


def strongest(mix: np.ndarray, nodes: int) -> np.ndarray:
    """The strongest operation, none aside, on the two strongest edges into each node.

    >>> strongest(np.array([[0.6, 0.3, 0, 0.1, 0], [0.2, 0, 0.1, 0, 0.7]]), 1)
    array([[0., 1., 0., 0., 0.],
           [0., 0., 0., 0., 1.]])
    """
    some = np.delete(mix, OPERATIONS.index("none"), axis=1)
    kept = [
        edge
        for into in edges_into(nodes)
        for edge in sorted(into, key=lambda e: -some[e].max())[:KEPT]
    ]
    return _cell(len(mix), kept, some[kept].argmax(axis=1))


def drawn(rng: np.random.Generator, nodes: int) -> np.ndarray:
    """Any two edges into each node, with any operations but none."""
    into = edges_into(nodes)
    kept = [int(e) for edges in into for e in rng.permutation(edges)[:KEPT]]
    operations = rng.integers(len(OPERATIONS) - 1, size=len(kept))
    return _cell(into[-1].stop, kept, operations)


def _cell(num_edges: int, kept: list[int], operations: np.ndarray) -> np.ndarray:
    """Operations are counted without none."""
    cell = np.zeros((num_edges, len(OPERATIONS)))
    named = [index for index, name in enumerate(OPERATIONS) if name != "none"]
    cell[kept, np.array(named)[operations]] = 1.0
    return cell


class MixedNetwork(nnx.Module):
    """A convolution, cells with one mixture, the mean over the image, a linear map.

    Args:
        channels: of all but the image.
        cells: each has the two before it as inputs, the first two the convolution.
        nodes: of a cell; its output is their mean.
        image_channels: of the image.
        num_classes: of the output.
        rngs: the streams.
    """

    def __init__(
        self,
        channels: int,
        cells: int,
        nodes: int,
        image_channels: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.stem = Conv(image_channels, channels, 3, rngs=rngs)
        self.cells = nnx.List(_Cell(channels, nodes, rngs=rngs) for _ in range(cells))
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, mix: jax.Array) -> jax.Array:
        """Images [n, height, width, channels] to logits."""
        before = x = self.stem(x)
        for cell in self.cells:
            before, x = x, cell(before, x, mix)
        return self.head(jnp.mean(x, axis=(1, 2)))


class _Cell(nnx.Module):
    """Node_i = Σ over the inputs and the nodes before of mixed edges."""

    def __init__(self, channels: int, nodes: int, *, rngs: nnx.Rngs):
        self.into = edges_into(nodes)
        self.edges = nnx.List(
            _Edge(channels, rngs=rngs) for _ in range(self.into[-1].stop)
        )

    def __call__(self, before: jax.Array, x: jax.Array, mix: jax.Array) -> jax.Array:
        states = [before, x]
        for into in self.into:
            ends = zip(into, states, strict=True)
            states.append(_total([self.edges[e](h, mix[e]) for e, h in ends]))
        return _total(states[INPUTS:]) / len(self.into)


class _Edge(nnx.Module):
    """All operations; a convolution is ReLU, convolution and norm."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List(Conv(channels, channels, k, rngs=rngs) for k in (1, 3))
        self.norms = nnx.List(make_norm("layer", channels, rngs=rngs) for _ in range(3))

    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        neighbours = patches(x, 3, 1).reshape(*x.shape[:-1], 9, x.shape[-1])
        results = {
            "skip": x,
            "average": self.norms[0](jnp.mean(neighbours, axis=-2)),
            "conv1": self.norms[1](self.convs[0](jax.nn.relu(x))),
            "conv3": self.norms[2](self.convs[1](jax.nn.relu(x))),
        }
        weighed = [weights[OPERATIONS.index(name)] * y for name, y in results.items()]
        return _total(weighed)


def _total(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)
