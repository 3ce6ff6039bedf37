"""Discrete hyperparameters of a config: fields of the task, and their options.

    [choices]
    batch_size    = [10, 50]
    "model.depth" = [1, 2]

An option is what the field could hold anyway, so that a task knows nothing of choices:
it is built anew with the options of a trial.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from experiments.configs.build import Faults
from experiments.configs.documents import (
    Source,
    flatten,
    merge,
    nest,
    placed,
    subtree,
    value_at,
)
from experiments.configs.faults import show
from experiments.registry import Task

if TYPE_CHECKING:
    from hypergrad.choices import Choice

# Above this many combinations only each option alone is tried when a config is read.
_MAX_TRIED = 512


@dataclass(frozen=True)
class TaskChoice:
    """A field of the task that a search chooses.

    Attributes:
        name: of the field, "batch_size" or "model.depth".
        values: the options as the config has them.
        entry: the same for a Space, in which lists are tuples and tables words.
    """

    name: str
    values: tuple[Any, ...]
    entry: "Choice"

    def value(self, option: Any) -> Any:
        """An option of `entry` as the config has it."""
        return self.values[self.entry.index(option)]


def as_written(
    choices: Iterable[TaskChoice], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options as the config has them, which JSON keeps."""
    return {c.name: c.value(options[c.name]) for c in choices}


def rebuilt(task: Task, fields: Mapping[str, Any]) -> Task:
    """The task with other values of some fields, "model.depth" being a nested one.

    Raises:
        ValidationError: the task does not take them.
    """
    source = Source("", ())
    document = flatten(task.model_dump(mode="json"), "")
    for name, value in fields.items():
        document = merge(document, placed(tuple(name.split(".")), value, source))
    text = json.dumps(nest(document))
    return type(task).model_validate_json(text, strict=True)


def read_choices(faults: Faults, task: Task) -> tuple[Task, tuple[TaskChoice, ...]]:
    """The task at its default options, and its [choices]; what is wrong is a fault.

    The default of a choice is the task's own value, or the first option where that is
    none of them.
    """
    before, found = len(faults.found), []
    try:
        shapes = _shapes(task)
    except ValueError:
        return task, ()  # Whoever asks for its Space next will say so.
    for path, leaf in subtree(faults.document, ("choices",)).items():
        where, name = ("choices", *path), ".".join(path)
        if not isinstance(leaf.value, list) or not leaf.value:
            faults.add(where, got=show(leaf.value), expected="a list of options")
        elif name in shapes:
            faults.add(where, "is a continuous hyperparameter of the task already")
        elif path[0] in task.question:
            faults.add(
                where,
                "says what is asked, which no search may choose",
                hint="compare its values as [compare.studies], or by [ablate]",
            )
        elif _is_field(faults, where, task):
            tasks = [_tried(faults, where, task, shapes, {name: v}) for v in leaf.value]
            if None not in tasks:
                choice = _choice(faults, where, task, leaf.value, tasks)
                found.append(TaskChoice(name, tuple(leaf.value), choice))
    if len(faults.found) > before or not found:
        return task, ()
    defaults = {c.name: c.entry.default_option for c in found}
    for options in combinations(found):
        fields = as_written(found, options)
        built = _tried(faults, ("choices",), task, shapes, fields)
        if options == defaults and built is not None:
            task = built
        if len(faults.found) > before:
            return task, ()
    return task, tuple(found)


def combinations(choices: Iterable[TaskChoice]) -> Iterator[dict[str, Any]]:
    """{name: option} of all combinations, or of each option with defaults if many."""
    entries = {c.name: c.entry for c in choices}
    options = [entry.options for entry in entries.values()]
    if math.prod(map(len, options)) <= _MAX_TRIED:
        for chosen in itertools.product(*options):
            yield dict(zip(entries, chosen, strict=True))
    else:
        yield from one_at_a_time(choices)


def one_at_a_time(choices: Iterable[TaskChoice]) -> Iterator[dict[str, Any]]:
    """{name: option} with all defaults, then with each other option alone."""
    entries = {c.name: c.entry for c in choices}
    defaults = {name: entry.default_option for name, entry in entries.items()}
    yield defaults
    for name, entry in entries.items():
        for option in entry.options:
            if option != defaults[name]:
                yield defaults | {name: option}


def hashable(value: Any) -> Any:
    """An option that hashes: a list as a tuple, a table by its name and fields."""
    if isinstance(value, list):
        return tuple(map(hashable, value))
    if isinstance(value, dict):
        fields = [f"{k}={show(v)}" for k, v in value.items() if k != "name"]
        return (
            f"{value.get('name', '')}({', '.join(fields)})"
            if fields
            else value.get("name", "{}")
        )
    return value


def told(choices: Mapping[str, Any]) -> str:
    """Options as a reader sees them.

    >>> told({"batch_size": 10, "hidden": (8, 4)})
    'batch_size = 10, hidden = [8, 4]'
    """
    words = {name: hashable(option) for name, option in choices.items()}
    return ", ".join(
        f"{name} = {word if isinstance(word, str) else show(word)}"
        for name, word in words.items()
    )


def _is_field(faults: Faults, where: tuple[str, ...], task: Task) -> bool:
    """Whether the task has the field, whatever its value."""
    table = flatten(task.model_dump(mode="json"), "")
    for size in range(1, len(where)):
        known = value_at(table, where[1:size])
        if not isinstance(known, dict) or where[size] not in known:
            known = known if isinstance(known, dict) else {}
            faults.unknown(where[: size + 1], known)
            return False
    return True


def _choice(faults, where, task: Task, values: list, tasks: list) -> Any:
    from hypergrad.choices import Choice

    options = tuple(map(hashable, values))
    default = options[tasks.index(task)] if task in tasks else None
    try:
        return Choice(options, default=default)
    except ValueError as error:
        faults.add(where, str(error), got=show(values))
        return None


def _tried(
    faults: Faults,
    where: tuple[str, ...],
    task: Task,
    shapes: Mapping[str, tuple[int, ...]],
    fields: Mapping[str, Any],
) -> Task | None:
    """The task with these fields, unless it refuses them or λ has other shapes."""
    shown = told(fields)
    try:
        built = rebuilt(task, fields)
        after = _shapes(built)
    except ValidationError as error:
        texts = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
        message = "; ".join(dict.fromkeys(texts))
        faults.add(where, f"not an option: {message}", got=shown)
        return None
    except ValueError as error:
        faults.add(where, f"not an option: {error}", got=shown)
        return None
    if after != shapes:
        faults.add(
            where,
            "changes the continuous hyperparameters, which all options must share",
            got=f"{shown} has {_listed(after)}",
            expected=_listed(shapes),
            hint="tune what has one shape for all options, such as a scalar decay",
        )
        return None
    return built


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    return {name: entry.shape for name, entry in task.space().continuous.items()}


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}{list(shape) or ''}" for name, shape in shapes.items())
