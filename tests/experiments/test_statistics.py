"""Seeds as numbers: who is paired with whom, who diverged, and who is said to win."""

import math

import numpy as np
import pytest

from experiments.report.verdict import (
    number,
    signed_interval,
    verdicts,
    with_interval,
)
from experiments.results import (
    Comparison,
    Failure,
    MethodResult,
    SeedResult,
    StudyResult,
)
from experiments.statistics.methods import (
    against_all,
    best_so_far,
    complete,
    difference,
    incumbent,
    over_seeds,
    preferred,
    untuned,
)


def method(kind, tests, title=None, validation=None):
    seeds = [
        SeedResult(seed=index, validation=[validation or 0.9], test=test)
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


def test_retrainings_of_a_seed_are_one_sample():
    result = method("gradient", [[1.0, 3.0], [4.0, 4.0, 4.0]])
    interval = over_seeds(result, "test")
    assert (interval.mean, interval.n) == (3.0, 2)


def test_a_difference_is_paired_by_seed():
    a = method("gradient", [[1.0], [2.0], [3.5]])
    b = method("baseline", [[0.9], [1.9], [3.4]])
    gap = difference(a, b)
    assert gap.mean == pytest.approx(0.1)
    assert gap.half < 1e-9  # the spread over seeds is common to both


def test_seeds_that_one_method_lacks_are_left_out_of_the_pairs():
    a = method("gradient", [[1.0], [2.0], [3.0]])
    b = method("baseline", [[0.5], [0.5], [9.0]])
    b = b.model_copy(update={"seeds": [b.seeds[2], b.seeds[0]]})
    gap = difference(a, b)
    assert (gap.mean, gap.n) == (pytest.approx((0.5 - 6.0) / 2), 2)
    nothing = difference(a, b.model_copy(update={"seeds": []}))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_seed_leaves_no_mean(bad):
    a = method("gradient", [[1.0, bad], [2.0], [3.5]])
    assert math.isnan(over_seeds(a, "test").mean)
    gap = difference(a, method("baseline", [[bad], [1.0], [2.0]]))
    assert math.isnan(gap.mean)
    assert not gap.known
    (against,) = against_all(page(a, method("baseline", [[1.0]] * 3)).studies[0], a)
    assert math.isnan(against.test.p)
    assert math.isnan(against.holm)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        (("train_and_valid", "defaults"), "defaults"),
        (("augmented", "untuned"), "untuned"),
        (("augmented", "means"), "augmented"),
    ],
)
def test_the_untuned_model_is_called_so_or_is_the_first_reference(labels, chosen):
    rows = [method("reference", [[0.5]], label) for label in labels]
    study = page(method("gradient", [[0.6]]), *rows).studies[0]
    assert untuned(study).label == chosen
    assert untuned(page(method("gradient", [[0.6]])).studies[0]) is None


def test_the_tested_search_is_chosen_without_test_data():
    lucky = method("baseline", [[0.99]] * 5, "lucky", validation=0.8)
    sound = method("gradient", [[0.9]] * 5, "sound", validation=0.85)
    reference = method("reference", [[0.9]] * 5, "both", validation=0.99)
    study = page(lucky, sound, reference).studies[0]
    assert preferred(study, higher=True).label == "sound"
    assert preferred(study, higher=False).label == "lucky"
    empty = lucky.model_copy(update={"seeds": []})
    assert preferred(page(empty).studies[0], higher=True) is None


def test_several_tests_against_one_are_corrected():
    """Against both 2 / 2^6, the least; Holm doubles the first, and both are it."""
    one = method("gradient", [[1.0 + x] for x in range(6)], "one")
    others = [
        method("baseline", [[0.5 * i + 0.1 * x] for i in range(6)], f"{x}")
        for x in range(2)
    ]
    found = against_all(page(one, *others).studies[0], one)
    assert [f.test.p for f in found] == [2 / 64, 2 / 64]
    assert [f.holm for f in found] == [4 / 64, 4 / 64]


def test_best_so_far_ignores_what_diverged():
    values = [math.nan, 3.0, math.inf, 5.0, 2.0, -math.inf]
    expected = [math.nan, 3.0, 3.0, 3.0, 2.0, 2.0]
    np.testing.assert_array_equal(best_so_far(values), expected)


