"""Runs the cells of an experiment, and gathers what the report is made of.

Every method of a study sees the same data, the same keys and the same budget, counted
in inner-training equivalents. Only retrainings of the λ that a search has chosen touch
the test data.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.configs.cells import Cell, Experiment
from experiments.configs.faults import ConfigError, Fault
from experiments.configs.refusals import refusal
from experiments.executors.kinds import Executor, InProcess, Setting, Work
from experiments.executors.workers import Origin
from experiments.progress import Report
from experiments.results import Comparison, SeedResult
from experiments.runs.gather import gather, stored
from experiments.runs.jobs import Board, Job, Outcome, jobs_of
from experiments.runs.programs import Programs
from experiments.runs.seed_run import SeedRun
from experiments.storage.files import DamagedError, StoreError
from experiments.storage.store import RunFolder, free_run, leading, open_run, run_path
from experiments.terminal import brief


def run_experiment(
    experiment: Experiment,
    root: Path,
    resume: bool,
    report: Report,
    executor: Executor = InProcess(),
    origin: Origin | None = None,
) -> Comparison:
    """All cells of an experiment on all its seeds.

    A cell that ends in an error is recorded (`MethodResult.failures`), and the others
    go on. Earlier results are cleared away once nothing more can be refused.

    Args:
        experiment: the cells.
        root: where run folders are.
        resume: keep what is done and go on with what is not; what failed runs again.
        report: told about progress.
        executor: who does the work.
        origin: how other processes build the experiment, if they are to.

    Raises:
        ConfigError: an estimator does not apply to its task, or a budget pays for no
            round; nothing has been searched.
        StoreError: a run folder cannot be written or is held by another process.
    """
    began = time.perf_counter()
    with leading(root, experiment.config.name):
        cells = {cell.hash: cell for cell in reversed(experiment.cells)}
        jobs = jobs_of(experiment)
        for job in jobs:
            free_run(root, cells[job.cell], job.seed, keep=True)
        todo = [
            j for j in jobs if not (resume and _is_done(root, cells[j.cell], j.seed))
        ]
        if todo:
            doing = dict.fromkeys(job.cell for job in todo)
            _refuse_what_does_not_apply(experiment, [cells[h] for h in doing])

            def saved(job: Job) -> int | None:
                if job.what == "prepare":
                    return None
                return RunFolder(run_path(root, cells[job.cell], job.seed)).saved

            if origin is not None:
                x64 = jax.config.read("jax_enable_x64")
                origin = origin.model_copy(update={"x64": x64})
            setting = Setting(experiment, root, report, saved, origin)
            with executor.hired(setting) as work:
                prepare = Job(what="prepare", seed=experiment.config.seeds[0])
                # One that fails fails again in the jobs that it is about.
                ((_, prepared),) = _ended(work, [prepare])
                if not resume:
                    runs = [(cells[job.cell], job.seed) for job in todo]
                    _clear(root, runs, prepared)
                for count, (job, outcome) in enumerate(_ended(work, todo), start=1):
                    if outcome.kind == "failed":
                        _record(root, cells[job.cell], job.seed, outcome)
                    if len(todo) > 1:
                        report("runs", count, len(todo))
    return gather(experiment, root, time.perf_counter() - began)


def run_cell(
    cell: Cell,
    seed: int,
    root: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> SeedResult:
    """One cell on one seed, as `run_experiment` would run it; errors are raised."""
    quiet: Report = lambda *_: None
    return SeedRun(cell, seed, root, resume, report or quiet, Programs()).result(None)


def _is_done(root: Path, cell: Cell, seed: int) -> bool:
    """Whether there is a result; one that is damaged is none."""
    try:
        return stored(root, cell, seed) is not None
    except DamagedError:
        return False


def _clear(root: Path, runs: list[tuple[Cell, int]], prepared: Outcome) -> None:
    """Clear earlier runs away, unless results would go for jobs that may all fail."""
    results = (run_path(root, *run) / "DONE" for run in runs)
    if prepared.kind != "done" and any(path.exists() for path in results):
        raise StoreError(f"{prepared.message}; earlier results are kept")
    for cell, seed in runs:
        free_run(root, cell, seed, keep=False)


def _ended(work: Work, jobs: list[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Each job with its outcome, unless that is for the user to put right first."""
    for job, outcome in work(Board(jobs)):
        if outcome.kind == "config":
            raise ConfigError([Fault(*fields) for fields in outcome.faults])
        if outcome.kind == "store":
            raise StoreError(outcome.message)
        yield job, outcome


def _record(root: Path, cell: Cell, seed: int, outcome: Outcome) -> None:
    """Write into the run's folder why it has no result."""
    free_run(root, cell, seed, keep=True)  # Who died may still be about to let it go.
    with open_run(root, cell, seed, resume=True) as folder:
        folder.fail(outcome.message, outcome.traceback)


def _refuse_what_does_not_apply(experiment: Experiment, cells: list[Cell]) -> None:
    """A `ConfigError` before anything has run, rather than in the middle."""
    faults = []
    # Cells that train alike are refused alike.
    for cell in {c.training: c for c in cells if c.estimator}.values():
        try:
            reason = refusal(cell, experiment.config.seeds[0])
        except Exception:  # No word on the estimator: the cell itself will fail.
            continue
        if reason is not None:
            message = f"{brief(cell.estimator)} does not apply to the task: {reason}"
            faults.append(Fault(str(experiment.file), ("estimator",), message))
    if faults:
        raise ConfigError(faults)
