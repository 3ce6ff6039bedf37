"""Where trials lie in λ: F against each coordinate, two coordinates, and the chosen."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from experiments.figures.drawing import (
    FAINT,
    INK,
    MAX_PANELS,
    Looks,
    back_to_front,
    labelled,
    legend,
    names,
    panels,
    plain_ticks,
)
from experiments.results import StudyResult
from experiments.statistics.intervals import Floats
from experiments.statistics.methods import complete

FEW = 20  # coordinates beyond which lines between them say nothing
WIDE = 8.0  # factor from which positive numbers are shown by their logarithm


class Trials(NamedTuple):
    """Complete trials of one method, all seeds: λ by name and F, [trials] each."""

    label: str
    hparams: dict[str, Floats]
    values: Floats


def slice(study: StudyResult, found: Looks) -> Figure | None:
    """F of every trial against each coordinate of λ; a dot a trial."""
    every = _trials(study)
    titles = names(trials.hparams for trials in every)[:MAX_PANELS]
    top = _ceiling(every)

    def draw(axes: Axes, title: str) -> None:
        for trials in every:
            if title in trials.hparams:
                look, x = found[trials.label], trials.hparams[title]
                front = look.kind == "gradient"
                dot = {"s": 9, "alpha": 0.75} if front else {"s": 5, "alpha": 0.4}
                dot |= {"color": look.color, "lw": 0, "rasterized": True}
                axes.scatter(x, trials.values, **dot, **labelled(axes, look.title))
        _span(axes, every, title, "x")
        low = min(trials.values.min() for trials in every)
        if low > 0 and top > WIDE * low:
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
        axes.set_ylim(top=top)

    figure = panels(titles, draw, columns=4, height=2.1)
    if figure is not None:
        figure.supylabel("validation loss F", fontsize=9)
        legend(figure, figure.axes[0], found)
    return figure


def rank(study: StudyResult, found: Looks) -> Figure | None:
    """Trials in the two coordinates that F depends on most: dark is among the best."""
    every = _trials(study)[:MAX_PANELS]
    pair = _most_important(every)
    if pair is None:
        return None
    order = list(found)
    every = sorted(every, key=lambda trials: order.index(trials.label))
    of_title = {found[trials.label].title: trials for trials in every}
    pooled = np.sort(np.concatenate([trials.values for trials in every]))
    colors = ScalarMappable(cmap="viridis")
    colors.set_clim(0, 1)

    def draw(axes: Axes, title: str) -> None:
        trials = of_title[title]
        place = np.searchsorted(pooled, trials.values) / len(pooled)
        last = np.argsort(-place)  # The best are drawn above all others.
        x, y = (trials.hparams[name][last] for name in pair)
        hues = colors.to_rgba(place[last])
        axes.scatter(x, y, color=list(hues), s=9, lw=0, rasterized=True)
        for name, axis in zip(pair, ("x", "y"), strict=True):
            _span(axes, every, name, axis)
        axes.set_xlabel(pair[0])
        axes.set_ylabel(pair[1])

    figure = panels(list(of_title), draw, columns=4, height=2.3)
    if figure is not None:
        shown = [axes for axes in figure.axes if axes.get_visible()]
        bar = figure.colorbar(colors, ax=shown, ticks=[0, 1], shrink=0.6)
        bar.ax.set_yticklabels(["best", "worst"])
    return figure


def parallel_coordinate(study: StudyResult, found: Looks) -> Figure | None:
    """The λ that each search chose: a line a seed over its coordinates, 0 to 1."""
    chosen = [
        (method.label, _flat(seed.hparams))
        for method in back_to_front(study)
        if method.kind != "reference"
        for seed in method.seeds
        if seed.hparams
    ]
    titles = names(table for _, table in chosen)
    if not 3 <= len(titles) <= FEW:
        return None
    default = _flat({n: v for n, v in study.defaults.items() if _is_number(v)})
    tables = [default, *(table for _, table in chosen)]
    scaled = _scaled([[table.get(name, np.nan) for name in titles] for table in tables])
    figure = Figure(figsize=(11.0, 3.2))
    axes, x = figure.subplots(), np.arange(len(titles))
    for (label, _), line in zip(chosen, scaled[1:], strict=True):
        look = found[label]
        axes.plot(x, line, **look.thin, **labelled(axes, look.title))
    axes.plot(x, scaled[0], color=INK, ls="--", lw=1.4, label="default")
    axes.set_xticks(x, titles, rotation=30 if len(titles) > 8 else 0)
    axes.set_yticks([0, 1], ["least", "largest"])
    axes.set_title("The chosen hyperparameters")
    axes.grid(axis="x", color=FAINT, lw=0.6)
    legend(figure, axes, found)
    return figure


def _trials(study: StudyResult) -> list[Trials]:
    """The trials that ended, of each search whose λ is on record, back to front."""
    every = []
    for method in back_to_front(study):
        seeds = [seed for seed in method.seeds if seed.tried]
        if not seeds or method.kind == "reference":
            continue
        values = np.concatenate([complete(seed) for seed in seeds])
        kept = np.isfinite(values)
        table = {
            name: np.concatenate([seed.tried[name] for seed in seeds])[kept]
            for name in seeds[0].tried
        }
        if kept.any():
            every.append(Trials(method.label, table, values[kept]))
    return every


def _ceiling(every: list[Trials]) -> float:
    """Where the y axis ends: nine tenths of all trials are below."""
    pooled = np.concatenate([trials.values for trials in every] or [np.zeros(1)])
    return float(np.quantile(pooled, 0.9))


def _most_important(every: list[Trials]) -> tuple[str, str] | None:
    """The two coordinates with the largest mean |Spearman correlation| to F."""
    from scipy.stats import rankdata

    known = names(trials.hparams for trials in every)
    titles = [name for name in known if all(name in t.hparams for t in every)]
    if len(titles) < 2:
        return None

    def importance(name: str) -> float:
        found = [
            abs(np.corrcoef(rankdata(t.hparams[name]), rankdata(t.values))[0, 1])
            for t in every
            if len(t.values) > 2 and np.ptp(t.hparams[name]) > 0 < np.ptp(t.values)
        ]
        return float(np.mean(found)) if found else 0.0

    first, second = sorted(titles, key=importance, reverse=True)[:2]
    return first, second


def _span(axes: Axes, every: list[Trials], name: str, axis: str) -> None:
    """The range of all trials, on a log scale where it is wide."""
    seen = np.concatenate([t.hparams[name] for t in every if name in t.hparams])
    low, high = float(seen.min()), float(seen.max())
    if low > 0 and high > WIDE * low:
        margin = (high / low) ** 0.04
        axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low / margin, high * margin)})
        plain_ticks(getattr(axes, f"{axis}axis"))
    elif high > low:
        margin = 0.04 * (high - low)
        axes.set(**{f"{axis}lim": (low - margin, high + margin)})


def _scaled(rows: list[list[float]]) -> Floats:
    """Each column from 0 to 1, by its logarithm where it is wide."""
    table = np.asarray(rows, float)
    for j, column in enumerate(table.T):
        known = column[np.isfinite(column)]
        if len(known) and known.min() > 0 and known.max() > WIDE * known.min():
            table[:, j] = np.log(column)
        low, high = np.nanmin(table[:, j]), np.nanmax(table[:, j])
        table[:, j] = (table[:, j] - low) / (high - low) if high > low else 0.5
    return table


def _flat(hparams: dict) -> dict[str, float]:
    """{"rate": 0.1, "l2": [1, 2]} as {"rate": 0.1, "l2[0]": 1, "l2[1]": 2}."""
    table = {}
    for name, value in hparams.items():
        array = np.asarray(value, float)
        for index in np.ndindex(array.shape):
            suffix = f"[{','.join(map(str, index))}]" if index else ""
            table[name + suffix] = float(array[index])
    return table


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | list) and not isinstance(value, bool)
