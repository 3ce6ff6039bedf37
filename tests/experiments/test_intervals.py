"""Intervals against scipy, numpy and simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from experiments.statistics.intervals import (
    COVERAGE,
    interquartile_mean,
    mean_interval,
    t_interval,
)

SKEWED = np.random.default_rng(0).lognormal(size=12)


def test_the_interval_of_few_is_students():
    samples = np.random.default_rng(0).normal(size=4)
    error = scipy.stats.sem(samples)
    low, high = scipy.stats.t.interval(0.95, 3, loc=samples.mean(), scale=error)
    found = mean_interval(samples.tolist())
    assert found[:4] == pytest.approx((samples.mean(), low, high, 4), rel=1e-12)
    assert found.how == "Student"


def test_the_interval_of_many_is_bca():
    """The bounds by the equations of Efron 1987 on resamples of our own."""
    found = mean_interval(SKEWED.tolist())
    assert found.how == "BCa"
    n, mean = len(SKEWED), SKEWED.mean()
    draws = np.random.default_rng(5).choice(SKEWED, size=(200_000, n)).mean(1)
    bias = scipy.stats.norm.ppf(np.mean(draws < mean))
    jackknife = np.array([np.delete(SKEWED, i).mean() for i in range(n)])
    u = jackknife.mean() - jackknife
    skew = np.sum(u**3) / (6 * np.sum(u**2) ** 1.5)
    z = bias + scipy.stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(draws, scipy.stats.norm.cdf(bias + z / (1 - skew * z)))
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.02)
    assert found.high - mean > 1.3 * (mean - found.low)  # skewed, as the samples are


def test_the_same_samples_have_the_same_bounds_as_scipys_every_time():
    rng = np.random.default_rng(0)
    theirs = scipy.stats.bootstrap((SKEWED,), np.mean, method="BCa", rng=rng)
    bounds = tuple(theirs.confidence_interval)
    assert mean_interval(SKEWED)[1:3] == bounds == mean_interval(SKEWED)[1:3]


@pytest.mark.parametrize("value", [0.0, 0.1, -3e8])
def test_equal_samples_have_an_interval_of_no_width(value):
    found = mean_interval([value] * 7)
    assert (found.low, found.high) == pytest.approx((value, value))
    assert found.how == "Student"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [0, 2, 8])
def test_what_diverged_has_no_mean(n, bad):
    found = mean_interval([1.0] * n + [bad])
    assert math.isnan(found.mean)
    assert (found.known, found.n, found.how) == (False, n + 1, "")


def test_one_sample_has_no_interval_and_none_no_mean():
    assert t_interval([0.5])[0] == 0.5
    assert not t_interval([0.5]).known
    assert math.isnan(mean_interval([]).mean)
    assert interquartile_mean([], higher=True).n == 0


@pytest.mark.parametrize("n", [3, 5, 8, 11])
def test_the_interquartile_mean_is_that_of_the_middle(n):
    samples = np.random.default_rng(n).normal(size=n)
    cut = n // 4
    expected = np.sort(samples)[cut : n - cut].mean()
    found = interquartile_mean(samples.tolist(), higher=True)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    assert found.known == (n >= 5)
    assert n < 5 or found.low < expected < found.high


@pytest.mark.parametrize("higher", [True, False])
def test_a_diverged_sample_is_the_worst_of_the_interquartile_mean(higher):
    samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.nan]
    kept = [2.0, 3.0, 4.0, 5.0] if higher else [3.0, 4.0, 5.0, 6.0]
    assert interquartile_mean(samples, higher=higher).mean == np.mean(kept)
    lost = interquartile_mean([math.nan] * 4 + [1.0] * 4, higher=higher)
    assert math.isnan(lost.mean)


def test_a_degenerate_bootstrap_has_a_mean_without_bounds():
    """The middle of every resample but few is the same."""
    found = interquartile_mean([1.0] * 9 + [2.0], higher=True)
    assert found.mean == 1.0


def test_students_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [t_interval(rng.normal(size=3)) for _ in range(2000)]
    share = np.mean([interval.low <= 0.0 <= interval.high for interval in found])
    assert share == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_bca_covers_the_mean_as_often_as_the_page_says():
    """The shares that `COVERAGE` prints, to 0.02, of samples that are normal."""
    rng = np.random.default_rng(2)
    for n, share in COVERAGE.items():
        found = [mean_interval(rng.normal(size=n)) for _ in range(2000)]
        covered = np.mean([interval.low <= 0.0 <= interval.high for interval in found])
        assert covered == pytest.approx(share, abs=0.02)
