"""Does an estimator serve a task? Asked before anything is run."""

import jax

from experiments.cells import Cell


def refusal(cell: Cell, seed: int) -> str | None:
    """Why the cell's estimator does not serve its task; None where it does.

    What `applies` cannot tell from the problem alone (a table over steps in λ, say),
    tracing the estimate does, in about the time of a compilation's first part.
    """
    if cell.estimator is None:
        return None
    problem = cell.task.problem(seed)
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
