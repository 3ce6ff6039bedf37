"""What a method's seeds say: means with intervals, differences, paired tests."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.results import MethodResult, SeedResult, StudyResult
from experiments.statistics.intervals import (
    Floats,
    Interval,
    interquartile_mean,
    mean_interval,
)
from experiments.statistics.paired import PairedTest, holm, paired_permutation_test

UNTUNED = ("defaults", "untuned")


def searches(study: StudyResult) -> list[MethodResult]:
    """The methods that search, in the order of the config."""
    return [method for method in study.methods if method.kind != "reference"]


def seeds_of(study: StudyResult) -> list[int]:
    """Every seed on which a method of the study was run, or was to be run."""
    run = {seed.seed for method in study.methods for seed in method.seeds}
    return sorted(run | {f.seed for method in study.methods for f in method.failures})


def by_seed(method: MethodResult, split: str) -> dict[int, float]:
    """{seed: the mean over its retrainings}, for "test", "validation", "objective".

    The retrainings of one seed share its data, so their mean is one sample.
    """
    kept = {seed.seed: getattr(seed, split) for seed in method.seeds}
    return {seed: _mean(samples) for seed, samples in kept.items() if samples}


def seed_means(method: MethodResult, split: str) -> list[float]:
    """The mean over the retrainings of each seed."""
    return list(by_seed(method, split).values())


def over_seeds(method: MethodResult, split: str) -> Interval:
    """The mean over seeds of the metric on a split, or of F ("objective")."""
    return mean_interval(seed_means(method, split))


def iqm_over_seeds(method: MethodResult, *, higher: bool) -> Interval:
    """The interquartile mean over seeds of the metric on test."""
    return interquartile_mean(seed_means(method, "test"), higher=higher)


def untuned(study: StudyResult) -> MethodResult | None:
    """What tuning has to beat.

    The reference that a config calls `defaults` or `untuned`; else its first one.
    """
    references = [method for method in study.methods if method.kind == "reference"]
    named = [method for method in references if method.label in UNTUNED]
    return next(iter(named or references), None)


def paired(a: MethodResult, b: MethodResult) -> tuple[list[float], list[float]]:
    """Both methods' means on test over the seeds that both have."""
    first, second = by_seed(a, "test"), by_seed(b, "test")
    shared = [seed for seed in first if seed in second]
    return [first[seed] for seed in shared], [second[seed] for seed in shared]


def difference(a: MethodResult, b: MethodResult) -> Interval:
    """Paired difference a - b on test over the seeds that both have."""
    pairs = zip(*paired(a, b), strict=True)
    return mean_interval([first - second for first, second in pairs])


def paired_test(a: MethodResult, b: MethodResult) -> PairedTest:
    """Whether the labels a and b on test could as well be exchanged."""
    return paired_permutation_test(*paired(a, b))


class Against(NamedTuple):
    """One method beside another: what that is better by, and how surely."""

    method: MethodResult
    difference: Interval
    test: PairedTest
    holm: float


def finishers(study: StudyResult, methods: list[MethodResult]) -> list[MethodResult]:
    """Those of the methods that have a result on every seed; else those with any.

    Means over different seeds do not compare: a method that fails where the seed is
    hard would gain by it.
    """
    all_seeds = len(seeds_of(study))
    return [m for m in methods if len(m.seeds) == all_seeds] or [
        m for m in methods if m.seeds
    ]


def preferred(study: StudyResult, *, higher: bool) -> MethodResult | None:
    """The search best on validation: test data have no say in what they test."""
    sign, able = 1.0 if higher else -1.0, finishers(study, searches(study))
    scores = [(sign * over_seeds(m, "validation").mean, m) for m in able]
    scores = [(score, method) for score, method in scores if math.isfinite(score)]
    return max(scores, key=lambda pair: pair[0])[1] if scores else None


def against_all(study: StudyResult, one: MethodResult) -> list[Against]:
    """Every other method with seeds against one, corrected for being several."""
    others = [m for m in study.methods if m is not one and m.seeds]
    tests = [paired_test(one, other) for other in others]
    corrected = holm([test.p for test in tests])
    return [
        Against(other, difference(one, other), test, p)
        for other, test, p in zip(others, tests, corrected, strict=True)
    ]


def best_so_far(values: Sequence[float] | Floats) -> Floats:
    """min_{j <= i} F_j over the trials that did not diverge; NaN before the first.

    >>> best_so_far([float("nan"), 3.0, 5.0, 2.0])
    array([nan,  3.,  3.,  2.])
    """
    losses = np.asarray(values, float)
    best = np.minimum.accumulate(np.where(np.isfinite(losses), losses, np.inf))
    return np.where(np.isfinite(best), best, np.nan)


def complete(seed: SeedResult) -> Floats:
    """F of each trial that trained to the end; NaN for those stopped on the way.

    F of a training that stopped early is no value of the same function. One that
    diverged is infinite.
    """
    values = np.asarray(seed.values, float)
    values = np.where(np.isfinite(values), values, np.inf)
    if not seed.steps:
        return values
    steps = np.asarray(seed.steps)
    return np.where(steps == (seed.num_steps or steps.max()), values, np.nan)


def incumbent(seed: SeedResult) -> Floats:
    """The least F of complete trainings so far."""
    return best_so_far(complete(seed))


def _mean(samples: list[float]) -> float:
    """NaN where one of them is not finite."""
    return float(np.mean(samples)) if np.isfinite(samples).all() else math.nan
