"""How searches went on: best so far, all trials, and trainings stopped on the way."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.drawing import (
    COST,
    FAINT,
    INK,
    MAX_PANELS,
    Looks,
    back_to_front,
    legend,
    log,
    panels,
    plain_ticks,
)
from experiments.results import Comparison, SeedResult, StudyResult
from experiments.statistics.curves import band
from experiments.statistics.methods import complete, over_seeds, searches, seed_means


def optimization_history(study: StudyResult, page: Comparison, found: Looks) -> Figure:
    """Best-so-far F against cost and against time, and the metric on test."""
    figure = Figure(figsize=(11.0, max(3.7, 0.26 * len(study.methods))))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    _curves(left, study, found, "cost", COST)
    _curves(middle, study, found, "seconds", "seconds, compilation apart")
    left.set_title("Best validation loss by cost")
    middle.set_title("Best validation loss by time")
    middle.set_ylim(left.get_ylim())
    left.set_ylabel("validation loss F")
    _scores(right, study, page, found)
    legend(figure, left, found)
    return figure


def edf(study: StudyResult, found: Looks) -> Figure | None:
    """The share of complete trials, all seeds together, with F ≤ x: a step a method."""
    samples = {}
    for method in back_to_front(study):
        values = [complete(seed) for seed in method.seeds if seed.values]
        if method.kind != "reference" and values:
            samples[method.label] = np.concatenate(values)
    seen = np.concatenate([*samples.values(), np.zeros(0)])
    seen = seen[np.isfinite(seen)]
    if len(samples) < 2 or not len(seen):
        return None
    figure = Figure(figsize=(11.0, 3.2))
    axes = figure.subplots()
    for label, values in samples.items():
        known = values[~np.isnan(values)]  # Diverged ones, infinite, are among them.
        x = np.sort(known[np.isfinite(known)])
        share = np.arange(1, len(x) + 1) / max(len(known), 1)
        axes.step(x, share, where="post", **found[label].line, label=found[label].title)
    axes.set_xlim(seen.min(), np.quantile(seen, 0.98))
    if seen.min() > 0 and np.quantile(seen, 0.98) > 8 * seen.min():
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("validation loss F")
    axes.set_ylabel("share of trials at or below")
    axes.set_title("Distribution of trials")
    legend(figure, axes, found)
    return figure


def intermediate_values(study: StudyResult, found: Looks) -> Figure | None:
    """F against training steps where trainings stop and go on: first seeds."""
    partial = {
        found[m.label].title: m
        for m in searches(study)
        if m.seeds and len(set(m.seeds[0].steps)) > 1
    }

    def draw(axes: Axes, title: str) -> None:
        method = partial[title]
        _tree(axes, method.seeds[0], found[method.label].color)
        axes.set_xlabel("training step")
        axes.set_ylabel("validation loss F")

    return panels(list(partial)[:MAX_PANELS], draw, columns=3, height=2.6)


def _tree(axes: Axes, seed: SeedResult, hue: str) -> None:
    """A dot a trial, joined to the trial whose training it went on with."""
    steps, values = np.asarray(seed.steps), np.asarray(seed.values, float)
    parents = seed.parents or [-1] * len(steps)
    for trial, parent in enumerate(parents):
        if parent >= 0:
            ends = [parent, trial]
            axes.plot(steps[ends], values[ends], color=hue, lw=0.7, alpha=0.5)
    axes.plot(steps, values, "o", color=hue, ms=3, mec="none", alpha=0.7)


def _curves(
    axes: Axes, study: StudyResult, found: Looks, axis: str, label: str
) -> None:
    lows, highs, ends = [], [], []
    for method in back_to_front(study):
        curve, look = band(method.seeds, axis), found[method.label]
        if method.kind == "reference" or not len(curve.x):
            continue
        axes.step(curve.x, curve.mean, where="post", label=look.title, **look.line)
        low, high = curve.low, curve.high
        fill = {"color": look.color, "alpha": 0.12, "lw": 0}
        axes.fill_between(curve.x, low, high, step="post", **fill)
        lows.append(np.min(curve.low))
        highs.append(np.max(curve.high))
        ends.append(curve.x[-1])
    axes.set_xlabel(label)
    if lows and min(lows) > 0 and max(highs) > 4 * min(lows):
        log(axes)
    if axis == "seconds" and ends and max(ends) > 10 * min(ends):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)


def _scores(axes: Axes, study: StudyResult, page: Comparison, found: Looks) -> None:
    """A row a method: seeds as dots, their mean with its 95% interval."""
    for row, method in enumerate(study.methods):
        hue, score = found[method.label].color, over_seeds(method, "test")
        seeds = [x for x in seed_means(method, "test") if math.isfinite(x)]
        axes.scatter(seeds, [row] * len(seeds), s=14, color=hue, alpha=0.45, lw=0)
        if not math.isfinite(score.mean):
            lost = "diverged" if method.seeds else "no seed finished"
            axes.text(0.02, row, lost, transform=axes.get_yaxis_transform())
            continue
        if score.known:
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
