"""Does an estimator serve a task? Asked before anything is run."""

import jax

from experiments.configs.cells import Cell
from experiments.configs.choices import one_at_a_time, told
from experiments.registry import Task


def refusal(cell: Cell, seed: int) -> str | None:
    """Why the cell's estimator does not serve its task; None where it does.

    What `applies` cannot tell from the problem alone (a table over steps in λ, say),
    tracing the estimate does, in about the time of a compilation's first part. Of the
    choices, each option is asked about beside the defaults of all others.
    """
    if cell.estimator is None:
        return None
    for choices in one_at_a_time(cell.choices):
        reason = _refusal(cell, cell.task_of(choices), seed)
        if reason is not None:
            return f"with {told(choices)}: {reason}" if choices else reason
    return None


def _refusal(cell: Cell, task: Task, seed: int) -> str | None:
    problem = task.problem(seed)
    if (reason := cell.estimator.applies(problem)) is not None:
        return reason

    def estimate(problem, hparams, key):
        return cell.estimator.estimate(problem, hparams, (), key)[0].value

    try:
        arguments = problem, cell.space.defaults(), jax.random.key(seed)
        jax.eval_shape(estimate, *arguments)
    except ValueError as error:
        return str(error)
    return None
