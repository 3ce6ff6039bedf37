"""The records of a finished search: what it tried, and what it found."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg
from hypergrad import study
from hypergrad.partial import Lineage, lineage
from hypergrad.searchers.partial import Jobs


@dataclass(frozen=True)
class Searched:
    """The records of a finished study.

    Attributes:
        num_steps: T, where trials are stretches of training up to it.
    """

    records: list[dict[str, Any]]
    num_steps: int = 0

    def column(self, name: str) -> list:
        """One field of all trials."""
        return [record[name] for record in self.records]

    @property
    def in_stretches(self) -> bool:
        """Whether trials are stretches of training, not all of them up to step T."""
        return "parent" in self.records[0]

    @property
    def losses(self) -> np.ndarray:
        """F of each trial; infinite for one that was stopped earlier than another."""
        values = np.array(self.column("value"))
        if not self.in_stretches:
            return values
        steps = np.array(self.column("steps"))
        return np.where(steps == steps.max(), values, np.inf)

    def finalists(self, count: int) -> list[Lineage]:
        """The λ of the best trials, best first, over the steps of their training."""
        order = study.ranking(self.losses)[:count]
        coords = np.asarray(self.column("coords"))
        if not self.in_stretches:
            return [Lineage(coords[[i]], np.array([-1])) for i in order]
        parents, steps = (np.array(self.column(name)) for name in ("parent", "steps"))
        trained = [i for i in order if steps[i] == steps.max()]
        return [lineage(Jobs(coords, parents, steps), int(i)) for i in trained]

    def tried(self, space: hg.Space) -> dict[str, list[float]]:
        """Each coordinate of λ of each trial, where there are few."""
        names = np.array(space.names)[~space.is_choice]
        if space.dim > 20 or not space.continuous:
            return {}
        coords = jnp.asarray(self.column("coords"))
        hparams = jax.vmap(space.from_coords)(coords)
        columns = [
            np.asarray(hparams[name]).reshape(len(coords), -1)
            for name in space.continuous
        ]
        table = np.concatenate(columns, axis=1)
        return {str(name): table[:, i].tolist() for i, name in enumerate(names)}

    def trajectories(self, space: hg.Space) -> dict[str, list[float]]:
        """Each coordinate of λ of the best trial so far, where there are few."""
        tried = self.tried(space)
        if not tried:
            return {}
        values = self.losses
        best = [study.best_index(values[: i + 1]) for i in range(len(values))]
        return {name: [column[i] for i in best] for name, column in tried.items()}
