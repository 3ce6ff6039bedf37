"""The log of a search while it runs: records, and a checkpoint of what led to them.

A record is written no later than the checkpoint that knows of it. So a kill may leave
records that no checkpoint knows of; they are cut off, and their trials run again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from experiments.storage.store import RunFolder

Tree = TypeVar("Tree")
SAVE_EVERY = 5.0  # seconds between two checkpoints


@dataclass
class Journal:
    """The records of all trials so far; `resume` opens it.

    Attributes:
        folder: of the run.
        records: those that are safe in the folder.
    """

    folder: RunFolder
    records: list[dict[str, Any]]
    _unsaved: list[dict[str, Any]] = field(default_factory=list)
    _last_save: float = field(default_factory=time.perf_counter)

    @classmethod
    def resume(
        cls, folder: RunFolder, like: Tree, count: Callable[[Tree], int]
    ) -> tuple["Journal", Tree]:
        """The journal, and the state of the last checkpoint, or `like` if none.

        Args:
            folder: of the run.
            like: the state before the first trial.
            count: how many trials a state knows of.
        """
        saved = folder.load(like)
        state = like if saved is None else saved
        folder.rewind("trials", count(state))
        numbers = "trial", "value", "cost", "seconds", "seconds_searcher"
        return cls(folder, folder.trials(*numbers)), state

    @property
    def elapsed(self) -> float:
        """Seconds of training and search so far."""
        return self.records[-1]["seconds"] if self.records else 0.0

    @property
    def in_searcher(self) -> float:
        """Seconds of search alone."""
        return self.records[-1]["seconds_searcher"] if self.records else 0.0

    def add(self, records: list[dict[str, Any]], state: Any, *, last: bool) -> None:
        """Take note of trials and the state that knows of them.

        Both are written now if they are the `last` or some seconds have gone by.
        """
        self._unsaved += records
        if last or time.perf_counter() - self._last_save > SAVE_EVERY:
            self.folder.log("trials", *self._unsaved)
            self.folder.save(state)
            self.records, self._unsaved = self.records + self._unsaved, []
            self._last_save = time.perf_counter()
