"""A worker in a fresh interpreter, and what the leader sees of it: a pipe of JSON.

    leader -> worker   a job
    worker -> leader   {"progress": [label, done, total]} ... {"outcome": {...}}

A message that is lost costs a step of a bar. When the leader is gone its end of the
pipe closes, and the worker ends at once: nobody would ask for what it does.
"""

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from experiments.executors.crew import Died, Hand

if TYPE_CHECKING:
    from experiments.progress import Report
    from experiments.runs.jobs import Job, Outcome

EVERY = 0.1  # seconds between two messages about progress


class ProcessHand(Hand):
    """A spawned process."""

    def __init__(self, origin: str, cores: tuple[int, ...], report: "Report"):
        context = multiprocessing.get_context("spawn")
        self.report = report
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, origin, cores), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, job: "Job") -> None:
        """Start on a job."""
        with contextlib.suppress(OSError):  # It has died: `poll` will say so.
            self.pipe.send_bytes(job.model_dump_json().encode())

    def poll(self) -> "Outcome | None":
        """The outcome of the job, once there is one."""
        from experiments.runs.jobs import Outcome

        alive = self.process.is_alive()  # Asked first: its last words are read after.
        try:
            while self.pipe.poll():
                message = json.loads(self.pipe.recv_bytes())
                if "outcome" in message:
                    return Outcome.model_validate(message["outcome"])
                self.report(*message["progress"])
        except (EOFError, OSError):
            alive = False
        if not alive:
            self.process.join(1.0)
            raise Died(_how(self.process.exitcode))
        return None

    def stop(self) -> None:
        """End it now: a run folder survives that at any moment."""
        self.process.kill()
        self.process.join(10.0)
        self.pipe.close()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" * (name == "SIGKILL"))
    return f"exit code {code}"


def serve(pipe: Connection, origin: str, cores: tuple[int, ...]) -> None:
    """What a spawned process does: jobs as they come, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The leader decides when to stop.
    stay_on(cores)
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, jobs), daemon=True).start()

    # Only now, when it is known on which cores: jax counts them when it starts.
    from experiments.executors.workers import Origin, Worker, failed
    from experiments.runs.jobs import Job

    worker, last = None, 0.0

    def report(label: str, done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > EVERY:
            last = time.monotonic()
            send({"progress": [label, done, total]})

    def send(message: dict[str, Any]) -> None:
        try:
            pipe.send_bytes(json.dumps(message).encode())
        except OSError:
            os._exit(1)

    while True:
        job = Job.model_validate_json(jobs.get())
        try:
            worker = worker or Worker.of(Origin.model_validate_json(origin))
        except Exception as error:
            outcome = failed(error)
        else:
            outcome = worker.do(job, report)
        send({"outcome": outcome.model_dump(mode="json")})


def _listen(pipe: Connection, jobs: "queue.SimpleQueue[Any]") -> None:
    """Hand on the jobs; when the leader is gone, end the process whatever it does."""
    try:
        while True:
            jobs.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def share(index: int, count: int) -> tuple[int, ...]:
    """The cores of worker `index` among `count`: an even share, one at least.

    Without shares each worker would start as many threads as there are cores.
    """
    if sys.platform != "linux":
        return ()
    cores = sorted(os.sched_getaffinity(0))
    if count >= len(cores):
        return (cores[index % len(cores)],)
    return tuple(cores[index::count])


def stay_on(cores: tuple[int, ...]) -> None:
    """Keep this process to these cores, and from taking an accelerator whole."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if sys.platform == "linux" and cores:
        os.sched_setaffinity(0, cores)
