"""Is one method better than another over the seeds that both have?

Under the null hypothesis the two labels of a seed may be exchanged: 2^n ways, of which
the data and their mirror image are the most extreme at best.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALPHA = 0.05


class PairedTest(NamedTuple):
    """A two-sided paired permutation test.

    Attributes:
        p: its p-value; NaN where a pair is not finite or there is none.
        least: 2 / 2^n, the least that n seeds can give.
        n: how many pairs.
    """

    p: float
    least: float
    n: int

    @property
    def at_least(self) -> bool:
        """Whether no result of as many seeds has a smaller one."""
        return self.p <= self.least * (1 + 1e-9)

    @property
    def rejects(self) -> bool:
        """Whether p ≤ 0.05, or as small as so few seeds allow."""
        return self.p <= ALPHA or self.at_least


def paired_permutation_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """P(|mean of ±(a_i - b_i)| ≥ |mean of a_i - b_i|) over all signs.

    Exact up to 13 seeds; beyond, 9999 random signs from a fixed key.

    >>> paired_permutation_test([3.0, 4.0, 5.0], [1.0, 3.0, 2.0])
    PairedTest(p=0.25, least=0.25, n=3)
    """
    from scipy.stats import permutation_test

    pairs = np.asarray([a, b], float)
    n = pairs.shape[1]
    least = min(1.0, 2.0 / 2**n)
    if n == 0 or not np.isfinite(pairs).all():
        return PairedTest(float("nan"), least, n)
    if n == 1:  # scipy asks for two: either sign is as extreme.
        return PairedTest(1.0, least, n)

    def mean_difference(x, y, axis):
        return np.mean(x - y, axis=axis)

    found = permutation_test(
        tuple(pairs),
        mean_difference,
        permutation_type="samples",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return PairedTest(float(found.pvalue), least, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p_(i) · (m - i), i = 0 … m - 1, made monotone and cut at 1 (Holm 1979).

    The chance that any of the m true null hypotheses is rejected at 0.05 is then at
    most 0.05. NaN is no test, and stays.

    >>> [round(p, 12) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, float)
    known = np.flatnonzero(np.isfinite(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    steps = raw[order] * np.arange(len(order), 0, -1)
    adjusted = raw.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()
