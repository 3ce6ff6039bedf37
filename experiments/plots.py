"""The figures of a report, each a function of a study.

A method keeps its colour on the whole page: gradients warm, baselines cool (both from
Okabe and Ito's palette, safe for the colour-blind), references grey.
"""

import io
import math
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.files import write_bytes
from experiments.results import Comparison, MethodResult, StudyResult
from experiments.statistics import band, over_seeds, seed_means, untuned

INK, FAINT = "#222222", "#8a8a8a"
_WARM = ("#D55E00", "#E69F00", "#A63A00")
_COOL = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#5B5BA5")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b8b8b8",
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "DejaVu Sans"],
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "hypergrad",
    "text.color": INK,
    "xtick.color": "#555555",
    "xtick.labelsize": 8.5,
    "ytick.color": "#555555",
    "ytick.labelsize": 8.5,
}
MAX_PANELS = 12


def colors(study: StudyResult) -> dict[str, str]:
    """A colour for each method label, by kind and order."""
    palettes = {"gradient": cycle(_WARM), "baseline": cycle(_COOL)}
    return {
        method.label: next(palettes[method.kind]) if method.kind in palettes else FAINT
        for method in study.methods
    }


def figures(study: StudyResult, page: Comparison) -> dict[str, Figure]:
    """Every figure that the study has data for, by name."""
    drawn = {
        "summary": lambda: summary(study, page),
        "schedules": lambda: schedules(study),
        "distributions": lambda: distributions(study),
        "pictures": lambda: pictures(study),
        "trajectories": lambda: trajectories(study),
    }
    with mpl.rc_context(STYLE):
        made = {name: draw() for name, draw in drawn.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same data."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, sharp at the width of a README."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def summary(study: StudyResult, page: Comparison) -> Figure:
    """Best-so-far F against cost and against time, and the metric on test."""
    figure = Figure(figsize=(11.0, max(3.7, 0.26 * len(study.methods))))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    _curves(left, study, "cost", "inner-training equivalents")
    _curves(middle, study, "seconds", "seconds, compilation apart")
    left.set_title("Best validation loss by cost")
    middle.set_title("Best validation loss by time")
    middle.set_ylim(left.get_ylim())
    left.set_ylabel("validation loss F")
    _dots(right, study, page)
    if len(study.methods) <= MAX_PANELS:  # More colours nobody tells apart.
        _legend(figure, left, study)
    return figure


def schedules(study: StudyResult) -> Figure | None:
    """What the chosen λ says over training: a panel a method, a line a seed."""
    searches = [method for method in study.methods if method.kind != "reference"]
    names = _names(method.seeds[0].schedules for method in searches)
    if not names or len(searches) > MAX_PANELS:
        return None
    hues = colors(study)
    known = untuned(study)
    figure = Figure(figsize=(11.0, 2.5 * len(names) + 0.2))
    grid = figure.subplots(len(names), len(searches), sharey="row", squeeze=False)
    for row, name in zip(grid, names, strict=True):
        for axes, method in zip(row, searches, strict=True):
            for seed in method.seeds:
                if name in seed.schedules:
                    axes.plot(seed.schedules[name], color=hues[method.label], lw=1.5)
            if known is not None and name in known.seeds[0].schedules:
                default = known.seeds[0].schedules[name]
                axes.plot(default, color=FAINT, lw=1.2, ls="--")
            axes.set_title(method.title)
            axes.set_xlabel("training step")
        row[0].set_ylabel(name)
        _log_if_wide(row[0])
    return figure


def trajectories(study: StudyResult) -> Figure | None:
    """λ of the best trial so far against cost, a line a seed."""
    searches = [method for method in study.methods if method.kind != "reference"]
    names = _names(method.seeds[0].trajectories for method in searches)

    def draw(axes: Axes, name: str) -> None:
        for method, style in _styles(study):
            for seed in method.seeds:
                values = seed.trajectories.get(name, [])
                if method.kind != "reference" and values:
                    label = _labelled(axes, method)
                    axes.step(seed.cost, values, where="post", **style, **label)
        axes.set_xlabel("inner-training equivalents")

    figure = _panels(names[:MAX_PANELS], draw, columns=4, height=2.1)
    if figure is not None:
        _legend(figure, figure.axes[0], study)
    return figure


def distributions(study: StudyResult) -> Figure | None:
    """Groups of entries of λ, all seeds together: one panel for a method and title."""
    found = {
        f"{title}: {method.title}": (title, method)
        for method in study.methods
        for title, groups in method.seeds[0].distributions.items()
        if np.ptp(np.concatenate(list(groups.values()))) > 0  # something was learned
    }

    def draw(axes: Axes, name: str) -> None:
        title, method = found[name]
        groups = _names([method.seeds[0].distributions[title]])
        data = [
            np.concatenate([seed.distributions[title][g] for seed in method.seeds])
            for g in groups
        ]
        palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
        hues = [color for color, _ in zip(cycle(palette), groups, strict=False)]
        share = [np.full(len(entries), 1 / len(entries)) for entries in data]
        bins = np.linspace(min(map(np.min, data)), max(map(np.max, data)), 21)
        axes.hist(data, bins=list(bins), weights=share, color=hues, label=groups)
        axes.set_ylabel("share of its group")
        axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc="upper center", ncols=len(groups))

    return _panels(list(found)[:MAX_PANELS], draw, columns=2, height=2.6)


