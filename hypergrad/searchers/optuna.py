"""Optuna as a searcher: its study is made anew from our log of trials at each ask."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from hypergrad.searchers.host import HostSearch, Known
from hypergrad.searchers.optuna_samplers import TPE, Sampler
from hypergrad.space import Space

if TYPE_CHECKING:
    from optuna import Study


@final
@dataclass(frozen=True)
class OptunaSearch(HostSearch):
    """Asks one of Optuna's samplers, over the unit cube of the space.

    Each coordinate is a float in [0, 1], an ordered choice a whole number, any other a
    category. Nothing of Optuna's outlives an ask: a study in memory is filled with all
    trials so far, with what the sampler had noted at them, and asked `batch` times, the
    earlier points being known to be running. So a resumed study goes on identically.
    Filling costs O(trials · d) in Python: seconds an ask at d = 10,000.

    A diverged trial is told as complete with the worst finite value so far. Optuna
    would have it failed; its models leave failed trials out, and would go there again.

    Args:
        batch: points per ask.
        sampler: `TPE`, `GP`, `QMC`, `Random` or `Grid`.

    Raises:
        ValueError: a package is not installed: optuna (>= 5; extra `search`), or torch
            (extra `gp`).

    Reference: Akiba, Sano, Yanase, Ohta and Koyama, Optuna (2019).

    >>> OptunaSearch(batch=4, sampler=TPE(startup=8)).batch
    4
    """

    sampler: Sampler = TPE()

    def propose(
        self, space: Space, known: Known, count: int, num_trials: int, seed: int
    ) -> np.ndarray:
        """`count` asks of a study that knows all trials."""
        del num_trials
        self.sampler.check(space)
        with _quiet():
            study = self._study(space, known, seed)
            distributions = self.sampler.distributions(space)
            asked = [study.ask(distributions).params for _ in range(count)]
        return self.sampler.coords(space, asked)

    def num_trials(self, space: Space, budget_trials: int) -> int:
        """The whole budget, but a grid ends with its cells."""
        return self.sampler.num_trials(space, budget_trials)

    def describe(self, space: Space, num_trials: int) -> str:
        """One sentence on what `num_trials` trials in this space will be."""
        self.sampler.check(space)
        return super().describe(space, self.num_trials(space, num_trials))

    def _study(self, space: Space, known: Known, seed: int) -> "Study":
        """Optuna's study of the trials so far; the default runs if none is done."""
        import optuna

        number, sampler = len(known.values), self.sampler
        study = optuna.create_study(sampler=sampler.build(space, seed, number))
        done, coords, values = "COMPLETE", known.coords, _finite(known.values)
        if number == 0:
            start = np.asarray(space.to_coords(space.defaults()), float)
            done, coords, values = "RUNNING", start[None], [None]
        params = sampler.params(space, coords)
        distributions = sampler.distributions(space)
        for index, value in enumerate(values):
            trial = optuna.trial.create_trial(
                state=optuna.trial.TrialState[done],
                params=params[index],
                distributions=distributions,
                value=value,
                system_attrs=sampler.attributes(space, index),
            )
            study.add_trial(trial)
        sampler.resume(study, number)
        return study


def _finite(values: np.ndarray) -> list[float]:
    """The values, the worst finite one in place of those that are not (0 if none is).

    >>> _finite(np.array([1.0, np.nan, 3.0, -np.inf]))
    [1.0, 3.0, 3.0, 3.0]
    """
    ok = np.isfinite(values)
    worst = values[ok].max(initial=-np.inf) if ok.any() else 0.0
    return np.where(ok, values, worst).tolist()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its log of new studies and its notes on experimental parts."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
