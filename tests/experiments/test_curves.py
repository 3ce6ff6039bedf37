"""Curves over seeds on a common axis, and how soon they reach a target."""

import math

import numpy as np
import pytest

from experiments.results import Failure, MethodResult, SeedResult, StudyResult
from experiments.statistics.curves import band, speed, target, time_to_target


def run(values, *, seed=0, cost=None, **more):
    cost = cost or [float(i + 1) for i in range(len(values))]
    seconds = [10.0 * c for c in cost]
    history = {"values": values, "cost": cost, "seconds": seconds}
    return SeedResult(seed=seed, validation=[], test=[], **history, **more)


def search(label, *seeds, failures=(), kind="baseline"):
    failed = [Failure(seed=seed, message="no") for seed in failures]
    return MethodResult(
        label=label, title=label, kind=kind, seeds=list(seeds), failures=failed
    )


def study(*methods):
    return StudyResult(label="s", title="s", methods=list(methods))


def test_a_band_is_a_step_function_over_all_seeds():
    one, two = run([4.0, 2.0], cost=[1.0, 3.0]), run([math.inf, 1.0])
    curve = band([one, two], "cost")
    np.testing.assert_array_equal(curve.x, [2.0, 3.0])
    np.testing.assert_array_equal(curve.mean, [2.5, 1.5])
    longer = run([8.0, 1.0, 0.5], cost=[1.0, 2.0, 4.0])
    curve = band([one, longer], "cost")
    np.testing.assert_array_equal(curve.x, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(curve.low, [4.0, 1.0, 1.0, 0.5])
    np.testing.assert_array_equal(curve.high, [8.0, 4.0, 2.0, 2.0])


def test_a_band_of_nothing_is_empty():
    assert len(band([run([math.nan])], "cost").x) == 0
    assert len(band([], "cost").x) == 0


def test_a_target_is_nine_tenths_of_the_way():
    """From 10, the default of both, to 2, the least that either found: 2.8."""
    found = study(search("a", run([10.0, 5.0])), search("b", run([10.0, 2.0, 7.0])))
    assert target(found, 0) == pytest.approx(2.8)


def test_a_reference_sets_no_target():
    reference = search("r", run([99.0, 0.0]), kind="reference")
    found = study(search("a", run([10.0, 5.0])), reference)
    assert target(found, 0) == pytest.approx(5.5)


@pytest.mark.parametrize(
    "values", [[3.0, 4.0], [math.nan, math.inf], [math.nan, 2.0], []]
)
def test_where_nothing_gets_below_the_default_there_is_no_target(values):
    assert math.isnan(target(study(search("a", run(values))), 0))
    assert math.isnan(target(study(search("a")), 0))


def test_a_diverged_default_of_one_search_leaves_that_of_the_others():
    found = study(search("a", run([math.inf, 5.0])), search("b", run([10.0, 6.0])))
    assert target(found, 0) == pytest.approx(5.5)


def test_time_to_target_is_that_of_the_first_trial_there():
    seed = run([9.0, math.nan, 4.0, 1.0, 0.5], cost=[2.0, 4.0, 6.0, 8.0, 10.0])
    times = [time_to_target(seed, goal, "cost") for goal in (9.0, 4.0, 1.5, 0.1)]
    assert times == [2.0, 6.0, 8.0, math.inf]
    assert time_to_target(seed, 4.0, "seconds") == 60.0
    assert time_to_target(run([]), 4.0, "cost") == math.inf


def test_a_training_that_stopped_early_reaches_no_target():
    seed = run([1.0, 9.0, 2.0], steps=[5, 20, 20])
    assert time_to_target(seed, 2.0, "cost") == 3.0


def test_what_never_reaches_it_is_infinite_and_not_left_out():
    """Target 1.9 on each seed; `slow` reaches it on one of three: the median is inf."""
    quick = [run([10.0, 1.0], seed=s) for s in range(3)]
    slow = [
        run([10.0, 9.0, 1.5], seed=0),
        run([10.0, 9.0, 8.0], seed=1),
        run([10.0, 9.0, 8.0], seed=2),
    ]
    found = study(search("quick", *quick), search("slow", *slow))
    assert speed(found, found.methods[0]) == (3, 3, 2.0, 20.0)
    assert speed(found, found.methods[1]) == (1, 3, math.inf, math.inf)


def test_a_seed_that_failed_never_reaches_it():
    quick = [run([10.0, 1.0], seed=s) for s in range(3)]
    half = search("half", quick[0], failures=[1, 2])
    found = study(search("quick", *quick), half)
    assert speed(found, half) == (1, 3, math.inf, math.inf)
    lost = search("lost", failures=[0, 1, 2])
    assert speed(study(search("quick", *quick), lost), lost).reached == 0


def test_without_targets_there_is_no_time():
    only = search("a", run([1.0, 2.0]))
    assert speed(study(only), only)[:2] == (0, 0)
    assert math.isnan(speed(study(only), only).cost)