def pictures(study: StudyResult) -> Figure | None:
    """Images of the first seed: a row for a method and title, on a scale of its own."""
    found = [
        (title, method, np.asarray(images)[:MAX_PANELS])
        for method in study.methods
        for title, images in method.seeds[0].pictures.items()
    ][: 2 * MAX_PANELS]
    if not found:
        return None
    figure = Figure(figsize=(11.0, 1.3 * len(found)))
    rows = figure.subplots(len(found), 1, squeeze=False).ravel()
    for axes, (title, method, images) in zip(rows, found, strict=True):
        low, high = images.min(), images.max()
        gaps = [(0, 0), (0, 0), (0, 1), (0, 0)][: images.ndim]
        strip = np.concatenate(np.pad(images, gaps, constant_values=high), axis=1)
        shown = (strip - low) / max(high - low, 1e-12)
        axes.imshow(shown.squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_anchor("W")
        axes.set_title(f"{method.title}: {title}", fontsize=8.5)
    return figure


def write_pngs(folder: Path, name: str, drawn: dict[str, Figure]) -> list[Path]:
    """The figures of a study as NAME-FIGURE.png in a folder."""
    paths = [folder / f"{name}-{figure}.png" for figure in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        write_bytes(path, as_png(figure))
    return paths


def _curves(axes: Axes, study: StudyResult, axis: str, label: str) -> None:
    hues, lows, highs, ends = colors(study), [], [], []
    for method in _back_to_front(study):
        curve = band(method.seeds, axis)
        if method.kind == "reference" or not len(curve.x):
            continue
        front = method.kind == "gradient"
        hue, width = hues[method.label], 2.4 if front else 1.5
        axes.step(
            curve.x, curve.mean, where="post", color=hue, lw=width, label=method.title
        )
        axes.fill_between(
            curve.x, curve.low, curve.high, step="post", color=hue, alpha=0.14, lw=0
        )
        lows.append(np.min(curve.low))
        highs.append(np.max(curve.high))
        ends.append(curve.x[-1])
    axes.set_xlabel(label)
    if lows and min(lows) > 0 and max(highs) > 4 * min(lows):
        _log(axes)
    if axis == "seconds" and ends and max(ends) > 10 * min(ends):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)


def _dots(axes: Axes, study: StudyResult, page: Comparison) -> None:
    """A row a method: seeds as dots, their mean with its 95% interval."""
    hues = colors(study)
    for row, method in enumerate(study.methods):
        hue, score = hues[method.label], over_seeds(method, "test")
        if not math.isfinite(score.mean):
            axes.text(0.02, row, "diverged", transform=axes.get_yaxis_transform())
            continue
        seeds = seed_means(method, "test")
        axes.scatter(seeds, [row] * len(seeds), s=14, color=hue, alpha=0.45, lw=0)
        if not math.isnan(score.half):
            axes.plot([score.low, score.high], [row, row], color=hue, lw=1.6)
        axes.plot(score.mean, row, "o", color=hue, ms=6.5, mec="white", mew=1.0)
    axes.set_yticks(range(len(study.methods)), [m.title for m in study.methods])
    for tick, method in zip(axes.get_yticklabels(), study.methods, strict=True):
        tick.set_color(INK if method.kind != "reference" else FAINT)
        tick.set_fontweight("bold" if method.kind == "gradient" else "normal")
    axes.set_ylim(len(study.methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"test {page.metric}: seeds, mean, 95% interval")
    axes.set_title(
        f"On test, {'higher' if page.higher_is_better else 'lower'} is better"
    )


def _panels(
    names: list[str],
    draw: Callable[[Axes, str], None],
    *,
    columns: int,
    height: float,
) -> Figure | None:
    """One axes a name."""
    if not names:
        return None
    columns = min(columns, max(len(names), 2))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(11.0, height * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        draw(axes, name)
        axes.set_title(name)
        _log_if_wide(axes)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure


def _styles(study: StudyResult) -> list[tuple[MethodResult, dict[str, Any]]]:
    """Methods back to front with the style of their thin lines."""
    hues = colors(study)
    return [
        (
            method,
            {
                "color": hues[method.label],
                "lw": 1.8 if method.kind == "gradient" else 0.8,
                "alpha": 0.9 if method.kind == "gradient" else 0.5,
            },
        )
        for method in _back_to_front(study)
    ]


def _back_to_front(study: StudyResult) -> list[MethodResult]:
    order = ("reference", "baseline", "gradient")
    return sorted(study.methods, key=lambda method: order.index(method.kind))


def _labelled(axes: Axes, method: MethodResult) -> dict[str, Any]:
    """A label for the first line of a method only."""
    known = axes.get_legend_handles_labels()[1]
    return {} if method.title in known else {"label": method.title}


def _names(tables: Iterable[dict]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _legend(figure: Figure, axes: Axes, study: StudyResult) -> None:
    """The legend of one axes below the whole figure, in the order of the study."""
    drawn = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    titles = [method.title for method in study.methods if method.title in drawn]
    if titles:
        figure.legend(
            [drawn[title] for title in titles],
            titles,
            loc="outside lower left",
            ncols=min(len(titles), 6),
        )


def _log_if_wide(axes: Axes) -> None:
    """A log axis where positive lines span more than a factor of eight."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    values = np.concatenate(
        [line[np.isfinite(line)] for line in drawn] or [np.zeros(0)]
    )
    if len(values) and values.min() > 0 and values.max() > 8 * values.min():
        _log(axes)


def _log(axes: Axes) -> None:
    axes.set_yscale("log")
    plain_ticks(axes.yaxis)


def plain_ticks(axis: Axis) -> None:
    """0.1 and 20 rather than powers of ten; 1, 2 and 5 of each decade if few fit."""
    low, high = axis.get_view_interval()
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
