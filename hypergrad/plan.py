"""Which estimator and checkpointing fits a budget of bytes, found without running any.

Every candidate is compiled; XLA says how much memory it will take, and its flops are
counted in the traced program.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from hypergrad import tree
from hypergrad.estimators.base import Estimator
from hypergrad.estimators.forward import Forward
from hypergrad.estimators.reverse import Reverse
from hypergrad.estimators.value import Value
from hypergrad.flops import count_flops, has_open_loop
from hypergrad.gradients import Plain
from hypergrad.problem import Problem
from hypergrad.typing import HParams
from hypergrad.unroll import (
    EveryStep,
    Gradients,
    KAry,
    NoCheckpoint,
    Segments,
    Tree,
)


@dataclass(frozen=True)
class Cost:
    """What one estimate would cost.

    Attributes:
      estimator: the candidate.
      temp_bytes: what XLA reserves while it runs.
      output_bytes: value, hypergradient and info.
      flops: floating-point operations.
      relative: flops over those of one training without a hypergradient.
      fits: whether temp and output bytes together keep within the budget.
      counted: whether `flops` are all; if not, a loop whose length nobody knows before
        it runs (that of a linear solver, say) was counted once.
    """

    estimator: Estimator
    temp_bytes: int
    output_bytes: int
    flops: int
    relative: float
    fits: bool
    counted: bool = True

    @property
    def bytes(self) -> int:
        """Temp and output bytes."""
        return self.temp_bytes + self.output_bytes


@dataclass(frozen=True)
class Plan:
    """The candidates' costs, and the choice within a budget.

    Attributes:
      budget_bytes: what may be used beside the arguments.
      argument_bytes: data, λ and key, which are there whatever the estimator.
      table: a `Cost` a candidate, fewest flops first; last those not wholly counted.
      refused: (candidate, reason) of those that do not serve.
    """

    budget_bytes: int
    argument_bytes: int
    table: tuple[Cost, ...]
    refused: tuple[tuple[Estimator, str], ...] = ()

    @property
    def estimator(self) -> Estimator:
        """The candidate of fewest flops that fits, wholly counted if there is one."""
        return next(row.estimator for row in self.table if row.fits)

    def within(self, budget_bytes: int) -> "Plan":
        """The plan for another budget, from the same figures.

        Raises:
          ValueError: nothing fits, with the smallest candidate named.
        """
        if not isinstance(budget_bytes, int) or budget_bytes < 1:
            raise ValueError(
                f"budget_bytes must be an int >= 1 such as 2 * 2**30, got "
                f"{budget_bytes!r}"
            )
        table = tuple(
            dataclasses.replace(row, fits=row.bytes <= budget_bytes)
            for row in self.table
        )
        if not any(row.fits for row in table):
            least = min(table, key=lambda row: row.bytes)
            raise ValueError(
                f"no candidate fits in budget_bytes = {budget_bytes}: the smallest, "
                f"{least.estimator}, needs {least.bytes}. Raise the budget, or use "
                "hypergrad.replay, which keeps its states on disk"
            )
        return dataclasses.replace(self, budget_bytes=budget_bytes, table=table)

    def __str__(self) -> str:
        """The table, the choice marked."""
        width = max(len(str(row.estimator)) for row in self.table)
        lines = [
            f"within {_bytes(self.budget_bytes)} (beside {_bytes(self.argument_bytes)} "
            "of arguments); flops relative to one training",
            f"  {'estimator':{width}}  {'temp':>10}  {'output':>10}  {'flops':>9}  "
            f"{'relative':>8}  fits",
        ]
        for row in self.table:
            mark = "→" if row.fits and row.estimator == self.estimator else " "
            flops = f"{'' if row.counted else '≥'}{row.flops:.2e}"
            lines.append(
                f"{mark} {row.estimator!s:{width}}  {_bytes(row.temp_bytes):>10}  "
                f"{_bytes(row.output_bytes):>10}  {flops:>9}  "
                f"{row.relative:8.2f}  {'yes' if row.fits else 'no'}"
            )
        lines += [f"  {estimator}: {reason}" for estimator, reason in self.refused]
        return "\n".join(lines)


def plan(
    problem: Problem,
    hparams: HParams,
    budget_bytes: int,
    *,
    candidates: Sequence[Estimator] | None = None,
) -> Plan:
    """The exact estimator of fewest flops whose temp and output bytes keep to a budget.

    Flops, not seconds, and memory as the default backend's compiler reserves it. Takes
    as long as compiling every candidate once, whatever T.

    Args:
      problem: the problem.
      hparams: λ; shapes and dtypes (`jax.ShapeDtypeStruct`) are enough.
      budget_bytes: what may be used beside the arguments (data and λ).
      candidates: estimators to choose among; None for those of `exact_estimators`.

    Returns:
      A `Plan`; print it, or use `.estimator`.

    Raises:
      ValueError: nothing fits, with the smallest candidate named.

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(50), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s.sum(), num_steps=1000)
      >>> candidates = [hg.Reverse(hg.NoCheckpoint()), hg.Reverse(hg.Segments())]
      >>> plan = hg.plan(problem, jnp.ones(50), 2**20, candidates=candidates)
      >>> plan.estimator.checkpoint, plan.within(2**16).estimator.checkpoint
      (NoCheckpoint(), Segments(length=None))
    """
    if candidates is None:
        candidates = exact_estimators(hparams)
    training, _, memory = _compile(Value(), problem, hparams)
    table, refused = [], []
    for estimator in candidates:
        if (reason := estimator.applies(problem)) is not None:
            refused.append((estimator, reason))
            continue
        try:
            flops, counted, memory = _compile(estimator, problem, hparams)
        # A rule of the user's that serves one mode only; an optimiser not served.
        except (TypeError, ValueError) as error:
            refused.append((estimator, str(error).splitlines()[0]))
            continue
        table.append(
            Cost(
                estimator=estimator,
                temp_bytes=memory.temp_size_in_bytes,
                output_bytes=memory.output_size_in_bytes,
                flops=flops,
                relative=flops / max(training, 1),
                fits=True,
                counted=counted,
            )
        )
    if not table:
        raise ValueError(f"no candidate applies to the problem: {refused}")
    table.sort(key=lambda row: (not row.counted, row.flops, row.bytes))
    arguments = memory.argument_size_in_bytes
    return Plan(0, arguments, tuple(table), tuple(refused)).within(budget_bytes)


def exact_estimators(hparams: HParams) -> tuple[Estimator, ...]:
    """Reverse mode with every checkpointing, and forward mode in several chunks."""
    num_columns = tree.size(tree.partition(hparams)[0])
    checkpoints = (
        NoCheckpoint(),
        Gradients(),
        EveryStep(),
        Segments(),
        Tree(),
        KAry(),
    )
    return (
        *(Reverse(checkpoint) for checkpoint in checkpoints),
        *(Reverse(checkpoint, gradient=Plain()) for checkpoint in checkpoints[:4]),
        *(Forward(chunk) for chunk in (1, 8, 64) if chunk < num_columns),
        Forward(),
    )


def _compile(estimator, problem, hparams):
    """(flops, whether all, XLA's memory figures) of one estimate that is not run."""

    def run(problem, hparams, key):
        return estimator.estimate(problem, hparams, (), key)

    hparams, key = jax.eval_shape(
        lambda hparams: (tree.as_arrays(hparams), jax.random.key(0)), hparams
    )
    traced = jax.jit(run).trace(problem, hparams, key)
    memory = traced.lower().compile().memory_analysis()
    if memory is None:
        raise RuntimeError(f"{jax.default_backend()} does not say how much memory")
    return count_flops(traced.jaxpr), not has_open_loop(traced.jaxpr), memory


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
