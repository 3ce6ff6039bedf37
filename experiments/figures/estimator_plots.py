"""One row an estimator: how right, how steady and how dear it is."""

import math

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from experiments.figures.drawing import FAINT, STYLE, plain_ticks
from experiments.results import EstimatorRow

_COLOURS = {
    "objective": "#D55E00",
    "window": "#E69F00",
    "smoothed": "#009E73",
    "update": "#0072B2",
}


def estimators(found: list[EstimatorRow]) -> Figure | None:
    """Cosine to dF/dλ, spread around it, and cost: a dot each; None for one row.

    Colours say what an estimator aims at. The spread is the root of `own_variance`;
    what is below 1e-8 is drawn there.
    """
    rows = [row for row in found if not row.refused]
    if len(rows) < 2:
        return None
    heights = np.arange(len(rows))[::-1]
    hues = [_COLOURS.get(row.target, FAINT) for row in rows]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 0.24 * len(rows) + 1.6))
        left, middle, right = figure.subplots(1, 3, sharey=True)
        left.scatter([row.cosine for row in rows], heights, c=hues, s=30)
        left.axvline(1, color=FAINT, lw=0.8)
        left.set_title("Cosine to dF/dλ")
        left.set_xlim(min(-0.05, *(row.cosine for row in rows)) - 0.05, 1.05)
        left.set_yticks(heights, [row.estimator for row in rows])

        spread = [max(1e-8, math.sqrt(row.own_variance)) for row in rows]
        middle.scatter(spread, heights, c=hues, s=30)
        middle.set_title("Spread around dF/dλ, relative")

        right.scatter([row.time for row in rows], heights, c=hues, s=30)
        right.scatter(
            [row.memory for row in rows], heights, s=30, edgecolors=hues, c="none"
        )
        right.set_title("Time ● and memory ○, × training")
        for axes in (middle, right):
            axes.set_xscale("log")
        plain_ticks(right.xaxis)
        for target in dict.fromkeys(row.target for row in rows):
            left.scatter([], [], c=_COLOURS.get(target, FAINT), s=30, label=target)
        figure.legend(loc="outside lower left", ncols=4)
    return figure
