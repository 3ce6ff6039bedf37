"""The permutation test by enumeration, Holm's correction by hand."""

import itertools
import math

import numpy as np
import pytest

from experiments.statistics.paired import holm, paired_permutation_test


@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_it_is_all_exchanges_of_labels(n, shift):
    rng = np.random.default_rng([n, int(10 * shift)])
    a, b = rng.normal(size=n) + shift, rng.normal(size=n)
    gaps = a - b
    signs = np.array(list(itertools.product([1, -1], repeat=n)))
    means = np.abs((signs * gaps).mean(1))
    expected = np.mean(means >= abs(gaps.mean()) * (1 - 1e-12))
    found = paired_permutation_test(a.tolist(), b.tolist())
    assert found.p == pytest.approx(expected)
    assert found.least == 2 / 2**n <= found.p
    assert found.at_least == (len(set(np.sign(gaps))) == 1)


def test_no_difference_is_no_evidence():
    assert paired_permutation_test([1.0] * 6, [1.0] * 6).p == 1.0


def test_five_seeds_cannot_say_more_than_a_sixteenth():
    found = paired_permutation_test([9.0] * 5, [1.0] * 5)
    assert (found.p, found.least, found.rejects) == (0.0625, 0.0625, True)
    mixed = paired_permutation_test([9.0] * 5, [1.0] * 4 + [9.5])
    assert (mixed.p, mixed.rejects) == (0.125, False)


def test_more_seeds_than_can_be_enumerated():
    """20 gaps of one sign: none of 9999 random exchanges is as extreme."""
    a, b = np.arange(20.0) + 1, np.zeros(20)
    found = paired_permutation_test(a.tolist(), b.tolist())
    assert found.p == pytest.approx(2 / 10_000)
    assert found.rejects


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_pair_is_no_test(bad):
    found = paired_permutation_test([1.0, bad, 2.0], [0.0, 0.0, 0.0])
    assert math.isnan(found.p)
    assert not found.rejects


def test_one_seed_and_none_tell_nothing():
    assert paired_permutation_test([2.0], [1.0]).p == 1.0
    assert math.isnan(paired_permutation_test([], []).p)


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_is_no_test():
    found = holm([0.4, math.nan, 0.7])
    assert (found[0], found[2]) == (0.8, 0.8)
    assert math.isnan(found[1])
    assert holm([]) == []


@pytest.mark.slow
def test_it_rejects_no_more_often_than_it_says():
    rng = np.random.default_rng(3)
    p = [
        paired_permutation_test(rng.normal(size=8), rng.normal(size=8)).p
        for _ in range(2000)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.047, abs=0.015)
