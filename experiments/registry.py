"""Tasks by name: a task is a frozen value, built from a config's [task] table.

    @register("ridge")
    class Ridge(Task):
        rows: int = 50

        def space(self): ...
        def problem(self, seed): ...
        def test(self, seed): ...

The project's own tasks live in experiments/tasks; a researcher's come from
`--tasks my_tasks.py`, on the command line and never from a config.
"""

import abc
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from experiments.configs.faults import ConfigError, Fault
from experiments.paper import PAPERS

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

    import hypergrad as hg

# inner state after training, hparams -> {metric: scalar}
Metrics = Callable[..., "Mapping[str, Array]"]

TASKS: dict[str, type["Task"]] = {}
Registered = TypeVar("Registered", bound="Task")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Task(BaseModel, abc.ABC):
    """F(λ) and what it is judged by; the fields of a subclass are its options.

    Attributes:
        metric: the name, among those of `validation` and `test`, that tables show.
        higher_is_better: the sense of `metric`.
        question: options that say what is asked, which no search may choose: it would
            choose the easier question, or see rows that others are tested on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __hash__(self) -> int:
        """Of the options, tables among them included."""
        return hash((type(self), self.model_dump_json()))

    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    question: ClassVar[frozenset[str]] = frozenset(
        {"source", "num_train", "num_valid", "num_test", "fit_on"}
    )

    @property
    def fits_validation(self) -> bool:
        """Whether training sees the validation set, whose score then means nothing."""
        return False

    @abc.abstractmethod
    def space(self) -> "hg.Space":
        """The hyperparameters λ with their bounds and defaults."""

    @abc.abstractmethod
    def problem(self, seed: int) -> "hg.Problem":
        """F of one seed's data: trains on the training set, looks at validation."""

    @abc.abstractmethod
    def validation(self, seed: int) -> Metrics:
        """(state, hparams) -> {metric: value} on the validation set; jittable."""

    @abc.abstractmethod
    def test(self, seed: int) -> Metrics:
        """(state, hparams) -> {metric: value} on the test set; jittable."""

    def schedules(self, hparams: "Mapping[str, Array]") -> "Mapping[str, Array]":
        """What λ says over the steps of training, to be drawn: {name: [T]}."""
        return {}

    def distributions(
        self, seed: int, hparams: "Mapping[str, Array]"
    ) -> "Mapping[str, Mapping[str, Array]]":
        """Entries of λ in groups worth comparing: {title: {group: [n]}}."""
        return {}

    def pictures(
        self, seed: int, hparams: "Mapping[str, Array]"
    ) -> "Mapping[str, ArrayLike]":
        """Images that λ is made of or points at: {title: [n, height, width, ...]}."""
        return {}


def register(name: str) -> Callable[[type[Registered]], type[Registered]]:
    """Class decorator: makes the task known to configs as `name`."""

    def add(cls: type[Registered]) -> type[Registered]:
        other = TASKS.get(name)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise ValueError(f"two tasks are named {name!r}: {other} and {cls}")
        TASKS[name] = cls
        return cls

    return add


def remembered(fn: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator: a function of a task is called once for equal options.

    Functions that it makes are then the same objects, and so are traced once.
    """
    # Type checkers do not see that a subclass of a task has the hash of its options.
    return cast(Any, functools.lru_cache(maxsize=64)(fn))


def load_tasks(files: tuple[Path, ...] = ()) -> None:
    """Register the project's own tasks and papers, then those of Python files.

    Raises:
        ConfigError: a file is missing, fails to import, or registers no task.
    """
    importlib.import_module("experiments.tasks")
    importlib.import_module("experiments.papers")
    for file in files:
        before = {**TASKS, **PAPERS}
        _import(file)
        if before == {**TASKS, **PAPERS}:
            raise ConfigError(
                [
                    Fault(
                        str(file),
                        message="registers no task and no paper",
                        expected="@register(NAME) or @paper(NAME)",
                    )
                ]
            )


def _import(file: Path) -> None:
    if not file.is_file():
        raise ConfigError([Fault(str(file), message="no such file of tasks")])
    name = f"tasks_from_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError([Fault(str(file), message="not a Python file")])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            [Fault(str(file), message=f"{type(error).__name__} on import: {error}")]
        ) from error
