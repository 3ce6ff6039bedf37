"""Where the jobs of an experiment are done: here, in processes, or on Ray.

    --executor in-process | processes:4 | ray:4

The numbers do not depend on it: a job's data and keys come from its seed, what is
measured is measured once before any search starts, and results are read from the disk.
"""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.configs.faults import ConfigError, Fault, did_you_mean, one_of
from experiments.executors.crew import Crew
from experiments.executors.processes import ProcessHand, share

if TYPE_CHECKING:
    from experiments.configs.cells import Experiment
    from experiments.executors.workers import Origin
    from experiments.progress import Report
    from experiments.runs.jobs import Board, Job, Outcome

Work = Callable[["Board"], Iterator[tuple["Job", "Outcome"]]]
"""Does the jobs of a board, and yields each as it ends."""


@dataclass(frozen=True)
class Setting:
    """What a worker needs to know of the whole.

    Attributes:
        experiment: its cells.
        root: where run folders are.
        report: told about progress.
        origin: how another process builds the experiment.
        saved: job -> what changes whenever the job has a new checkpoint.
    """

    experiment: "Experiment"
    root: Path
    report: "Report"
    saved: Callable[["Job"], int | None]
    origin: "Origin | None" = None


@dataclass(frozen=True)
class Executor(abc.ABC):
    """Who does the jobs."""

    @abc.abstractmethod
    def hired(self, setting: Setting) -> contextlib.AbstractContextManager[Work]:
        """Workers for as long as the block lasts; when it ends they have ended."""


@dataclass(frozen=True)
class InProcess(Executor):
    """One job after another in this process, in the order of the file."""

    @contextlib.contextmanager
    def hired(self, setting: Setting) -> Iterator[Work]:
        """This process."""
        from experiments.executors.workers import Worker

        worker = Worker(setting.experiment, setting.root)

        def work(board: "Board") -> Iterator[tuple["Job", "Outcome"]]:
            while (job := board.take()) is not None:
                outcome = worker.do(job, setting.report)
                for key, how in board.settle(job, outcome).items():
                    yield board.jobs[key], how

        yield work


@dataclass(frozen=True)
class Processes(Executor):
    """Spawned processes on this machine, each with its share of the cores.

    Args:
        workers: how many at once.
    """

    workers: int = 2

    def __post_init__(self):
        _check(self.workers)

    @contextlib.contextmanager
    def hired(self, setting: Setting) -> Iterator[Work]:
        """Processes, sent for when there is work."""
        origin = _known(setting.origin)

        def hire(index: int) -> ProcessHand:
            return ProcessHand(origin, share(index, self.workers), setting.report)

        with _crew(Crew(hire, self.workers, setting.saved)) as work:
            yield work


@dataclass(frozen=True)
class RayExecutor(Executor):
    """Actors on Ray; a cluster on this machine is started if none is connected.

    Run folders are where the actors are: on several machines, a shared file system.

    Args:
        workers: how many at once.
    """

    workers: int = 2

    def __post_init__(self):
        _check(self.workers)

    @contextlib.contextmanager
    def hired(self, setting: Setting) -> Iterator[Work]:
        """Actors, sent for when there is work."""
        from experiments.executors.ray_hands import hiring

        origin = _known(setting.origin)
        shares = functools.partial(share, count=self.workers)
        with (
            hiring(origin, shares, self.workers, setting.report) as hire,
            _crew(Crew(hire, self.workers, setting.saved)) as work,
        ):
            yield work


EXECUTORS = {"in-process": InProcess, "processes": Processes, "ray": RayExecutor}


def executor(text: str) -> Executor:
    """The executor that `--executor` names.

    Raises:
        ConfigError: there is none of this name, or no such number of workers.

    >>> executor("processes:4")
    Processes(workers=4)
    >>> executor("in-process")
    InProcess()
    """
    name, colon, count = text.partition(":")
    kind = EXECUTORS.get(name)
    if kind is None:
        hint, expected = did_you_mean(name, EXECUTORS), one_of(EXECUTORS)
        raise _fault("unknown executor", text, expected, hint)
    if not colon:
        return kind()
    if not dataclasses.fields(kind):
        raise _fault("it has no workers to count", text, name)
    try:
        return kind(int(count))
    except ValueError:
        raise _fault("no number of workers", text, f"{name}:4, say") from None


@contextlib.contextmanager
def _crew(crew: Crew) -> Iterator[Work]:
    try:
        yield crew.work
    finally:
        crew.stop()


def _known(origin: "Origin | None") -> str:
    if origin is None:
        raise ValueError(
            "origin: other processes build the experiment from it; got None; give the "
            "Origin from which the experiment was loaded, or take InProcess()"
        )
    return origin.model_dump_json()


def _check(workers: int) -> None:
    if workers < 1:
        raise ValueError(f"workers: expected at least 1; got {workers}")


def _fault(message: str, got: str, expected: str, hint: str = "") -> ConfigError:
    return ConfigError([Fault("--executor", (), message, got, expected, hint)])
