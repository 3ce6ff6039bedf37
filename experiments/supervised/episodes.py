"""Few-shot tasks: each is a handful of rows to learn from, and others to be tested on.

    episode = kind.draw(key, pool),   pool one of `kind.pools(seed)`

Tasks are drawn by a key inside the compiled program, so that there are as many as asked
for. The pools of training, validation and test share no class.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.sources import load
from hypergrad.losses import cross_entropy
from hypergrad.typing import Key

ImageSource = Literal["digits", "omniglot"]


class Episode(NamedTuple):
    """One few-shot task: (inputs, targets) to train on, and to be tested on."""

    support: tuple[jax.Array, jax.Array]
    query: tuple[jax.Array, jax.Array]


class Pools(NamedTuple):
    """What episodes are drawn from, in training, validation and test."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class Episodes(ABC):
    """A distribution of few-shot tasks."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Of a model."""

    @abstractmethod
    def pools(self, seed: int) -> Pools:
        """The classes of a seed in three parts."""

    @abstractmethod
    def draw(self, key: Key, pool: jax.Array) -> Episode:
        """One task; inputs have an axis of rows."""

    @abstractmethod
    def losses(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """One a row."""


@final
@dataclass(frozen=True)
class Sinusoids(Episodes):
    """y = A sin(x − φ) with A in [0.1, 5], φ in [0, π], x in [−5, 5], all uniform.

    Source: Finn, Abbeel and Levine, Model-agnostic meta-learning for fast adaptation of
    deep networks (2017).

    Attributes:
        shots, queries: rows to train on, and to be tested on.
    """

    shots: int
    queries: int

    @property
    def num_outputs(self) -> int:
        """Of regression."""
        return 1

    def pools(self, seed: int) -> Pools:
        """The bounds of A, φ and x, [3, 2]: nobody sees one sinusoid twice."""
        del seed
        bounds = np.array([[0.1, 5.0], [0.0, np.pi], [-5.0, 5.0]])
        return Pools(bounds, bounds, bounds)

    def draw(self, key: Key, pool: jax.Array) -> Episode:
        """Inputs and targets [n, 1]."""
        n = self.shots + self.queries
        uniform = jax.random.uniform(key, (2 + n,))
        bounds = pool[jnp.minimum(jnp.arange(2 + n), 2)]
        amplitude, phase, *_ = drawn = bounds[:, 0] + uniform * (
            bounds[:, 1] - bounds[:, 0]
        )
        x = drawn[2:, None]
        y = amplitude * jnp.sin(x - phase)
        k = self.shots
        return Episode((x[:k], y[:k]), (x[k:], y[k:]))

    def losses(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The squared error."""
        return jnp.mean(jnp.square(outputs - targets), axis=-1)


@final
@dataclass(frozen=True)
class NewClasses(Episodes):
    """Which of N classes, none of them seen in training, from K images of each.

    Source: Vinyals et al., Matching networks for one shot learning (2016); Lake et al.,
    Human-level concept learning through probabilistic program induction (2015).

    Attributes:
        source: "digits" are divided into 4, 3 and 3 classes by the seed; "omniglot" has
            alphabets for testing, of whose others the seed keeps 5 for validation.
        ways: N.
        shots, queries: images of each class to train on, and to be tested on.
        turns: 4 makes four classes of each, turned by quarters (Santoro et al. 2016).
    """

    source: ImageSource
    ways: int
    shots: int
    queries: int
    turns: int

    @property
    def num_outputs(self) -> int:
        """One a class."""
        return self.ways

    def pools(self, seed: int) -> Pools:
        """Images [classes, images of each, height, width, 1]."""
        images, parts = _classes(self.source)
        rng = np.random.default_rng(seed)
        if self.source == "digits":
            pools = np.split(rng.permutation(len(images)), [4, 7])
        else:
            known, held = np.unique(parts[parts >= 0]), np.flatnonzero(parts < 0)
            kept = rng.permutation(known)[:5]
            of_valid = np.isin(parts, kept)
            pools = [
                np.flatnonzero((parts >= 0) & ~of_valid),
                np.flatnonzero(of_valid),
                held,
            ]
        found = Pools(*(images[classes] for classes in pools))
        need = self.shots + self.queries
        if min(map(len, found)) < self.ways or images.shape[1] < need:
            raise ValueError(
                f"ways = {self.ways} and shots + queries = {need} ask for more than "
                f"the {min(map(len, found))} classes and {images.shape[1]} images of "
                f"each that {self.source!r} has"
            )
        return found

    def draw(self, key: Key, pool: jax.Array) -> Episode:
        """Images [N K, height, width, 1] and which of the N classes they are."""
        class_key, row_key = jax.random.split(key)
        num_classes, per_class = pool.shape[:2]
        chosen = jax.random.permutation(class_key, num_classes * self.turns)[
            : self.ways
        ]
        classes, turns = chosen // self.turns, chosen % self.turns
        rows = jax.vmap(lambda k: jax.random.permutation(k, per_class))(
            jax.random.split(row_key, self.ways)
        )[:, : self.shots + self.queries]
        images = jax.vmap(_turned)(pool[classes[:, None], rows], turns)

        def part(images):
            labels = jnp.repeat(jnp.arange(self.ways), images.shape[1])
            return images.reshape(-1, *images.shape[2:]), labels

        return Episode(part(images[:, : self.shots]), part(images[:, self.shots :]))

    def losses(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The cross-entropy."""
        return cross_entropy(outputs, targets)


def _turned(images: jax.Array, quarters: jax.Array) -> jax.Array:
    """Images [n, size, size, 1] turned by so many right angles, 0 to 3."""
    return jnp.stack([jnp.rot90(images, k, axes=(1, 2)) for k in range(4)])[quarters]


@functools.cache
def _classes(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """Equally many images of each class, and its alphabet; −1 for one of testing."""
    if source == "digits":
        rows = load("digits").train
        images, classes = rows.inputs, rows.targets
        alphabets = np.zeros_like(classes)
    else:
        data = load("omniglot")
        images, classes = data.images, data.characters
        alphabets = np.where(data.evaluation, -1, data.alphabets)
    fewest = np.bincount(classes).min()
    order = [np.flatnonzero(classes == c)[:fewest] for c in range(classes.max() + 1)]
    return images[np.array(order)], alphabets[[rows[0] for rows in order]]
