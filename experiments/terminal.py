"""What the commands print: cells, results and run folders as tables."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.configs.build import table_of
from experiments.configs.cells import Cell, Experiment
from experiments.configs.documents import flatten
from experiments.configs.papers import PaperCell, PaperExperiment
from experiments.report.learned import Learned, learned
from experiments.report.page import ESTIMATOR_COLUMNS, columns, estimator_rows, rows
from experiments.report.verdict import number, verdicts
from experiments.reproduce.protocol import stored
from experiments.results import Comparison, EstimatorRow, read_result
from experiments.statistics.methods import best_so_far
from experiments.storage.store import RunFolder

SHORT = 6  # columns of what was learned that a line of a terminal holds


def cells(experiment: Experiment | PaperExperiment) -> RenderableType:
    """The cells that a config asks for."""
    seeds = ", ".join(map(str, experiment.config.seeds))
    count = len(experiment.cells)
    title = f"{experiment.config.name}: {count} cell{'s' * (count != 1)}, seeds {seeds}"
    table = _table("study", "method", "cell", "task", "search", title=title)
    for cell in experiment.cells:
        if isinstance(cell, PaperCell):
            what = brief(cell.paper)
            how = brief(cell.estimator) if cell.estimator else "its own rule"
        else:
            what, how = brief(cell.task), _search(cell)
        table.add_row(cell.study, cell.title, cell.hash, what, how)
    return table


def summary(comparison: Comparison) -> RenderableType:
    """Who won, then the table of each study; methods without a result are left out."""
    comparison = _with_results(comparison)
    parts: list[RenderableType] = [
        Text(f"{verdict.study}: {verdict.text}\n") for verdict in verdicts(comparison)
    ]
    for study in comparison.studies:
        table = _table(*columns(comparison), title=study.title, right=1)
        styles = {"gradient": "bold", "baseline": "", "reference": "dim"}
        for method, row in zip(study.methods, rows(study), strict=True):
            table.add_row(*row, style=styles[method.kind])
        parts.append(table)
        found = learned(study)
        if found is not None and len(found.columns) <= SHORT:
            parts.append(_learned(found))
    if comparison.trust.estimators:
        parts.append(estimators(comparison.trust.estimators))
    return Group(*parts)


def failures(comparison: Comparison) -> list[str]:
    """A line for each method and seed that ended in an error."""
    return list(
        dict.fromkeys(
            f"{study.title} · {method.title} · seed {failure.seed}: {failure.message} "
            f"({method.cell}/seed={failure.seed}/FAILED)"
            for study in comparison.studies
            for method in study.methods
            for failure in method.failures
        )
    )


def _with_results(comparison: Comparison) -> Comparison:
    studies = [
        study.model_copy(update={"methods": [m for m in study.methods if m.seeds]})
        for study in comparison.studies
    ]
    kept = [study for study in studies if study.methods]
    return comparison.model_copy(update={"studies": kept})


def _learned(found: Learned) -> Table:
    """What each search chose: mean and range over seeds."""
    table = _table("learned", *found.columns, right=1)
    for _, name, row in found.rows:
        table.add_row(name, *row)
    return table


def estimators(found: list[EstimatorRow]) -> RenderableType:
    """The table of `verify`, and why some rows are as they are."""
    title = "Estimators beside the exact hypergradient and one plain training"
    table = _table(*ESTIMATOR_COLUMNS, title=title, right=2)
    for row in estimator_rows(found):
        table.add_row(*row)
    why = [
        Text(f"{row.estimator}: {row.refused or row.doubt}")
        for row in found
        if row.refused or row.doubt
    ]
    return Group(table, *why)


def runs(folders: Iterable[Path]) -> RenderableType:
    """A line a run folder: how far it is, and its best validation loss."""
    table = _table("study", "method", "seed", "cell", "trials", "best F", "state")
    known = [(RunFolder(folder).config, RunFolder(folder)) for folder in folders]

    def order(pair: tuple[dict[str, Any], RunFolder]) -> list[str]:
        config, _ = pair
        texts = [str(config.get(key, "")) for key in ("name", "study", "method")]
        return [*texts, f"{config.get('seed', '')!s:>10}"]  # 2 comes before 10.

    for config, folder in sorted(known, key=order):
        count, best = _trials(folder)
        state = _state(folder)
        names = [
            str(config.get(key, "")) for key in ("study", "method", "seed", "hash")
        ]
        table.add_row(*names, str(count), best, state)
    return table


def run(folder: RunFolder) -> RenderableType:
    """One run folder: its settings, where it ran and what came out."""
    table = Table.grid(padding=(0, 2))
    state, failure = _state(folder), folder.failure or {}
    if state != "done":
        state += ": continue with --resume"
    facts = {"folder": str(folder.path), "state": state}
    if state.startswith("failed"):
        facts["why"] = str(failure.get("message", ""))
    facts |= _measured(folder) if "paper" in folder.config else _searched(folder)
    tables = {"config": folder.config, "meta": folder.meta}
    for title, values in tables.items():
        for path, leaf in flatten(values, title).items():
            facts[".".join((title, *path))] = str(leaf.value)
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _searched(folder: RunFolder) -> dict[str, str]:
    """What a search has come to so far."""
    count, best = _trials(folder)
    facts = {"trials": str(count), "best validation loss": best}
    if folder.result is not None:
        result = read_result(folder.path, folder.result)
        for split in ("validation", "test"):
            scores = getattr(result, split)
            if scores:
                facts[split] = number(sum(scores) / len(scores))
    return facts


def _measured(folder: RunFolder) -> dict[str, str]:
    """What a paper's protocol has found; of curves, the last point."""
    done = stored(folder)
    if done is None:
        return {}
    found = done.measured
    ends = {name: line.y[-1] for name, line in found.curves.items() if line.y}
    return {name: f"{value:.6g}" for name, value in (found.numbers | ends).items()}


