"""A long scan in stretches of one program: progress is told between them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import Steps
from hypergrad.typing import PyTree

Scan = Callable[[Any, jax.Array], tuple[Any, jax.Array]]
"""(carry, numbers of the steps) -> (carry, a value of each)."""


def in_stretches(
    run: Scan, carry: PyTree, num_steps: int, most: int, report: Steps
) -> Iterator[tuple[int, PyTree, np.ndarray]]:
    """(steps done, carry, values of the last ones), after each stretch.

    Args:
        run: compiled by whoever wrote it.
        carry: before the first step.
        num_steps: steps in all.
        most: how many stretches there are, if there are as many steps.
        report: told about progress after each stretch has been looked at.
    """
    for steps in np.array_split(np.arange(num_steps), min(most, num_steps)):
        carry, values = run(carry, jnp.asarray(steps))
        done = int(steps[-1]) + 1
        yield done, carry, np.asarray(values)
        report(done, num_steps)
