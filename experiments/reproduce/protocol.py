"""Runs the cells of a [paper], each on each seed; what is done is kept and resumed."""

import time
import traceback
from pathlib import Path

import jax
from pydantic import Field, ValidationError

from experiments.configs.papers import PaperCell, PaperExperiment
from experiments.paper import Measured
from experiments.progress import Report
from experiments.reproduce.found import Found, Part, gathered
from experiments.results import Value
from experiments.storage.files import DamagedError, StoreError
from experiments.storage.store import RunFolder, leading, open_run, run_path


class Done(Value):
    """What a finished run has written: its result and what it took."""

    seed: int
    seconds: float = Field(ge=0)
    measured: Measured


def run_protocol(
    protocol: PaperExperiment, root: Path, resume: bool, report: Report
) -> Found:
    """All methods on all seeds; one that ends in an error is a line, and others go on.

    Args:
        protocol: the cells.
        root: where run folders are.
        resume: keep what is done.
        report: told about progress.

    Raises:
        StoreError: a run folder cannot be written or is held by another process.
    """
    parts, failures = [], []
    with leading(root, protocol.config.name):
        for cell in protocol.cells:
            for seed in protocol.config.seeds:
                done = _kept(root, cell, seed) if resume else None
                if done is None:
                    done = _run(root, cell, seed, resume, report)
                if isinstance(done, str):
                    where = " · ".join(filter(None, (cell.title, f"seed {seed}")))
                    failures.append(f"{where}: {done}")
                else:
                    parts.append(
                        Part(cell.method, cell.title, done.measured, done.seconds)
                    )
    return gathered(parts, failures)


def _kept(root: Path, cell: PaperCell, seed: int) -> Done | str | None:
    """An earlier result, or how it is damaged."""
    try:
        return stored(RunFolder(run_path(root, cell, seed)))
    except DamagedError as error:
        return str(error)


def _run(
    root: Path, cell: PaperCell, seed: int, resume: bool, report: Report
) -> Done | str:
    """The result, or why there is none."""
    label = " · ".join(filter(None, (cell.name, cell.title, f"seed {seed}")))
    with open_run(root, cell, seed, resume=resume) as folder:
        began = time.perf_counter()
        report(label, 0, 1)
        try:
            with jax.enable_x64(cell.paper.precision == "float64"):
                measured = cell.paper.measure(
                    cell.estimator,
                    seed,
                    lambda done, total: report(label, min(done, total - 1), total),
                )
            seconds = time.perf_counter() - began
            done = Done(seed=seed, seconds=seconds, measured=measured)
        except StoreError:
            raise
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            folder.fail(told, traceback.format_exc())
            return f"{told} ({folder.path / 'FAILED'})"
        folder.finish(done.model_dump(mode="json"))
        report(label, 1, 1)
        return done


def stored(folder: RunFolder) -> Done | None:
    """The result in a run folder, if there is one.

    Raises:
        DamagedError: what is there is none.
    """
    table = folder.result
    if table is None:
        return None
    try:
        return Done.model_validate(table)
    except ValidationError as error:
        what = f"{folder.path / 'DONE'} holds no result: {error.errors()[0]['msg']}"
        raise DamagedError(what, f"the folder {folder.path}") from error