def brief(value: object) -> str:
    """The value as it would be typed: fields at their defaults are left out.

    >>> from experiments.configs.config import Budget
    >>> brief(Budget(trainings=7))
    'Budget(trainings=7)'
    """
    fields = table_of(value)
    plain = table_of(type(value)()) if _has_defaults(value) else {}
    own = {k: v for k, v in fields.items() if k != "name" and v != plain.get(k)}
    shown = ", ".join(f"{k}={_inner(getattr(value, k))}" for k in own)
    return f"{type(value).__name__}({shown})"


def _inner(value: object) -> str:
    return brief(value) if dataclasses.is_dataclass(value) else repr(value)


def _has_defaults(value: object) -> bool:
    try:
        type(value)()
    except (TypeError, ValueError):
        return False
    return True


def console(*, stderr: bool = False) -> Console:
    """A console that prints [brackets] as they are; in a log, as wide as its tables."""
    screen = Console(stderr=stderr, highlight=False, markup=False)
    if not screen.is_terminal:
        screen = Console(stderr=stderr, highlight=False, markup=False, width=160)
    return screen


def _search(cell: Cell) -> str:
    if cell.winner_of is not None:
        return f"reference: winner of {cell.winner_of}"
    if cell.reference:
        return "reference: the defaults"
    searcher, estimator = brief(cell.searcher), brief(cell.estimator)
    return f"{searcher} with {estimator}, {cell.budget.trainings} trainings"


def _state(folder: RunFolder) -> str:
    if folder.result is not None:
        return "done"
    return "unfinished" if folder.failure is None else "failed"


def _trials(folder: RunFolder) -> tuple[int, str]:
    """How many trials a run has logged, and the best F among them."""
    values = [record["value"] for record in folder.trials("value")]
    return len(values), number(best_so_far(values)[-1]) if values else "–"


def _table(*heads: str, title: str = "", right: int | None = None) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold")
    for index, head in enumerate(heads):
        end = right is not None and index >= right
        table.add_column(head, justify="right" if end else "left", overflow="fold")
    return table
