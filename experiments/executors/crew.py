"""The leader's part: gives out jobs, hears how they end, replaces the workers that die.

The run folders are the memory: a job whose worker died goes on from its checkpoint in
the next one, and nothing that a worker has said is needed to go on.
"""

import abc
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.runs.jobs import Board, Job, Key, Outcome

DEATHS = 3  # in a row without a new checkpoint, before a job counts as failed
PAUSE = 0.02  # seconds between two looks at the workers


class Died(Exception):
    """A worker has died, and how."""


class Hand(abc.ABC):
    """One worker as the leader sees it: it does a job at a time."""

    @abc.abstractmethod
    def give(self, job: "Job") -> None:
        """Start on a job."""

    @abc.abstractmethod
    def poll(self) -> "Outcome | None":
        """The outcome of the job, once there is one.

        Raises:
            Died: there will be none.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """End it now, whatever it does."""


class Crew:
    """Up to `size` workers, sent for when there is work.

    Args:
        hire: index -> a new worker.
        size: how many at once.
        saved: job -> what changes whenever the job has a new checkpoint.
    """

    def __init__(
        self,
        hire: Callable[[int], Hand],
        size: int,
        saved: Callable[["Job"], int | None],
    ):
        self.hire, self.size, self.saved = hire, size, saved
        self.hands: dict[int, Hand] = {}
        self.busy: dict[int, Job] = {}
        self.compiled: dict[int, str] = {}  # the training each worker did last
        self.deaths: dict[Key, tuple[int | None, int]] = {}

    def work(self, board: "Board") -> Iterator[tuple["Job", "Outcome"]]:
        """Do all jobs of a board; yields each as it ends."""
        while not board.settled:
            self._give_out(board)
            ended = list(self._listen(board))
            yield from ended
            if not ended:
                time.sleep(PAUSE)

    def stop(self) -> None:
        """End every worker."""
        for hand in self.hands.values():
            hand.stop()
        self.hands, self.busy = {}, {}

    def _give_out(self, board: "Board") -> None:
        for index in range(self.size):
            if index in self.busy:
                continue
            others = [t for other, t in self.compiled.items() if other != index]
            job = board.take(self.compiled.get(index, ""), others)
            if job is None:
                return
            if index not in self.hands:
                self.hands[index] = self.hire(index)
            self.deaths.setdefault(job.key, (self.saved(job), 0))
            self.busy[index], self.compiled[index] = job, job.training
            self.hands[index].give(job)

    def _listen(self, board: "Board") -> Iterator[tuple["Job", "Outcome"]]:
        for index, job in list(self.busy.items()):
            try:
                outcome = self.hands[index].poll()
            except Died as death:
                self.hands.pop(index).stop()
                self.compiled.pop(index, None)
                outcome = self._after(job, str(death))
                if outcome is None:
                    board.put_back(job)
                    del self.busy[index]
            if outcome is not None:
                del self.busy[index]
                for key, how in board.settle(job, outcome).items():
                    yield board.jobs[key], how

    def _after(self, job: "Job", how: str) -> "Outcome | None":
        """None for another attempt, unless it has come no further too often."""
        from experiments.runs.jobs import Outcome

        mark, (before, count) = self.saved(job), self.deaths[job.key]
        count = count + 1 if mark == before else 1
        self.deaths[job.key] = mark, count
        if count < DEATHS:
            return None
        message = f"its worker died {count} times and came no further: {how}"
        return Outcome(kind="failed", message=message)
