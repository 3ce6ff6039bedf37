"""Methods over several studies: profiles, normalised scores, ranks.

A problem is a study on one seed. A method that is not of a study has no problem there;
one that failed or diverged on a seed has, and is last.
"""

import math
from typing import NamedTuple

import numpy as np

from experiments.results import Comparison, MethodResult, StudyResult
from experiments.statistics.curves import target, time_to_target
from experiments.statistics.intervals import ENOUGH, Floats, Interval, mean_interval
from experiments.statistics.methods import (
    by_seed,
    difference,
    finishers,
    searches,
    seeds_of,
    untuned,
)

Samples = dict[str, list[float]]


class Profile(NamedTuple):
    """ρ_m(τ), the share of problems that method m solves within τ times the least cost.

    Attributes:
        factors: τ at which a share changes, ascending from 1: [points].
        shares: {label: ρ at each factor, [points]}.
    """

    factors: Floats
    shares: dict[str, Floats]


def performance_profile(costs: Floats, labels: list[str]) -> Profile:
    """ρ_m(τ) = |{p : c_pm ≤ τ min_k c_pk}| / |problems of m| (Dolan and Moré 2002).

    Args:
        costs: [problems, methods]; inf: not solved, NaN: not of this problem.
        labels: of the methods.

    >>> found = performance_profile(np.array([[1.0, 2.0], [3.0, np.inf]]), ["a", "b"])
    >>> found.factors, found.shares["b"]
    (array([1., 2.]), array([0. , 0.5]))
    """
    solved = np.isfinite(costs)
    best = np.min(np.where(solved, costs, np.inf), axis=1, initial=np.inf)
    ratios = np.divide(costs, best[:, None], out=costs.copy(), where=solved)
    factors = np.unique(np.append(ratios[np.isfinite(ratios)], 1.0))
    part = ~np.isnan(costs)
    shares: dict[str, Floats] = {
        label: np.array([np.sum(ratios[:, m] <= f) for f in factors])
        / max(1, np.sum(part[:, m]))
        for m, label in enumerate(labels)
    }
    return Profile(factors, shares)


def costs_to_target(page: Comparison, axis: str) -> tuple[Floats, list[str]]:
    """Cost or seconds to each problem's target: [problems, methods], and the labels."""
    labels = list(dict.fromkeys(m.label for s in page.studies for m in searches(s)))
    rows = []
    for study in page.studies:
        methods = {method.label: method for method in searches(study)}
        for seed in seeds_of(study):
            goal = target(study, seed)
            if math.isfinite(goal):
                rows.append([_cost(methods.get(x), seed, goal, axis) for x in labels])
    return np.array(rows, float).reshape(-1, len(labels)), labels


def _cost(method: MethodResult | None, seed: int, goal: float, axis: str) -> float:
    if method is None:
        return math.nan
    runs = [run for run in method.seeds if run.seed == seed]
    return time_to_target(runs[0], goal, axis) if runs else math.inf


def normalised(study: StudyResult, *, higher: bool) -> Samples:
    """{search: (test - untuned) / (best - untuned) of each seed}; 1 is the best search.

    The denominator is the best search's mean paired difference to the untuned model,
    among the searches that finished all seeds.
    Where its interval does not exclude 0 nothing was to be won: {}.
    """
    start, sign = untuned(study), 1.0 if higher else -1.0
    if start is None:
        return {}
    gaps = {m.label: difference(m, start) for m in searches(study) if m.seeds}
    able = [m.label for m in finishers(study, searches(study))]
    gains = {label: sign * gaps[label].mean for label in able}
    gains = {label: gain for label, gain in gains.items() if math.isfinite(gain)}
    if not gains:
        return {}
    best = max(gains, key=lambda label: gains[label])
    gap = gaps[best]
    if not (gap.known and min(sign * gap.low, sign * gap.high) > 0):
        return {}
    floor = by_seed(start, "test")
    return {
        method.label: [
            sign * (score - floor[seed]) / gains[best]
            for seed, score in by_seed(method, "test").items()
            if seed in floor
        ]
        for method in searches(study)
        if method.seeds
    }


def ranks(study: StudyResult, *, higher: bool) -> Samples:
    """{search: its rank on test on each seed}: 1 is best, ties share, failed last."""
    from scipy.stats import rankdata

    sign, methods = -1.0 if higher else 1.0, searches(study)
    tables = [by_seed(method, "test") for method in methods]
    worth = [[t.get(s, math.nan) for s in seeds_of(study)] for t in tables]
    scores = np.reshape(worth, (len(methods), -1)) if worth else np.zeros((0, 0))
    worse = np.where(np.isfinite(scores), sign * scores, np.inf)
    placed = rankdata(worse, axis=0) if scores.size else scores
    return {m.label: row.tolist() for m, row in zip(methods, placed, strict=True)}


def alike(page: Comparison) -> list[tuple[int, ...]]:
    """The dimensions of λ in groups, ascending: within one, all are within a tenth."""
    groups: list[tuple[int, ...]] = []
    for dim in sorted({study.dimension for study in page.studies} - {0}):
        if groups and dim <= 1.1 * groups[-1][0]:
            groups[-1] += (dim,)
        else:
            groups.append((dim,))
    return groups


def by_dimension(page: Comparison, per_study: list[Samples]) -> dict[str, dict]:
    """{label: {dimensions of λ: Interval over seeds of the studies that have them}}."""
    place = {dim: group for group in alike(page) for dim in group}
    pooled: dict[str, dict[tuple[int, ...], list[float]]] = {}
    for study, samples in zip(page.studies, per_study, strict=True):
        for label, values in samples.items():
            found = pooled.setdefault(label, {})
            if study.dimension > 0:
                found.setdefault(place[study.dimension], []).extend(values)
    return {
        label: {group: mean_interval(found[group]) for group in sorted(found)}
        for label, found in pooled.items()
    }


class Overall(NamedTuple):
    """A search over all its studies, which are the samples of its intervals.

    Attributes:
        rank, score: means of the means of studies; too few of these have no interval.
        solved: of how many of its `problems` it reached the target.
    """

    label: str
    studies: int
    rank: Interval
    score: Interval
    solved: int
    problems: int


def overall(page: Comparison) -> list[Overall]:
    """A row a search, best mean rank first."""
    higher = page.higher_is_better
    rank = [ranks(study, higher=higher) for study in page.studies]
    score = [normalised(study, higher=higher) for study in page.studies]
    costs, labels = costs_to_target(page, "cost")
    rows = [
        Overall(
            label,
            sum(label in samples for samples in rank),
            _over_studies(rank, label),
            _over_studies(score, label),
            int(np.isfinite(costs[:, m]).sum()),
            int((~np.isnan(costs[:, m])).sum()),
        )
        for m, label in enumerate(labels)
    ]
    return sorted(rows, key=lambda row: (math.isnan(row.rank.mean), row.rank.mean))


def _over_studies(per_study: list[Samples], label: str) -> Interval:
    means = [float(np.mean(s[label])) for s in per_study if s.get(label)]
    found = mean_interval(means)
    if len(means) >= ENOUGH:
        return found
    return Interval(found.mean, math.nan, math.nan, len(means))
