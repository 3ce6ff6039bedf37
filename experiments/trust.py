"""Can the hypergradients of a config be trusted, and what do they cost?

One row an estimator, at the defaults of the task's λ on the first seed: bias and noise
over keys in float64 beside the exact hypergradient, time and memory in float32 beside
one training.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from pydantic import ValidationError

import hypergrad as hg
from experiments.configs.cells import Cell, Experiment
from experiments.configs.refusals import refusal
from experiments.progress import Report
from experiments.results import EstimatorRow, Trust
from experiments.storage.files import StoreError, make_folder, read_json, write_json
from experiments.storage.store import measured_once
from experiments.terminal import brief
from hypergrad import tree
from hypergrad.agreement import agreement
from hypergrad.runner import median_time_ratio

ROUNDS = 7  # of timing, the estimate and the plain training in turn
PRECISION = 0.05  # standard error at which a mean over keys says "no bias"


def estimators(
    experiment: Experiment, num_keys: int, root: Path, report: Report
) -> list[EstimatorRow]:
    """A row for each estimator that the cells of an experiment differentiate with.

    Args:
        experiment: its cells; those that search by values only are passed over.
        num_keys: keys over which bias and variance are taken.
        root: where run folders are; what was measured once is kept there.
        report: told about progress.
    """
    cells = list(
        {cell.training: cell for cell in _differentiating(experiment)}.values()
    )
    seed, rows = experiment.config.seeds[0], []
    for i, cell in enumerate(cells):
        report(f"measuring {brief(cell.estimator)}", i, len(cells))
        key = f"trust of seed {seed} over {num_keys} keys, {cell.training}"
        table = measured_once(
            root,
            cell.name,
            key,
            lambda cell=cell: _row(cell, seed, num_keys).model_dump(mode="json"),
        )
        rows.append(EstimatorRow.model_validate(table))
    report("measuring estimators", len(cells), len(cells))
    return rows


def diagnose(experiment: Experiment, num_keys: int) -> hg.Diagnosis:
    """Is the hypergradient of the config's task useful at its defaults?"""
    cell, seed = _first(experiment), experiment.config.seeds[0]
    keys = jax.random.split(jax.random.key(seed), num_keys)
    return hg.diagnose(cell.task.problem(seed), cell.space.defaults(), keys)


def plan(experiment: Experiment, budget_bytes: int) -> hg.Plan:
    """The exact estimator that is fastest within the memory."""
    cell, seed = _first(experiment), experiment.config.seeds[0]
    problem = cell.task.problem(seed)
    return hg.plan(problem, cell.space.defaults(), budget_bytes)


def keep(root: Path, experiment: Experiment, **found: Any) -> None:
    """Remember what was found, for the next report of this config."""
    known = remembered(root, experiment).model_copy(update=found)
    path = _path(root, experiment)
    make_folder(path.parent)
    write_json(path, known.model_dump(mode="json"))


def remembered(root: Path, experiment: Experiment) -> Trust:
    """What `verify`, `diagnose` and `plan` have found about this config so far."""
    table = read_json(_path(root, experiment))
    try:
        return Trust.model_validate(table or {})
    except ValidationError as error:
        path, first = _path(root, experiment), error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"].lower()
        raise StoreError(f"{path} is damaged: {where}: {reason}; delete it") from error


def compares_estimators(experiment: Experiment) -> bool:
    """Whether the cells differentiate in more than one way."""
    return len({cell.estimator for cell in _differentiating(experiment)}) > 1


def _row(cell: Cell, seed: int, num_keys: int) -> EstimatorRow:
    problem, hparams = cell.task.problem(seed), cell.space.defaults()
    name, key = brief(cell.estimator), jax.random.key(seed)
    target = cell.estimator.target.name.lower()
    refused = refusal(cell, seed)
    if refused is not None:
        return EstimatorRow(estimator=name, target=target, refused=refused)
    with jax.enable_x64(True):
        found = agreement(
            tree.cast_floats(problem, "float64"),
            cell.estimator,
            tree.cast_floats(hparams, "float64"),
            key,
            reference=None,
            num_keys=num_keys,
            tolerance=1e-8,
            precision=PRECISION,
        )
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    shared = EstimatorRow.model_fields.keys() & fields.keys() - {"estimator", "verdict"}
    time, memory = _costs(problem, cell.estimator, hparams, key)
    return EstimatorRow(
        estimator=name,
        target=target,
        verdict=found.verdict.name.lower().replace("_", " "),
        time=time,
        memory=memory,
        **{field: fields[field] for field in shared},
    )


def _costs(problem, estimator, hparams, key) -> tuple[float, float]:
    """Time and temporary memory of one estimate, relative to one plain training."""

    def compiled(estimator) -> Callable:
        def fn(problem, hparams, key):
            (value, hypergrad, _), _ = estimator.estimate(problem, hparams, (), key)
            return value, hypergrad

        return jax.jit(fn).lower(problem, hparams, key).compile()

    programs = compiled(estimator), compiled(hg.Value())
    calls = [functools.partial(run, problem, hparams, key) for run in programs]
    time = median_time_ratio(*calls, repeats=ROUNDS)
    ours_bytes, plain_bytes = map(_temporary_bytes, programs)
    return time, ours_bytes / plain_bytes


def _temporary_bytes(program: Any) -> float:
    """XLA's own figure; NaN where the backend gives none."""
    analysis = program.memory_analysis()
    return math.nan if analysis is None else float(analysis.temp_size_in_bytes)


def _differentiating(experiment: Experiment) -> Iterable[Cell]:
    return [
        cell
        for cell in experiment.cells
        if cell.estimator is not None and cell.estimator.target is not hg.Target.NOTHING
    ]


def _first(experiment: Experiment) -> Cell:
    return next(iter(_differentiating(experiment)), experiment.cells[0])


def _path(root: Path, experiment: Experiment) -> Path:
    return root / experiment.config.name / "trust.json"
