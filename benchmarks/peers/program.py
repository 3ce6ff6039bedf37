"""What a peer's file provides, and how it finds out what its library can express."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Job(NamedTuple):
    """What is handed over: arrays by `group/name`, and settings."""

    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays of a group by the rest of their names, in order."""
        start = f"{prefix}/"
        return {
            n[len(start) :]: a for n, a in self.arrays.items() if n.startswith(start)
        }


class Outcome(NamedTuple):
    """F and the parts of dF/dλ."""

    value: float
    hypergrad: Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """Ready to run.

    Attributes:
      run: all of it, once.
      unsupported: hyperparameters that are not differentiated, with the reason.
      notes: what a reader should know.
    """

    run: Callable[[], Outcome]
    unsupported: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def tried(names: Sequence[str], attempt: Callable[[str], Any]) -> dict[str, str]:
    """Which hyperparameters a library does not differentiate, and why.

    Args:
      names: of the hyperparameters.
      attempt: given one, the derivative of a short training with respect to it alone:
        None where the graph has lost it, or an error where it is refused.
    """
    unsupported = {}
    for name in names:
        try:
            found = attempt(name)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            unsupported[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if found is None:
            unsupported[name] = "the graph does not reach it"
    return unsupported
