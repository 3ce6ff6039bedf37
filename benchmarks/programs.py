"""JAX contenders: compiled ahead of time, in the measuring process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from hypergrad.estimators.base import Estimator
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree

_FLAGS = ("doubtful", "recovered", "residual", "iterations")
"""What an estimator's info says of itself, beside the state, which is not kept."""


class Result(NamedTuple):
    """F, dF/dλ (None without one), and what the estimator says of itself."""

    value: PyTree
    hypergrad: PyTree
    flags: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """`fn(*args) -> Result`, not compiled yet."""

    fn: Callable[..., Result]
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Compiled:
    """A program ready to run.

    Attributes:
      call: runs it once, to the end.
      temp_bytes: what XLA reserves while it runs, beside arguments and results.
    """

    call: Callable[[], Result]
    temp_bytes: int


def of_estimator(
    problem: Problem, estimator: Estimator, hparams: HParams, key: Key
) -> Program:
    """One estimate, from λ to value and hypergradient."""

    def fn(problem, hparams, key):
        found, _ = estimator.estimate(problem, hparams, (), key)
        flags = {n: getattr(found.info, n) for n in _FLAGS if hasattr(found.info, n)}
        return Result(found.value, found.hypergrad, flags)

    return Program(fn, (problem, hparams, key))


def compiled(program: Program) -> Compiled:
    """The program compiled for the default device."""
    executable = jax.jit(program.fn).lower(*program.args).compile()
    memory = executable.memory_analysis()
    if memory is None:
        raise RuntimeError(f"{jax.default_backend()} does not say how much memory")

    def call():
        return jax.block_until_ready(executable(*program.args))

    return Compiled(call, int(memory.temp_size_in_bytes))
