"""Rows of different choices: a problem for each choice, and one shape for all.

What is compiled depends on the options, so the rows of one ask are run choice by
choice. A choice has few rows in one ask and many in another; its rows are cut into
pieces of one width, and the last piece is filled up to a power of two. So a choice has
no more than 2 + log2(width) programs, and runs fewer than twice its rows.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.space import Space
from hypergrad.typing import PyTree

Made = TypeVar("Made")
Choices = dict[str, Any]


def once_per_choice(make: Callable[[Choices], Made]) -> Callable[[Choices], Made]:
    """`make`, called once for each distinct choice of one space.

    >>> wide = once_per_choice(lambda choices: ["w"] * choices["width"])
    >>> wide({"width": 2}) is wide({"width": 2})
    True
    """
    made: dict[tuple, Made] = {}

    def remembered(choices: Choices) -> Made:
        # The options of a Choice are never equal; two names may have equal ones.
        key = tuple(sorted(choices.items(), key=lambda item: item[0]))
        if key not in made:
            made[key] = make(choices)
        return made[key]

    return remembered


def map_by_choice(
    run: Callable[[Choices, np.ndarray], PyTree],
    space: Space,
    coords: jax.Array,
    width: int,
) -> PyTree:
    """`run(choices, rows)` over rows of equal choices, gathered in the rows' order.

    Args:
      run: gives arrays [k, ...] for `rows` [k], indices into `coords`; k is `width` or
        a power of two below. The last piece of a choice repeats rows to be as wide,
        and what they give is thrown away.
      space: knows the choices.
      coords: concrete coordinates [n, d].
      width: rows a piece: `execution.width(n)`. One wastes none; n lays all rows of a
        choice side by side.

    Returns:
      What `run` gives, [n, ...], on the default device wherever it was computed.

    >>> from hypergrad.choices import Choice
    >>> space = Space({"width": Choice((10, 20))})
    >>> coords = jnp.array([[0.0], [1.0], [0.0]])
    >>> print(map_by_choice(lambda c, rows: c["width"] + rows, space, coords, width=2))
    [10 21 12]
    """
    order, parts = [], []
    for choices, rows in _pieces(space, coords, width):
        part = run(choices, np.resize(rows, _filled_width(len(rows), width)))
        order.append(rows)
        parts.append(jax.tree.map(lambda x, k=len(rows): np.asarray(x)[:k], part))
    back = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *xs: jnp.asarray(np.concatenate(xs)[back]), *parts)


def _filled_width(num_rows: int, width: int) -> int:
    """The least power of two that holds the rows, but never more than `width`."""
    return min(1 << (num_rows - 1).bit_length(), width)


def _pieces(
    space: Space, coords: jax.Array, width: int
) -> Iterator[tuple[Choices, np.ndarray]]:
    """The choices and rows of each piece: at most `width` rows of equal choices."""
    indices = np.asarray(coords)[:, space.is_choice]
    found, group = np.unique(indices, axis=0, return_inverse=True)
    for i in range(len(found)):
        (rows,) = np.nonzero(group.reshape(-1) == i)
        choices = space.choices(coords[rows[0]])
        for start in range(0, len(rows), width):
            yield choices, rows[start : start + width]
