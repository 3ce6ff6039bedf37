"""Baselines: 64 trainings of W1 (rates, decays, seeds) by every execution.

The unit is one training alone, so that a ratio of 64 means that nothing was gained by
training many. The peer is what people do: an Optuna loop around a torch training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.programs import Program, Result
from benchmarks.works import w1
from benchmarks.works.base import Work, flat_arrays, floats
from benchmarks.works.classifier import problem_of, split_arrays
from benchmarks.works.data import digits
from benchmarks.works.perceptron import MOMENTUM, model_of
from hypergrad.estimators import Value
from hypergrad.execution import Chunk, Execution, Loop, Vmap
from hypergrad.hyperparameters import Log
from hypergrad.runner import evaluate
from hypergrad.space import Space

STEPS, TRAININGS = 100, 64
ONE = "one training"
SPACE = Space({"rate": Log(0.003, 0.05), "decay": Log(1e-6, 1e-2)})

# One line an execution.
EXECUTIONS: dict[str, Execution] = {
    "Loop()": Loop(),
    "Chunk(4)": Chunk(4),
    "Chunk(16)": Chunk(16),
    "Vmap()": Vmap(),
}


def optimizer(hparams) -> optax.GradientTransformation:
    """Momentum with one rate, on g + decay w."""
    return optax.chain(
        optax.add_decayed_weights(hparams["decay"]),
        optax.sgd(hparams["rate"], momentum=MOMENTUM),
    )


def make(steps: int | None = None, smallest: bool = False) -> Work:
    """The work; `smallest` keeps its form only."""
    steps = steps or (2 if smallest else STEPS)
    sizes = w1.SMALLEST_SIZES if smallest else w1.SIZES
    count, batch_size = (5, 10) if smallest else (TRAININGS, 100)
    split, model = digits(), model_of(sizes)
    problem = problem_of(model, optimizer, split, steps, batch_size=batch_size)
    coords = floats(np.random.default_rng(0).uniform(size=(count, SPACE.dim)))
    keys = jax.random.split(jax.random.key(0), count)

    def program(execution, count):
        def fn(problem, coords, keys):
            found = evaluate(problem, SPACE, Value(), coords, keys, execution)
            # In the place of a hypergradient: the numbers must not depend on the way.
            return Result(jnp.mean(found.values), {"values": found.values}, {})

        return Program(fn, (problem, coords[:count], keys[:count]))

    def one(problem, coords, keys):
        found = evaluate(problem, SPACE, Value(), coords, keys, Loop())
        return Result(jnp.mean(found.values), None, {})

    programs = {ONE: Program(one, (problem, coords[:1], keys[:1]))} | {
        label: program(execution, count) for label, execution in EXECUTIONS.items()
    }
    hparams = jax.vmap(SPACE.from_coords)(coords)
    return Work(
        "baselines",
        f"{count} trainings of W1 (rates, decays, seeds), MLP "
        f"{'-'.join(map(str, sizes))}, batch {batch_size}, T = {steps}",
        programs,
        reference="Loop()",
        tolerance=1e-3,
        steps=steps,
        base=ONE,
        peers={"Optuna around torch": "optuna_loop:search"},
        arrays={
            **flat_arrays("hparams", hparams),
            **split_arrays(split),
        },
        settings={
            "sizes": list(sizes),
            "steps": steps,
            "batch_size": batch_size,
            "momentum": MOMENTUM,
        },
    )
