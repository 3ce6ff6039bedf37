"""A task that trains in no time, unless it is told to break or to take its time."""

import os

import jax.numpy as jnp
import optax

import hypergrad as hg
from experiments.registry import Task, register, remembered
from experiments.storage import journal

if "VALLEY_SAVES_EVERY" in os.environ:  # seconds; for tests that kill
    journal.SAVE_EVERY = float(os.environ["VALLEY_SAVES_EVERY"])


@register("valley")
class Valley(Task):
    """Least squares from a learned rate; `breaks` fails on seed 1."""

    tilt: float = 1.0
    steps: int = 5
    breaks: int = 0
    metric = "loss"
    higher_is_better = False

    def space(self):
        return hg.Space({"rate": hg.Log(1e-3, 0.5, default=0.01)})

    def problem(self, seed):
        if seed == 1 and (self.breaks or os.environ.get("VALLEY_BREAKS")):
            raise ValueError("seed 1 breaks")
        return _problem(self, seed)

    def validation(self, seed):
        return lambda state, hparams: {"loss": jnp.sum(state.weights**2)}

    test = validation


@remembered
def _problem(task, seed):
    goal = jnp.asarray([1.0 + seed, task.tilt])
    return hg.Problem(
        init=lambda key, hparams: jnp.zeros(2),
        inner_loss=lambda w, hparams, batch: jnp.sum((w - batch[0]) ** 2),
        outer_loss=lambda w, hparams, batch: jnp.sum((w - batch[0]) ** 2),
        optimizer=lambda hparams: optax.sgd(hparams["rate"]),
        train=goal[None],
        valid=goal[None] + 0.1,
        num_steps=task.steps,
    )
