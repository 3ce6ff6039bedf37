"""A task small enough for tests of configs, stores and the command line."""

import jax.numpy as jnp

from experiments.registry import Task, register
from hypergrad.hyperparameters import Linear, Log
from hypergrad.space import Space


@register("toy")
class Toy(Task):
    noise: float = 0.2
    rows: int = 4
    metric = "accuracy"

    def space(self):
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1; got {self.rows}")
        return Space({"lr": Log(1e-3, 1.0, default=0.1), "l2": Linear(0.0, 1.0)})

    def problem(self, seed):
        return seed

    def validation(self, seed):
        return lambda state, hparams: {"accuracy": jnp.zeros(())}

    test = validation
