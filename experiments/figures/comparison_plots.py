"""Figures over several studies: where each method wins, and how often it is soon."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
)

from experiments.figures.drawing import FAINT, Looks, legend
from experiments.results import Comparison
from experiments.statistics import profiles
from experiments.statistics.intervals import Interval

LOWEST = -0.6  # of the normalised score that is drawn; what is below is clipped
MANY = 100.0  # factor beyond which a profile no longer tells searches apart


def dimensions(page: Comparison, found: Looks) -> Figure | None:
    """Normalised score and rank on test against the dimension of λ: a line a search."""
    groups = profiles.alike(page)
    if len(groups) < 2:
        return None
    higher = page.higher_is_better
    figure = Figure(figsize=(11.0, 4.4))
    left, right = figure.subplots(1, 2)
    score = [profiles.normalised(study, higher=higher) for study in page.studies]
    placed = [profiles.ranks(study, higher=higher) for study in page.studies]
    _lines(left, profiles.by_dimension(page, score), found, groups)
    _lines(right, profiles.by_dimension(page, placed), found, groups)
    left.axhline(0, color=FAINT, lw=1.0, ls="--")
    left.axhline(1, color=FAINT, lw=1.0, ls="--")
    low, high = left.get_ylim()
    left.set_ylim(max(low, LOWEST), min(high, 1.6))
    left.set_title("Test score: 0 untuned, 1 the best search of the study")
    right.set_title("Rank on test: 1 is best")
    last = max((len(table) for table in placed), default=1)
    right.set_ylim(last + 0.3, 0.7)  # An interval may leave the ranks there are.
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.set_xlabel("dimension of λ")
    legend(figure, right, found)
    return figure


def performance_profile(page: Comparison, found: Looks) -> Figure | None:
    """Share of problems whose target is reached within τ times the least cost."""
    if len(page.studies) < 2:
        return None
    figure = Figure(figsize=(11.0, 3.6))
    grid = figure.subplots(1, 2, sharey=True)
    drawn = [
        _profile(axes, page, found, axis, f"factor on the least {word} of any search")
        for axes, axis, word in zip(
            grid, ("cost", "seconds"), ("cost", "time"), strict=True
        )
    ]
    if not any(drawn):
        return None
    grid[0].set_title("Share of problems solved, by cost")
    grid[1].set_title("Share of problems solved, by time")
    grid[0].set_ylim(-0.02, 1.04)
    legend(figure, grid[0], found)
    return figure


def _profile(axes: Axes, page: Comparison, found: Looks, axis: str, label: str) -> bool:
    costs, labels = profiles.costs_to_target(page, axis)
    if not np.isfinite(costs).any():
        return False
    profile = profiles.performance_profile(costs, labels)
    end = min(MANY, 1.3 * float(profile.factors[-1]))
    for name in sorted(labels, key=lambda x: found[x].kind == "gradient"):
        look = found[name]
        x, y = np.append(profile.factors, end), profile.shares[name]
        axes.step(x, np.append(y, y[-1]), where="post", label=look.title, **look.line)
    axes.set_xscale("log")
    axes.set_xlim(1, max(end, 1.3))
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100) if tick <= max(end, 1.3)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
    axes.set_xlabel(label)
    return True


def _lines(
    axes: Axes,
    table: dict[str, dict[tuple[int, ...], Interval]],
    found: Looks,
    groups: list[tuple[int, ...]],
) -> None:
    """A search's means with their intervals, a little beside one another."""
    labels = sorted(table, key=lambda label: found[label].kind == "gradient")
    middle = {group: float(np.sqrt(group[0] * group[-1])) for group in groups}
    width = 0.09 * np.log10(groups[-1][-1] / groups[0][0]) / len(groups)
    for place, label in enumerate(labels):
        look = found[label]
        points = {g: i for g, i in table[label].items() if np.isfinite(i.mean)}
        shift = width * (2 * place / max(1, len(labels) - 1) - 1)
        x = np.array([middle[group] * 10**shift for group in points])
        mean = [interval.mean for interval in points.values()]
        axes.plot(x, mean, marker=look.marker, ms=5, label=look.title, **look.line)
        for at, interval in zip(x, points.values(), strict=True):
            if interval.known:
                ends = [interval.low, interval.high]
                axes.plot([at, at], ends, color=look.color, lw=1.0, alpha=0.7)
    axes.set_xscale("log")
    # Two lines where a group has several: neighbours are near on this axis.
    ends = ["–\n".join(f"{dim:,}" for dim in sorted({g[0], g[-1]})) for g in groups]
    axes.set_xticks([middle[group] for group in groups], ends)
    axes.xaxis.set_minor_locator(NullLocator())
