"""What the engine hands to the report: plain frozen values, JSON there and back."""

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from experiments.storage.files import DamagedError

Kind = Literal["gradient", "baseline", "reference"]


class Value(BaseModel):
    """Frozen, and whole in JSON: a loss that diverged is `Infinity` or `NaN`."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class SeedResult(Value):
    """One cell and seed: the search, then the retrainings of the λ it chose.

    Attributes:
        seed: of data and keys; every method of a study sees the same.
        values: F of each trial in order; what is not finite has diverged.
        doubtful: trials whose hypergradient its own estimator doubts.
        steps: training steps that each trial had done; [] if all did all T.
        num_steps: T, which `steps` count up to; 0 where all did all.
        parents: the trial whose training each went on with, -1 for none; [] if none.
        cost: inner-training equivalents spent after each trial.
        seconds: time spent after each trial on training and searcher, not compiling.
        objective: F of the chosen λ, a number per retraining.
        validation: the task's metric on validation, likewise.
        test: the same on test.
        seconds_training, seconds_searcher, seconds_compile: totals.
        hparams: the chosen λ.
        choices: the chosen options, {name: option}; {} where nothing is discrete.
        schedules: what it says over the steps of training, {name: [T]}.
        tried: λ of each trial, {name: [trials]}; {} where it has many coordinates.
        trajectories: λ of the best trial so far, {name: [trials]}.
        distributions: entries of λ in groups, {title: {group: entries}}.
        pictures: images that λ is made of or points at, {title: [n, height, width]}.
    """

    seed: int
    values: list[float] = []
    doubtful: int = 0
    steps: list[int] = []
    num_steps: int = 0
    parents: list[int] = []
    cost: list[float] = []
    seconds: list[float] = []
    objective: list[float] = []
    validation: list[float]
    test: list[float]
    seconds_training: float = 0.0
    seconds_searcher: float = 0.0
    seconds_compile: float = 0.0
    hparams: dict[str, float | list] = {}
    choices: dict[str, Any] = {}
    schedules: dict[str, list[float]] = {}
    tried: dict[str, list[float]] = {}
    trajectories: dict[str, list[float]] = {}
    distributions: dict[str, dict[str, list[float]]] = {}
    pictures: dict[str, list] = {}

    @model_validator(mode="after")
    def _one_each_trial(self) -> Self:
        columns = {"steps": self.steps, "parents": self.parents, "cost": self.cost}
        columns |= {"seconds": self.seconds} | self.tried | self.trajectories
        for name, column in columns.items():
            if column and len(column) != len(self.values):
                raise ValueError(
                    f"{len(column)} of {name} for {len(self.values)} values"
                )
        return self


def read_result(folder: Path, table: dict[str, Any]) -> SeedResult:
    """The result of a run from the table in its DONE file.

    Raises:
        DamagedError: the table is none that a run writes.
    """
    try:
        return SeedResult.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"].lower()
        found = f"{where}: {reason}" if where else reason
        what = f"{folder / 'DONE'} holds no result of a run: {found}"
        raise DamagedError(what) from error


class Failure(Value):
    """A seed of a method that ended in an error, in its last line."""

    seed: int
    message: str


class MethodResult(Value):
    """One method of a study over all seeds.

    Attributes:
        seeds: the results of those that did not fail.
        failures: of those that did.
        kind: searches by gradients, by values only, or is a reference.
        note: one sentence for the reader, such as what a grid had to tie.
        cost_multiple: what one trial costs, in inner-training equivalents.
        cell: the hash of its cell, the name of its run folder.
    """

    label: str
    title: str
    kind: Kind
    seeds: list[SeedResult]
    note: str = ""
    cost_multiple: float | None = None
    cell: str = ""
    failures: list[Failure] = []


class StudyResult(Value):
    """One question: methods on one task at equal cost.

    Attributes:
        defaults: λ and options before any search.
        dimension: how many coordinates its first search has.
    """

    label: str
    title: str
    methods: list[MethodResult]
    defaults: dict[str, Any] = {}
    dimension: int = 0
    notes: list[str] = []


class EstimatorRow(Value):
    """One estimator beside the exact hypergradient, and beside one plain training.

    Attributes:
        estimator: as a config would write it.
        target: what it estimates, a name of `hypergrad.Target` in lower case.
        refused: why it does not serve this task; all else is then unknown.
        verdict: of the comparison with what it aims at.
        num_keys: keys over which mean and variance were taken.
        bias, standard_error: of the mean, relative to the norm of what it aims at.
        cosine, norm_ratio: of the mean to the exact dF/dλ.
        variance, own_variance: over keys, relative to ‖dF/dλ‖²: of the estimate, and of
            its difference to the exact one at the same key.
        doubtful, doubt: share of keys at which it doubts itself, and why.
        time, memory: of one estimate over that of one training (median of interleaved
            runs; XLA's temporary bytes).
    """

    estimator: str
    target: str
    refused: str = ""
    verdict: str = ""
    num_keys: int = 0
    bias: float = math.nan
    standard_error: float = math.nan
    cosine: float = math.nan
    norm_ratio: float = math.nan
    variance: float = math.nan
    own_variance: float = math.nan
    doubtful: float = 0.0
    doubt: str | None = None
    time: float = math.nan
    memory: float = math.nan


class Trust(Value):
    """What `verify`, `diagnose` and `plan` have printed about a config."""

    estimators: list[EstimatorRow] = []
    diagnosis: str = ""
    plan: str = ""


class Reproduction(Value):
    """How to get the same page again."""

    command: str
    started: str = ""
    seconds: float = 0.0
    device: str = ""
    platform: str = ""
    commit: str | None = None
    versions: dict[str, str] = {}
    config: str = ""


class Comparison(Value):
    """Everything on one page.

    Attributes:
        metric: name of the metric of `validation` and `test`.
        higher_is_better: its sense.
        claim: what the config set out to show.
        trust: what is known about its hypergradients.
    """

    name: str
    title: str
    metric: str
    higher_is_better: bool
    studies: list[StudyResult]
    claim: str = ""
    notes: list[str] = []
    trust: Trust = Trust()
    reproduction: Reproduction
