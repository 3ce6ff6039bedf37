"""Deep: a transformer of 8 layers on characters, Adam, T = 16: activations count.

"Recomputed" means `jax.checkpoint` around each layer, in the loss function itself, so
that the inner gradient keeps one activation a layer and the rest is computed again.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.programs import of_estimator
from benchmarks.works.base import FORWARD, Work, floats, history_bytes
from benchmarks.works.data import batch_table
from hypergrad.batches import IndexTable
from hypergrad.estimators import Estimator, Reverse, Value
from hypergrad.gradients import Plain
from hypergrad.problem import Problem
from hypergrad.safe_optax import differentiable
from hypergrad.schedules import Table
from hypergrad.unroll import EveryStep, NoCheckpoint

STEPS = 16

# (whether layers are recomputed, estimator), one line a contender.
CONTENDERS: dict[str, tuple[bool, Estimator]] = {
    "Reverse(NoCheckpoint, Plain)": (False, Reverse(NoCheckpoint(), gradient=Plain())),
    "Reverse(NoCheckpoint, Mixed)": (False, Reverse(NoCheckpoint())),
    "Reverse(EveryStep, Plain)": (False, Reverse(EveryStep(), gradient=Plain())),
    "Reverse(EveryStep, Mixed)": (False, Reverse(EveryStep())),
    "Reverse(NoCheckpoint, Mixed), recomputed": (True, Reverse(NoCheckpoint())),
    "Reverse(EveryStep, Plain), recomputed": (
        True,
        Reverse(EveryStep(), gradient=Plain()),
    ),
    "Reverse(EveryStep, Mixed), recomputed": (True, Reverse(EveryStep())),
}


@dataclass(frozen=True)
class Transformer:
    """Layer norm, causal attention, layer norm, perceptron; as pure functions.

    Attributes:
      vocabulary: number of characters.
      length: of a sequence.
      width: of the residual stream.
      depth: layers.
      heads: of the attention.
      recompute: whether a layer's activations are computed again on the way back.
    """

    vocabulary: int
    length: int
    width: int
    depth: int
    heads: int
    recompute: bool = False

    def init(self, key: jax.Array) -> dict:
        """Weights; those of all layers stacked, for one scan over them."""
        keys = jax.random.split(key, 7)
        d, n, scale = self.width, self.depth, self.width**-0.5

        def normal(key, *shape, scale=scale):
            return scale * jax.random.normal(key, shape)

        layers = {
            "qkv": normal(keys[0], n, d, 3 * d),
            "out": normal(keys[1], n, d, d),
            "up": normal(keys[2], n, d, 4 * d),
            "down": normal(keys[3], n, 4 * d, d, scale=0.5 * scale),
            "norms": jnp.ones((n, 2, d)),
        }
        return {
            "embedding": normal(keys[4], self.vocabulary, d),
            "positions": normal(keys[5], self.length, d),
            "head": normal(keys[6], d, self.vocabulary),
            "layers": layers,
        }

    def apply(self, weights: dict, tokens: jax.Array) -> jax.Array:
        """[B, L] to logits [B, L, vocabulary]."""
        x = weights["embedding"][tokens]
        x = x + jnp.broadcast_to(weights["positions"], x.shape)
        layer = jax.checkpoint(self._layer) if self.recompute else self._layer
        x, _ = jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights["layers"])
        return _normed(x) @ weights["head"]

    def _layer(self, x, w):
        def scaled(x, number):
            return _normed(x) * jnp.broadcast_to(w["norms"][number], x.shape)

        x = x + self._attention(scaled(x, 0) @ w["qkv"]) @ w["out"]
        return x + jax.nn.gelu(scaled(x, 1) @ w["up"]) @ w["down"]

    def _attention(self, qkv):
        batch, length, _ = qkv.shape
        size = self.width // self.heads
        qkv = qkv.reshape(batch, length, 3, self.heads, size)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * size**-0.5
        seen = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -1e9)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return mixed.reshape(batch, length, self.width)


def _normed(x):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


@dataclass(frozen=True)
class NextCharacter:
    """The mean of −log p(next character)."""

    model: Transformer

    def __call__(self, weights, hparams, tokens):
        """`(weights, hparams, tokens [B, L + 1]) -> scalar`."""
        logits = self.model.apply(weights, tokens[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.mean(losses)


def optimizer(hparams) -> optax.GradientTransformation:
    """Adam with a rate for each step, on g + decay w."""
    tx = optax.chain(
        optax.add_decayed_weights(hparams["decay"]),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(Table(hparams["rates"])),
    )
    return differentiable(tx)  # rows of characters that a batch does not have


def sequences(length: int) -> tuple[np.ndarray, int]:
    """All stretches of length L + 1 of this project's licence, and its vocabulary."""
    text = (Path(__file__).resolve().parents[2] / "LICENSE").read_text()
    characters = sorted(set(text))
    tokens = np.array([characters.index(c) for c in text], np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
    return windows[:: max(1, length // 8)], len(characters)


def make(steps: int | None = None, smallest: bool = False) -> Work:
    """The work; `smallest` keeps its form only."""
    steps = steps or (2 if smallest else STEPS)
    length, width, depth, heads = (8, 8, 2, 2) if smallest else (128, 128, 8, 4)
    rows, vocabulary = sequences(length)
    rows = np.random.default_rng(0).permutation(rows)
    batch = 2 if smallest else 4
    table = batch_table(len(rows) - batch, steps, batch)
    model = functools.partial(Transformer, vocabulary, length, width, depth, heads)
    hparams = {"rates": floats(np.full(steps, 1e-3)), "decay": floats(1e-3)}
    key = jax.random.key(0)

    def problem_of(recompute):
        loss = NextCharacter(model(recompute))
        return Problem(
            init=lambda key, hp: model().init(key),
            inner_loss=loss,
            outer_loss=loss,
            optimizer=optimizer,
            train=rows[batch:],
            valid=rows[:batch],
            num_steps=steps,
            batches=IndexTable(jnp.asarray(table)),
        )

    problems = {recompute: problem_of(recompute) for recompute in (False, True)}
    contenders = {FORWARD: (False, Value()), **CONTENDERS}
    return Work(
        "deep",
        f"characters, transformer of {depth} layers of width {width}, sequences of "
        f"{length}, batch {batch}, Adam, T = {steps}; λ = {steps} learning rates, "
        "weight decay",
        {
            label: of_estimator(problems[recompute], estimator, hparams, key)
            for label, (recompute, estimator) in contenders.items()
        },
        reference="Reverse(EveryStep, Mixed)",
        tolerance=0.02,
        steps=steps,
        history_bytes=history_bytes(problems[False], hparams, key),
        problem=problems[True],
        hparams=hparams,
        key=key,
    )
