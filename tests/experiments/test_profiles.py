"""Several studies together: profiles and scores against examples worked by hand."""

import math

import numpy as np
import pytest

from experiments.results import (
    Comparison,
    Failure,
    MethodResult,
    SeedResult,
    StudyResult,
)
from experiments.statistics.profiles import (
    by_dimension,
    costs_to_target,
    normalised,
    overall,
    performance_profile,
    ranks,
)

INF, NAN = math.inf, math.nan


def search(label, tests, kind="baseline", values=()):
    seeds = [
        SeedResult(
            seed=seed,
            validation=[test],
            test=[test],
            values=list(values),
            cost=[float(i + 1) for i in range(len(values))],
            seconds=[float(i + 1) for i in range(len(values))],
        )
        for seed, test in tests.items()
    ]
    return MethodResult(label=label, title=label, kind=kind, seeds=seeds)


def study(label, *methods, dimension=3):
    return StudyResult(
        label=label, title=label, methods=list(methods), dimension=dimension
    )


def page(*studies, higher=True):
    return Comparison(
        name="p",
        title="p",
        metric="accuracy",
        higher_is_better=higher,
        studies=list(studies),
        reproduction={"command": "c"},
    )


def test_a_profile_of_two_problems_and_three_methods_by_hand():
    """Ratios (1, 2, inf) and (3, 1, 1.5): shares at 1, 1.5, 2 and 3."""
    costs = np.array([[10.0, 20.0, INF], [12.0, 4.0, 6.0]])
    found = performance_profile(costs, ["a", "b", "c"])
    np.testing.assert_array_equal(found.factors, [1.0, 1.5, 2.0, 3.0])
    np.testing.assert_array_equal(found.shares["a"], [0.5, 0.5, 0.5, 1.0])
    np.testing.assert_array_equal(found.shares["b"], [0.5, 0.5, 1.0, 1.0])
    np.testing.assert_array_equal(found.shares["c"], [0.0, 0.5, 0.5, 0.5])


def test_a_problem_that_nobody_solves_and_one_that_is_not_of_a_method():
    costs = np.array([[INF, INF], [2.0, NAN], [3.0, 3.0]])
    found = performance_profile(costs, ["a", "b"])
    np.testing.assert_array_equal(found.factors, [1.0])
    assert found.shares["a"] == pytest.approx([2 / 3])
    assert found.shares["b"] == pytest.approx([1 / 2])


def test_a_profile_of_nothing_is_zero():
    found = performance_profile(np.zeros((0, 2)), ["a", "b"])
    np.testing.assert_array_equal(found.shares["b"], [0.0])


def test_costs_to_target_know_who_took_part():
    """The target is 1 + 0.1 · 9 = 1.9 where `quick` takes part, 5.5 + ... elsewhere."""
    quick = search("quick", {0: 0.9}, values=[10.0, 1.0])
    slow = search("slow", {0: 0.8}, values=[10.0, 5.0, 1.8])
    failed = quick.model_copy(
        update={"seeds": [], "failures": [Failure(seed=0, message="no")]}
    )
    two = page(study("a", quick, slow), study("b", slow), study("c", failed, slow))
    costs, labels = costs_to_target(two, "cost")
    assert labels == ["quick", "slow"]
    np.testing.assert_array_equal(costs, [[2.0, 3.0], [NAN, 3.0], [INF, 3.0]])


def test_a_score_is_the_share_of_what_the_best_search_gains():
    """The best gains 0.2 on either seed; gains of 0.1 and 0.15 are 0.5 and 0.75."""
    found = study(
        "a",
        search("best", {0: 0.7, 1: 0.8}),
        search("other", {0: 0.6, 1: 0.75}),
        search("worse", {0: 0.4, 1: 0.6}),
        search("defaults", {0: 0.5, 1: 0.6}, "reference"),
    )
    scores = normalised(found, higher=True)
    assert scores["best"] == pytest.approx([1.0, 1.0])
    assert scores["other"] == pytest.approx([0.5, 0.75])
    assert scores["worse"] == pytest.approx([-0.5, 0.0], abs=1e-12)
    assert "defaults" not in scores


def test_lower_is_better_turns_the_score_and_the_ranks_round():
    found = study(
        "a",
        search("best", {0: 0.3, 1: 0.4}),
        search("other", {0: 0.4, 1: 0.5}),
        search("defaults", {0: 0.5, 1: 0.6}, "reference"),
    )
    assert normalised(found, higher=False)["other"] == pytest.approx([0.5, 0.5])
    assert ranks(found, higher=False) == {"best": [1.0, 1.0], "other": [2.0, 2.0]}
    assert ranks(found, higher=True)["best"] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("tuned", "reference"),
    [
        ({0: 0.5, 1: 0.4}, {0: 0.6, 1: 0.6}),  # worse than untuned
        ({0: 0.9, 1: 0.5, 2: 0.6}, {0: 0.6, 1: 0.6, 2: 0.6}),  # too uncertain
        ({0: NAN, 1: 0.9}, {0: 0.6, 1: 0.6}),
        ({0: 0.9}, {1: 0.6}),  # no shared seed
        ({}, {0: 0.6}),
    ],
)
def test_where_nothing_was_won_there_is_nothing_to_share(tuned, reference):
    found = study("a", search("s", tuned), search("defaults", reference, "reference"))
    assert normalised(found, higher=True) == {}
    assert normalised(study("a", search("s", tuned)), higher=True) == {}


def test_ranks_share_ties_and_put_what_failed_last():
    found = study(
        "a",
        search("a", {0: 0.9, 1: 0.7, 2: NAN}),
        search("b", {0: 0.9, 1: 0.8, 2: 0.1}),
        search("c", {0: 0.5, 2: 0.2}),
    )
    assert ranks(found, higher=True) == {
        "a": [1.5, 2.0, 3.0],
        "b": [1.5, 1.0, 2.0],
        "c": [3.0, 3.0, 1.0],
    }


def test_ranks_of_nothing():
    assert ranks(study("a"), higher=True) == {}
    assert ranks(study("a", search("s", {})), higher=True) == {"s": []}


def test_studies_of_about_one_dimension_are_pooled():
    dims = {"a": 100, "b": 100, "c": 109, "d": 111}
    studies = [study(label, dimension=dim) for label, dim in dims.items()]
    samples = [{"s": [1.0, 2.0]}, {"s": [3.0]}, {"s": [6.0]}, {"t": [5.0]}]
    found = by_dimension(page(*studies), samples)
    assert found["s"][100, 109][:1] == (3.0,)
    assert found["s"][100, 109].n == 4
    assert list(found["t"]) == [(111,)]
    unknown = page(study("a", dimension=0))
    assert by_dimension(unknown, [{"s": [1.0]}]) == {"s": {}}


def test_the_overall_order_is_by_mean_rank_over_studies():
    """`a` is first of two and third of three, `b` second twice; seeds weigh nothing."""
    one = study("a", search("a", {0: 0.9, 1: 0.9}), search("b", {0: 0.5, 1: 0.5}))
    two = study(
        "b", search("a", {0: 0.1}), search("b", {0: 0.2}), search("c", {0: 0.3})
    )
    found = {row.label: row for row in overall(page(one, two))}
    assert found["a"].rank.mean == 2.0
    assert found["b"].rank.mean == 2.0
    assert (found["c"].rank.mean, found["c"].studies) == (1.0, 1)
    assert next(iter(found)) == "c"
    assert found["a"].rank.n == 2
