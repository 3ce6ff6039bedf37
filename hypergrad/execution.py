"""How independent trainings share one device: in turn, in chunks or side by side."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax

from hypergrad.typing import PyTree


class Execution(ABC):
    """How independent trainings share the machine; the numbers do not depend on it."""

    @abstractmethod
    def map(self, fn: Callable, xs: PyTree) -> PyTree:
        """`fn` of every row of `xs`, stacked."""

    @abstractmethod
    def width(self, num_rows: int) -> int:
        """How many of `num_rows` trainings run side by side."""


@dataclass(frozen=True)
class Loop(Execution):
    """One after another: best where one training already fills the cores."""

    def map(self, fn, xs):
        """`lax.map`."""
        return jax.lax.map(fn, xs)

    def width(self, num_rows):
        """One."""
        return 1


@dataclass(frozen=True)
class Chunk(Execution):
    """`size` at a time under vmap."""

    size: int = 4

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"Chunk.size must be >= 1, got {self.size}")

    def map(self, fn, xs):
        """`lax.map` of vmapped chunks."""
        return jax.lax.map(fn, xs, batch_size=self.size)

    def width(self, num_rows):
        """A chunk."""
        return min(self.size, num_rows)


@dataclass(frozen=True)
class Vmap(Execution):
    """All side by side: best on an accelerator, while memory lasts."""

    def map(self, fn, xs):
        """`jax.vmap`."""
        return jax.vmap(fn)(xs)

    def width(self, num_rows):
        """All."""
        return num_rows
