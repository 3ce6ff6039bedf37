"""What equal cells share: compiled programs, and what was measured once."""

import time
from collections.abc import Callable
from typing import Any

import jax


class Programs:
    """What equal cells share: compiled programs and measurements, by name.

    Compiling is timed apart.
    """

    def __init__(self):
        self._compiled: dict[Any, Callable] = {}
        self._measured: dict[Any, Any] = {}
        self.seconds = 0.0

    def measured(self, name: tuple, measure: Callable[[], Any]) -> Any:
        """`measure()`, the first time that `name` is asked for."""
        if name not in self._measured:
            self._measured[name] = measure()
        return self._measured[name]

    def get(self, name: tuple, fn: Callable, *args) -> Callable:
        """`fn` compiled for arguments like `args`; equal names share one program."""
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
