"""Curves of F over seeds on a common axis, and how soon they reach a target."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.results import MethodResult, SeedResult, StudyResult
from experiments.statistics.intervals import Floats
from experiments.statistics.methods import complete, incumbent, searches, seeds_of

SHARE = 0.1  # of the way from untuned to best that may be left


class Band(NamedTuple):
    """Curves of several seeds on one axis: their mean and their range, [points]."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def band(seeds: Sequence[SeedResult], axis: str) -> Band:
    """Best-so-far F against "cost" or "seconds", a step function per seed.

    The axis begins where every seed has a value; one that has ended keeps its best, so
    that nowhere is the mean one of fewer seeds.
    """
    curves = []
    for seed in seeds:
        best = incumbent(seed)
        seen = np.isfinite(best)
        curves.append((np.asarray(getattr(seed, axis), float)[seen], best[seen]))
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return Band(*np.empty((4, 0)))
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[points >= max(x[0] for x, _ in curves)]
    rows = np.stack([y[np.searchsorted(x, points, "right") - 1] for x, y in curves])
    return Band(points, rows.mean(0), rows.min(0), rows.max(0))


def target(study: StudyResult, seed: int) -> float:
    """F_best + 0.1 (F_untuned - F_best), of one seed (Moré and Wild 2009).

    F_best is the least that any search of the study found on this seed; F_untuned, that
    of the first trial, which is the default for every searcher, or where that diverged
    of the first trials that did not. NaN where no search got below it.
    """
    runs = [s for method in searches(study) for s in method.seeds if s.seed == seed]
    curves = [complete(run) for run in runs if run.values]
    finite = [c[np.isfinite(c)] for c in curves if np.isfinite(c).any()]
    if not finite:
        return float("nan")
    starts = [c[0] for c in curves if np.isfinite(c[0])] or [c[0] for c in finite]
    start, end = float(np.median(starts)), float(min(map(np.min, finite)))
    return end + SHARE * (start - end) if end < start else float("nan")


def time_to_target(seed: SeedResult, goal: float, axis: str) -> float:
    """Cost or seconds at which best-so-far F first is ≤ the goal; inf if never.

    >>> run = {"values": [9, 4, 2], "cost": [1, 2, 3], "validation": [], "test": []}
    >>> run = SeedResult(seed=0, **run)
    >>> [time_to_target(run, goal, "cost") for goal in (4.0, 1.0)]
    [2.0, inf]
    """
    reached = np.flatnonzero(incumbent(seed) <= goal)
    return float(getattr(seed, axis)[reached[0]]) if len(reached) else float("inf")


class Speed(NamedTuple):
    """How soon a method reaches the target of each seed.

    Attributes:
        reached: on how many seeds.
        problems: of how many that have a target; a seed that failed never reaches it.
        cost, seconds: medians in which never is infinite, not left out.
    """

    reached: int
    problems: int
    cost: float
    seconds: float


def speed(study: StudyResult, method: MethodResult) -> Speed:
    """Median time to target over the seeds of a study."""
    goals = {seed: target(study, seed) for seed in seeds_of(study)}
    goals = {seed: goal for seed, goal in goals.items() if np.isfinite(goal)}
    runs = {run.seed: run for run in method.seeds}

    def times(axis: str) -> Floats:
        return np.array(
            [
                time_to_target(runs[seed], goal, axis) if seed in runs else np.inf
                for seed, goal in goals.items()
            ]
        )

    cost, seconds = times("cost"), times("seconds")
    reached = int(np.isfinite(cost).sum())
    return Speed(reached, len(goals), _median(cost), _median(seconds))


def _median(times: Floats) -> float:
    return float(np.median(times)) if len(times) else float("nan")
