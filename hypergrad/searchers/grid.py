"""Grid search over tied coordinates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import PlannedSearch
from hypergrad.space import Space, Ties
from hypergrad.typing import Key

Axes = tuple[tuple[str, tuple[str, ...]], ...]


@final
@dataclass(frozen=True)
class GridSearch(PlannedSearch):
    """u ∈ Π_a {(i + ½)/L_a : i < L_a}: a full factorial, over a few tied axes.

    A grid in many dimensions has too few levels to have a point, so all coordinates of
    an axis move together through the cube, and coordinates of no axis keep their
    default. Of n trials the first is the default; the others are a grid of L = ⌊(n -
    1)^(1/m)⌋ levels on each of the m axes, and one more on earlier axes while that
    fits. An axis left with a single level stays at its default. Levels are the centres
    equal cells: on the bounds of a space, trials would be wasted on extremes.

    An axis of a choice has exactly its options, or none but the default where n is too
    small for all; such axes come before all others. A grid over choices alone holds the
    default already, and spends no further trial on it.

    The grid is the largest that whole rounds of `batch` trials can finish; where it
    does not fill the last of them, that round begins the grid again.

    Args:
        batch: points per ask.
        ties: axis name -> names of hyperparameters (or single coordinates) tied to it,
            the most important axis first; None makes every hyperparameter an axis.

    >>> from hypergrad.hyperparameters import Linear
    >>> space = Space({"a": Linear(0.0, 1.0, shape=3), "b": Linear(0.0, 1.0)})
    >>> print(GridSearch().describe(space, 30))
    grid over a × b: 5×5 = 25 points and the default; tied: a (3 coordinates)
    """

    ties: Axes | Mapping[str, Sequence[str]] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.ties is not None:
            pairs = self.ties.items() if isinstance(self.ties, Mapping) else self.ties
            for axis, names in pairs:
                if isinstance(names, str):
                    raise ValueError(
                        f"ties must give axis {axis!r} a list of names; got "
                        f'{names!r}; write ["{names}"]'
                    )
            ties = tuple((axis, tuple(names)) for axis, names in pairs)
            if not ties:
                raise ValueError(
                    "ties must name at least one axis, or be None; got none"
                )
            object.__setattr__(self, "ties", ties)

    def plan(self, space: Space, num_trials: int, key: Key) -> jax.Array:
        """The grid, its last axis moving fastest; the key is not used."""
        del key
        levels = self._levels(space, num_trials)
        if not levels:
            return jnp.zeros((0, space.dim))
        centers = [(np.arange(count) + 0.5) / count for count in levels.values()]
        cube = np.stack(np.meshgrid(*centers, indexing="ij"), axis=-1)
        cube = cube.reshape(-1, len(levels))
        if self._holds_default(space, levels):
            choices = [space.discrete[name] for (name,) in self._targets(space, levels)]
            default = [c.index(c.default_option) for c in choices]
            cells = np.floor(cube * list(levels.values()))
            cube = cube[(cells != default).any(axis=1)]
        ties = space.tie(dict(zip(levels, self._targets(space, levels), strict=True)))
        return jax.vmap(ties.expand)(jnp.asarray(cube, float))

    def num_trials(self, space: Space, budget_trials: int) -> int:
        """The default and the points of the largest grid that whole rounds finish."""
        return self._num_trials(space, self._levels(space, self._whole(budget_trials)))

    def describe(self, space: Space, num_trials: int) -> str:
        """The axes, the number of levels of each, and which coordinates are tied."""
        levels = self._levels(space, self._whole(num_trials))
        if not levels:
            return "grid of no axis: the default alone"
        ties = self._ties(space)
        sizes = {axis: ties.axis_of.count(i) for i, axis in enumerate(ties.names)}
        tied = [
            f"{axis} ({sizes[axis]} coordinates)" for axis in levels if sizes[axis] > 1
        ]
        held = space.dim - sum(sizes[axis] for axis in levels)
        again = -self._num_trials(space, levels) % self.batch
        return (
            f"grid over {' × '.join(levels)}: {'×'.join(map(str, levels.values()))} = "
            f"{self._num_points(space, levels)} points and the default"
            + (f"; tied: {', '.join(tied)}" if tied else "")
            + (f"; {held} coordinates stay at their default" if held else "")
            + (f"; the last round does {again} of its trials again" if again else "")
        )

    def _whole(self, num_trials: int) -> int:
        """The trials of the rounds that `num_trials` pays for."""
        return num_trials // self.batch * self.batch

    def _num_trials(self, space: Space, levels: dict[str, int]) -> int:
        return self._num_points(space, levels) + 1 if levels else 1

    def _ties(self, space: Space) -> Ties:
        own = tuple((name, (name,)) for name, _ in space.entries)
        return space.tie(dict(own if self.ties is None else self.ties))

    def _levels(self, space: Space, num_trials: int) -> dict[str, int]:
        """Levels of every axis that has more than one."""
        options = self._options(space)
        chosen: dict[str, int] = {}
        for axis, count in options.items():
            more = chosen | {axis: count}
            if self._num_points(space, more) < num_trials:
                chosen = more
        names = [name for name in self._ties(space).names if name not in options]
        room = max((num_trials - 1) // math.prod(chosen.values()), 1)
        base = 1
        while names and (base + 1) ** len(names) <= room:
            base += 1
        levels = dict.fromkeys(names, base)
        for name in names:
            others = math.prod(levels.values()) // base
            if others * (base + 1) > room:
                break
            levels[name] = base + 1
        levels |= chosen
        ordered = {name: levels.get(name, 1) for name in self._ties(space).names}
        return {name: count for name, count in ordered.items() if count > 1}

    def _options(self, space: Space) -> dict[str, int]:
        """The levels of each axis that has choices: the most options of any of them."""
        ties, discrete = self._ties(space), space.discrete
        sizes = {
            axis: [len(discrete[name].options) for name in targets if name in discrete]
            for axis, targets in ties.axes
        }
        return {axis: max(counts) for axis, counts in sizes.items() if counts}

    def _num_points(self, space: Space, levels: dict[str, int]) -> int:
        """How many points of the grid are not the default."""
        return math.prod(levels.values()) - self._holds_default(space, levels)

    def _holds_default(self, space: Space, levels: Iterable[str]) -> bool:
        """Whether every axis is a single choice: the default is then on the grid."""
        targets = self._targets(space, levels)
        return all(len(each) == 1 and each[0] in space.discrete for each in targets)

    def _targets(self, space: Space, levels: Iterable[str]) -> list[tuple[str, ...]]:
        axes = dict(self._ties(space).axes)
        return [axes[axis] for axis in levels]
