"""The λ that a cell is tested with, which may change while a training runs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg
from experiments.configs.choices import hashable
from experiments.registry import Task
from experiments.results import SeedResult
from hypergrad.partial import Lineage, train_lineage


class Chosen(NamedTuple):
    """λ over the stages of a training, and the choices.

    Attributes:
        stages: λ of each stage, stacked: {name: [R, ...]}.
        ends: the step up to which each holds [R]; None where λ is the same throughout.
        choices: options.
    """

    stages: dict[str, jax.Array]
    ends: jax.Array | None
    choices: dict[str, Any]

    @classmethod
    def of(cls, space: hg.Space, found: Lineage) -> "Chosen":
        """What a search has found."""
        stages = jax.vmap(space.from_coords)(jnp.asarray(found.coords))
        ends = jnp.asarray(found.ends) if len(found.ends) > 1 else None
        return cls(stages, ends, space.choices(found.coords[-1]))

    @classmethod
    def given(cls, space: hg.Space, result: SeedResult | None) -> "Chosen":
        """The defaults, and in their place the λ and choices of another cell."""
        hparams, choices = space.defaults(), space.default_choices()
        if result is not None:
            hparams |= {n: jnp.asarray(x, float) for n, x in result.hparams.items()}
            choices |= {n: hashable(o) for n, o in result.choices.items()}
        return cls({name: x[None] for name, x in hparams.items()}, None, choices)

    @property
    def hparams(self) -> dict[str, jax.Array]:
        """λ, the last where it changes."""
        return {name: x[-1] for name, x in self.stages.items()}

    @property
    def training(self) -> tuple[Callable, tuple]:
        """A function of (problem, *these arguments, keys): (F, state) of each key."""
        if self.ends is None:
            return retrain, (self.hparams,)
        return retrain_stages, (self.stages, self.ends)

    def schedules(self, task: Task) -> dict[str, np.ndarray]:
        """What λ says over the steps of training, each stage over its own."""
        lines = {n: np.asarray(x) for n, x in task.schedules(self.hparams).items()}
        if self.ends is None:
            return lines
        for i in reversed(range(len(self.ends))):
            end = int(self.ends[i])
            stage = task.schedules({name: x[i] for name, x in self.stages.items()})
            for name, line in stage.items():
                lines[name] = np.concatenate([line[:end], lines[name][end:]])
        return lines


def retrain(problem, hparams, keys):
    """(F, the state after training) of each key."""

    def one(key):
        result, _ = hg.Value().estimate(problem, hparams, (), key)
        return result.value, result.info.state

    return jax.lax.map(one, keys)


def retrain_stages(problem, stages, ends, keys):
    """`retrain` where λ changes from stage to stage."""
    return jax.lax.map(lambda key: train_lineage(problem, stages, ends, key), keys)
