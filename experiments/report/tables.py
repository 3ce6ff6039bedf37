"""The tables of a report as text: a row a method."""

import math
from typing import NamedTuple

import numpy as np

from experiments.report.verdict import number, signed, signed_interval, with_interval
from experiments.results import Comparison, MethodResult, StudyResult
from experiments.statistics.curves import speed
from experiments.statistics.intervals import ENOUGH
from experiments.statistics.methods import (
    against_all,
    difference,
    incumbent,
    iqm_over_seeds,
    over_seeds,
    preferred,
    searches,
    seed_means,
    untuned,
)
from experiments.statistics.profiles import overall

COLUMNS = (
    "method",
    "best validation loss",
    "validation loss F, retrained",
    "validation {metric}",
    "test {metric}",
    "test less untuned",
    "gap",
    "trainings",
    "trials",
    "training + searcher + compile, s",
)


class Table(NamedTuple):
    """Heads, and a row of cells a method; `labels` say which method a row is of."""

    columns: list[str]
    labels: list[str]
    rows: list[list[str]]


def columns(comparison: Comparison) -> list[str]:
    """The heads of the table of a study."""
    return [column.format(metric=comparison.metric) for column in COLUMNS]


def rows(study: StudyResult) -> list[list[str]]:
    """The table of a study: a row a method, in the order of `COLUMNS`."""
    reference = untuned(study)
    return [_row(method, reference) for method in study.methods]


def speed_table(study: StudyResult) -> Table | None:
    """How soon each search reaches the target; None where no seed has one."""
    found = [(method, speed(study, method)) for method in searches(study)]
    found = [(method, each) for method, each in found if each.problems]
    if not found:
        return None
    cells = [
        [
            method.title,
            f"{each.reached} of {each.problems}",
            _ended(each.cost, ".0f"),
            _ended(each.seconds, ".3g"),
        ]
        for method, each in found
    ]
    heads = ["search", "seeds that reach it", "trainings", "seconds"]
    return Table(heads, [method.label for method, _ in found], cells)


def paired_table(study: StudyResult, comparison: Comparison) -> Table | None:
    """Interquartile means, and paired tests of one search against all others.

    None with fewer seeds than an interval by bootstrap needs.
    """
    higher = comparison.higher_is_better
    one = preferred(study, higher=higher)
    if one is None or len(one.seeds) < ENOUGH:
        return None
    against = {found.method.label: found for found in against_all(study, one)}
    shown = [method for method in study.methods if method.seeds]
    cells = []
    for method in shown:
        iqm = with_interval(iqm_over_seeds(method, higher=higher))
        found = against.get(method.label)
        if found is None:
            cells.append([method.title, iqm, "–", "–", "–", "–"])
            continue
        p, least = found.test.p, found.test.least
        tail = [_p(p), _p(found.holm), f"{least:.3g} of {found.test.n}"]
        cells.append([method.title, iqm, signed_interval(found.difference), *tail])
    heads = [
        "method",
        f"interquartile mean of test {comparison.metric}",
        f"“{one.title}” less this",
        "p",
        "p after Holm",
        "least p of seeds",
    ]
    return Table(heads, [method.label for method in shown], cells)


def overall_table(comparison: Comparison) -> Table | None:
    """Searches over all studies, best mean rank first; None for one study."""
    if len(comparison.studies) < 2:
        return None
    titles = {m.label: m.title for s in comparison.studies for m in s.methods}
    found = [row for row in overall(comparison) if math.isfinite(row.rank.mean)]
    cells = [
        [
            titles[row.label],
            with_interval(row.rank),
            with_interval(row.score) if row.score.n else "–",
            f"{row.solved} of {row.problems}",
            str(row.studies),
        ]
        for row in found
    ]
    heads = ["search", "mean rank", "mean score", "targets reached", "studies"]
    return Table(heads, [row.label for row in found], cells)


def _row(method: MethodResult, reference: MethodResult | None) -> list[str]:
    seeds = method.seeds
    if not seeds:
        lost = ["no seed finished" if c.startswith("test {") else "–" for c in COLUMNS]
        return [method.title, *lost[1:]]
    losses = [float(incumbent(seed)[-1]) for seed in seeds if seed.values]
    validation, test = over_seeds(method, "validation"), over_seeds(method, "test")
    retrained = over_seeds(method, "objective")
    spent = [seed.cost[-1] for seed in seeds if seed.cost]
    trials = [len(seed.values) for seed in seeds if seed.values]
    times = [
        np.mean([getattr(seed, f"seconds_{part}") for seed in seeds])
        for part in ("training", "searcher", "compile")
    ]
    return [
        method.title,
        number(float(np.mean(losses))) if losses else "–",
        with_interval(retrained) if retrained.n else "–",
        number(validation.mean),
        with_interval(test) if math.isfinite(test.mean) else _diverged(method),
        _against(method, reference),
        signed(validation.mean - test.mean),
        f"{np.mean(spent):.0f}" if spent else "–",
        f"{np.mean(trials):.0f}" if trials else "–",
        " + ".join(f"{time:.1f}" for time in times),
    ]


def _diverged(method: MethodResult) -> str:
    """Of how many seeds there is no mean on test."""
    means = seed_means(method, "test")
    lost = sum(not math.isfinite(mean) for mean in means)
    return "diverged" if lost == len(means) else f"diverged in {lost} of {len(means)}"


def _against(method: MethodResult, reference: MethodResult | None) -> str:
    """The paired difference on test over the seeds, with its 95% interval."""
    if reference is None or method is reference:
        return "–"
    return signed_interval(difference(method, reference))


def _ended(time: float, digits: str) -> str:
    return format(time, digits) if math.isfinite(time) else "not reached"


def _p(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"
