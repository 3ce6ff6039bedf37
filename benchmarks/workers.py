"""Peers: programs in other libraries, one process each under an interpreter of its own.

Parent and worker speak JSON, a line a message; arrays go through .npz files. A worker
builds its program once, after which it runs it whenever it is told to, so that it takes
part in the same rounds as everyone else.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Seconds
from benchmarks.works.base import Work

ROOT = Path(__file__).resolve().parent.parent
INTERPRETER = ROOT / ".venv-peers" / "bin" / "python"
"""Made by `make peers`."""


class PeerError(RuntimeError):
    """What a peer said before it gave up."""


class Built(NamedTuple):
    """What a worker tells of its program.

    Attributes:
      value: F.
      hypergrad: parts by name; those it cannot express are missing.
      unsupported: hyperparameters it does not differentiate, with the reason.
      notes: what a reader should know.
      rss_growth: bytes by which its process grew at most in its first run.
      versions: of its libraries.
    """

    value: float
    hypergrad: dict[str, np.ndarray]
    unsupported: dict[str, str]
    notes: list[str]
    rss_growth: int
    versions: dict[str, str]


class Worker:
    """One peer in its process."""

    def __init__(self, interpreter: Path, program: str, folder: Path):
        self._folder = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [str(interpreter), "-m", "benchmarks.peers.serve", program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def build(self) -> Built:
        """Have the program built and run once.

        Raises:
          PeerError: it cannot.
        """
        answer = self._ask("build")
        with np.load(answer.pop("hypergrad")) as file:
            hypergrad = {name: file[name].astype(float) for name in file.files}
        return Built(hypergrad=hypergrad, **answer)

    def run(self) -> Seconds:
        """One run, and what it took as the worker measured it."""
        return Seconds(**self._ask("run"))

    def stop(self) -> None:
        """End the process."""
        self._questions.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _ask(self, what: str) -> dict[str, Any]:
        self._questions.write(json.dumps({"do": what}) + "\n")
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise PeerError(f"the process ended ({self._process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer


@contextmanager
def workers(work: Work, interpreter: Path = INTERPRETER) -> Iterator[dict[str, Worker]]:
    """A worker for each peer of the work, ended on the way out.

    Raises:
      FileNotFoundError: there is no environment of the peers.
    """
    if not interpreter.exists():
        raise FileNotFoundError("no environment for peers: run `make peers` first")
    with TemporaryDirectory() as name:
        started = {}
        try:
            for number, (label, program) in enumerate(work.peers.items()):
                folder = Path(name) / str(number)
                folder.mkdir()
                _hand_over(work.arrays, work.settings, folder)
                started[label] = Worker(interpreter, program, folder)
            yield started
        finally:
            for worker in started.values():
                worker.stop()


def _hand_over(arrays: Mapping[str, np.ndarray], settings: Mapping, folder: Path):
    named: dict[str, Any] = dict(arrays)
    np.savez(folder / "arrays.npz", **named)
    (folder / "settings.json").write_text(json.dumps(dict(settings)))
