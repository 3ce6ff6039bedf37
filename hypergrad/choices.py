"""A discrete hyperparameter: one of a few options, searched as the option's index.

    z ∈ {0, 1, ..., n - 1},  option(z) = options[⌊z + ½⌋],  u = (z + ½) / n

Each option owns an equal share of the unit cube, and a snapped coordinate is a whole
number, exact in every float type: equal choices have equal coordinates.
"""

from collections.abc import Hashable, Iterable, Set
from dataclasses import dataclass, field
from typing import Any, final

import jax.numpy as jnp
import numpy as np
from jax import Array

from hypergrad.hyperparameters import floats


@final
@dataclass(frozen=True)
class Choice:
    """z = the index of the option: depth, width, batch size, cell, optimiser.

    No derivative leads from one option to another, so a choice is no part of λ: it
    decides which problem is trained, and gradient search works inside each choice.

    Args:
        options: hashable values that differ: numbers, strings, tuples of them. Numbers
            that rise or fall are *ordered*, and searched as neighbours; of others each
            is as far from each. Numpy's scalars become Python's.
        default: where every search begins; None is the first option.

    Raises:
        ValueError: no option, a set, options that do not hash or are equal (True == 1),
            None or NaN among them, or a default that is none of them.

    >>> cell = Choice(("rnn", "gru", "lstm"), default="gru")
    >>> print(cell.default_coord(), cell.project(jnp.array(1.8)))
    1.0 2.0
    >>> cell.option(2)
    'lstm'
    """

    options: tuple[Hashable, ...]
    default: Any = None
    # True == 1 == 1.0 in Python; their types keep choices of them apart.
    kinds: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self):
        if isinstance(self.options, str) or not isinstance(self.options, Iterable):
            raise ValueError(
                f"options must be a tuple of values; got {self.options!r}; write "
                f"({self.options!r},) for a single one"
            )
        if isinstance(self.options, Set):
            raise ValueError(
                "options must have an order, and that of a set differs from run to "
                f"run; got {self.options!r}; write a tuple"
            )
        object.__setattr__(self, "options", tuple(map(_plain, self.options)))
        object.__setattr__(self, "default", _plain(self.default))
        object.__setattr__(self, "kinds", tuple(map(_kind, self.options)))
        if not self.options:
            raise ValueError("options must hold at least one value; got none")
        for i, option in enumerate(self.options):
            _check_option(option)
            if option in self.options[:i]:
                twin = self.options[self.options.index(option)]
                raise ValueError(
                    f"options must differ; got {twin!r} and {option!r}, which are equal"
                )
        if self.default is not None:
            self.index(self.default)

    @property
    def shape(self) -> tuple[()]:
        """A choice has a single coordinate."""
        return ()

    @property
    def size(self) -> int:
        """Number of coordinates, 1."""
        return 1

    @property
    def ordered(self) -> bool:
        """Whether the options are numbers that rise or fall."""
        if not all(isinstance(option, int | float) for option in self.options):
            return False
        rising: list = sorted(self.options)  # type: ignore[type-var]
        return list(self.options) in (rising, rising[::-1])

    def index(self, option: Hashable) -> int:
        """Position of an option, of equal value and type."""
        option = _plain(option)
        for i, known in enumerate(self.options):
            if _kind(known) == _kind(option) and known == option:
                return i
        raise ValueError(
            f"default (or a chosen option) must be one of {list(self.options)}; "
            f"got {option!r}"
        )

    def option(self, coord: float | Array) -> Any:
        """The option at a concrete coordinate z."""
        nearest = int(np.floor(np.asarray(coord, float) + 0.5))
        return self.options[min(max(nearest, 0), len(self.options) - 1)]

    @property
    def default_option(self) -> Any:
        """The default, the first option where none was given."""
        return self.options[0] if self.default is None else self.default

    def project(self, coord: Array) -> Array:
        """The index nearest to z, elementwise."""
        return jnp.clip(jnp.floor(coord + 0.5), 0.0, len(self.options) - 1.0)

    def coord_bounds(self) -> tuple[Array, Array]:
        """The ends -½ and n - ½ of the options' shares."""
        return floats(-0.5), floats(len(self.options) - 0.5)

    def default_coord(self) -> Array:
        """The default's index."""
        return floats(self.index(self.default_option))


def _plain(option: Any) -> Any:
    """The option with Python's scalars in place of numpy's, inside of tuples too."""
    if type(option) is tuple:
        return tuple(map(_plain, option))
    return option.item() if isinstance(option, np.generic) else option


def _kind(option: Any) -> Any:
    """The option's type, or those of a tuple's members."""
    return tuple(map(_kind, option)) if isinstance(option, tuple) else type(option)


def _check_option(option: Hashable) -> None:
    try:
        hash(option)
    except TypeError as error:
        raise ValueError(
            f"options must be hashable; got {option!r}; write a list as a tuple"
        ) from error
    if option is None or option != option:
        raise ValueError(
            f'options must not hold {option!r}; name such an option, as in "none"'
        )
