"""A small transformer."""

import jax
import jax.numpy as jnp
from flax import nnx

from hypergrad.models.layers import Dropout, Embedding, check_sizes
from hypergrad.models.norms import make_norm
from hypergrad.models.sequences import Outputs, check_inputs, pick
from hypergrad.typing import Scalar


class Transformer(nnx.Module):
    """x ← x + attention(norm(x)), x ← x + W₂ gelu(W₁ norm(x)), and y = norm(x) W + b.

    Layer norm before each part (Xiong et al. 2020), learned positions, and, where there
    is an output at every position, attention to that position and those before only
    (Vaswani et al. 2017). Dropout acts on the embedding and on what each part adds.

    Args:
      in_features: of the input [B, L, in_features], mapped linearly to `width`; or
      vocabulary: number of tokens, of the integer input [B, L].
      length: the largest L.
      width: of x.
      depth: number of blocks.
      heads: of the attention; they divide `width`.
      out_features: of the output.
      outputs: "last" for y at the last position, [B, out_features], which attends to
        all; "every" for all positions, [B, L, out_features], causally.
      rngs: the streams.

    Raises:
      ValueError: a size is no positive int, `heads` does not divide `width`, not
        exactly one of `in_features` and `vocabulary` is given, there is no such output;
        or, when called, the input is longer than `length`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> model = Transformer(
      ...     vocabulary=7, length=12, width=8, depth=1, heads=2, out_features=7,
      ...     outputs="every", rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((5, 12), int)).shape
      (5, 12, 7)
    """

    def __init__(
        self,
        in_features: int | None = None,
        *,
        vocabulary: int | None = None,
        length: int,
        width: int,
        depth: int,
        heads: int,
        out_features: int,
        outputs: Outputs = "last",
        rngs: nnx.Rngs,
    ):
        check_sizes(length=length, width=width, depth=depth, heads=heads)
        check_sizes(out_features=out_features)
        if width % heads:
            raise ValueError(f"heads must divide width ({width}), got {heads}")
        size = check_inputs(in_features, vocabulary, outputs)
        make = nnx.Linear if vocabulary is None else Embedding
        self.embedding = make(size, width, rngs=rngs)
        self.positions = Embedding(length, width, rngs=rngs)
        self.dropout = Dropout(rngs=rngs)
        causal = outputs == "every"
        self.blocks = nnx.List(
            _Block(width, heads, causal, rngs=rngs) for _ in range(depth)
        )
        self.norm = make_norm("layer", width, rngs=rngs)
        self.head = nnx.Linear(width, out_features, rngs=rngs)
        self.outputs: Outputs = outputs

    def __call__(self, x: jax.Array, dropout: float | Scalar = 0.0) -> jax.Array:
        """[B, L, in_features], or tokens [B, L], to the outputs."""
        length, most = x.shape[1], self.positions.num_tokens
        if length > most:
            raise ValueError(f"the input has {length} positions, at most {most}")
        x = self.embedding(x)
        positions = self.positions(jnp.arange(length))
        x = self.dropout(x + jnp.broadcast_to(positions, x.shape), dropout)
        for block in self.blocks:
            x = block(x, dropout)
        return self.head(self.norm(pick(x, self.outputs)))


class _Block(nnx.Module):
    """Attention, then a perceptron at each position, each added to its input."""

    def __init__(self, width: int, heads: int, causal: bool, *, rngs: nnx.Rngs):
        self.attention_norm = make_norm("layer", width, rngs=rngs)
        self.attention = _Attention(width, heads, causal, rngs=rngs)
        self.norm = make_norm("layer", width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = Dropout(rngs=rngs)

    def __call__(self, x: jax.Array, dropout: float | Scalar) -> jax.Array:
        x = x + self.dropout(self.attention(self.attention_norm(x)), dropout)
        y = self.down(jax.nn.gelu(self.up(self.norm(x))))
        return x + self.dropout(y, dropout)


class _Attention(nnx.Module):
    """softmax(Q Kᵀ / √d) V, head by head, and a linear map of all heads."""

    def __init__(self, width: int, heads: int, causal: bool, *, rngs: nnx.Rngs):
        self.query_key_value = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.heads = heads
        self.causal = causal

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        size = width // self.heads
        qkv = self.query_key_value(x).reshape(batch, length, 3, self.heads, size)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * size**-0.5
        if self.causal:
            seen = jnp.tril(jnp.ones((length, length), bool))
            scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return self.out(mixed.reshape(batch, length, width))
