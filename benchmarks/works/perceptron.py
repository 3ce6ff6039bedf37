"""W1 and Wide: a perceptron trained by momentum, T + 2 hyperparameters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.programs import Program, of_estimator
from benchmarks.works import classifier
from benchmarks.works.base import FORWARD, Work, floats, history_bytes
from benchmarks.works.classifier import problem_of, training_arrays
from benchmarks.works.data import Split, batch_table
from hypergrad.estimators import Estimator, Reverse, Reversible, Value
from hypergrad.models import Model, mlp
from hypergrad.schedules import Table
from hypergrad.typing import HParams
from hypergrad.unroll import KAry, Tree

RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-4

CONTENDERS: dict[str, Estimator] = {
    **classifier.CONTENDERS,
    "Reverse(Tree, Mixed)": Reverse(Tree()),
    "Reverse(KAry, Mixed)": Reverse(KAry()),
    "Reversible()": Reversible(),
}


def optimizer(hparams: HParams) -> optax.GradientTransformation:
    """Momentum: v' = γ v + g + decay w, w' = w − rate_t v'."""
    return optax.chain(
        optax.add_decayed_weights(hparams["decay"]),
        optax.sgd(Table(hparams["rates"]), momentum=hparams["momentum"]),
    )


def hyperparameters(steps: int) -> dict[str, jax.Array]:
    """T learning rates, momentum and weight decay."""
    return {
        "rates": floats(np.full(steps, RATE)),
        "momentum": floats(MOMENTUM),
        "decay": floats(DECAY),
    }


def model_of(sizes: Sequence[int]) -> Model:
    """The MLP of these widths."""
    return mlp(sizes, jnp.tanh)


def make_work(
    name: str,
    title: str,
    sizes: Sequence[int],
    split: Split,
    steps: int,
    batch_size: int,
    tolerance: float,
) -> Work:
    """The work of an MLP of these widths.

    Args:
      name: of the work.
      title: of the work.
      sizes: widths from input to output.
      split: the data.
      steps: T.
      batch_size: rows a step.
      tolerance: see `Work`.
    """
    table = batch_table(len(split.train[1]), steps, batch_size)
    problem = problem_of(model_of(sizes), optimizer, split, steps, table=table)
    hparams, key = hyperparameters(steps), jax.random.key(0)
    programs: dict[str, Program] = {
        label: of_estimator(problem, estimator, hparams, key)
        for label, estimator in {FORWARD: Value(), **CONTENDERS}.items()
    }
    return Work(
        name,
        title,
        programs,
        "Reverse(EveryStep, Plain)",
        tolerance,
        steps,
        history_bytes=history_bytes(problem, hparams, key),
        peers={
            "torch, forward training": "plain_torch:perceptron_forward",
            "plain torch": "plain_torch:perceptron",
            "TorchOpt MetaSGD": "with_torchopt:perceptron",
            "higher": "with_higher:perceptron",
        },
        arrays=training_arrays(problem, hparams, key, split, table),
        problem=problem,
        hparams=hparams,
        key=key,
    )
