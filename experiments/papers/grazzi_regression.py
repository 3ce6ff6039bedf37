"""Logistic regression with one L2 coefficient a weight, as two papers have it.

ℓ(w, λ) = mean_i softplus(z_i) − y_i z_i + ½ Σ_j λ_j w_j²,   z = X w
F(λ) = the same mean over validation rows, after T steps w ← w − η ∇ℓ from w = 0
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.model_selection import train_test_split

import hypergrad as hg
from experiments.data.sources import load

Source = Literal["synthetic", "digits", "a9a"]
Pair = tuple[np.ndarray, np.ndarray]


class Halves(NamedTuple):
    """(inputs [n, d], labels 0 or 1 [n]) to train on, and to validate on."""

    train: Pair
    valid: Pair

    @property
    def num_weights(self) -> int:
        """Columns of the inputs."""
        return self.train[0].shape[1]


def drawn(source: Source, num_rows: int, dimension: int, seed: int) -> Halves:
    """w, X and noise in this order; y = [X w + 0.1 noise > 0]. The first half trains.

    Args:
        source: "synthetic" draws from numpy's generator of the seed; the others are the
            first rows of a data set, whose later classes are 1, and draw their order.
        num_rows: of both halves together.
        dimension: d of synthetic rows.
        seed: of numpy's `RandomState`, which is what `numpy.random.seed` sets.
    """
    inputs, labels, _ = _rows(source, num_rows, dimension, seed)
    half = num_rows // 2
    return Halves((inputs[:half], labels[:half]), (inputs[half:], labels[half:]))


def shuffled(source: Source, num_rows: int, dimension: int, seed: int) -> Halves:
    """Likewise, but scikit-learn deals the halves, with the generator as it then is."""
    inputs, labels, random = _rows(source, num_rows, dimension, seed)
    split = train_test_split(inputs, labels, test_size=0.5, random_state=random)
    first, second, y_first, y_second = map(np.asarray, split)
    return Halves((first, y_first), (second, y_second))


def _rows(source, num_rows, dimension, seed):
    if num_rows < 2 or num_rows % 2:
        raise ValueError(f"num_rows must be even, half of them train; got {num_rows}")
    random = np.random.RandomState(seed)
    if source == "synthetic":
        true = random.randn(dimension)
        inputs = random.randn(num_rows, dimension)
        noisy = inputs @ true + 0.1 * random.randn(num_rows)
        return inputs, (noisy > 0).astype(float), random
    data = load(source)
    if num_rows > len(data.train):
        raise ValueError(
            f"num_rows must be at most the {len(data.train)} rows of {source}; "
            f"got {num_rows}"
        )
    chosen = random.permutation(len(data.train))[:num_rows]
    if source == "a9a":
        inputs = load("a9a").train.inputs.take(chosen).dense()
    else:
        inputs = load("digits").train.inputs[chosen].reshape(num_rows, -1)
    upper = data.train.targets[chosen] >= len(data.classes) / 2
    return inputs, upper.astype(float), random


def nll(w: jax.Array, hp: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """mean_i softplus(z_i) − y_i z_i, the binary cross-entropy of logits z = X w."""
    del hp
    inputs, labels = batch
    logits = inputs @ w
    return jnp.mean(jax.nn.softplus(logits) - labels * logits)


def inner(w: jax.Array, hp: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """ℓ, with λ = hp."""
    return nll(w, hp, batch) + hg.l2(w, hp)


def problem(halves: Halves, rate: float, num_steps: int) -> hg.Problem:
    """F; problems of the same sizes and rate share one compilation."""
    return hg.Problem(
        init=_zeros(halves.num_weights),
        inner_loss=inner,
        outer_loss=nll,
        optimizer=_descent(rate),
        train=jax.tree.map(_default, halves.train),
        valid=jax.tree.map(_default, halves.valid),
        num_steps=num_steps,
    )


@jax.jit
def inner_losses(problem: hg.Problem, hparams: jax.Array, key: jax.Array) -> jax.Array:
    """ℓ before each step of training, [T]."""

    def step(state, t):
        loss = problem.inner_loss(hparams, state, key)
        return problem.step(hparams, state, t, key), loss

    start = problem.start(hparams, key)
    return jax.lax.scan(step, start, jnp.arange(problem.num_steps))[1]


def at_least(least: float):
    """λ -> max(λ, least), their `clamp_`."""
    return lambda hparams: jnp.maximum(hparams, least)


@functools.cache
def _zeros(count):
    return lambda key, hp: jnp.zeros(count)


@functools.cache
def _descent(rate):
    return lambda hp: optax.sgd(rate)


def _default(array):
    """In the default float, whatever numpy has drawn."""
    return jnp.asarray(array, jnp.result_type(float))
