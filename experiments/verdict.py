"""The first lines of a report: who won, by how much, and whether the seeds can tell."""

import math
from typing import NamedTuple

from experiments.results import Comparison, Kind, MethodResult, StudyResult
from experiments.statistics import Interval, difference, over_seeds


class Verdict(NamedTuple):
    """Who won a study, in a sentence or two."""

    study: str
    winner: Kind
    text: str


def verdicts(comparison: Comparison) -> list[Verdict]:
    """One a study; those that no gradient search has won come first."""
    found = [_verdict(study, comparison) for study in comparison.studies]
    return sorted(found, key=lambda verdict: verdict.winner == "gradient")


def number(value: float) -> str:
    """Four significant digits at most, as a table shows them."""
    if not math.isfinite(value):
        return "diverged" if value > 0 or math.isnan(value) else "-inf"
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 or value == 0 else f"{value:.3g}"


def with_interval(interval: Interval) -> str:
    """`0.934 ± 0.012`, or the mean alone where there is one seed."""
    if math.isnan(interval.half):
        return number(interval.mean)
    return f"{number(interval.mean)} ± {interval.half:.3f}"


def _verdict(study: StudyResult, page: Comparison) -> Verdict:
    ranked = _ranked(study.methods, page.higher_is_better)
    winner = ranked[0]
    name, score = winner.title, with_interval(over_seeds(winner, "test"))
    if winner.kind == "gradient" or len({m.kind for m in ranked}) == 1:
        head = f"{name} is best on test: {page.metric} {score}."
    else:
        head = f"The {winner.kind} “{name}” wins: test {page.metric} {score}."
    tails = [_against(winner, *other, page) for other in _others(ranked)]
    return Verdict(study.title, winner.kind, " ".join([head, *tails]))


def _others(ranked: list[MethodResult]) -> list[tuple[str, MethodResult]]:
    """Whom to name beside the winner: the best of each other kind."""
    winner, *rest = ranked
    named = [
        (f"The best {noun}", next((m for m in rest if m.kind == kind), None))
        for kind, noun in (
            ("gradient", "gradient search"),
            ("baseline", "baseline"),
            ("reference", "reference"),
        )
        if kind != winner.kind
    ]
    named = [(who, method) for who, method in named if method is not None]
    return named or [("The next", method) for method in rest[:1]]


def _against(
    winner: MethodResult, who: str, other: MethodResult, page: Comparison
) -> str:
    score = with_interval(over_seeds(other, "test"))
    start = f"{who}, {other.title}, reaches {score}"
    gap = difference(winner, other)
    if math.isnan(gap.half):
        return f"{start}."
    sign = 1 if page.higher_is_better else -1
    low, high = sorted((sign * gap.low, sign * gap.high))
    told = "which separates them" if low > 0 else "too wide to separate them"
    return (
        f"{start}; the paired difference over {gap.n} seeds is {sign * gap.mean:.3f} "
        f"(95% interval {low:.3f} to {high:.3f}, {told})."
    )


def _ranked(methods: list[MethodResult], higher: bool) -> list[MethodResult]:
    """Best test mean first; what diverged is last."""

    def worth(method: MethodResult) -> float:
        mean = over_seeds(method, "test").mean
        if not math.isfinite(mean):
            return -math.inf
        return mean if higher else -mean

    return sorted(methods, key=worth, reverse=True)
