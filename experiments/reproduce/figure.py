"""A paper's figure redrawn: our curves as lines, its published points as rings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.configs.config import Expected
from experiments.figures.drawing import INK, STYLE
from experiments.paper import Curve, Panel
from experiments.reproduce.found import Found, mean_curve, quantity

_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#5B5BA5", "#222222"),
)
_DASHES = ("-", "--", ":", "-.")
_WIDTH, _HEIGHT = 4.2, 2.9  # inches of a panel
_FEW = 4  # lines that a legend among the curves may name; more are named below
_RINGS = 40  # published points that a panel shows of each curve
_IMAGES = 10  # of each picture


class _Line(NamedTuple):
    """One curve of a panel; a method has one colour in all of them."""

    name: str
    label: str
    curve: Curve
    color: str
    dash: str


def draw(
    panels: Sequence[Panel], found: Found, expect: Mapping[str, Expected]
) -> Figure | None:
    """The panels side by side, then the pictures; None if there is nothing to draw.

    Args:
        panels: of the paper; those whose curves were not measured are left out.
        found: what was measured; means over seeds are drawn.
        expect: its published values with an x are the rings.
    """
    drawn = [(panel, lines) for panel in panels if (lines := _lines(panel, found))]
    pictures = [(t, p) for t, ps in found.pictures.items() if (p := _images(ps)).size]
    count = len(drawn) + len(pictures)
    if not count:
        return None
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    below = max((len(lines) for _, lines in drawn), default=0) > _FEW
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows))
        grid = list(figure.subplots(rows, columns, squeeze=False).ravel())
        shown = []
        for panel, lines in drawn:
            shown.append(grid.pop(0))
            _panel(shown[-1], panel, lines, expect)
            if not below and shown[-1].get_legend_handles_labels()[1]:
                shown[-1].legend(fontsize=7.5)
        if below:
            _shared_legend(figure, shown)
        for title, images in pictures:
            _pictures(grid.pop(0), title, images)
        for axes in grid:
            axes.set_visible(False)
    return figure


def _lines(panel: Panel, found: Found) -> list[_Line]:
    return list(_each(panel, found))


def _each(panel: Panel, found: Found) -> Iterator[_Line]:
    for m, (method, title) in enumerate(found.methods.items()):
        for c, name in enumerate(panel.curves):
            known = found.curves.get(quantity(method, name))
            line = mean_curve(known) if known else None
            if line is not None and line.x:
                words = name.replace("_", " ")
                several = title and len(panel.curves) > 1
                label = f"{title}: {words}" if several else title or words
                turn, hue = divmod(m if len(found.methods) > 1 else c, len(_COLORS))
                turn += c if len(found.methods) > 1 else 0
                look = _COLORS[hue], _DASHES[turn % len(_DASHES)]
                yield _Line(quantity(method, name), label, line, *look)


def _shared_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """What the panels name, once, below them, where it hides no curve."""
    named = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    width, height = figure.get_size_inches()
    columns = int(width / (0.6 + 0.07 * max(map(len, named))))  # 7.5 points a letter
    columns = min(max(columns, 1), len(named))
    figure.set_size_inches(width, height + 0.17 * -(-len(named) // columns))
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower left",
        ncols=columns,
        fontsize=7.5,
    )


def _panel(
    axes: Axes, panel: Panel, lines: list[_Line], expect: Mapping[str, Expected]
) -> None:
    rings = ""
    for line in lines:
        x, y = np.array(line.curve.x), np.array(line.curve.y)
        dot = "." if len(x) == 1 else ""
        label = line.label if len(lines) > 1 else None
        look: dict[str, Any] = {"color": line.color, "ls": line.dash}
        axes.plot(x, y, **look, marker=dot, label=label)
        for at, value, origin in _published(line.name, expect):
            axes.plot(at, value, "o", mec=line.color, mfc="none", ms=5, mew=1.1)
            rings = origin
    if rings:
        axes.plot([], [], "o", mec=INK, mfc="none", ms=5, mew=1.1, label=rings)
    if "x" in panel.log:
        axes.set_xscale("log")
        _plain(axes.xaxis)
    if "y" in panel.log:
        axes.set_yscale("symlog" if _any_negative(lines) else "log")
        _plain(axes.yaxis)
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)


def _published(
    name: str, expect: Mapping[str, Expected]
) -> Iterator[tuple[Sequence[float], Sequence[float], str]]:
    """(x, y, origin) of the values of a curve, thinned where there are very many."""
    for label, each in expect.items():
        if (each.quantity or label) == name and each.value is not None and each.at:
            values = each.value if isinstance(each.value, list) else [each.value]
            step = -(-len(values) // _RINGS)
            yield each.at[::step], values[::step], _word(each.origin)


def _word(origin: str) -> str:
    return {"authors": "published", "printed": "published"}.get(origin, origin)


def _plain(axis: Axis) -> None:
    """1, 2, 5, 10 on a logarithmic axis of less than two decades; powers on others."""
    low, high = axis.get_view_interval()
    if low > 0 and high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _any_negative(lines: list[_Line]) -> bool:
    return any(min(line.curve.y) <= 0 for line in lines)


def _images(images: list[list[list[float]]]) -> np.ndarray:
    """The first few, [n, height, width]; none where they are not of one size."""
    few = images[:_IMAGES]
    if len({(len(image), *map(len, image)) for image in few}) != 1:
        return np.zeros((0, 0, 0))
    return np.array(few, float)


def _pictures(axes: Axes, title: str, images: np.ndarray) -> None:
    """A grid of images, dark for large."""
    count, height, width = images.shape
    columns = -(-count // 2) if count > 5 else count
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for index, image in enumerate(images):
        top, left = divmod(index, columns)
        span = max(float(np.ptp(image)), 1e-12)
        where = np.s_[top * (height + 1) :, left * (width + 1) :]
        sheet[where][:height, :width] = (image - image.min()) / span
    axes.imshow(sheet, cmap="gray_r", interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
