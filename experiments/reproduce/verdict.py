"""Is our number theirs? One line an expectation."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.configs.config import Expected
from experiments.configs.faults import did_you_mean
from experiments.reproduce.found import Found, mean, mean_curve

_ORIGINS = {"authors": "authors' files", "rerun": "independent rerun"}
FEW = 3  # numbers of a curve that a line writes out


class Line(NamedTuple):
    """One quantity beside its published value.

    Attributes:
        title: what it is.
        published, ours, tolerance: as a table shows them.
        off: how far ours is, in units of what is allowed: 1 is just within.
        within: None where nothing is decided, for the reason in `remark`.
        origin: where the published number was read.
        remark: what the reader should know.
    """

    title: str
    published: str
    ours: str
    tolerance: str
    off: float
    within: bool | None
    origin: str
    remark: str = ""

    @property
    def verdict(self) -> str:
        """One word."""
        return {True: "within", False: "OUTSIDE", None: "–"}[self.within]


def judge(expect: Mapping[str, Expected], found: Found, same: bool) -> list[Line]:
    """A line for each expectation, in the order of the config.

    Args:
        expect: the config's [expect].
        found: what was measured.
        same: whether the config's own setting was run; what was published says nothing
            of other data, sizes or seeds.
    """
    return [_line(label, each, found, same) for label, each in expect.items()]


def succeeded(lines: list[Line], found: Found) -> bool:
    """Whether nothing failed and nothing is outside."""
    return not found.failures and all(line.within is not False for line in lines)


def _line(label: str, expected: Expected, found: Found, same: bool) -> Line:
    name = expected.quantity or label
    title = expected.title or name.replace("_", " ")
    undecided = ""
    if not same:
        undecided = "another setting than the published one"
    elif expected.origin == "recalled":
        undecided = "recalled, not read: decides nothing"

    def line(ours: str, off: float, problem: str = "") -> Line:
        return Line(
            title=title,
            published=_wanted(expected),
            ours=ours,
            tolerance=_allowed(expected),
            off=off,
            within=None if undecided else bool(off <= 1.0),
            origin=_ORIGINS.get(expected.origin, expected.origin),
            remark=". ".join(filter(None, (undecided, problem, expected.note))),
        )

    ours, problem = _ours(name, expected.at, found)
    limit, other = np.full(1, math.nan), ""
    if not problem and expected.below:
        # A curve is held against a curve point by point.
        at = [] if expected.below in found.numbers else expected.at
        limit, problem = _ours(expected.below, at, found)
        other = f" against {_list(limit)}"
        if not problem and min(limit.size, ours.size) > 1 and limit.size != ours.size:
            problem = f"the curve {expected.below!r} has other x"
    if problem:
        return line("not measured", math.inf, problem)
    shown = _shown(ours, found.numbers.get(name, [])) + other
    return line(shown, _off(expected, ours, limit))


def _ours(name: str, at: list[float], found: Found) -> tuple[np.ndarray, str]:
    """The numbers that are judged, or why there are none."""
    none = np.zeros(0)
    if name in found.numbers:
        if at:
            return none, f"{name!r} is one number, and has no x"
        return np.array([mean(found.numbers[name])]), ""
    if name not in found.curves:
        hint = did_you_mean(name, found.quantities)
        return none, " ".join(filter(None, (f"nothing is called {name!r}", hint)))
    line = mean_curve(found.curves[name])
    x, y = np.array(line.x), np.array(line.y)
    if not x.size:
        return none, f"the curve {name!r} has no points"
    if not at:
        return y, ""
    places = np.array([int(np.argmin(np.abs(x - where))) for where in at])
    near = np.isclose(x[places], at, rtol=1e-6, atol=1e-12)
    if not near.all():
        where = at[int(np.argmin(near))]
        return none, f"the curve {name!r} has no x = {where:g}"
    return y[places], ""


def _off(expected: Expected, ours: np.ndarray, limit: np.ndarray) -> float:
    """The largest distance in units of the tolerance; what is not finite is outside."""
    if not np.all(np.isfinite(ours)):
        return math.inf
    if expected.below:
        return 0.0 if np.all(ours < limit) else math.inf
    if expected.value is None:
        low = -math.inf if expected.at_least is None else expected.at_least
        high = math.inf if expected.at_most is None else expected.at_most
        return 0.0 if np.all((low <= ours) & (ours <= high)) else math.inf
    value = np.broadcast_to(np.asarray(expected.value, float), ours.shape)
    if expected.factor is not None:
        if np.any(ours * value <= 0):
            return math.inf
        apart = np.abs(np.log(ours / value))
        return float(np.max(apart)) / math.log(expected.factor)
    room = expected.tolerance + expected.relative * np.abs(value)
    gap = np.abs(ours - value)
    return float(np.max(np.where(gap == 0, 0.0, gap / np.maximum(room, 1e-300))))


def _wanted(expected: Expected) -> str:
    if expected.below:
        return f"below {expected.below}"
    if expected.value is not None:
        return _list(np.atleast_1d(np.asarray(expected.value, float)))
    low, high = expected.at_least, expected.at_most
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    return f"at least {number(low)}" if high is None else f"at most {number(high)}"


def _allowed(expected: Expected) -> str:
    if expected.value is None:
        return ""
    if expected.factor is not None:
        return f"factor {expected.factor:g}"
    absolute = f"{expected.tolerance:g}" if expected.tolerance else ""
    relative = f"{100 * expected.relative:g}%" if expected.relative else ""
    return " + ".join(filter(None, (absolute, relative))) or "exact"


def _shown(ours: np.ndarray, seeds: list[float]) -> str:
    if len(seeds) > 1:
        with np.errstate(invalid="ignore"):
            error = np.std(seeds, ddof=1) / math.sqrt(len(seeds))
        return f"{number(mean(seeds))} ± {error:.1g} ({len(seeds)} seeds)"
    return _list(ours)


def _list(values: np.ndarray) -> str:
    if len(values) <= FEW:
        return ", ".join(map(number, values))
    first = ", ".join(map(number, values[: FEW - 1]))
    return f"{first}, … {number(values[-1])} ({len(values)})"


def number(value: float | None) -> str:
    """Six digits, as many as a published number has."""
    return "none" if value is None else f"{value:.6g}"
