"""What the chosen λ looks like: schedules, entries in groups, images, its path."""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.drawing import (
    COST,
    FAINT,
    MAX_PANELS,
    Looks,
    back_to_front,
    labelled,
    legend,
    log_if_wide,
    names,
    panels,
)
from experiments.results import StudyResult
from experiments.statistics.methods import searches, untuned


def schedules(study: StudyResult, found: Looks) -> Figure | None:
    """What the chosen λ says over training: a panel a method, a line a seed."""
    shown = [method for method in searches(study) if method.seeds]
    titles = names(method.seeds[0].schedules for method in shown)
    if not titles or len(shown) > MAX_PANELS:
        return None
    known = untuned(study)
    default = known.seeds[0].schedules if known is not None and known.seeds else {}
    figure = Figure(figsize=(11.0, 2.5 * len(titles) + 0.2))
    grid = figure.subplots(len(titles), len(shown), sharey="row", squeeze=False)
    for row, title in zip(grid, titles, strict=True):
        for axes, method in zip(row, shown, strict=True):
            for seed in method.seeds:
                if title in seed.schedules:
                    hue = found[method.label].color
                    axes.plot(seed.schedules[title], color=hue, lw=1.5)
            if title in default:
                axes.plot(default[title], color=FAINT, lw=1.2, ls="--")
            axes.set_title(method.title)
            axes.set_xlabel("training step")
        row[0].set_ylabel(title)
        log_if_wide(row[0])
    return figure


def trajectories(study: StudyResult, found: Looks) -> Figure | None:
    """λ of the best trial so far against cost, a line a seed."""
    seeds = [seed for method in searches(study) for seed in method.seeds[:1]]
    titles = names(seed.trajectories for seed in seeds)

    def draw(axes: Axes, title: str) -> None:
        for method in back_to_front(study):
            look = found[method.label]
            for seed in method.seeds:
                values = seed.trajectories.get(title, [])
                if method.kind != "reference" and values:
                    label = labelled(axes, look.title)
                    axes.step(seed.cost, values, where="post", **look.thin, **label)
        axes.set_xlabel(COST)

    figure = panels(titles[:MAX_PANELS], draw, columns=4, height=2.1)
    if figure is not None:
        legend(figure, figure.axes[0], found)
    return figure


def distributions(study: StudyResult, found: Looks) -> Figure | None:
    """Groups of entries of λ, all seeds together: one panel for a method and title."""
    shown = {
        f"{title}: {method.title}": (title, method)
        for method in study.methods
        for seed in method.seeds[:1]
        for title, groups in seed.distributions.items()
        if np.ptp(np.concatenate(list(groups.values()))) > 0  # something was learned
    }

    def draw(axes: Axes, name: str) -> None:
        title, method = shown[name]
        groups = names([method.seeds[0].distributions[title]])
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

    return panels(list(shown)[:MAX_PANELS], draw, columns=2, height=2.6)


def pictures(study: StudyResult, found: Looks) -> Figure | None:
    """Images of the first seed: a row for a method and title, on a scale of its own."""
    shown = [
        (title, method, np.asarray(images)[:MAX_PANELS])
        for method in study.methods
        for seed in method.seeds[:1]
        for title, images in seed.pictures.items()
    ][: 2 * MAX_PANELS]
    if not shown:
        return None
    figure = Figure(figsize=(11.0, 1.3 * len(shown)))
    rows = figure.subplots(len(shown), 1, squeeze=False).ravel()
    for axes, (title, method, images) in zip(rows, shown, strict=True):
        low, high = images.min(), images.max()
        gaps = [(0, 0), (0, 0), (0, 1), (0, 0)][: images.ndim]
        strip = np.concatenate(np.pad(images, gaps, constant_values=high), axis=1)
        scaled = (strip - low) / max(high - low, 1e-12)
        axes.imshow(scaled.squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_anchor("W")
        axes.set_title(f"{found[method.label].title}: {title}", fontsize=8.5)
    return figure
