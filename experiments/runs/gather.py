"""What the run folders hold, as the comparison that a report is made of."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import hypergrad as hg
from experiments.configs.cells import Cell, Experiment
from experiments.configs.choices import told
from experiments.results import (
    Comparison,
    Failure,
    Kind,
    MethodResult,
    Reproduction,
    SeedResult,
    StudyResult,
    read_result,
)
from experiments.storage.files import DamagedError
from experiments.storage.store import RunFolder, metadata, run_path


def gather(experiment: Experiment, root: Path, seconds: float) -> Comparison:
    """The results and the failures of all cells, study by study.

    What is damaged is a failure of its cell and seed.

    Args:
        experiment: the cells, all of which have ended.
        root: where run folders are.
        seconds: what it took.

    Raises:
        StoreError: a run folder cannot be read.
    """
    studies: dict[str, list[Cell]] = {}
    for cell in experiment.cells:
        studies.setdefault(cell.study, []).append(cell)
    task, seeds, meta = experiment.cells[0].task, experiment.config.seeds, metadata()
    return Comparison(
        name=experiment.config.name,
        title=experiment.config.title or experiment.config.name,
        claim=experiment.config.claim,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        studies=[
            StudyResult(
                label=label,
                title=cells[-1].study_title,
                methods=[_method(cell, seeds, root) for cell in cells],
                defaults=_defaults(cells),
                dimension=_space(cells).dim,
                notes=_notes(cells),
            )
            for label, cells in studies.items()
        ],
        reproduction=Reproduction(
            **{name: meta[name] for name in meta if name in Reproduction.model_fields},
            seconds=seconds,
            config=experiment.text,
        ),
    )


def stored(root: Path, cell: Cell, seed: int) -> SeedResult | None:
    """The result in a run folder, if there is one.

    Raises:
        DamagedError: what is there is no result of this seed.
    """
    folder = RunFolder(run_path(root, cell, seed))
    table = folder.result
    if table is None:
        return None
    result = read_result(folder.path, table)
    if result.seed != seed:
        raise DamagedError(f"{folder.path / 'DONE'} is of seed {result.seed}")
    return result


def _method(cell: Cell, seeds: list[int], root: Path) -> MethodResult:
    results: list[SeedResult] = []
    failures: list[Failure] = []
    known: dict[str, Any] = {}
    for seed in seeds:
        try:
            result = stored(root, cell, seed)
            if result is None:
                failures.append(_failure(root, cell, seed))
                continue
            budget = {} if cell.searcher is None else _budget(root, cell, seed)
        except DamagedError as error:
            failures.append(Failure(seed=seed, message=str(error)))
            continue
        known = known or budget
        results.append(result)
    return MethodResult(
        label=cell.method,
        title=cell.title,
        kind=_kind(cell),
        seeds=results,
        note=_note(cell, known, results) if results else "",
        cost_multiple=known.get("cost_multiple"),
        cell=cell.hash,
        failures=failures,
    )


def _budget(root: Path, cell: Cell, seed: int) -> dict[str, Any]:
    """What a finished search has resolved of its budget.

    Raises:
        DamagedError: it is not there; a run that is done does not write it again.
    """
    folder = RunFolder(run_path(root, cell, seed))
    try:
        known = folder.config.get("budget")
    except DamagedError:
        known = None
    if isinstance(known, dict):
        cost, execution = known.get("cost_multiple"), known.get("execution")
        if isinstance(cost, int | float) and isinstance(execution, str):
            return known
    what = f"{folder.path / 'config.json'} does not say what the search cost"
    raise DamagedError(what, f"the folder {folder.path}")


def _failure(root: Path, cell: Cell, seed: int) -> Failure:
    told = RunFolder(run_path(root, cell, seed)).failure or {}
    return Failure(seed=seed, message=str(told.get("message", "it has not been run")))


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


def _defaults(cells: list[Cell]) -> dict[str, Any]:
    """What the study's first search begins with."""
    space = _space(cells)
    hparams = {n: np.asarray(x).tolist() for n, x in space.defaults().items()}
    return space.default_choices() | hparams


def _space(cells: list[Cell]) -> hg.Space:
    """Of the study's first search."""
    return next((cell for cell in cells if cell.searcher), cells[0]).space


def _chosen(seeds: list[SeedResult]) -> str:
    """How often which options were chosen; nothing without choices."""
    counts = Counter(told(seed.choices) for seed in seeds if seed.choices)
    each = [f"{text} ({count} of {len(seeds)})" for text, count in counts.most_common()]
    return f"chose {'; '.join(each)}" if each else ""


def _notes(cells: list[Cell]) -> list[str]:
    """How λ is chosen, and what the numbers of some references cannot mean."""
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