def test_a_training_that_stopped_early_is_no_best():
    seed = SeedResult(
        seed=0,
        values=[0.1, 3.0, 0.2, 2.0],
        steps=[10, 40, 20, 40],
        cost=[0.25, 1.0, 1.5, 2.5],
        validation=[],
        test=[],
    )
    np.testing.assert_array_equal(complete(seed), [math.nan, 3.0, math.nan, 2.0])
    np.testing.assert_array_equal(incumbent(seed), [math.nan, 3.0, 3.0, 2.0])
    diverged = seed.model_copy(update={"values": [0.1, math.nan, 0.2, -math.inf]})
    expected = [math.nan, math.inf, math.nan, math.inf]
    np.testing.assert_array_equal(complete(diverged), expected)
    assert np.isnan(incumbent(diverged)).all()


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


def test_a_method_without_seeds_is_named_and_wins_nothing():
    lost = MethodResult(
        label="g",
        title="g",
        kind="gradient",
        seeds=[],
        failures=[Failure(seed=0, message="RuntimeError: no")],
    )
    (verdict,) = verdicts(page(lost, method("baseline", [[0.2], [0.3]])))
    assert verdict.winner == "baseline"
    assert verdict.text.endswith("The best gradient search, g, finished no seed.")
    assert verdicts(page(lost))[0].text == "No seed of any method has finished."


def test_it_says_whether_the_seeds_can_tell():
    clear = method("gradient", [[0.9], [0.91], [0.92]])
    unclear = method("gradient", [[0.9], [0.60], [0.92]])
    rival = method("baseline", [[0.8], [0.81], [0.82]])
    assert "which separates them" in verdicts(page(clear, rival))[0].text
    text = verdicts(page(unclear, method("baseline", [[0.8], [0.7], [0.75]])))[0].text
    assert "too wide to separate them" in text


def test_the_paired_difference_decides_and_not_the_overlap_of_intervals():
    spread = [0.1, 0.5, 0.9, 0.3, 0.7]
    one = method("gradient", [[x + 0.02 + 0.001 * i] for i, x in enumerate(spread)])
    two = method("baseline", [[x] for x in spread])
    assert over_seeds(one, "test").low < over_seeds(two, "test").high  # they overlap
    text = verdicts(page(one, two))[0].text
    assert "which separates them" in text
    assert "p = 0.0625, the least that 5 seeds can give" in text


def test_a_narrow_bootstrap_alone_does_not_separate():
    """Gaps 0.05 ±, one of five below 0: BCa excludes 0, p = 4/32."""
    gaps = [0.05, 0.06, 0.05, 0.06, -0.01]
    one = method("gradient", [[0.5 + gap] for gap in gaps])
    two = method("baseline", [[0.5]] * 5)
    assert difference(one, two).low > 0
    text = verdicts(page(one, two))[0].text
    assert "yet exchanging the two on some seeds does as well" in text
    assert "p = 0.125)" in text


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


def test_intervals_as_a_table_shows_them():
    few = over_seeds(method("gradient", [[1.0], [2.0], [3.0]]), "test")
    assert with_interval(few) == "2.000 ± 2.484"
    one = over_seeds(method("gradient", [[0.5]]), "test")
    assert with_interval(one) == "0.500"
    many = method("gradient", [[x] for x in (150.0, 151.0, 152.0, 153.0, 163.0)])
    gap = difference(many, method("baseline", [[150.0]] * 5))
    assert signed_interval(gap) == f"+3.800 [{gap.low:.3f}, {gap.high:.3f}]"
    wide = over_seeds(many, "test")
    assert with_interval(wide) == f"153.8 [{wide.low:.1f}, {wide.high:.1f}]"
    tiny = over_seeds(method("gradient", [[1e-3], [2e-3], [3e-3]]), "test")
    assert with_interval(tiny) == "0.0020 ± 0.0025"
    assert signed_interval(difference(one_seed(), one_seed())) == "+0.000"


def one_seed():
    return method("gradient", [[0.5]])


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
