"""Of a paper's figure: a method has one colour, and many are named outside the axes."""

import numpy as np
import pytest

from experiments.paper import Panel, curve
from experiments.reproduce.figure import draw
from experiments.reproduce.found import Found

PANELS = (
    Panel("Loss", ("loss",), "step", "loss"),
    Panel("Rate", ("rate",), "step", "rate"),
)


def found(methods, without=()):
    titles = {f"m{i}": f"method {i}" for i in range(methods)}
    curves = {
        f"{label}.{name}": [curve([1.0, 2.0 + i])]
        for i, label in enumerate(titles)
        for name in ("loss", "rate", "test")
        if (label, name) not in without
    }
    return Found(methods=titles, curves=curves)


def drawn(figure):
    """Of each panel, {label: (colour, dashes)}."""
    return [
        {
            line.get_label(): (line.get_color(), line.get_linestyle())
            for line in axes.get_lines()
        }
        for axes in figure.axes
    ]


def test_a_method_keeps_its_colour_where_another_is_missing():
    figure = draw(PANELS, found(3, without={("m0", "rate")}), {})
    assert figure is not None
    loss, rate = drawn(figure)
    assert list(rate) == ["method 1", "method 2"]
    assert all(rate[label] == loss[label] for label in rate)
    assert all(axes.get_legend() for axes in figure.axes)
    assert not figure.legends


@pytest.mark.parametrize("methods", [5, 11])
def test_many_methods_are_named_once_below_the_axes(methods):
    figure = draw(PANELS, found(methods), {})
    assert figure is not None
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [f"method {i}" for i in range(methods)]
    assert not any(axes.get_legend() for axes in figure.axes)
    assert len(set(drawn(figure)[0].values())) == methods
    figure.draw_without_rendering()
    top = legend.get_window_extent().y1
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(box is not None and box.y0 > top for box in boxes)
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_curves_of_a_method_share_its_colour_and_differ_in_dashes():
    figure = draw((Panel("", ("loss", "test"), "x", "y"),), found(2), {})
    assert figure is not None
    (looks,) = drawn(figure)
    colors = {label: color for label, (color, _) in looks.items()}
    assert colors["method 0: loss"] == colors["method 0: test"]
    assert colors["method 0: loss"] != colors["method 1: loss"]
    assert len(set(looks.values())) == 4
    alone = draw((Panel("", ("a", "b"), "x", "y"),), one(), {})
    assert alone is not None
    assert len({color for color, _ in drawn(alone)[0].values()}) == 2


def one():
    """Two curves of a config without methods."""
    curves = {name: [curve(np.arange(3.0))] for name in "ab"}
    return Found(methods={"": ""}, curves=curves)
