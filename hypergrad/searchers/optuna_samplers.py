"""Optuna's samplers as values: how each is seeded, and what it must be told to resume.

    (space, seed, trials so far)  ->  a fresh sampler of Optuna's, as if it were the old

A sampler that draws anew for each trial is seeded with (seed, number of trials), so
that no two asks draw alike; one that follows a sequence has one seed throughout.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import check_positive
from hypergrad.searchers.grid import Axes, GridSearch
from hypergrad.searchers.outside import need, seed_of_ask
from hypergrad.space import Space, Ties

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Params = dict[str, Any]
Distributions = dict[str, "BaseDistribution"]
# Optuna lists all cells of a grid.
_MAX_CELLS = 2**16


@dataclass(frozen=True)
class Sampler(abc.ABC):
    """One of Optuna's samplers, over parameters that it reads as points of a space."""

    @abc.abstractmethod
    def build(self, space: Space, seed: int, number: int) -> "BaseSampler":
        """Optuna's sampler for the asks after `number` trials of a study."""

    def check(self, space: Space) -> None:
        """Raise ValueError where the sampler cannot work, a package missing say."""
        del space
        need("optuna", extra="search", by=self)

    def num_trials(self, space: Space, budget_trials: int) -> int:
        """How many of `budget_trials` the sampler has a use for."""
        del space
        return budget_trials

    def distributions(self, space: Space) -> Distributions:
        """Optuna's parameters: u in [0, 1] for each coordinate, or an option's index.

        The options of an ordered choice are neighbours; others are categories.
        """
        from optuna.distributions import CategoricalDistribution as Categories
        from optuna.distributions import FloatDistribution, IntDistribution

        found: Distributions = {name: FloatDistribution(0, 1) for name in space.names}
        for name, choice in space.discrete.items():
            count = len(choice.options)
            ordered = IntDistribution(0, count - 1)
            found[name] = ordered if choice.ordered else Categories(range(count))
        return found

    def params(self, space: Space, coords: np.ndarray) -> list[Params]:
        """The parameters of the trials so far, z [m, d]."""
        low, high = (np.asarray(bound) for bound in space.bounds())
        cube = np.clip((coords - low) / (high - low), 0.0, 1.0)
        values = np.where(space.is_choice, coords, cube)
        kinds = [int if chosen else float for chosen in space.is_choice]
        return [
            {n: kind(x) for n, kind, x in zip(space.names, kinds, row, strict=True)}
            for row in values
        ]

    def coords(self, space: Space, params: Sequence[Params]) -> np.ndarray:
        """The points z [m, d] of what Optuna asked."""
        low, high = (np.asarray(bound) for bound in space.bounds())
        values = np.array([[asked[name] for name in space.names] for asked in params])
        return np.where(space.is_choice, values, low * (1.0 - values) + high * values)

    def attributes(self, space: Space, number: int) -> dict[str, Any]:
        """What the sampler had noted at the trial of this number."""
        del space, number
        return {}

    def resume(self, study: "Study", number: int) -> None:
        """Note in the study what the sampler notes there in `number` trials.

        Args:
            study: whose trials are there already.
            number: how many trials were asked so far.
        """
        del study, number


@final
@dataclass(frozen=True)
class TPE(Sampler):
    """z maximises l(z) / g(z), densities of the good trials and of the others.

    Trials of the same ask count as bad ones (the "constant liar").

    Args:
        multivariate: whether the densities are of all coordinates together, as Optuna
            does by default, or a product over coordinates.
        startup: random trials before, the default among them.

    Reference: Bergstra, Bardenet, Bengio and Kégl, Algorithms for Hyper-Parameter
    Optimization (2011); Falkner, Klein and Hutter, BOHB (2018).

    >>> TPE(startup=5)
    TPE(multivariate=True, startup=5)
    """

    multivariate: bool = True
    startup: int = 10

    def __post_init__(self):
        check_positive("startup", self.startup)

    def build(self, space: Space, seed: int, number: int) -> "BaseSampler":
        """Its draws are of this ask alone."""
        from optuna.samplers import TPESampler

        return TPESampler(
            n_startup_trials=self.startup,
            multivariate=self.multivariate,
            constant_liar=True,
            seed=seed_of_ask(seed, number),
        )


@final
@dataclass(frozen=True)
class GP(Sampler):
    """z maximises log-EI under Optuna's Gaussian process; needs torch (extra `gp`).

    Each ask fits the process from its prior, since nothing but the log of trials is
    kept; within a long study of its own, Optuna starts from the fit before.

    Args:
        startup: random trials before, the default among them.

    >>> GP()
    GP(startup=10)
    """

    startup: int = 10

    def __post_init__(self):
        check_positive("startup", self.startup)

    def check(self, space: Space) -> None:
        """Torch must be installed."""
        super().check(space)
        need("torch", extra="gp", by=self)

    def build(self, space: Space, seed: int, number: int) -> "BaseSampler":
        """Its draws are of this ask alone."""
        from optuna.samplers import GPSampler

        return GPSampler(n_startup_trials=self.startup, seed=seed_of_ask(seed, number))


