"""A config file: the frozen models of its tables, and the cells that it asks for.

    seeds = [0, 1, 2]
    [task]       name = "digits"          # a registered task and its options
    [estimator]  name = "Reverse"         # a class of hypergrad and its fields
    [searcher]   name = "GradientSearch"
    [budget]     trainings = 160
    [hparams.momentum]  default = 0.8     # bounds or default of the task's Space
    [choices]    "model.depth" = [1, 2]   # discrete: fields of the task, their options
    [ablate]     "task.noise" = [0.0, 0.2, 0.4]
    [compare.studies.LABEL]  [compare.methods.LABEL]   # overlays of all the above
    [paper]      name = "shaban2019_toy"  # instead of [task]: a paper's own protocol
    [expect.QUANTITY]  value = 0.5744     # what `reproduce` holds the result against

A cell is one setting of task, estimator, searcher, budget and bounds; its hash names
its run folder. A config executes no code.
"""

import json
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from experiments.configs.build import Faults
from experiments.configs.documents import Keys, value_at

SECTIONS = ("task", "paper", "estimator", "searcher", "budget", "hparams", "choices")
Model = TypeVar("Model", bound=BaseModel)
Choice = Any  # "Name" or {name = "Name", ...}; experiments.configs.build judges it.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # What numpy and jax both take.
Origin = Literal[
    "authors", "printed", "closed form", "identity", "rerun", "claim", "recalled"
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Multiple = Annotated[Finite, Field(ge=1)]


class Frozen(BaseModel):
    """A table in which every key is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(Frozen):
    """What each method may spend per seed, and how it is spent.

    Attributes:
        trainings: cost in inner-training equivalents, the unit of every comparison.
        cost_multiple: cost of one gradient in that unit; "measure" once, then kept.
        finalists: best trials that are trained again with `retrain` keys each, beyond
            the budget; the one of least mean F is chosen. One trial can be lucky.
        retrain: fresh keys with which the chosen λ is trained again; only they see
            test data.
        execution: how trials and seeds are laid out; "auto" measures once, "shard"
            spreads the trials of a round over all devices.
        training_keys: whether every trial trains with the seed's own key, so that F is
            one function, or each with a fresh one; see `hypergrad.study`.
    """

    trainings: Annotated[int, Field(ge=1)] = 100
    cost_multiple: Literal["measure"] | Multiple = "measure"
    finalists: Annotated[int, Field(ge=1)] = 1
    retrain: Annotated[int, Field(ge=1)] = 5
    execution: Literal["auto", "loop", "vmap", "chunk", "shard"] = "auto"
    training_keys: Literal["SameKey", "FreshKeys"] = "SameKey"


class Range(Frozen):
    """Bounds or default in place of those of the task's Space."""

    low: float | None = None
    high: float | None = None
    default: float | list[Any] | None = None


class Expected(Frozen):
    """A number that a result is held against, and where it comes from.

    Exactly one of `value`, `at_least`, `at_most` and `below` is given; two bounds make
    a range.

    Attributes:
        quantity: what is looked at, `METHOD.NAME` or `NAME`; the table's own label
            unless given.
        title: how tables call it.
        value: the published number, or one for each of `at`.
        at: where on the x axis of a curve.
        tolerance: how far from `value` ours may be.
        relative: likewise, in parts of `value`; the two add up.
        factor: at most this many times more or less than `value`.
        at_least, at_most: bounds, of every point of a curve (or of those `at`).
        below: another quantity, which has to be larger.
        origin: where the number comes from: the authors' own code or result files, a
            printed table, a closed form, an identity, an independent rerun, a claim in
            words, or memory. A recalled one is shown and decides nothing.
        note: what a reader should know about it.
    """

    quantity: str = ""
    title: str = ""
    value: Finite | Annotated[list[Finite], Field(min_length=1)] | None = None
    at: list[Finite] = []
    tolerance: Annotated[Finite, Field(ge=0)] = 0.0
    relative: Annotated[Finite, Field(ge=0)] = 0.0
    factor: Annotated[Finite, Field(gt=1)] | None = None
    at_least: Finite | None = None
    at_most: Finite | None = None
    below: str = ""
    origin: Origin
    note: str = ""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        bounds = self.at_least is not None or self.at_most is not None
        if (self.value is not None) + bounds + bool(self.below) != 1:
            raise ValueError("give value, or at_least and at_most, or below")
        if isinstance(self.value, list) and len(self.value) != len(self.at):
            raise ValueError(
                f"at and value are as long; got {len(self.at)} and {len(self.value)}"
            )
        if isinstance(self.value, float) and len(self.at) > 1:
            raise ValueError("value has to be a list, one number for each of at")
        return self

    @model_validator(mode="after")
    def _one_tolerance(self) -> Self:
        room, low, high = self.tolerance or self.relative, self.at_least, self.at_most
        values = self.value if isinstance(self.value, list) else [self.value]
        if self.value is None and (room or self.factor):
            raise ValueError("tolerance, relative and factor are those of a value")
        if self.factor and (room or 0.0 in values):
            raise ValueError("factor stands alone, and with a value that is not 0")
        if low is not None and high is not None and low > high:
            raise ValueError(f"at_least {low} is more than at_most {high}")
        return self


class Overlay(Frozen):
    """Changes to the base tables; see `SECTIONS`."""

    title: str | None = None
    task: Choice = {}
    paper: Choice = {}
    estimator: Choice = {}
    searcher: Choice = {}
    budget: dict[str, Any] = {}
    hparams: dict[str, Any] = {}
    choices: dict[str, Any] = {}


class Study(Overlay):
    """One question of a comparison: a task, on which every method is run."""


class Method(Overlay):
    """One way to answer it.

    Attributes:
        reference: evaluates the defaults only, as often as the chosen λ of the others;
            the one labelled `defaults` or `untuned`, else the first, is what tuning has
            to beat.
        winner_of: a reference that evaluates the best λ of an earlier study, given as
            "study" (of all its methods) or "study.method".
        studies: the studies it takes part in; all by default.
    """

    reference: bool = False
    winner_of: str | None = None
    studies: Annotated[list[str], Field(min_length=1)] | None = None


class Compare(Frozen):
    """Studies x methods."""

    studies: dict[str, Study] = {}
    methods: dict[str, Method] = {}


class Config(Frozen):
    """The whole file, after `extends` and `--set`.

    Attributes:
        reference: the paper, and which figure or table of it.
        expect: what `reproduce` holds the result against.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    title: str = ""
    claim: str = ""
    reference: str = ""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    task: Choice = {}
    paper: Choice = {}
    estimator: Choice = {}
    searcher: Choice = {}
    budget: Budget = Budget()
    hparams: dict[str, Range] = {}
    choices: dict[str, Any] = {}
    ablate: dict[str, Any] = {}
    compare: Compare = Compare()
    expect: dict[str, Expected] = {}

    @field_validator("seeds")
    @classmethod
    def _unique(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed once")
        return seeds


def validate(faults: Faults, path: Keys, model: type[Model]) -> Model | None:
    """The model of the table at `path`; None, with faults, if it is wrong."""
    table = value_at(faults.document, path)
    try:
        text = json.dumps(table, default=str)
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        faults.add_validation(error, path, model, table)
        return None
