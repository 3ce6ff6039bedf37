"""All contenders of a work in the same rounds, and the record of what they took."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from benchmarks.measure import Seconds, interleave, quartiles, ratios, timed
from benchmarks.programs import Compiled, Result, compiled
from benchmarks.workers import PeerError, Worker, workers
from benchmarks.works.base import Work, parts

MEMORY_LIMIT = 12 * 2**30
"""Contenders that need more bytes are listed, and not run."""


@dataclass(frozen=True)
class Entrant:
    """A contender that has been built and run once, or could not be.

    Attributes:
      run: runs it and says what it took; None if it takes no part.
      bytes: its memory.
      bytes_of: what these bytes are.
      value: F.
      hypergrad: parts by name; empty without a hypergradient.
      flags: what it says of itself.
      unsupported: hyperparameters it does not differentiate, with the reason.
      notes: what a reader should know.
      versions: of its libraries, if they are not ours.
    """

    run: Any = None
    bytes: int | None = None
    bytes_of: str = "XLA temp"
    value: float | None = None
    hypergrad: Mapping[str, np.ndarray] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def race(
    work: Work, rounds: int, with_peers: bool = False, limit: int = MEMORY_LIMIT
) -> dict:
    """The record of a work, as JSON has it.

    Args:
      work: what is measured.
      rounds: interleaved rounds.
      with_peers: whether programs in other libraries take part.
      limit: bytes above which a contender is not run.
    """
    with ExitStack() as stack:
        entrants = {
            name: entered(compiled(program), limit)
            for name, program in work.programs.items()
        }
        if with_peers:
            for name, worker in stack.enter_context(workers(work)).items():
                entrants[name] = joined(worker)
        running = {name: e.run for name, e in entrants.items() if e.run is not None}
        taken = interleave(running, rounds)
    rows = [_row(work, name, entrants, taken) for name in entrants]
    record = {
        "work": work.name,
        "title": work.title,
        "steps": work.steps,
        "rounds": rounds,
        "base": work.base,
        "reference": work.reference,
        "tolerance": work.tolerance,
        "history_bytes": work.history_bytes,
        "contenders": rows,
    }
    return work.complete(record, {n: e.hypergrad for n, e in entrants.items()})


def entered(program: Compiled, limit: int) -> Entrant:
    """A JAX contender after its first run."""
    if program.temp_bytes > limit:
        note = f"not run: it needs more than {limit} bytes"
        return Entrant(bytes=program.temp_bytes, notes=(note,))
    result = program.call()
    return Entrant(
        run=lambda: timed(program.call),
        bytes=program.temp_bytes,
        value=_mean(result.value),
        hypergrad={} if result.hypergrad is None else parts(result.hypergrad),
        flags=_flags(result),
    )


def joined(worker: Worker) -> Entrant:
    """A peer after its first run, or with what kept it from running."""
    try:
        built = worker.build()
    except PeerError as error:
        return Entrant(notes=(f"failed: {error}",))
    return Entrant(
        run=worker.run,
        bytes=built.rss_growth,
        bytes_of="growth of its process",
        value=built.value,
        hypergrad=built.hypergrad,
        unsupported=built.unsupported,
        notes=tuple(built.notes),
        versions=built.versions,
    )


def difference(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """‖found − reference‖ / ‖reference‖ of each part that both have."""
    shared = [name for name in reference if name in found]
    return {name: _relative(found[name], reference[name]) for name in shared}


def _relative(found, reference) -> float:
    with np.errstate(invalid="ignore"):  # ∞ − ∞ of a training that diverged
        error, size = np.linalg.norm(found - reference), np.linalg.norm(reference)
    return float(error / size) if size else float(error)


def _row(
    work: Work,
    name: str,
    entrants: Mapping[str, Entrant],
    taken: Mapping[str, list[Seconds]],
) -> dict:
    entrant, base = entrants[name], taken[work.base]
    row: dict[str, Any] = {
        "name": name,
        "bytes": entrant.bytes,
        "bytes_of": entrant.bytes_of,
        "value": entrant.value,
        "flags": dict(entrant.flags),
        "unsupported": dict(entrant.unsupported),
        "notes": list(entrant.notes),
        "versions": dict(entrant.versions),
    }
    if entrant.bytes is not None and work.history_bytes:
        row["histories"] = entrant.bytes / work.history_bytes
    if (least := entrants[work.base].bytes) and entrant.bytes is not None:
        row["bytes_ratio"] = entrant.bytes / least
    if work.reference is not None and entrant.hypergrad:
        row["differences"] = difference(
            entrant.hypergrad, entrants[work.reference].hypergrad
        )
        # Written so that a NaN is wrong.
        row["wrong"] = [
            part for part, d in row["differences"].items() if not d <= work.tolerance
        ]
    if name in taken:
        for clock in Seconds._fields:
            seconds = [getattr(s, clock) for s in taken[name]]
            forward = [getattr(s, clock) for s in base]
            row[clock] = seconds
            row[f"{clock}_median"] = quartiles(seconds).median
            row[f"{clock}_ratio"] = list(ratios(seconds, forward))
    return row


def _mean(value) -> float:
    leaves = [np.mean(np.asarray(leaf, float)) for leaf in jax.tree.leaves(value)]
    return float(np.mean(leaves)) if leaves else math.nan


def _flags(result: Result) -> dict[str, Any]:
    return {name: np.asarray(flag).item() for name, flag in result.flags.items()}