@final
@dataclass(frozen=True)
class QMC(Sampler):
    """Trial i is point i - 1 of Sobol's sequence, scrambled by the seed.

    >>> QMC()
    QMC()
    """

    def build(self, space: Space, seed: int, number: int) -> "BaseSampler":
        """One seed throughout, for a sequence scrambled anew is another sequence."""
        from optuna.samplers import QMCSampler

        return QMCSampler(scramble=True, seed=seed)

    def resume(self, study: "Study", number: int) -> None:
        """Set the counter of points, under the name that a single ask gives it."""
        import optuna

        if number < 2:  # The default is no point of the sequence.
            return
        (first, *_) = study.get_trials(deepcopy=False)
        single = optuna.create_study(sampler=study.sampler)
        single.add_trial(first)
        single.ask(first.distributions)
        # Optuna has no public door to what samplers note in a study.
        store, here = single._storage, single._study_id
        (counter,) = store.get_study_system_attrs(here)
        study._storage.set_study_system_attr(study._study_id, counter, number - 2)


@final
@dataclass(frozen=True)
class Random(Sampler):
    """Uniform in the cube; options are equally likely.

    >>> Random()
    Random()
    """

    def build(self, space: Space, seed: int, number: int) -> "BaseSampler":
        """Its draws are of this ask alone."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed_of_ask(seed, number))


@final
@dataclass(frozen=True)
class Grid(Sampler):
    """u ∈ Π_a {(i + ½)/L : i < L}, in an order drawn from the seed, each cell once.

    Unlike `GridSearch` it has as many levels whatever the budget; where that ends
    before the grid, the cells tried are a random part of it.

    Args:
        levels: L of each axis; one of choices has as many as options.
        ties: as in `GridSearch`: axis name -> what moves together along it; None makes
            every hyperparameter an axis.

    >>> Grid(levels=3, ties={"rate": ["lr"]})
    Grid(levels=3, ties=(('rate', ('lr',)),))
    """

    levels: int = 4
    ties: Axes | Mapping[str, Sequence[str]] | None = None

    def __post_init__(self):
        check_positive("levels", self.levels)
        object.__setattr__(self, "ties", GridSearch(ties=self.ties).ties)

    def build(self, space: Space, seed: int, number: int) -> "BaseSampler":
        """One seed throughout, for it is the order of the cells."""
        from optuna.samplers import GridSampler

        return GridSampler(self._cells(space), seed=seed)

    def check(self, space: Space) -> None:
        """All cells must be few enough to list."""
        super().check(space)
        if self.size(space) > _MAX_CELLS:
            raise ValueError(
                f"levels must give a grid of at most {_MAX_CELLS} cells; got "
                f"{self.size(space)}, of {len(self._cells(space))} axes; use fewer "
                "levels, or tie hyperparameters to few axes"
            )

    def size(self, space: Space) -> int:
        """The number of cells."""
        return math.prod(map(len, self._cells(space).values()))

    def num_trials(self, space: Space, budget_trials: int) -> int:
        """The default and every cell, or what the budget pays for."""
        return min(budget_trials, 1 + self.size(space))

    def distributions(self, space: Space) -> Distributions:
        """The level of each axis."""
        from optuna.distributions import IntDistribution

        cells = self._cells(space).items()
        return {axis: IntDistribution(0, len(levels) - 1) for axis, levels in cells}

    def params(self, space: Space, coords: np.ndarray) -> list[Params]:
        """The lowest levels, for a grid looks at the attributes alone."""
        return [dict.fromkeys(self._cells(space), 0) for _ in coords]

    def coords(self, space: Space, params: Sequence[Params]) -> np.ndarray:
        """The middles of the cells."""
        cells = self._cells(space)
        counts = np.array([len(levels) for levels in cells.values()])
        index = np.array([[asked[axis] for axis in cells] for asked in params])
        cube = jnp.asarray((index + 0.5) / counts, float)
        return np.asarray(jax.vmap(self._tied(space).expand)(cube))

    def attributes(self, space: Space, number: int) -> dict[str, Any]:
        """The cell: Optuna gives trial i cell i, and cell 0, the default's, at last."""
        if number == 0:
            return {}
        cell = number % self.size(space)
        return {"search_space": self._cells(space), "grid_id": cell}

    def _tied(self, space: Space) -> Ties:
        own = {name: (name,) for name, _ in space.entries}
        return space.tie(own if self.ties is None else dict(self.ties))

    def _cells(self, space: Space) -> dict[str, list[int]]:
        """The levels of each axis."""
        options = {name: len(c.options) for name, c in space.discrete.items()}
        return {
            axis: list(
                range(
                    max(
                        (options[n] for n in names if n in options), default=self.levels
                    )
                )
            )
            for axis, names in self._tied(space).axes
        }
