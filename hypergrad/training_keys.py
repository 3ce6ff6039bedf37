"""Which key a trial trains with: one for the whole study, or one for each trial."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax

from hypergrad.typing import Key


class TrainingKeys(ABC):
    """Which key the training of trial i uses; the same for every searcher."""

    @abstractmethod
    def of(self, key: Key, trials: jax.Array) -> Key:
        """The keys of trials [n], from the study's key."""


@dataclass(frozen=True)
class FreshKeys(TrainingKeys):
    """A new key for each trial: the search sees E F over keys, through noise."""

    def of(self, key, trials):
        """`fold_in(key, i)`."""
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(trials)


@dataclass(frozen=True)
class SameKey(TrainingKeys):
    """One key for all: F is deterministic, and may be fitted to that key."""

    def of(self, key, trials):
        """`fold_in(key, 0)`, whatever i."""
        return jax.vmap(lambda _: jax.random.fold_in(key, 0))(trials)


TRAINING_KEYS: dict[str, type] = {cls.__name__: cls for cls in (FreshKeys, SameKey)}
"""Both by name, for configs."""
