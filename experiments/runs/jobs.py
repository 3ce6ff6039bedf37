"""What is to be done, as a graph: one job for each cell and seed.

    winner of (a), seed 0   needs   every search of (a), seed 0

Jobs and their outcomes are plain data in JSON: what another process needs to know.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from experiments.configs.cells import Experiment

Key = tuple[str, int]


class Plain(BaseModel):
    """Frozen strings and numbers, whole in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(Plain):
    """One cell on one seed, or what comes before the first of them.

    Attributes:
        what: "prepare" measures all that is measured once, and checks the budgets.
        cell: its hash.
        seed: of data and keys.
        label: what a reader calls it.
        training: equal for jobs that can share compiled programs.
        needs: (cell, seed) of the jobs among whose results it chooses.
    """

    what: Literal["prepare", "run"] = "run"
    cell: str = ""
    seed: int = 0
    label: str = ""
    training: str = ""
    needs: tuple[Key, ...] = ()

    @property
    def key(self) -> Key:
        """What names it: the cell's hash and the seed."""
        return self.cell, self.seed


class Outcome(Plain):
    """How a job ended.

    Attributes:
        kind: "failed" concerns this job alone, and so does damage in its folder;
            "config" and "store" are what the user has to put right before anything can
            go on.
        message: what went wrong, in its last line.
        traceback: all of it.
        faults: of a "config": the fields of each `experiments.configs.faults.Fault`.
    """

    kind: Literal["done", "failed", "config", "store"] = "done"
    message: str = ""
    traceback: str = ""
    faults: tuple[tuple[str, tuple[str, ...], str, str, str, str], ...] = ()


def jobs_of(experiment: Experiment) -> list[Job]:
    """A job for each (cell, seed), in the order of the file; equal cells run once."""
    cells = {}
    for cell in experiment.cells:
        cells.setdefault(cell.hash, cell)
    return [
        Job(
            cell=cell.hash,
            seed=seed,
            label=f"{cell.study} · {cell.title} · seed {seed}",
            training=cell.training if cell.estimator is not None else "",
            needs=tuple((other, seed) for other in cell.candidates),
        )
        for cell in cells.values()
        for seed in experiment.config.seeds
    ]


class Board:
    """Which jobs wait, which may start, and how the others have ended."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = {job.key: job for job in jobs}
        self.outcomes: dict[Key, Outcome] = {}
        self._waiting = dict(self.jobs)

    @property
    def settled(self) -> bool:
        """Whether every job has ended."""
        return len(self.outcomes) == len(self.jobs)

    def take(self, last: str = "", others: Sequence[str] = ()) -> Job | None:
        """A job that may start, now that all it needs has ended; None if none may.

        Args:
            last: the training that who asks has compiled; jobs of it come first.
            others: what others have compiled; jobs of these come last.
        """
        ready = [job for job in self._waiting.values() if self._ready(job)]

        def rank(job: Job) -> int:
            if job.training and job.training == last:
                return 0
            return 2 if job.training in others else 1

        if not ready:
            return None
        job = min(ready, key=rank)  # The first of equals.
        del self._waiting[job.key]
        return job

    def put_back(self, job: Job) -> None:
        """It has not ended: whoever ran it has died."""
        self._waiting = {job.key: job} | self._waiting

    def settle(self, job: Job, outcome: Outcome) -> dict[Key, Outcome]:
        """Record how a job ended; returns that and what it means for those it fed."""
        ended = {job.key: outcome}
        self.outcomes[job.key] = outcome
        if outcome.kind != "done":
            message = (
                f"not run: it chooses among searches of which one failed: {job.label}"
            )
            for fed in [j for j in self._waiting.values() if job.key in j.needs]:
                del self._waiting[fed.key]
                ended |= self.settle(fed, Outcome(kind="failed", message=message))
        return ended

    def _ready(self, job: Job) -> bool:
        """What it needs has ended, or had when the board was made."""
        return all(k in self.outcomes or k not in self.jobs for k in job.needs)
