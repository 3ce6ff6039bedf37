"""The first lines of a report: who won, by how much, and whether the seeds can tell."""

import math
from typing import NamedTuple

from experiments.results import Comparison, Kind, MethodResult, StudyResult
from experiments.statistics.intervals import ENOUGH, Interval
from experiments.statistics.methods import difference, over_seeds, paired_test
from experiments.statistics.paired import PairedTest


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
    return format(value, _digits(value))


def signed(value: float) -> str:
    """A difference, as a table shows it."""
    return format(value, f"+{_digits(value)}") if math.isfinite(value) else "–"


def with_interval(interval: Interval) -> str:
    """`0.934 ± 0.012` (Student), `0.934 [0.921, 0.941]` (BCa), or the mean alone."""
    if not interval.known:
        return number(interval.mean)
    return format(interval.mean, _precision(interval)) + _bounds(interval)


def signed_interval(interval: Interval) -> str:
    """A difference with its interval."""
    if not interval.known:
        return signed(interval.mean)
    return format(interval.mean, f"+{_precision(interval)}") + _bounds(interval)


def _digits(value: float) -> str:
    return ".3f" if 0.01 <= abs(value) < 100 or value == 0 else ".3g"


def _precision(interval: Interval) -> str:
    """As many decimals for a mean as for its bounds: two digits of a narrow one."""
    scale = max(abs(interval.mean), interval.half)
    if 0.01 <= scale < 100 or interval.half == 0:
        return _digits(scale)
    decimals = 1 - math.floor(math.log10(interval.half))
    return f".{max(decimals, 0)}f" if decimals < 7 else ".2e"


def _bounds(interval: Interval) -> str:
    digits = _precision(interval)
    if interval.how == "BCa":
        return f" [{interval.low:{digits}}, {interval.high:{digits}}]"
    return f" ± {interval.half:{digits}}"


def _verdict(study: StudyResult, page: Comparison) -> Verdict:
    ranked = _ranked(study.methods, page.higher_is_better)
    winner = ranked[0]
    if not winner.seeds:
        text = "No seed of any method has finished."
        return Verdict(study.title, winner.kind, text)
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
    if not other.seeds:
        return f"{who}, {other.title}, finished no seed."
    score = with_interval(over_seeds(other, "test"))
    start = f"{who}, {other.title}, reaches {score}"
    gap = difference(winner, other)
    if not gap.known:
        return f"{start}."
    sign = 1 if page.higher_is_better else -1
    low, high = sorted((sign * gap.low, sign * gap.high))
    test = paired_test(winner, other)
    digits = _precision(gap)
    mean, low_text, high_text = (f"{x:{digits}}" for x in (sign * gap.mean, low, high))
    return (
        f"{start}; the paired difference over {gap.n} seeds is {mean} (95% interval "
        f"{low_text} to {high_text}, {_told(low, test)}{_p(test)})."
    )


def _told(low: float, test: PairedTest) -> str:
    """Separated: the interval excludes 0, and the signs of the seeds say no less."""
    if low <= 0:
        return "too wide to separate them"
    if not test.rejects:
        return "yet exchanging the two on some seeds does as well"
    return "which separates them"


def _p(test: PairedTest) -> str:
    """Of too few seeds a p-value says nothing."""
    if test.n < ENOUGH or not math.isfinite(test.p):
        return ""
    least = f", the least that {test.n} seeds can give" if test.at_least else ""
    return f"; p = {test.p:.3g}{least}"


def _ranked(methods: list[MethodResult], higher: bool) -> list[MethodResult]:
    """Best test mean first; what diverged is last but for what never finished."""

    def worth(method: MethodResult) -> tuple[bool, float]:
        mean = over_seeds(method, "test").mean
        if not math.isfinite(mean):
            return bool(method.seeds), -math.inf
        return True, mean if higher else -mean

    return sorted(methods, key=worth, reverse=True)
