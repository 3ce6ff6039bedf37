"""Population-based training: the worst copy weights and λ of the best, and explore."""

import functools
from dataclasses import dataclass, field
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.base import check_positive
from hypergrad.searchers.partial import Jobs, Log, PartialSearch, join
from hypergrad.space import Space


@final
@dataclass(frozen=True)
class PopulationBasedTraining(PartialSearch):
    """P trainings side by side, whose λ changes while they train.

    At each of the boundaries r T / R, r = 1, ..., R − 1, the P members are ranked by F:

        exploit: each of the worst ⌊τ P⌋, at least one, and each that has diverged, goes
                 on with the weights and λ of one of the best ⌊τ P⌋, drawn at random
        explore: its λ then moves in the unit cube, u ← u + σ ξ, ξ ~ N(0, I), or, with
                 probability ρ for each coordinate, u_j ~ U(0, 1)

    Choices are inherited, for weights of one model are of no use to another. What is
    found is a *lineage*: the λ of each stretch of the training that led to the best F
    (`hypergrad.partial.lineage`); its last λ alone is not what was evaluated.

    P trainings cost P; then another population begins, with new points, no larger than
    the rest of the budget can finish.

    Source: Jaderberg, Dalibard, Osindero, Czarnecki, Donahue, Razavi, Vinyals, Green,
    Dunning, Simonyan, Fernando and Kavukcuoglu (2017), "Population based training of
    neural networks", truncation selection.

    Args:
        population: P.
        num_rounds: R.
        truncation: τ in (0, 1/2].
        perturbation: σ > 0.
        resampling: ρ in [0, 1].

    >>> PopulationBasedTraining(num_rounds=4).boundaries(100)
    (25, 50, 75, 100)
    """

    population: int = 8
    num_rounds: int = 10
    truncation: float = 0.25
    perturbation: float = 0.1
    resampling: float = 0.05
    batch: int = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        check_positive("population", self.population)
        check_positive("num_rounds", self.num_rounds)
        for name, good, wanted in (
            ("truncation", 0 < self.truncation <= 0.5, "in (0, 1/2]"),
            ("perturbation", self.perturbation > 0, "positive"),
            ("resampling", 0 <= self.resampling <= 1, "in [0, 1]"),
        ):
            if not good:
                raise ValueError(f"{name} must be {wanted}; got {getattr(self, name)}")
        object.__setattr__(self, "batch", self.population)

    def boundaries(self, num_steps: int) -> tuple[int, ...]:
        """The end of each round, rounded, each once."""
        rounds = range(1, self.num_rounds + 1)
        stops = (round(r * num_steps / self.num_rounds) for r in rounds)
        return tuple(sorted(set(stops) - {0}))

    def propose(self, space: Space, log: Log) -> Jobs:
        """The next round of the population that the log ends with, or of a new one."""
        stops, known = self.boundaries(log.num_steps), len(log.values)
        first, costs = 0, log.costs
        while True:
            left = log.left + int(np.sum(costs[first:]))
            size = min(self.population, left // log.num_steps)
            if size == 0 or first == known:
                return log.begin(space, size, stops[0])
            members = np.arange(first, first + size)
            for stop in stops[1:]:
                if len(log.best(members, 1)) == 0:
                    break  # All have diverged.
                if members[-1] + 1 == known:
                    return self._next_round(space, log, members, stop)
                members += size
            first = int(members[-1]) + 1

    def _next_round(
        self, space: Space, log: Log, members: np.ndarray, stop: int
    ) -> Jobs:
        """Each member's own training, or a copy of a better one with another λ."""
        size = len(members)
        finite = log.best(members, size)
        cut = min(max(1, int(self.truncation * size)), size // 2)
        kept = finite[: size - cut]
        seed = int(jax.random.bits(log.key, dtype=jnp.uint32))
        jobs = []
        for trial, member in enumerate(members, start=int(members[-1]) + 1):
            if member in kept:
                jobs.append(log.go_on(np.array([member]), stop))
                continue
            draw = np.random.default_rng((seed, trial))
            parent = draw.choice(finite[: max(cut, 1)])
            job = log.go_on(np.array([parent]), stop)
            moved = self._explored(space, job.coords[0], draw)
            jobs.append(job._replace(coords=moved[None]))
        return join(*jobs)

    def _explored(
        self, space: Space, coords: np.ndarray, draw: np.random.Generator
    ) -> np.ndarray:
        """Coordinates [d] moved at random in the cube, their choices kept."""
        noise = self.perturbation * draw.standard_normal(space.dim)
        anew = draw.uniform(size=space.dim)
        resampled = draw.uniform(size=space.dim) < self.resampling
        return np.asarray(_moved(space, coords, noise, anew, resampled))


@functools.partial(jax.jit, static_argnums=0)
def _moved(space, coords, noise, anew, resampled):
    noise, anew = (jnp.asarray(x, coords.dtype) for x in (noise, anew))
    cube = jnp.where(resampled, anew, space.to_cube(coords) + noise)
    moved = jnp.where(space.is_choice, coords, space.from_cube(cube))
    return space.project(moved)
