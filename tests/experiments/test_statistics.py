"""Intervals against scipy and by hand, curves over seeds, and who is said to win."""

import math

import numpy as np
import pytest
import scipy.stats

from experiments.results import Comparison, MethodResult, SeedResult, StudyResult
from experiments.statistics import (
    band,
    best_so_far,
    difference,
    over_seeds,
    t_interval,
)
from experiments.verdict import number, verdicts, with_interval


def method(kind, tests, title=None):
    seeds = [
        SeedResult(seed=index, validation=[0.9], test=test)
        for index, test in enumerate(tests)
    ]
    title = title or kind
    return MethodResult(label=title, title=title, kind=kind, seeds=seeds)


def page(*methods, higher=True):
    return Comparison(
        name="p",
        title="p",
        metric="accuracy",
        higher_is_better=higher,
        studies=[StudyResult(label="s", title="s", methods=list(methods))],
        reproduction={"command": "c"},
    )


def test_the_interval_is_students():
    samples = np.random.default_rng(0).normal(size=7)
    error = scipy.stats.sem(samples)
    low, high = scipy.stats.t.interval(0.95, 6, loc=samples.mean(), scale=error)
    found = t_interval(samples.tolist())
    assert found == pytest.approx((samples.mean(), low, high, 7), rel=1e-12)


def test_it_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [t_interval(rng.normal(size=3)) for _ in range(2000)]
    share = np.mean([interval.low <= 0.0 <= interval.high for interval in found])
    assert share == pytest.approx(0.95, abs=0.02)


def test_retrainings_of_a_seed_are_one_sample():
    result = method("gradient", [[1.0, 3.0], [4.0, 4.0, 4.0]])
    interval = over_seeds(result, "test")
    assert (interval.mean, interval.n) == (3.0, 2)


def test_one_seed_has_no_interval():
    assert math.isnan(t_interval([0.5]).half)
    assert with_interval(t_interval([0.5])) == "0.500"


def test_a_difference_is_paired_by_seed():
    a = method("gradient", [[1.0], [2.0], [3.5]])
    b = method("baseline", [[0.9], [1.9], [3.4]])
    gap = difference(a, b)
    assert gap.mean == pytest.approx(0.1)
    assert gap.half < 1e-9  # the spread over seeds is common to both


def test_best_so_far_ignores_what_diverged():
    values = [math.nan, 3.0, math.inf, 5.0, 2.0, -math.inf]
    expected = [math.nan, 3.0, 3.0, 3.0, 2.0, 2.0]
    np.testing.assert_array_equal(best_so_far(values), expected)


def test_a_band_is_a_step_function_over_all_seeds():
    one = SeedResult(seed=0, values=[4.0, 2.0], cost=[1.0, 3.0], validation=[], test=[])
    two = SeedResult(
        seed=1, values=[math.inf, 1.0], cost=[1.0, 2.0], validation=[], test=[]
    )
    curve = band([one, two], "cost")
    np.testing.assert_array_equal(curve.x, [2.0, 3.0])
    np.testing.assert_array_equal(curve.mean, [2.5, 1.5])
    longer = two.model_copy(update={"values": [8.0, 1.0, 0.5], "cost": [1.0, 2.0, 4.0]})
    curve = band([one, longer], "cost")
    np.testing.assert_array_equal(curve.x, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(curve.low, [4.0, 1.0, 1.0, 0.5])
    np.testing.assert_array_equal(curve.high, [8.0, 4.0, 2.0, 2.0])


def test_a_band_of_nothing_is_empty():
    diverged = SeedResult(seed=0, values=[math.nan], cost=[1.0], validation=[], test=[])
    assert len(band([diverged], "cost").x) == 0


@pytest.mark.parametrize("kind", ["gradient", "baseline", "reference"])
def test_the_first_line_says_who_wins(kind):
    scores = {"gradient": 0.8, "baseline": 0.7, "reference": 0.6} | {kind: 0.95}
    rows = [method(k, [[s], [s + 0.01], [s - 0.02]]) for k, s in scores.items()]
    (verdict,) = verdicts(page(*rows))
    assert verdict.winner == kind
    if kind == "gradient":
        assert verdict.text.startswith("gradient is best on test: accuracy 0.947")
    else:
        assert verdict.text.startswith(f"The {kind} “{kind}” wins")
        assert "The best gradient search, gradient, reaches 0.797" in verdict.text


def test_lower_can_be_better():
    rows = method("gradient", [[0.3]]), method("baseline", [[0.2]])
    assert verdicts(page(*rows, higher=False))[0].winner == "baseline"


def test_a_diverged_winner_is_none():
    rows = method("gradient", [[math.nan]]), method("baseline", [[0.2]])
    assert verdicts(page(*rows))[0].winner == "baseline"


def test_it_says_whether_the_seeds_can_tell():
    clear = method("gradient", [[0.9], [0.91], [0.92]])
    unclear = method("gradient", [[0.9], [0.60], [0.92]])
    rival = method("baseline", [[0.8], [0.81], [0.82]])
    assert "which separates them" in verdicts(page(clear, rival))[0].text
    text = verdicts(page(unclear, method("baseline", [[0.8], [0.7], [0.75]])))[0].text
    assert "too wide to separate them" in text


def test_studies_that_gradients_lost_come_first():
    won = method("gradient", [[0.9]]), method("baseline", [[0.8]])
    lost = method("gradient", [[0.7]]), method("baseline", [[0.8]])
    two = page(*won).model_copy(
        update={
            "studies": [
                StudyResult(label="won", title="won", methods=list(won)),
                StudyResult(label="lost", title="lost", methods=list(lost)),
            ]
        }
    )
    assert [verdict.study for verdict in verdicts(two)] == ["lost", "won"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (0.0, "0.000"),
        (1e-5, "1e-05"),
        (math.inf, "diverged"),
        (math.nan, "diverged"),
        (12.3456, "12.346"),
        (1234.5, "1.23e+03"),
    ],
)
def test_numbers_as_a_table_shows_them(value, text):
    assert number(value) == text
