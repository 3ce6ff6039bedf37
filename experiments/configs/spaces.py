"""The Space of a cell: the task's, with a config's bounds and choices."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs.choices import TaskChoice
from experiments.configs.config import Range
from experiments.registry import Task

if TYPE_CHECKING:
    import hypergrad as hg


def full_space(
    task: Task, ranges: Iterable[tuple[str, Range]], choices: Iterable[TaskChoice]
) -> "hg.Space":
    """λ with a cell's bounds and defaults, then its choices."""
    space = with_ranges(task.space(), ranges)
    return type(space)(dict(space.entries) | {c.name: c.entry for c in choices})


def with_ranges(space: "hg.Space", ranges: Iterable[tuple[str, Range]]) -> "hg.Space":
    """The Space with other bounds or defaults."""
    entries = dict(space.entries)
    for name, entry in ranges:
        changes = entry.model_dump(exclude_none=True)
        entries[name] = replace(entries[name], **changes)
    return type(space)(entries)
