"""A worker's process: builds one program, and runs it whenever it is told to.

Started as `python -m benchmarks.peers.serve MODULE:FUNCTION FOLDER`; see
`benchmarks.workers` for the other end.
"""

import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.peers.program import Job, Outcome, Program

_PACKAGES = ("torch", "torchopt", "higher", "jaxopt", "jax", "optuna")


def main(program: str, folder: Path) -> None:
    """Answer one line for each line read, until there are none."""
    warnings.simplefilter("ignore")  # TorchOpt calls what torch has moved since
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session = Session(program, folder)
    for line in sys.stdin:
        try:
            answer = getattr(session, json.loads(line)["do"])()
        except Exception as error:  # the parent says so in the table
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Session:
    """One program from building to its last run."""

    def __init__(self, program: str, folder: Path):
        self._name, self._folder = program, folder
        self._program: Program | None = None

    def build(self) -> dict:
        """Make the program and run it once: F, dF/dλ, and how far memory grew."""
        module, function = self._name.split(":")
        make = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)
        with np.load(self._folder / "arrays.npz") as file:
            arrays = {name: file[name] for name in file.files}
        settings = json.loads((self._folder / "settings.json").read_text())
        self._program = make(Job(arrays, settings))
        outcome, growth = growth_of(self._program.run)
        path = self._folder / "hypergrad.npz"
        np.savez(path, **{n: np.asarray(g) for n, g in outcome.hypergrad.items()})
        return {
            "value": float(outcome.value),
            "hypergrad": str(path),
            "unsupported": self._program.unsupported,
            "notes": list(self._program.notes),
            "rss_growth": growth,
            "versions": _versions(),
        }

    def run(self) -> dict:
        """One run, timed here: the pipe takes no part."""
        assert self._program is not None, "build first"
        cpu, wall = time.process_time(), time.perf_counter()
        self._program.run()
        return {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
        }


def growth_of(run: Callable[[], Outcome]) -> tuple[Outcome, int]:
    """The result, and by how many bytes the process was larger at its largest.

    Linux can forget an earlier peak; elsewhere growth counts from the largest size so
    far, which flatters the program if building it took more.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        outcome = run()
        return outcome, max(0, _status("VmHWM") - before)
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = run()
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        # Kilobytes on Linux, bytes on macOS.
        return outcome, growth * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"the system does not tell {name}")


def _versions() -> dict[str, str]:
    loaded = [name for name in _PACKAGES if name in sys.modules]
    return {name: importlib.metadata.version(name) for name in loaded}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
