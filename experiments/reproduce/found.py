"""What a run has found, by quantity: `NAME`, or `METHOD.NAME` of several methods."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from experiments.paper import Curve, Measured, Panel, curve
from experiments.results import Comparison, MethodResult, Value

OUTER = Panel("Least so far", ("best",), "trial", "F(λ)")


class Found(Value):
    """All quantities of a config over its seeds.

    Attributes:
        methods: {label: title}; {"": ""} where the config has no methods.
        numbers: {quantity: a number a seed}.
        curves: {quantity: a curve a seed}.
        pictures: {title: images}, of the first seed.
        seconds: spent on what was measured, resumed runs included.
        failures: a line for each method and seed that ended in an error.
    """

    methods: dict[str, str] = {}
    numbers: dict[str, list[float]] = {}
    curves: dict[str, list[Curve]] = {}
    pictures: dict[str, list[list[list[float]]]] = {}
    seconds: float = 0.0
    failures: list[str] = []

    @property
    def quantities(self) -> list[str]:
        """Every name that an expectation may look at."""
        return [*self.numbers, *self.curves]


class Part(NamedTuple):
    """One method on one seed."""

    method: str
    title: str
    measured: Measured
    seconds: float


def quantity(method: str, name: str) -> str:
    """How an expectation calls what a method has found."""
    return f"{method}.{name}" if method else name


def gathered(parts: Iterable[Part], failures: Iterable[str] = ()) -> Found:
    """Parts as quantities, in their order; a repeated method is another seed of it."""
    methods: dict[str, str] = {}
    numbers: dict[str, list[float]] = {}
    curves: dict[str, list[Curve]] = {}
    pictures: dict[str, list[list[list[float]]]] = {}
    seconds = 0.0
    for method, title, measured, spent in parts:
        methods[method] = title
        for name, value in measured.numbers.items():
            numbers.setdefault(quantity(method, name), []).append(value)
        for name, line in measured.curves.items():
            curves.setdefault(quantity(method, name), []).append(line)
        for name, images in measured.pictures.items():
            pictures.setdefault(f"{title}: {name}" if title else name, images)
        seconds += spent
    return Found(
        methods=methods,
        numbers=numbers,
        curves=curves,
        pictures=pictures,
        seconds=seconds,
        failures=list(failures),
    )


def of_comparison(comparison: Comparison, failures: Iterable[str]) -> Found:
    """The quantities of an ordinary config: those of `_measured`, of every method.

    A method is called `STUDY.METHOD` where there are several studies, and has no name
    where there is one alone.
    """
    several = len(comparison.studies) > 1
    alone = not several and len(comparison.studies[0].methods) == 1
    parts = []
    for study in comparison.studies:
        for method in study.methods:
            label = f"{study.label}.{method.label}" if several else method.label
            title = f"{study.title}: {method.title}" if several else method.title
            parts += [
                Part("" if alone else label, title, measured, 0.0)
                for measured in _measured(method)
            ]
    found = gathered(parts, failures)
    return found.model_copy(update={"seconds": comparison.reproduction.seconds})


def _measured(method: MethodResult) -> Iterator[Measured]:
    """Means over retrainings of test, validation, objective; F: all, least, so far."""
    for seed in method.seeds:
        means = {"test": seed.test, "validation": seed.validation}
        means |= {"objective": seed.objective}
        found = {name: float(np.mean(x)) for name, x in means.items() if x}
        curves = {}
        if seed.values:
            best = np.fmin.accumulate(seed.values)  # A NaN has diverged.
            found["least"] = best[-1]
            curves = {"values": curve(seed.values), "best": curve(best)}
        yield Measured(numbers=found, curves=curves)


def mean(numbers: Iterable[float]) -> float:
    """The mean over seeds: not finite if one is not."""
    with np.errstate(invalid="ignore"):  # ∞ − ∞ of two that have diverged.
        return float(np.mean([*numbers]))


def mean_curve(curves: list[Curve]) -> Curve:
    """The mean over seeds, at each x that all of them have."""
    shared = set.intersection(*({*line.x} for line in curves))
    ys = [
        [y for x, y in zip(line.x, line.y, strict=True) if x in shared]
        for line in curves
    ]
    xs = [x for x in curves[0].x if x in shared]
    return curve(map(mean, zip(*ys, strict=True)), xs)
