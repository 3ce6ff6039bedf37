"""Who does the jobs: an experiment in one process, with what it has compiled.

A process that was sent for builds the experiment again from its `Origin`: nothing is
unpickled, and what it compiles serves all jobs that it is given.
"""

import math
import os
import traceback
from dataclasses import astuple, replace
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.configs.cells import Cell, Experiment, load
from experiments.configs.faults import ConfigError, Fault
from experiments.progress import Report
from experiments.registry import load_tasks
from experiments.results import SeedResult
from experiments.runs.gather import stored
from experiments.runs.jobs import Job, Outcome, Plain
from experiments.runs.programs import Programs
from experiments.runs.seed_run import SeedRun
from experiments.storage.files import DamagedError, StoreError
from experiments.storage.store import run_path


class Origin(Plain):
    """Where an experiment comes from: the command, as far as its cells go.

    Attributes:
        config, settings, tasks, mode: as on the command line.
        runs: where run folders are.
        folder: the working folder, to which all these paths are relative.
        x64: whether a number is of 64 bits unless it says otherwise.
    """

    config: str
    settings: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    mode: Literal["run", "ablate", "compare", "check"] = "check"
    runs: str = "runs"
    folder: str = "."
    x64: bool = False

    def load(self) -> Experiment:
        """The experiment, once more."""
        load_tasks(tuple(map(Path, self.tasks)))
        return load(Path(self.config), self.settings, mode=self.mode)


class Worker:
    """Does jobs of one experiment, one after another."""

    def __init__(self, experiment: Experiment, root: Path):
        self.experiment, self.root = experiment, root
        self.cells = {cell.hash: cell for cell in reversed(experiment.cells)}
        self.programs = Programs()

    @classmethod
    def of(cls, origin: Origin) -> "Worker":
        """In a process of its own."""
        import jax

        os.chdir(origin.folder)
        jax.config.update("jax_enable_x64", origin.x64)
        return cls(origin.load(), Path(origin.runs))

    def do(self, job: Job, report: Report) -> Outcome:
        """Do a job; whatever goes wrong becomes its outcome."""
        try:
            if job.what == "prepare":
                self._prepare(job.seed, report)
            else:
                self._run(job, report)
        except StoreError as error:
            # What is damaged is its own folder; what is measured serves all jobs.
            if isinstance(error, DamagedError) and job.what != "prepare":
                # All of the message, for it ends with the remedy.
                return failed(error).model_copy(update={"message": str(error)})
            return Outcome(kind="store", message=str(error))
        except Exception as error:
            if isinstance(error, ConfigError) and job.what == "prepare":
                return Outcome(kind="config", faults=tuple(map(astuple, error.faults)))
            return failed(error)
        return Outcome()

    def _prepare(self, seed: int, report: Report) -> None:
        """Measure all that is measured once, while nothing else runs."""
        faults: list[Fault] = []
        for cell in self.cells.values():
            if cell.searcher is None:
                continue
            try:
                self._seed_run(cell, seed, report).prepare()
            except ConfigError as error:
                file = str(self.experiment.file)
                faults += [replace(fault, file=file) for fault in error.faults]
            except StoreError:
                raise
            except Exception:  # Its own job will meet and record it; others go on.
                continue
        if faults:
            raise ConfigError(faults)

    def _run(self, job: Job, report: Report) -> None:
        if job.cell not in self.cells:
            raise LookupError("the config no longer has this cell: it has been edited")
        cell = self.cells[job.cell]
        chosen = self._winner(cell, job.seed) if cell.winner_of else None
        self._seed_run(cell, job.seed, report).result(chosen)

    def _seed_run(self, cell: Cell, seed: int, report: Report) -> SeedRun:
        return SeedRun(cell, seed, self.root, True, report, self.programs)

    def _winner(self, cell: Cell, seed: int) -> SeedResult:
        """Of the cell's candidates the one that is best on validation."""
        results = []
        for rival in cell.candidates:
            result = stored(self.root, self.cells[rival], seed)
            if result is None:
                path = run_path(self.root, self.cells[rival], seed)
                raise StoreError(f"{path} holds no result to choose among")
            results.append(result)
        sign = 1 if cell.task.higher_is_better else -1

        def score(result: SeedResult) -> float:
            mean = sign * float(np.mean(result.validation))
            return mean if math.isfinite(mean) else -math.inf

        return max(results, key=score)


def failed(error: Exception) -> Outcome:
    """What to record of an error: its last line, and all of it."""
    said = " ".join(str(error).split())
    message = f"{type(error).__name__}: {said}"[:300]
    lines = "".join(traceback.format_exception(error))
    return Outcome(kind="failed", message=message, traceback=lines)
