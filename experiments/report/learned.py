"""What each search has learned: the values it chose beside the default, as a table.

Log(1e-4, 1.0, shape=(4,))   ->   rate[0], ..., rate[3] where rows are few,
                                  and one row of its median and range where not
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.configs.choices import hashable
from experiments.configs.faults import show
from experiments.results import MethodResult, SeedResult, StudyResult

MAX_ROWS = 12

WORDS = {
    "rate": "learning rate",
    "layer_rates": "factor on the learning rate, per layer",
    "warmup": "steps of warm-up",
    "final_rate": "last over first learning rate",
    "rate_decay": "factor on the rate over training",
    "decay": "weight decay (l2)",
    "layer_decay": "weight decay, per layer",
    "weight_decays": "weight decay, per weight",
    "l2": "weight decay (l2)",
    "b1": "decay of the mean gradient (b1)",
    "b2": "decay of the mean square (b2)",
    "clip_norm": "norm at which gradients are clipped",
    "dropout": "dropout rate",
    "init_scale": "scale of the first weights, per layer",
    "example_weights": "weight of a training row",
    "class_weights": "weight of a class",
    "noise": "noise added to inputs",
    "shift": "shift of images, of their width",
    "rotation": "rotation of images, radians",
    "rescaling": "change of size",
    "brightness": "change of brightness",
    "mixup": "strength of mixup",
    "discount": "discount γ",
    "trace": "trace decay λ",
    "entropy": "weight of the entropy",
    "value_weight": "weight of the critic’s loss",
}
"""How a reader calls what a config names; others are read as they are written."""


class Learned(NamedTuple):
    """The table of a study.

    Attributes:
        columns: "default", then the searches.
        rows: (words, name of the coordinate, a cell a column).
    """

    columns: list[str]
    rows: list[tuple[str, str, list[str]]]


def learned(study: StudyResult) -> Learned | None:
    """Each hyperparameter's default and chosen values; None where nothing searched."""
    searches = [m for m in study.methods if m.kind != "reference" and m.seeds]
    if not any(seed.hparams or seed.choices for m in searches for seed in m.seeds):
        return None
    rows = [*_options(study, searches), *_numbers(study, searches)]
    return Learned(["default", *(method.title for method in searches)], rows)


def _numbers(study: StudyResult, searches: Sequence[MethodResult]) -> Iterator[Any]:
    """A row a number while there is room, the small arrays first to be written out."""
    shapes: dict[str, tuple[int, ...]] = {}
    for seed in (seed for method in searches for seed in method.seeds):
        for name, value in seed.hparams.items():
            shapes.setdefault(name, np.shape(value))
    spelled, room = set(), MAX_ROWS - len(shapes)
    for name in sorted(shapes, key=lambda name: np.prod(shapes[name])):
        room -= int(np.prod(shapes[name])) - 1
        if room >= 0:
            spelled.add(name)
    for name, shape in shapes.items():
        indices = list(np.ndindex(shape)) if name in spelled else [...]
        for index in indices:
            words, code = _words(name), name
            if index is ...:
                words += f", all {np.prod(shape)}"
            elif index:
                code += f"[{','.join(map(str, index))}]"
            default = _entries(study.defaults, name, index)
            cells = [_centre_and_range([default])] + [
                _centre_and_range([_entries(s.hparams, name, index) for s in m.seeds])
                for m in searches
            ]
            yield words, code, cells


def _options(study: StudyResult, searches: Sequence[MethodResult]) -> Iterator[Any]:
    """How often each option was chosen."""
    every = [seed for method in searches for seed in method.seeds]
    for name in dict.fromkeys(name for seed in every for name in seed.choices):
        default = study.defaults.get(name, "–")
        cells = [_told(default), *(_counts(m.seeds, name) for m in searches)]
        yield _words(name), name, cells


def _counts(seeds: Sequence[SeedResult], name: str) -> str:
    chosen = Counter(_told(s.choices[name]) for s in seeds if name in s.choices)
    if len(chosen) == 1 and chosen.total() == len(seeds):
        return next(iter(chosen))
    return ", ".join(f"{o} ×{n}" for o, n in chosen.most_common()) or "–"


def _told(option: Any) -> str:
    return option if isinstance(option, str) else show(hashable(option))


def _entries(hparams: dict[str, Any], name: str, index: Any) -> NDArray | None:
    """The entries of an array that a row is about; None where λ has no such name."""
    if name not in hparams:
        return None
    return np.ravel(np.asarray(hparams[name], float)[index])


def _centre_and_range(samples: Sequence[NDArray | None]) -> str:
    """`0.04 (0.01 to 0.09)`: mean over seeds of the median entry; range of them all."""
    known = [sample for sample in samples if sample is not None]
    if not known:
        return "–"
    centre = float(np.mean([np.median(sample) for sample in known]))
    low, high = (float(f(np.concatenate(known))) for f in (np.min, np.max))
    if low == high:
        return _plain(centre)
    return f"{_plain(centre)} ({_plain(low)} to {_plain(high)})"


def _plain(value: float) -> str:
    """Three digits, and more for what lies just under one, as a discount does."""
    return f"{value:.5g}" if 0.99 < value < 1 else f"{value:.3g}"


def _words(name: str) -> str:
    """`model.depth` is "depth of the model"; `rate` has a word of its own."""
    table, _, field = name.rpartition(".")
    words = WORDS.get(name) or (field or name).replace("_", " ")
    return f"{words} of the {table}" if table else words
