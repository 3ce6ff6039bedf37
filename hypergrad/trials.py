"""What a study has tried, and the best of it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.searchers.partial import PartialState
from hypergrad.space import Space
from hypergrad.typing import HParams


class Trials(NamedTuple):
    """What was tried, in order: n trials.

    Attributes:
      coords: z [n, d].
      values: F [n].
      grad_norms: ‖dF/dz‖₂ [n], NaN if unknown.
      doubtful: whether the estimator doubts its estimate [n].
      steps: training steps done when F was evaluated [n].
      fidelities: steps / T [n]; 1, but in a `PartialSearch`.
      parents: the trial whose training each went on with, −1 for none [n].
    """

    coords: jax.Array
    values: jax.Array
    grad_norms: jax.Array
    doubtful: jax.Array
    steps: jax.Array
    fidelities: jax.Array
    parents: jax.Array


def whole(coords, values, grads, doubtful, steps) -> Trials:
    """Trials that were trained from start to end."""
    norms = jnp.full(values.shape, jnp.nan, values.dtype)
    if grads is not None:
        norms = jnp.linalg.norm(grads, axis=1).astype(values.dtype)
    ones, none = jnp.ones_like(values), jnp.full_like(steps, -1)
    return Trials(coords, values, norms, doubtful, steps, ones, none)


def in_stretches(state: PartialState) -> Trials:
    """The trials of a log."""
    (coords, parents, steps), values = state.jobs, state.values[: len(state.jobs.steps)]
    unknown, sound = np.full_like(values, np.nan), np.zeros(len(values), bool)
    fidelities = (steps / state.num_steps).astype(values.dtype)
    log = (coords, values, unknown, sound, steps, fidelities, parents)
    return Trials(*map(jnp.asarray, log))


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    The best is looked for among the trials that were trained to the end; if a
    `PartialSearch` could not afford one, among those that were trained the longest.

    Attributes:
      space: where it searched.
      trials: all trials in order.
    """

    space: Space
    trials: Trials

    @property
    def best(self) -> int:
        """Index of the best of these (the first of them if none is finite)."""
        longest = np.flatnonzero(self._is_longest)
        return int(longest[np.argmin(self._losses[longest])])

    @property
    def best_value(self) -> float:
        """F of the best trial."""
        return float(self.trials.values[self.best])

    @property
    def best_hparams(self) -> HParams:
        """λ of the best trial."""
        return self.space.from_coords(self.trials.coords[self.best])

    @property
    def best_choices(self) -> dict[str, Any]:
        """The options of the best trial; {} in a space without choices."""
        return self.space.choices(self.trials.coords[self.best])

    @property
    def best_so_far(self) -> np.ndarray:
        """[n]: smallest F of a whole training among the first i + 1 trials, or ∞."""
        return np.minimum.accumulate(self._losses)

    @property
    def _losses(self) -> np.ndarray:
        """[n]: F, and ∞ of what has diverged or was stopped early."""
        losses = _diverged_last(np.asarray(self.trials.values))
        return np.where(self._is_longest, losses, np.inf)

    @property
    def _is_longest(self) -> np.ndarray:
        fidelities = np.asarray(self.trials.fidelities)
        return fidelities == fidelities.max()


def best_index(values: np.ndarray) -> int:
    """The smallest finite value; diverged runs never win."""
    return int(np.argmin(_diverged_last(values)))


def ranking(values: np.ndarray) -> np.ndarray:
    """Indices from the best value to the worst, diverged runs last: [n]."""
    return np.argsort(_diverged_last(values), stable=True)


def _diverged_last(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)
