"""Progress for whoever watches: a bar on a terminal, a line now and then in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

ROWS = 12  # bars that a terminal shows at once; those done longest make room

Report = Callable[[str, int, int], None]
"""(what is running, how much of it is done, how much there is) -> None."""


@contextlib.contextmanager
def progress(console: Console, *, every: float = 5.0) -> Iterator[Report]:
    """A `Report` that draws to the console while the block runs.

    Args:
        console: where to.
        every: seconds between two lines where the console is no terminal.
    """
    if console.is_terminal:
        with _bars(console) as report:
            yield report
    else:
        yield _lines(console, every)


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(complete_style="#d55e00", finished_style="#0072b2"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def report(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)
            over = [task.id for task in bars.tasks if task.finished]
            for task in over[: max(len(bars.tasks) - ROWS, 0)]:
                bars.remove_task(task)
                del tasks[next(name for name in tasks if tasks[name] == task)]

        yield report


def _lines(console: Console, every: float) -> Report:
    last = float("-inf")

    def report(label: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= every:
            last = now
            console.print(f"{label}: {done} of {total}", highlight=False)

    return report
