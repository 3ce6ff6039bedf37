"""The continuous hyperparameters a config can name, with scale, bounds and default.

One name a meaning, whatever the task: `tune = ["rate", "decay", "dropout"]` makes them
coordinates of λ; `fixed = {momentum = 0.5}` gives one a value that stays.
"""

import difflib
from collections.abc import Callable, Collection
from typing import NamedTuple

import hypergrad as hg


class Sizes(NamedTuple):
    """What the shapes of hyperparameters are made of.

    Attributes:
        num_steps: T.
        knots: of a piecewise linear schedule.
        layers: of the model.
        weights: how many numbers the model's weights are.
        rows: that are trained on.
        classes: 0 where the targets are numbers.
    """

    num_steps: int
    knots: int
    layers: int
    weights: int
    rows: int
    classes: int


Entry = Callable[[Sizes], hg.Hyperparameter]


def _rate(shape: Callable[[Sizes], tuple[int, ...]], default: float) -> Entry:
    return lambda sizes: hg.Log(1e-4, 10.0, default=default, shape=shape(sizes))


SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": ("rate",),
    "exponential": ("rate", "rate_decay"),
    "cosine": ("rate", "final_rate"),
    "piecewise": ("rate",),
    "table": ("rate",),
    "layer_table": ("rate",),
}
"""The names that each learning-rate schedule needs."""

RATE_SHAPES: dict[str, Callable[[Sizes], tuple[int, ...]]] = {
    "piecewise": lambda s: (s.knots,),
    "table": lambda s: (s.num_steps,),
    "layer_table": lambda s: (s.num_steps, s.layers),
}
"""The shape of `rate` where it is no number."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("b1", "b2", "eps"),
    "adamw": ("b1", "b2", "eps", "decay"),
    "rmsprop": ("b2", "eps"),
}
"""The names that each optimiser needs."""

DEFAULT_RATES = {"sgd": 0.1, "nesterov": 0.1}
"""Of the others it is 0.01."""

GENERAL: dict[str, Entry] = {
    "rate_decay": lambda s: hg.Log(1e-3, 1.0, default=0.1),
    "final_rate": lambda s: hg.Log(1e-5, 1.0, default=1e-3),
    "warmup": lambda s: hg.Linear(0.0, 0.5 * s.num_steps, default=0.05 * s.num_steps),
    "momentum": lambda s: hg.Logit(0.05, 0.99, default=0.9),
    "b1": lambda s: hg.Logit(0.05, 0.99, default=0.9),
    "b2": lambda s: hg.Logit(0.5, 0.9999, default=0.99),
    "eps": lambda s: hg.Log(1e-10, 1e-2, default=1e-8),
    "layer_rates": lambda s: hg.Log(1e-3, 10.0, default=1.0, shape=(s.layers,)),
    "clip_norm": lambda s: hg.Log(1e-2, 100.0, default=1.0),
    "decay": lambda s: hg.Log(1e-7, 1.0, default=1e-4),
    "layer_decay": lambda s: hg.Log(1e-7, 1.0, default=1e-4, shape=(s.layers,)),
    "weight_decays": lambda s: hg.Log(1e-7, 1.0, default=1e-4, shape=(s.weights,)),
    # At 0 only the slope from above exists: a search stays off that end (as in IMAGES).
    "dropout": lambda s: hg.Linear(0.005, 0.8, default=0.1),
    "init_scale": lambda s: hg.Log(0.1, 10.0, default=1.0, shape=(s.layers,)),
    "example_weights": lambda s: hg.Linear(0.0, 1.0, default=1.0, shape=(s.rows,)),
}
"""What any task may have."""

CLASSIFIERS: dict[str, Entry] = {
    "label_smoothing": lambda s: hg.Linear(0.0, 0.9, default=0.05),
    "class_weights": lambda s: hg.Log(0.1, 10.0, default=1.0, shape=(s.classes,)),
}
"""What needs classes."""

NUMBERS: dict[str, Entry] = {
    "noise": lambda s: hg.Linear(0.0, 1.0, default=0.05),
    "mixup": lambda s: hg.Linear(0.0, 1.0, default=0.1),
}
"""What needs inputs that are numbers: the standard deviation of what is added, ..."""

IMAGES: dict[str, Entry] = {
    "shift": lambda s: hg.Linear(0.001, 0.5, default=0.05),
    "rotation": lambda s: hg.Linear(0.001, 1.0, default=0.05),
    "rescaling": lambda s: hg.Linear(0.001, 0.5, default=0.05),
    "brightness": lambda s: hg.Linear(0.0, 0.5, default=0.05),
}
"""What needs images: fraction of the width, radians, relative size, of the range."""

PRETRAINED: dict[str, Entry] = {
    "start_decay": lambda s: hg.Log(1e-5, 10.0, default=1e-3),
}
"""What needs weights to start from: a decay not to zero but to them."""


def entries(
    names: Collection[str],
    sizes: Sizes,
    *,
    optimizer: str,
    schedule: str,
    numbers: bool,
    images: bool,
    pretrained: bool,
) -> dict[str, hg.Hyperparameter]:
    """The hyperparameters of these names, in their order.

    Args:
        names: what is asked for.
        sizes: of the task.
        optimizer: a key of `OPTIMIZERS`.
        schedule: a key of `SCHEDULES`.
        numbers: whether inputs are numbers (and not tokens).
        images: whether inputs are images.
        pretrained: whether training starts from weights that are given.

    Raises:
        ValueError: a name means nothing here; says what does.
    """
    shape = RATE_SHAPES.get(schedule, lambda s: ())
    known = {"rate": _rate(shape, DEFAULT_RATES.get(optimizer, 0.01))} | GENERAL
    others = {n for needs in OPTIMIZERS.values() for n in needs} - {"decay"}
    others |= {n for needs in SCHEDULES.values() for n in needs} - {"rate"}
    if schedule in ("table", "layer_table"):
        del known["warmup"]  # A rate for each step has its own.
    for name in others - set(OPTIMIZERS[optimizer]) - set(SCHEDULES[schedule]):
        del known[name]
    known |= CLASSIFIERS if sizes.classes else {}
    known |= NUMBERS if numbers else {}
    known |= IMAGES if images else {}
    known |= PRETRAINED if pretrained else {}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{name!r} is no hyperparameter of this task (optimizer "
                f"{optimizer!r}, schedule {schedule!r}), which has "
                f"{', '.join(known)}{hint}"
            )
    if "mixup" in names and (both := {"class_weights", "example_weights"} & set(names)):
        raise ValueError(
            f"mixup makes one row of two, of which {sorted(both)} would weigh only "
            "one: leave either out"
        )
    return {name: known[name](sizes) for name in names}
