"""What equal cells share: compiled programs."""

import time
from collections.abc import Callable
from typing import Any

import jax


class Programs:
    """Compiled programs by name and arguments; compiling is timed apart."""

    def __init__(self):
        self._compiled: dict[Any, Callable] = {}
        self.seconds = 0.0

    def get(self, name: tuple, fn: Callable, *args) -> Callable:
        """`fn` compiled for arguments like `args`; equal names share one program.

        A task that builds new functions, or sparse matrices with another number of
        entries, for each seed is compiled for each seed.
        """
        name += (jax.tree.structure(args), *map(jax.typeof, jax.tree.leaves(args)))
        if name not in self._compiled:
            start = time.perf_counter()
            self._compiled[name] = jax.jit(fn).lower(*args).compile()
            self.seconds += time.perf_counter() - start
        return self._compiled[name]


def timed(fn: Callable, *args) -> tuple[Any, float]:
    """`fn(*args)` when it is ready, and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(fn(*args))
    return result, time.perf_counter() - start
