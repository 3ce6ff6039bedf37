"""One command a work: JSON and a table.

    python -m benchmarks w1 --steps 1000 --peers --out w1_1000.json
    python -m benchmarks results w1_1000.json wide.json ...

Works: w1, wide, w2, deep, implicit, baselines; `compile` (compile time against T, and
what the framework adds to a hand-written scan), `plan` (what `hypergrad.plan` picks
against the best measured candidate of the work `--of`). Peers need `make peers`.
"""

import argparse
import dataclasses
import importlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environment, results
from benchmarks.race import MEMORY_LIMIT, race
from benchmarks.tables import show
from benchmarks.works.base import Work

WORKS = ("w1", "wide", "w2", "deep", "implicit", "baselines")
OTHERS = {"compile": "compiling", "plan": "planning"}


def main(words: Sequence[str] | None = None) -> dict | None:
    """Run a command line.

    Args:
      words: of the command line; None for those of this process.

    Returns:
      The record of a measurement; None of `results`.
    """
    words = sys.argv[1:] if words is None else list(words)
    if words[:1] == ["results"]:
        results.main(words[1:])
        return None
    options = _parser().parse_args(words)
    record = {
        **measured(options),
        "smallest": options.smallest,
        **environment.describe(_command(words, options.out)),
    }
    show(record)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1, allow_nan=True) + "\n")
    return record


def measured(options: argparse.Namespace) -> dict:
    """The record of what was asked for, without its circumstances."""
    if options.work in OTHERS:
        module = importlib.import_module(f"benchmarks.{OTHERS[options.work]}")
        return module.measure(options)
    module = importlib.import_module(f"benchmarks.works.{options.work}")
    work = restricted(module.make(options.steps, options.smallest), options.only)
    return race(work, options.rounds, options.peers, options.memory)


def restricted(work: Work, only: Sequence[str] | None) -> Work:
    """The work with fewer contenders: the base, the reference and those named.

    Args:
      work: the work.
      only: parts of contenders' names; None for all.
    """
    if only is None:
        return work

    def keep(names):
        wanted = (work.base, work.reference)
        return [n for n in names if n in wanted or any(part in n for part in only)]

    return dataclasses.replace(
        work,
        programs={name: work.programs[name] for name in keep(work.programs)},
        peers={name: work.peers[name] for name in keep(work.peers)},
    )


def _command(words: Sequence[str], out: Path | None) -> str:
    """The command line, its file by name only: folders are nobody's business."""
    if out is not None:
        words = [w.replace(str(out), out.name) for w in words]
    return shlex.join(["python", "-m", "benchmarks", *words])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("work", choices=(*WORKS, *OTHERS))
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--steps", type=int, default=None, help="T; the work's own")
    parser.add_argument("--smallest", action="store_true", help="does it work at all?")
    parser.add_argument("--peers", action="store_true", help="other libraries, too")
    parser.add_argument(
        "--only", nargs="+", default=None, help="parts of contenders' names"
    )
    parser.add_argument("--of", choices=WORKS[:4], default="w1", help="for `plan`")
    parser.add_argument(
        "--memory",
        type=int,
        default=MEMORY_LIMIT,
        help="bytes above which a contender is not run",
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    return parser
