"""Interleaved measuring: one round runs every contender once, in turn.

What disturbs a machine for seconds disturbs all contenders of a round alike, so that a
ratio is taken within each round and the median of these ratios is reported.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Seconds(NamedTuple):
    """What one run took: CPU seconds of its process, and of the clock on the wall."""

    cpu: float
    wall: float


class Quartiles(NamedTuple):
    """The lower quartile, the median and the upper quartile."""

    low: float
    median: float
    high: float


def timed(call: Callable[[], object]) -> Seconds:
    """Seconds of `call()`, which must not return before its work is done."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def interleave(
    runs: Mapping[str, Callable[[], Seconds]], rounds: int
) -> dict[str, list[Seconds]]:
    """Seconds of every run in each round; the first in turn changes with the round.

    Args:
      runs: by name, each does its work once and says what it took.
      rounds: how often each is measured, after one run that is not.
    """
    names = list(runs)
    for name in names:
        runs[name]()
    taken: dict[str, list[Seconds]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            taken[name].append(runs[name]())
    return taken


def quartiles(numbers: Sequence[float]) -> Quartiles:
    """Of any numbers."""
    low, median, high = np.quantile(np.asarray(numbers, float), (0.25, 0.5, 0.75))
    return Quartiles(float(low), float(median), float(high))


def ratios(ours: Sequence[float], base: Sequence[float]) -> Quartiles:
    """Quartiles of the ratios of each round."""
    return quartiles([a / b for a, b in zip(ours, base, strict=True)])
