"""Successive halving, Hyperband and ASHA: train many a little, the best of them longer.

Rung i of R lies at T / η^(R − 1 − i) steps, rounded. A *promotion* goes on with a
training from one rung to the next; of n trainings on a rung about n / η are promoted,
and what has diverged never is.
"""

import abc
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from hypergrad.searchers.base import check_positive
from hypergrad.searchers.partial import Jobs, Log, PartialSearch, join, rungs
from hypergrad.space import Space


@dataclass(frozen=True)
class OnRungs(PartialSearch):
    """What searches with rungs share.

    Args:
        eta: η, one of how many trainings is promoted.
        num_rungs: R, the full training among them; in a short one equal rungs are one.
    """

    eta: int = 3
    num_rungs: int = 4
    batch: int = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        check_positive("num_rungs", self.num_rungs)
        if not isinstance(self.eta, int) or self.eta < 2:
            raise ValueError(
                f"eta must be a whole number of at least 2, for one of eta trainings "
                f"is promoted; got {self.eta!r}"
            )
        object.__setattr__(self, "batch", self.width)

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Most trainings that one ask proposes."""

    def boundaries(self, num_steps: int) -> tuple[int, ...]:
        """The rungs."""
        return rungs(num_steps, self.eta, self.num_rungs)


@dataclass(frozen=True)
class Brackets(OnRungs):
    """One bracket after another: n trainings up to a first rung, then promotions only.

        n_i = max(1, ⌊n / ηⁱ⌋)  trainings on its i-th rung, the best of the rung below

    A bracket is no wider than the budget can finish, so that less than one training's
    worth is left over in the end.
    """

    @abc.abstractmethod
    def bracket(self, index: int, num_rungs: int) -> tuple[int, int]:
        """Of bracket `index`: n, and the rung at which it begins."""

    def propose(self, space: Space, log: Log) -> Jobs:
        """The next rung of the bracket that the log ends in, or of a new one."""
        every, costs = self.boundaries(log.num_steps), log.costs
        first, known = 0, len(log.values)
        for index in itertools.count():
            num, lowest = self.bracket(index, len(every))
            stops = every[lowest:]
            left = log.left + int(np.sum(costs[first:]))
            num = _affordable(num, stops, self.eta, left)
            if num == 0 or first == known:
                return log.begin(space, num, stops[0])
            trials = np.arange(first, first + num)
            for size, stop in list(_sizes(num, stops, self.eta))[1:]:
                best, first = log.best(trials, size), first + len(trials)
                if len(best) == 0:
                    break
                if first == known:
                    return log.go_on(best, stop)
                trials = np.arange(first, first + len(best))
            else:
                first += len(trials)
        raise AssertionError("counting has no end")


def _sizes(num: int, stops: Sequence[int], eta: int):
    """(n_i, the steps of rung i) of a bracket of n."""
    return ((max(1, num // eta**i), stop) for i, stop in enumerate(stops))


def _affordable(most: int, stops: Sequence[int], eta: int, left: int) -> int:
    """The widest bracket, up to `most`, that `left` steps can finish."""
    lengths = np.diff((0, *stops))
    for num in range(most, 0, -1):
        sizes = [size for size, _ in _sizes(num, stops, eta)]
        if np.dot(sizes, lengths) <= left:
            return num
    return 0


@final
@dataclass(frozen=True)
class SuccessiveHalving(Brackets):
    """n trainings to the first rung, the best ⌊n / η⌋ to the next, ..., a few to T.

    With n = ηᴿ⁻¹ each rung costs about one training; a bracket is repeated with new
    points while the budget lasts. F after few steps must say something of F after T: it
    does not where a learning rate is decayed over T, or noise is learned late.

    Source: Jamieson and Talwalkar (2016), "Non-stochastic best arm identification and
    hyperparameter optimization".

    Args:
        num: n, trainings that a bracket begins.
        eta: η.
        num_rungs: R.

    >>> search = SuccessiveHalving(num=27)
    >>> search.boundaries(270)
    (10, 30, 90, 270)
    """

    num: int = 27

    def __post_init__(self):
        check_positive("num", self.num)
        super().__post_init__()

    @property
    def width(self) -> int:
        """All n."""
        return self.num

    def bracket(self, index: int, num_rungs: int) -> tuple[int, int]:
        """The same each time."""
        del index, num_rungs
        return self.num, 0


@final
@dataclass(frozen=True)
class Hyperband(Brackets):
    """Successive halving from each of the R rungs in turn.

        n = ⌈(s_max + 1) / (s + 1) · ηˢ⌉  from rung s_max − s,   s = s_max, ..., 0

    with s_max = R − 1.

    The bracket s = 0 is random search, which is right where short trainings mislead;
    each bracket may cost about s_max + 1 trainings. After the last the first comes
    again, with new points.

    Source: Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar (2018), "Hyperband: a
    novel bandit-based approach to hyperparameter optimization", algorithm 1.

    Args:
        eta: η.
        num_rungs: R, and the number of different brackets.

    >>> [Hyperband(num_rungs=5).bracket(i, 5) for i in range(5)]
    [(81, 0), (34, 1), (15, 2), (8, 3), (5, 4)]
    """

    @property
    def width(self) -> int:
        """Of the first bracket."""
        return self.bracket(0, self.num_rungs)[0]

    def bracket(self, index: int, num_rungs: int) -> tuple[int, int]:
        """Of falling s, again and again."""
        s = num_rungs - 1 - index % num_rungs
        return -(-num_rungs * self.eta**s // (s + 1)), num_rungs - 1 - s


@final
@dataclass(frozen=True)
class ASHA(OnRungs):
    """Promote whenever a training is among the best 1 / η of its rung; else begin one.

    Asynchronous successive halving: no rung waits to be full. Each of W workers takes
    the next job the moment it is free, knowing what has come in by then. The moments
    are *virtual*: a job takes as long as it has steps, so the order in which results
    become known, and with it every number, is the same on any machine, however many
    trainings really run side by side.

    The highest rung that has a trial to promote comes first; on it, the best trial.

    Source: Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar
    (2020), "A system for massively parallel hyperparameter tuning", algorithm 2.

    Args:
        eta: η.
        num_rungs: R.
        workers: W.
    """

    workers: int = 4

    def __post_init__(self):
        check_positive("workers", self.workers)
        super().__post_init__()

    @property
    def width(self) -> int:
        """W."""
        return self.workers

    def propose(self, space: Space, log: Log) -> Jobs:
        """A job for each worker that is free next."""
        free, ends = [0] * self.workers, np.zeros(len(log.values), int)
        for trial, cost in enumerate(log.costs):  # Who is free first took it.
            ends[trial] = heapq.heappop(free) + int(cost)
            heapq.heappush(free, int(ends[trial]))
        now = min(free)
        every = self.boundaries(log.num_steps)
        promotable = self._promotable(log, every, seen=ends <= now)
        jobs = [
            log.go_on(np.array([trial]), stop)
            for trial, stop in itertools.islice(promotable, free.count(now))
        ]
        return join(*jobs, log.begin(space, free.count(now) - len(jobs), every[0]))

    def _promotable(self, log: Log, every: Sequence[int], seen: np.ndarray):
        """(trial, the next rung) of all that may be promoted, the highest rung first.

        One promotion changes nothing for the others: a rung counts all it has seen.
        """
        for rung, above in reversed(list(itertools.pairwise(every))):
            (trials,) = np.nonzero(seen & (log.jobs.steps == rung))
            for trial in log.best(trials, len(trials) // self.eta):
                if trial not in log.jobs.parents:
                    yield int(trial), above
