"""A search over stretches of training in its run folder, resumable between two asks."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.storage.journal import Journal
from experiments.runs.programs import Programs
from experiments.progress import Report
from experiments.runs.searched import Searched
from experiments.storage.store import RunFolder
from hypergrad.searchers.partial import PartialSearch, PartialState
from hypergrad.stretches import Stretches


@dataclass
class PartialRun:
    """What it takes to run one.

    Attributes:
        searcher: proposes stretches.
        stretches: trains them, in programs that equal cells share.
        programs: where those are.
        options: coords -> what a record says of their choices.
    """

    searcher: PartialSearch
    stretches: Stretches
    programs: Programs
    options: Callable[[jax.Array], dict[str, Any]]

    def __post_init__(self):
        self.stretches.call = self._call

    def search(
        self,
        folder: RunFolder,
        trainings: int,
        key: jax.Array,
        label: str,
        report: Report,
    ) -> Searched:
        """Ask, train, tell, until the budget of `trainings` is spent.

        The checkpoint is the searcher's log; where trainings stand is computed again.
        """
        searcher, space = self.searcher, self.stretches.space
        state = searcher.init(space, trainings, key, self.stretches.num_steps)
        journal, state = Journal.resume(folder, state, lambda s: int(s.num_told))
        elapsed, in_searcher = journal.elapsed, journal.in_searcher
        while True:
            began, compiled = time.perf_counter(), self.programs.seconds
            coords, state = searcher.ask(space, state)
            if len(coords) == 0:
                break
            asked, trials = time.perf_counter(), state.waiting
            values = self.stretches.values(state)
            trained = time.perf_counter()
            state = searcher.tell(space, state, coords, jnp.asarray(values))
            told = time.perf_counter()
            in_searcher += asked - began + told - trained
            elapsed += told - began - (self.programs.seconds - compiled)
            records = self._records(state, trials, values)
            clock = {"seconds": elapsed, "seconds_searcher": in_searcher}
            journal.add([record | clock for record in records], state, last=False)
            report(label, math.floor(records[-1]["cost"]), trainings)
        journal.add([], state, last=True)
        report(label, trainings, trainings)
        return Searched(journal.records, self.stretches.num_steps)

    def _records(
        self, state: PartialState, trials: np.ndarray, values: np.ndarray
    ) -> list[dict[str, Any]]:
        jobs = state.jobs
        spent = np.cumsum(jobs.steps - jobs.firsts) / int(state.num_steps)
        return [
            {
                "trial": int(trial),
                "value": float(value),
                "diverged": not math.isfinite(value),
                "gradient_norm": None,
                "doubtful": False,
                "steps": int(jobs.steps[trial]),
                "parent": int(jobs.parents[trial]),
                "cost": float(spent[trial]),
                "coords": np.asarray(jobs.coords[trial], float).tolist(),
            }
            | self.options(jnp.asarray(jobs.coords[trial]))
            for trial, value in zip(trials, values, strict=True)
        ]

    def _call(self, program, *args):
        return self.programs.get(("stretch", program), program, *args)(*args)
