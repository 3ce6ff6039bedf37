"""Means over seeds with their intervals, and curves over seeds on a common axis."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.results import MethodResult, SeedResult, StudyResult

Floats = NDArray[np.floating]


class Interval(NamedTuple):
    """A mean over n seeds with its two-sided 95% interval; NaN bounds where n = 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2


def t_interval(samples: Sequence[float]) -> Interval:
    """Mean ± t_{n-1, 0.975} s / √n, Student's interval of the mean of n samples.

    >>> t_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484..., high=4.484..., n=3)
    """
    from scipy.stats import t

    values = np.asarray(samples, float)
    n, mean = len(values), float(values.mean()) if len(values) else float("nan")
    if n < 2 or not np.isfinite(mean):
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def over_seeds(method: MethodResult, split: str) -> Interval:
    """The metric on "test" or "validation", or F ("objective"): seeds are the samples.

    The retrainings of one seed share its data, so their mean is one sample.
    """
    return t_interval(seed_means(method, split))


def seed_means(method: MethodResult, split: str) -> list[float]:
    """The mean over the retrainings of each seed."""
    kept = [getattr(seed, split) for seed in method.seeds]
    return [float(np.mean(samples)) for samples in kept if samples]


def untuned(study: StudyResult) -> MethodResult | None:
    """What tuning has to beat: the study's first reference."""
    return next((m for m in study.methods if m.kind == "reference"), None)


def difference(a: MethodResult, b: MethodResult) -> Interval:
    """Paired difference a - b on test over the seeds that both have."""
    first, second = ({s.seed: s for s in m.seeds} for m in (a, b))
    shared = [seed for seed in first if seed in second]
    return t_interval(
        [float(np.mean(first[s].test)) - float(np.mean(second[s].test)) for s in shared]
    )


def best_so_far(values: Sequence[float]) -> Floats:
    """min_{j <= i} F_j over the trials that did not diverge; NaN before the first.

    >>> best_so_far([float("nan"), 3.0, 5.0, 2.0])
    array([nan,  3.,  3.,  2.])
    """
    losses = np.asarray(values, float)
    best = np.minimum.accumulate(np.where(np.isfinite(losses), losses, np.inf))
    return np.where(np.isfinite(best), best, np.nan)


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
        best = best_so_far(seed.values)
        seen = np.isfinite(best)
        curves.append((np.asarray(getattr(seed, axis), float)[seen], best[seen]))
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return Band(*np.empty((4, 0)))
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[points >= max(x[0] for x, _ in curves)]
    rows = np.stack([y[np.searchsorted(x, points, "right") - 1] for x, y in curves])
    return Band(points, rows.mean(0), rows.min(0), rows.max(0))
