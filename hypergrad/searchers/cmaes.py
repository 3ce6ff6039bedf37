"""CMA-ES: a Gaussian over the cube that learns its mean and covariance from ranks.

u_k ~ N(m, σ² C),   m ← m + Σ_k w_k (u_(k) - m),   u_(1) the best of its generation
"""

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union, final

import numpy as np

from hypergrad.searchers.base import check_positive
from hypergrad.searchers.host import HostSearch, Known
from hypergrad.searchers.outside import need, seed_of_ask
from hypergrad.space import Space

if TYPE_CHECKING:
    from cmaes import CMA, SepCMA

# A generation needs parents and others.
_LEAST_POPULATION = 4
# Above this many coordinates the eigenvectors of C take longer than most trainings.
_MAX_FULL = 500
# In how many coordinates, tries times d, a point outside of the cube is drawn again
# before it is cut off at the bounds: of many coordinates one is nearly always outside.
_MAX_REDRAWN = 1000


@dataclass(frozen=True)
class Covariance(abc.ABC):
    """What is learned of C."""

    @abc.abstractmethod
    def check(self, dim: int) -> None:
        """Raise ValueError where C cannot be learned in so many dimensions."""

    @abc.abstractmethod
    def build(
        self, mean: np.ndarray, sigma: float, population: int
    ) -> Union["CMA", "SepCMA"]:
        """The package's optimiser of the cube [0, 1]^d."""


@final
@dataclass(frozen=True)
class FullCovariance(Covariance):
    """All of C: d² numbers, and d³ operations a generation; d up to 500.

    >>> FullCovariance()
    FullCovariance()
    """

    def check(self, dim: int) -> None:
        """Not of too many coordinates."""
        if dim > _MAX_FULL:
            raise ValueError(
                f"covariance FullCovariance() is too slow above {_MAX_FULL} "
                f"dimensions; got {dim}; use covariance=DiagonalCovariance()"
            )

    def build(self, mean: np.ndarray, sigma: float, population: int) -> "CMA":
        """`cmaes.CMA`."""
        from cmaes import CMA

        return CMA(
            mean,
            sigma,
            bounds=_cube(len(mean)),
            n_max_resampling=_redraws(len(mean)),
            population_size=population,
        )


@final
@dataclass(frozen=True)
class DiagonalCovariance(Covariance):
    """The diagonal of C, sep-CMA-ES: d numbers, learned (d + 2)/3 times as fast.

    Reference: Ros and Hansen, A Simple Modification in CMA-ES Achieving Linear Time and
    Space Complexity (2008).

    >>> DiagonalCovariance()
    DiagonalCovariance()
    """

    def check(self, dim: int) -> None:
        """The package wants two coordinates."""
        if dim < 2:
            raise ValueError(
                f"covariance DiagonalCovariance() needs at least 2 dimensions; got "
                f"{dim}; use covariance=FullCovariance()"
            )

    def build(self, mean: np.ndarray, sigma: float, population: int) -> "SepCMA":
        """`cmaes.SepCMA`."""
        from cmaes import SepCMA

        return SepCMA(
            mean,
            sigma,
            bounds=_cube(len(mean)),
            n_max_resampling=_redraws(len(mean)),
            population_size=population,
        )


@final
@dataclass(frozen=True)
class CMAES(HostSearch):
    """z ~ N(m, σ² C) in the cube, by the package cmaes, told anew from the log.

    m starts at the default, which is the first point of the first generation: trial 0
    is trained anyway, and a point at the mean moves nothing. At each ask a fresh
    optimiser is told all whole generations so far and seeded with (seed, number of
    trials), so that nothing but the trials is kept and a resumed study goes on
    identically.

    A generation is of whole asks: its size is rounded up to a multiple of `batch`, so
    that each is drawn from one Gaussian that knows all trials before, and none is
    wasted. Only ranks count, and a diverged trial is the last. Outside of the cube a
    point is drawn again, a few times, and then cut off at the bounds; one outside of a
    constraint is trained, and told, where it projects to.

    Args:
        batch: points per ask; that of a generation is the cheapest.
        sigma: standard deviation at the start, in sides of the cube.
        population: points of a generation, at least 4; None: 4 + ⌊3 log d⌋.
        covariance: `FullCovariance()`, or `DiagonalCovariance()`, to which more than
            500 dimensions are left.

    Raises:
        ValueError: the space has choices, which have no Gaussian; too many dimensions;
            or the package is not installed (extra `search`).

    Reference: Hansen and Ostermeier, Completely Derandomized Self-Adaptation in
    Evolution Strategies (2001); Nomura and Shibata, cmaes: A Simple yet Practical
    Python Library for CMA-ES (2024).

    >>> CMAES(batch=4, sigma=0.3).sigma
    0.3
    """

    sigma: float = 0.2
    population: int | None = None
    covariance: Covariance = FullCovariance()

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be positive; got {self.sigma}")
        if self.population is not None:
            check_positive("population", self.population)
            if self.population < _LEAST_POPULATION:
                raise ValueError(
                    f"population must be at least {_LEAST_POPULATION}, of which half "
                    f"are parents; got {self.population}"
                )

    def generation(self, space: Space) -> int:
        """The points of a generation."""
        least = self.population
        if least is None:
            least = 4 + math.floor(3 * math.log(space.dim))
        return -(-least // self.batch) * self.batch

    def propose(
        self, space: Space, known: Known, count: int, num_trials: int, seed: int
    ) -> np.ndarray:
        """Every generation so far told again, and `count` asks."""
        del num_trials
        self._check(space)
        low, high = (np.asarray(bound) for bound in space.bounds())
        default = np.asarray(space.to_coords(space.defaults()), float)
        default = np.clip((default - low) / (high - low), 0.0, 1.0)
        size, number = self.generation(space), len(known.values)
        optimizer = self.covariance.build(default, self.sigma, size)
        cube = np.clip((known.coords - low) / (high - low), 0.0, 1.0)
        values = np.where(np.isfinite(known.values), known.values, np.inf).tolist()
        for last in range(size, number + 1, size):
            told = slice(last - size, last)
            optimizer.tell(list(zip(cube[told], values[told], strict=True)))
        optimizer.reseed_rng(seed_of_ask(seed, number))
        asked = np.array([optimizer.ask() for _ in range(count)])
        return low * (1.0 - asked) + high * asked

    def describe(self, space: Space, num_trials: int) -> str:
        """The trials, and how many of them are a generation."""
        self._check(space)
        text = super().describe(space, num_trials)
        return f"{text}; {self.generation(space)} are a generation"

    def _check(self, space: Space) -> None:
        if space.has_choices:
            raise ValueError(
                f"space must be without choices, of which no Gaussian can be; got "
                f"{list(space.discrete)}; use OptunaSearch(sampler=TPE()) or another"
            )
        self.covariance.check(space.dim)
        need("cmaes", extra="search", by="CMAES")


def _cube(dim: int) -> np.ndarray:
    """Bounds [d, 2]."""
    return np.tile([0.0, 1.0], (dim, 1))


def _redraws(dim: int) -> int:
    """How often a point outside is drawn again: the package's 100 up to 10-d."""
    return min(100, max(1, _MAX_REDRAWN // dim))
