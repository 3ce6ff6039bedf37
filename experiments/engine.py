"""Runs the cells of an experiment, and gathers what the report is made of.

Every method of a study sees the same data, the same keys and the same budget, counted
in inner-training equivalents. Only retrainings of the λ that a search has chosen touch
the test data.
"""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import hypergrad as hg
from experiments.cells import Cell, Experiment
from experiments.choices import told
from experiments.faults import ConfigError, Fault
from experiments.files import StoreError
from experiments.programs import Programs
from experiments.progress import Report
from experiments.refusals import refusal
from experiments.results import (
    Comparison,
    Kind,
    MethodResult,
    Reproduction,
    SeedResult,
    StudyResult,
)
from experiments.seed_run import SeedRun
from experiments.store import RunFolder, metadata, run_path
from experiments.terminal import brief


def run_experiment(
    experiment: Experiment, root: Path, resume: bool, report: Report
) -> Comparison:
    """All cells of an experiment on all its seeds.

    Args:
        experiment: the cells, in an order in which each `winner_of` comes late enough.
        root: where run folders are.
        resume: keep what is done and go on with what is not.
        report: told about progress.

    Raises:
        ConfigError: an estimator does not apply to its task.
        StoreError: a run folder cannot be written or is held by another process.
    """
    began = time.perf_counter()
    _refuse_what_does_not_apply(experiment)
    programs = Programs()
    results: dict[str, list[SeedResult]] = {}
    studies: dict[str, list[MethodResult]] = {}
    titles: dict[str, str] = {}
    for cell in experiment.cells:
        earlier = [m for label in studies for m in _named(label, studies[label])]
        if cell.hash not in results:  # Equal cells of two studies run once.
            results[cell.hash] = []
            for seed in experiment.config.seeds:
                chosen = _winner(cell, earlier, seed) if cell.winner_of else None
                run = SeedRun(cell, seed, root, resume, report, programs)
                results[cell.hash].append(run.result(chosen))
        seeds = results[cell.hash]
        studies.setdefault(cell.study, []).append(_method(cell, seeds, root))
        titles[cell.study] = cell.study_title

    task = experiment.cells[0].task
    meta = metadata()
    return Comparison(
        name=experiment.config.name,
        title=experiment.config.title or experiment.config.name,
        claim=experiment.config.claim,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        studies=[
            StudyResult(
                label=label,
                title=titles[label],
                methods=methods,
                defaults=_defaults(experiment, label),
                dimension=_space(experiment, label).dim,
                notes=_notes(experiment, label),
            )
            for label, methods in studies.items()
        ],
        reproduction=Reproduction(
            **{name: meta[name] for name in meta if name in Reproduction.model_fields},
            seconds=time.perf_counter() - began,
            config=experiment.file.read_text(),
        ),
    )


def _refuse_what_does_not_apply(experiment: Experiment) -> None:
    """A `ConfigError` before anything has run, rather than in the middle."""
    faults = []
    # Cells that train alike are refused alike.
    for cell in {c.training: c for c in experiment.cells if c.estimator}.values():
        reason = refusal(cell, experiment.config.seeds[0])
        if reason is not None:
            message = f"{brief(cell.estimator)} does not apply to the task: {reason}"
            faults.append(Fault(str(experiment.file), ("estimator",), message))
    if faults:
        raise ConfigError(faults)


def run_cell(
    cell: Cell,
    seed: int,
    root: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> SeedResult:
    """One cell on one seed, as `run_experiment` would run it."""
    quiet: Report = lambda *_: None
    return SeedRun(cell, seed, root, resume, report or quiet, Programs()).result(None)


def _method(cell: Cell, seeds: list[SeedResult], root: Path) -> MethodResult:
    known = RunFolder(run_path(root, cell, seeds[0].seed)).config["budget"]
    return MethodResult(
        label=cell.method,
        title=cell.title,
        kind=_kind(cell),
        seeds=seeds,
        note=_note(cell, known, seeds),
        cost_multiple=None if cell.searcher is None else known["cost_multiple"],
        cell=cell.hash,
    )


def _kind(cell: Cell) -> Kind:
    if cell.searcher is None:
        return "reference"
    return "gradient" if cell.searcher.needs_gradient else "baseline"


def _note(cell: Cell, known: dict[str, Any], seeds: list[SeedResult]) -> str:
    if cell.searcher is None:
        return _chosen(seeds)
    text = cell.searcher.describe(cell.space, len(seeds[0].values))
    if cell.searcher.needs_gradient:
        text += f"; one gradient counts as {known['cost_multiple']:g} trainings"
    text += f"; trainings laid out by {known['execution']}"
    if doubtful := sum(seed.doubtful for seed in seeds):
        count = sum(len(seed.values) for seed in seeds)
        text += f"; the estimator doubts {doubtful} of its {count} hypergradients"
    return "; ".join(filter(None, (text, _chosen(seeds))))


def _defaults(experiment: Experiment, label: str) -> dict[str, Any]:
    """What the study's first search begins with."""
    space = _space(experiment, label)
    hparams = {n: np.asarray(x).tolist() for n, x in space.defaults().items()}
    return space.default_choices() | hparams


def _space(experiment: Experiment, label: str) -> hg.Space:
    """Of the study's first search."""
    cells = [cell for cell in experiment.cells if cell.study == label]
    return next((cell for cell in cells if cell.searcher), cells[0]).space


def _chosen(seeds: list[SeedResult]) -> str:
    """How often which options were chosen; nothing without choices."""
    counts = Counter(told(seed.choices) for seed in seeds if seed.choices)
    each = [f"{text} ({count} of {len(seeds)})" for text, count in counts.most_common()]
    return f"chose {'; '.join(each)}" if each else ""


def _notes(experiment: Experiment, label: str) -> list[str]:
    """How λ is chosen, and what the numbers of some references cannot mean."""
    cells = [cell for cell in experiment.cells if cell.study == label]
    budget, notes = cells[0].budget, []
    if budget.finalists > 1:
        extra = budget.finalists * budget.retrain
        notes.append(
            f"each search's {budget.finalists} best trials are trained again with "
            f"{budget.retrain} keys, and the one of least mean validation loss is "
            f"chosen: {extra} trainings beyond the budget, the same for all"
        )
    if any(cell.choices for cell in cells):
        notes.append(
            "a training counts as one whatever its choices, and a gradient costs what "
            "it does at their defaults"
        )
    seen = [cell.title for cell in cells if cell.task.fits_validation]
    if seen:
        notes.append(
            f"{' and '.join(f'“{title}”' for title in seen)}: the validation images "
            "were trained on, so that their validation score and gap mean nothing"
        )
    return notes


def _named(label: str, methods: Iterable[MethodResult]):
    return [(f"{label}.{method.label}", method) for method in methods]


def _winner(
    cell: Cell, earlier: list[tuple[str, MethodResult]], seed: int
) -> SeedResult:
    """The best searching method's result in an earlier study, judged on validation."""
    wanted = cell.winner_of or ""
    candidates = [
        result
        for name, method in earlier
        if method.kind != "reference"
        and (name == wanted or name.startswith(f"{wanted}."))
        for result in method.seeds
        if result.seed == seed
    ]
    if not candidates:
        raise StoreError(f"no search of {wanted!r} has run before {cell.title!r}")
    sign = 1 if cell.task.higher_is_better else -1

    def score(result: SeedResult) -> float:
        mean = sign * float(np.mean(result.validation))
        return mean if np.isfinite(mean) else -np.inf

    return max(candidates, key=score)
