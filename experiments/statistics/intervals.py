"""Samples, one a seed, as a mean with its two-sided 95% interval.

BCa bootstrap (Efron 1987)   from 5 samples on that are not all equal
Student's t                  of 2 to 4, and where all are equal: resampling three
                             points tells nothing that they do not
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
ENOUGH = 5  # samples for a bootstrap
COVERAGE = {5: 0.82, 10: 0.90, 20: 0.92}
"""{n: how often the BCa interval of n normal samples covers their mean}, simulated."""


class Interval(NamedTuple):
    """A mean over n seeds with its 95% interval; NaN bounds where there is none."""

    mean: float
    low: float
    high: float
    n: int
    how: Literal["Student", "BCa", ""] = ""

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2

    @property
    def known(self) -> bool:
        """Whether it has bounds."""
        return bool(np.isfinite(self.half))


def mean_interval(samples: Sequence[float]) -> Interval:
    """The mean with its BCa interval, or Student's where samples are few or all equal.

    A sample that is not finite leaves neither: it has diverged, and no mean says so.

    >>> mean_interval([1.0, 2.0, 3.0]).how
    'Student'
    >>> mean_interval([1.0, 2.0, 3.0, 4.0, 10.0])
    Interval(mean=4.0, low=2.0, high=7.6, n=5, how='BCa')
    """
    values = np.asarray(samples, float)
    if len(values) < ENOUGH or not np.isfinite(values).all() or _equal(values):
        return t_interval(samples)
    return Interval(float(values.mean()), *_bca(values, np.mean), len(values), "BCa")


def t_interval(samples: Sequence[float]) -> Interval:
    """Mean ± t_{n-1, 0.975} s / √n, Student's interval of the mean of n samples.

    >>> t_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484..., high=4.484..., n=3, how='Student')
    """
    from scipy.stats import t

    values, nan = np.asarray(samples, float), float("nan")
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        return Interval(nan, nan, nan, n)
    mean = float(values.mean())
    if n == 1:
        return Interval(mean, nan, nan, n)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n, "Student")


def interquartile_mean(samples: Sequence[float], *, higher: bool) -> Interval:
    """The mean of the middle half (Agarwal et al. 2021), with its BCa interval.

    ⌊n/4⌋ samples are cut at either end; one that is not finite counts as the worst.

    Args:
        samples: a number a seed.
        higher: whether more is better, and thus -inf the worst.

    >>> interquartile_mean([1.0, 2.0, 3.0, 4.0, 99.0], higher=True).mean
    3.0
    >>> interquartile_mean([1.0, 2.0, 3.0, 4.0, float("nan")], higher=False).mean
    3.0
    """
    values, nan = np.asarray(samples, float), float("nan")
    values = np.where(np.isfinite(values), values, -np.inf if higher else np.inf)
    n, centre = len(values), float(_trimmed(values)) if len(values) else nan
    if not np.isfinite(centre):
        return Interval(nan, nan, nan, n)
    low, high = (nan, nan) if n < ENOUGH else _bca(values, _trimmed)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Interval(centre, nan, nan, n)
    return Interval(centre, low, high, n, "BCa")


def _trimmed(values: Floats, axis: int = -1) -> Floats:
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def _bca(values: Floats, statistic: Callable) -> tuple[float, float]:
    """The same bounds for the same samples; NaN where resamples hardly differ."""
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # degenerate resamples: NaN says so
        found = bootstrap((values,), statistic, vectorized=True, method="BCa", rng=rng)
    low, high = found.confidence_interval
    return float(low), float(high)


def _equal(values: Floats) -> bool:
    """Equal but for round-off."""
    return bool(np.ptp(values) <= 1e-12 * np.max(np.abs(values)))
