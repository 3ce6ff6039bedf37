"""The first line of a page claims no more than the seeds show."""

import math

from experiments.report.verdict import verdicts
from experiments.results import (
    Comparison,
    Failure,
    MethodResult,
    SeedResult,
    StudyResult,
)
from experiments.statistics.methods import complete, preferred
from experiments.statistics.profiles import normalised


def method(label, tests, kind="baseline"):
    """A result for each number, a failure for each None."""
    seeds = [
        SeedResult(seed=seed, validation=[test], test=[test])
        for seed, test in enumerate(tests)
        if test is not None
    ]
    lost = [s for s, test in enumerate(tests) if test is None]
    failures = [Failure(seed=seed, message="Boom") for seed in lost]
    return MethodResult(
        label=label, title=label, kind=kind, seeds=seeds, failures=failures
    )


def told(*methods, higher=True):
    study = StudyResult(label="s", title="s", methods=list(methods))
    page = Comparison(
        name="p",
        title="p",
        metric="accuracy",
        higher_is_better=higher,
        studies=[study],
        reproduction={"command": "c"},
    )
    return verdicts(page)[0]


def test_what_failed_on_some_seeds_does_not_win_by_it():
    """`grad` failed where seeds are hard, and is worse on all that both have."""
    grad = method("grad", [0.9, 0.91, 0.9, None, None], "gradient")
    bayes = method("bayes", [0.95, 0.961, 0.952, 0.6, 0.61])
    found = told(grad, bayes)
    assert found.winner == "baseline"
    assert "“bayes”" in found.text.split(".")[0]
    assert "grad, reaches 0.903 ± 0.014 on the 3 of 5 seeds it finished" in found.text
    assert "is best" not in told(method("grad", [0.99, None], "gradient"), bayes).text


def test_where_nothing_finished_whole_the_paired_seeds_may_say_the_contrary():
    grad = method("grad", [0.9, 0.91, 0.9, None, None], "gradient")
    bayes = method("bayes", [0.95, 0.961, 0.952, None, 0.1])
    found = told(grad, bayes)
    assert "on the 3 of 5 seeds" in found.text
    assert "on these seeds the other is better" in found.text
    assert "grad is best" not in found.text


def test_equal_means_are_level_whoever_comes_first():
    same = [0.9, 0.8, 0.7]
    found = told(method("grad", same, "gradient"), method("grid", same))
    assert found.text.startswith("grad and grid are level on test: accuracy 0.800")
    assert found.winner == "baseline"


def test_a_loss_that_diverged_wins_nothing():
    nan = [math.nan] * 3
    found = told(method("grad", nan, "gradient"), method("grid", nan))
    assert found.text == "No method has a finite accuracy on test over its seeds."
    assert found.winner != "gradient"


def test_two_equal_differences_separate_nothing():
    ours, theirs = method("grad", [0.9, 0.91], "gradient"), method("b", [0.899, 0.909])
    text = told(ours, theirs).text
    assert "too few to separate" in text
    assert "grad has the best mean on test" in text


def test_a_clear_lead_is_said_plainly():
    ours = method("grad", [0.9, 0.91, 0.92, 0.93, 0.94, 0.95], "gradient")
    theirs = method("b", [0.8, 0.815, 0.81, 0.83, 0.84, 0.855])
    text = told(ours, theirs).text
    assert text.startswith("grad is best on test")
    assert "which separates them" in text
    lower = told(method("grad", [-x for x in (0.9, 0.91, 0.92)], "gradient"), theirs)
    assert lower.winner == "baseline"
    assert told(theirs, ours, higher=False).text.startswith("The baseline “b” wins")


def test_a_search_that_failed_sets_no_measure_for_the_others():
    lucky = method("lucky", [0.99, 0.99, None, None, None])
    steady = method("steady", [0.93, 0.94, 0.93, 0.92, 0.93])
    untuned = method("untuned", [0.83, 0.85, 0.83, 0.82, 0.83], "reference")
    study = StudyResult(label="s", title="s", methods=[lucky, steady, untuned])
    assert preferred(study, higher=True) is steady
    scores = normalised(study, higher=True)
    assert abs(sum(scores["steady"]) / 5 - 1.0) < 1e-9


def test_a_training_is_complete_at_step_t_and_not_before():
    """The longest of a search that never afforded a whole one is none."""
    seed = SeedResult(
        seed=0, values=[5.0, 0.1], steps=[1, 3], num_steps=9, validation=[0], test=[0]
    )
    assert all(math.isnan(value) for value in complete(seed))
