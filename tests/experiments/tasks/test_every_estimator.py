"""Every task with every exact estimator: it says why not, or it is right."""

import functools

import jax
import numpy as np
import pytest

import hypergrad as hg
from experiments.configs.cells import Cell
from experiments.configs.config import Budget
from experiments.configs.refusals import refusal
from experiments.registry import TASKS, load_tasks
from hypergrad.estimators.base import Target
from hypergrad.tree import ravel

load_tasks()

ESTIMATORS = (
    hg.Reverse(),
    hg.Forward(),
    hg.Reversible(),
    hg.Implicit(),
    hg.ForwardSharing(),
    hg.FiniteDifference(step=1e-6),  # F is rough over the rates of recurrent networks.
    hg.OnlineReverse(),
)
# One more than the window of ForwardSharing, and than the classes of the digits.
ROWS = {"num_steps": 11, "num_train": 16, "num_valid": 8, "num_test": 8}
BATCH = ROWS | {"batch_size": 4}
SMALL = {"model": {"width": 3, "depth": 1}}
NAMED = {"model": {"name": "mlp", "width": 3, "depth": 1}}
CELL = {"model": {"name": "recurrent", "units": 3}}
OPTIONS = {
    "catch": {"rows": 4, "columns": 3, "hidden": (3,), "num_steps": 11, "knots": 2},
    "characters": BATCH | CELL,
    "digits": {
        "num_train": 16,
        "num_valid": 10,
        "num_test": 10,
        "hidden": (3,),
        "num_steps": 11,
        "batch_size": 4,
        "knots": 2,
    },
    "distillation": {
        "num_train": 120,
        "num_valid": 12,
        "num_test": 10,
        "num_steps": 11,
    }
    | SMALL,
    "few_shot": {"batch": 2, "num_eval": 2, "shots": 3, "num_steps": 11} | NAMED,
    "forecasting": BATCH | CELL,
    "function": {},
    "hyper_cleaning": ROWS | {"num_train": 20},
    "images": BATCH | SMALL,
    "linear": ROWS | {"num_train": 30},
    "sentiment": BATCH | CELL,
    "speech": BATCH | CELL,
    "transfer": BATCH | NAMED | {"pretrain_steps": 3, "pretrain_rows": 20},
}
"""A few steps of a small model each; a task that is registered has a line here."""


def test_no_task_is_left_out():
    own = {name for name, cls in TASKS.items() if cls.__module__.startswith("exper")}
    assert own == set(OPTIONS)


@functools.cache
def task_of(name):
    """One object, so that its problem is traced once."""
    return TASKS[name](**OPTIONS[name])


@functools.cache
def estimate(name, estimator):
    task = task_of(name)
    problem, hparams = task.problem(0), task.space().defaults()

    @jax.jit
    def run(problem, hparams, key):
        return estimator.estimate(problem, hparams, (), key)[0]

    return run(problem, hparams, jax.random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_right_or_says_why_not(name, estimator):
    cell = Cell(
        name="test",
        study="",
        study_title="",
        method="",
        title="",
        task=task_of(name),
        estimator=estimator,
        searcher=None,
        budget=Budget(),
    )
    reason = refusal(cell, 0)
    if reason is not None:
        assert len(reason.split()) > 4
        assert not isinstance(estimator, hg.Reverse | hg.Forward)
        return
    found = estimate(name, estimator)
    doubtful = bool(found.info.doubtful)
    vector, _ = ravel(found.hypergrad)
    assert np.isfinite(found.value)
    assert doubtful or np.all(np.isfinite(vector))
    if estimator.target is Target.OBJECTIVE and not doubtful:
        exact, _ = ravel(estimate(name, hg.Reverse()).hypergrad)
        error = np.linalg.norm(vector - exact)
        # Its 32 bits make another run of it, which 64 bits hardly do.
        tolerance = 1e-3 if isinstance(estimator, hg.Reversible) else 1e-5
        assert error <= tolerance * np.linalg.norm(exact)
