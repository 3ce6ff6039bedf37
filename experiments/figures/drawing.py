"""How figures look: one style, one look a method on the whole page, common parts.

Gradient searches are warm, baselines cool (both begin with Okabe and Ito's palette,
safe for the colour-blind), references grey. Where colours run out lines are dashed.
"""

import io
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.results import Comparison, MethodResult, StudyResult
from experiments.storage.files import write_bytes

INK, FAINT = "#222222", "#8a8a8a"
_WARM = ("#D55E00", "#E69F00", "#A63A00", "#C2185B")
_COOL = (
    *("#0072B2", "#009E73", "#CC79A7", "#56B4E9"),
    *("#5B5BA5", "#117733", "#44AA99", "#6B4C9A"),
)
_MARKERS = "osD^vP*Xp<>h"
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
TITLE_WIDTH = 112  # characters that fit side by side across a figure
COST = "inner-training equivalents"


class Look(NamedTuple):
    """What tells a method from others on the whole page."""

    title: str
    kind: str
    color: str
    dash: str
    marker: str

    @property
    def width(self) -> float:
        """Gradient searches stand out."""
        return 2.4 if self.kind == "gradient" else 1.5

    @property
    def line(self) -> dict[str, Any]:
        """The style of its mean."""
        return {"color": self.color, "ls": self.dash, "lw": self.width}

    @property
    def thin(self) -> dict[str, Any]:
        """The style of one of many lines."""
        front = self.kind == "gradient"
        look = {"lw": 1.8, "alpha": 0.9} if front else {"lw": 0.8, "alpha": 0.5}
        return {"color": self.color, "ls": self.dash} | look


Looks = dict[str, Look]


def looks(page: Comparison) -> Looks:
    """A look for each label, by kind and order over all studies."""
    methods = {m.label: m for study in page.studies for m in study.methods}
    palettes = {"gradient": _WARM, "baseline": _COOL, "reference": (FAINT,)}
    seen = dict.fromkeys(palettes, 0)
    found = {}
    for label, method in methods.items():
        palette, index = palettes[method.kind], seen[method.kind]
        dash = ("-", "--", ":")[index // len(palette) % 3]
        marker = _MARKERS[len(found) % len(_MARKERS)]
        color = palette[index % len(palette)]
        found[label] = Look(method.title, method.kind, color, dash, marker)
        seen[method.kind] += 1
    return found


def back_to_front(study: StudyResult) -> list[MethodResult]:
    """Gradient searches are drawn last, above all others."""
    order = ("reference", "baseline", "gradient")
    return sorted(study.methods, key=lambda method: order.index(method.kind))


def names(tables: Iterable[dict]) -> list[str]:
    """The keys of several tables, each once."""
    return list(dict.fromkeys(name for table in tables for name in table))


def labelled(axes: Axes, title: str) -> dict[str, Any]:
    """A label for the first line of a method only."""
    known = axes.get_legend_handles_labels()[1]
    return {} if title in known else {"label": title}


def panels(
    titles: list[str],
    draw: Callable[[Axes, str], None],
    *,
    columns: int,
    height: float,
) -> Figure | None:
    """One axes a title; None without titles."""
    if not titles:
        return None
    columns = min(columns, max(len(titles), 2))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(11.0, height * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title in zip(grid, titles, strict=False):
        draw(axes, title)
        axes.set_title(textwrap.fill(title, TITLE_WIDTH // columns))
        log_if_wide(axes)
    for axes in grid[len(titles) :]:
        axes.set_visible(False)
    return figure


def legend(figure: Figure, axes: Axes, found: Looks) -> None:
    """The legend of one axes below the whole figure, in the order of the page.

    None of more than MAX_PANELS lines: so many colours nobody tells apart.
    """
    drawn = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    titles = names([{look.title: None for look in found.values()}])
    titles = [title for title in titles if title in drawn]
    if 0 < len(titles) <= MAX_PANELS:
        made = figure.legend(
            [drawn[title] for title in titles],
            titles,
            loc="outside lower left",
            ncols=min(len(titles), 6 if max(map(len, titles)) < 28 else 4),
            markerscale=1.4,
        )
        for handle in made.legend_handles:
            if handle is not None:
                handle.set_alpha(1)  # A faint line among many is clear by its name.


def log_if_wide(axes: Axes) -> None:
    """A log axis where positive lines span more than a factor of eight."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    values = np.concatenate(
        [line[np.isfinite(line)] for line in drawn] or [np.zeros(0)]
    )
    if len(values) and values.min() > 0 and values.max() > 8 * values.min():
        log(axes)


def log(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers."""
    axes.set_yscale("log")
    plain_ticks(axes.yaxis)


def plain_ticks(axis: XAxis | YAxis) -> None:
    """0.1 and 20 rather than powers of ten; 1, 2 and 5 of each decade if few fit."""
    low, high = axis.get_view_interval()
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    most = 5 if axis.axis_name == "x" else 8  # Numbers are wider than high.
    axis.set_major_locator(LogLocator(subs=steps, numticks=most))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same data."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def as_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG; unless told otherwise, sharp at the width of a README."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def write_pngs(folder: Path, name: str, drawn: dict[str, Figure]) -> list[Path]:
    """The figures of a study as NAME-FIGURE.png in a folder."""
    paths = [folder / f"{name}-{figure}.png" for figure in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        write_bytes(path, as_png(figure))
    return paths
