"""A worker that is a Ray actor.

Two threads of the actor answer: one does the job, the other says how far it is.
"""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from experiments.configs.faults import ConfigError, Fault
from experiments.executors.crew import Died, Hand
from experiments.executors.processes import EVERY, stay_on

if TYPE_CHECKING:
    from experiments.progress import Report
    from experiments.runs.jobs import Job, Outcome


class Actor:
    """What Ray runs in a process of its own; everything in and out is JSON."""

    def __init__(self, origin: str, cores: tuple[int, ...]):
        stay_on(cores)
        self.origin, self.worker = origin, None
        self.told: dict[str, tuple[int, int]] = {}

    def do(self, job: str) -> str:
        """Do a job; returns its outcome."""
        from experiments.executors.workers import Origin, Worker, failed
        from experiments.runs.jobs import Job

        try:
            origin = Origin.model_validate_json(self.origin)
            self.worker = self.worker or Worker.of(origin)
        except Exception as error:
            return failed(error).model_dump_json()
        outcome = self.worker.do(Job.model_validate_json(job), self._report)
        return outcome.model_dump_json()

    def progress(self) -> dict[str, tuple[int, int]]:
        """{label: (done, total)} of what has changed since it was asked last."""
        told, self.told = self.told, {}
        return told

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def _report(self, label: str, done: int, total: int) -> None:
        self.told = self.told | {label: (done, total)}


class RayHand(Hand):
    """A Ray actor."""

    def __init__(
        self,
        ray: Any,
        origin: str,
        cores: tuple[int, ...],
        gpus: float,
        report: "Report",
    ):
        # No core is asked for: workers share those there are, as processes do.
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        kind = ray.remote(
            max_concurrency=2,
            num_cpus=0,
            num_gpus=gpus,
            runtime_env={"env_vars": path},
        )(Actor)
        self.ray, self.report = ray, report
        self.actor = kind.remote(origin, cores)
        self.outcome = self.asked = None
        self.last = 0.0

    def give(self, job: "Job") -> None:
        """Start on a job."""
        self.outcome = self.actor.do.remote(job.model_dump_json())

    def poll(self) -> "Outcome | None":
        """The outcome of the job, once there is one."""
        from experiments.runs.jobs import Outcome

        try:
            self._pass_on()
            if not self._ready(self.outcome):
                return None
            return Outcome.model_validate_json(self.ray.get(self.outcome))
        except self.ray.exceptions.RayError as error:
            raise Died(" ".join(str(error).split())[:200]) from error

    def stop(self) -> None:
        """End it now: a run folder survives that at any moment."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.actor)

    def _pass_on(self) -> None:
        """Ask how far it is, now and then, and never wait for the answer."""
        if self.asked is not None and self._ready(self.asked):
            for label, (done, total) in self.ray.get(self.asked).items():
                self.report(label, done, total)
            self.asked = None
        if self.asked is None and time.monotonic() - self.last > EVERY:
            self.last, self.asked = time.monotonic(), self.actor.progress.remote()

    def _ready(self, answer: Any) -> bool:
        ready, _ = self.ray.wait([answer], timeout=0)
        return bool(ready)


@contextlib.contextmanager
def hiring(
    origin: str, shares: Callable[[int], tuple[int, ...]], size: int, report: "Report"
) -> Iterator[Callable[[int], Hand]]:
    """A function that sends for actors, on a cluster that is started if there is none.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        remedy = "pip install 'hypergrad[dist]', or take processes:N"
        message = "the package ray is not installed"
        raise ConfigError([Fault("--executor", (), message, hint=remedy)]) from None
    import ray.exceptions

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = not ray.is_initialized()
    if ours:
        with warnings.catch_warnings():
            # It forks only to start programs of its own, which JAX cannot know.
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    try:
        gpus = ray.cluster_resources().get("GPU", 0.0) / size
        yield lambda index: RayHand(ray, origin, shares(index), gpus, report)
    finally:
        if ours:
            ray.shutdown()
