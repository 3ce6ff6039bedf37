"""The first lines of a report: who won, by how much, and whether the seeds can tell."""

import math
from typing import NamedTuple

from experiments.results import Comparison, Kind, MethodResult, StudyResult
from experiments.statistics.intervals import ENOUGH, Interval
from experiments.statistics.methods import (
    difference,
    over_seeds,
    paired_test,
    seeds_of,
)
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
    ranked = _ranked(study, page.higher_is_better)
    winner, all_seeds = ranked[0], len(seeds_of(study))
    if not winner.seeds:
        text = "No seed of any method has finished."
        return Verdict(study.title, winner.kind, text)
    best = over_seeds(winner, "test")
    if not math.isfinite(best.mean):
        text = f"No method has a finite {page.metric} on test over its seeds."
        return Verdict(study.title, "reference", text)
    score = f"{page.metric} {with_interval(best)}{_share(winner, all_seeds)}"
    level = [m for m in ranked if over_seeds(m, "test").mean == best.mean]
    level = [m for m in level if len(m.seeds) == len(winner.seeds)]
    others = _others(winner, [m for m in ranked if m not in level])
    tails = " ".join(_against(winner, *other, page, all_seeds) for other in others)
    if len(level) > 1:
        # Not a gradient search's victory if another method has the same.
        first = next((m for m in level if m.kind != "gradient"), winner)
        names = " and ".join(m.title for m in level)
        text = f"{names} are level on test: {score}. {tails}"
        return Verdict(study.title, first.kind, text.strip())
    clear = all(_separates(winner, other, page) for _, other in others)
    if winner.kind == "gradient" or len({m.kind for m in ranked}) == 1:
        says = "is best on test:" if clear else "has the best mean on test:"
        head = f"{winner.title} {says} {score}."
    else:
        says = "wins: test" if clear else "has the best mean on test:"
        head = f"The {winner.kind} “{winner.title}” {says} {score}."
    return Verdict(study.title, winner.kind, f"{head} {tails}".strip())


def _share(method: MethodResult, all_seeds: int) -> str:
    """What must be said beside a mean over fewer seeds than there are."""
    count = len(method.seeds)
    return f" on the {count} of {all_seeds} seeds it finished" * (count < all_seeds)


def _others(
    winner: MethodResult, rest: list[MethodResult]
) -> list[tuple[str, MethodResult]]:
    """Whom to name beside the winner: the best of each other kind."""
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
    winner: MethodResult, who: str, other: MethodResult, page: Comparison, seeds: int
) -> str:
    if not other.seeds:
        return f"{who}, {other.title}, finished no seed."
    score = with_interval(over_seeds(other, "test"))
    start = f"{who}, {other.title}, reaches {score}{_share(other, seeds)}"
    gap = _lead(winner, other, page)
    if not gap.known:
        return f"{start}."
    test = paired_test(winner, other)
    mean, low, high = (f"{x:{_precision(gap)}}" for x in gap[:3])
    return (
        f"{start}; the paired difference over {gap.n} seeds is {mean} (95% interval "
        f"{low} to {high}, {_told(gap, test)}{_p(test)})."
    )


def _lead(winner: MethodResult, other: MethodResult, page: Comparison) -> Interval:
    """By how much the winner is better on the seeds that both have."""
    gap = difference(winner, other)
    if page.higher_is_better:
        return gap
    return gap._replace(mean=-gap.mean, low=-gap.high, high=-gap.low)


def _separates(winner: MethodResult, other: MethodResult, page: Comparison) -> bool:
    """Whether the lead is beyond its interval, and signs of enough seeds say no less.

    Two seeds are too few: a discrete metric may have two equal differences by chance.
    """
    gap, test = _lead(winner, other, page), paired_test(winner, other)
    return gap.known and gap.low > 0 and gap.n > 2 and test.rejects


def _told(gap: Interval, test: PairedTest) -> str:
    if gap.n < 3:
        return "of seeds too few to separate them"
    if gap.high < 0:
        return "so that on these seeds the other is better"
    if gap.low <= 0:
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


def _ranked(study: StudyResult, higher: bool) -> list[MethodResult]:
    """Best test mean first.

    Means over different seeds do not compare, so that what failed on some comes after
    all that finished; then what diverged, then what never finished.
    """
    whole = len(seeds_of(study))

    def worth(method: MethodResult) -> tuple[bool, bool, bool, float]:
        mean, count = over_seeds(method, "test").mean, len(method.seeds)
        if not math.isfinite(mean):
            return count > 0, False, count == whole, -math.inf
        return True, True, count == whole, mean if higher else -mean

    return sorted(study.methods, key=worth, reverse=True)
