"""The board of jobs, and a crew whose workers die as a script says."""

import os

from experiments.executors.crew import DEATHS, Crew, Died, Hand
from experiments.executors.processes import share
from experiments.runs.jobs import Board, Job, Outcome


def jobs(*edges):
    """Jobs by letters: "b<a" needs a."""
    parts = [edge.partition("<") for edge in edges]
    return [Job(cell=p, label=p, needs=tuple((n, 0) for n in q)) for p, _, q in parts]


def test_what_a_failed_job_feeds_is_not_run():
    board = Board(jobs("a", "b", "c<ab", "d<c"))
    assert board.take().cell == "a"
    b = board.take()
    assert board.take() is None
    ended = board.settle(b, Outcome(kind="failed", message="bad"))
    assert [cell for cell, _ in ended] == ["b", "c", "d"]
    assert all(how.kind == "failed" for how in ended.values())
    assert not board.settled
    board.settle(board.jobs["a", 0], Outcome())
    assert board.settled


def test_workers_keep_to_what_they_have_compiled():
    plan = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]
    board = Board([Job(cell=cell, training=kind) for cell, kind in plan])
    assert board.take("", []).cell == "a"
    assert board.take("", ["x"]).cell == "c"
    assert board.take("y", ["x"]).cell == "d"
    assert board.take("y", ["x"]).cell == "b"


class Mortal(Hand):
    """A worker that dies as often as its script says."""

    def __init__(self, script):
        self.script = script

    def give(self, job):
        self.job = job

    def poll(self):
        if self.script and self.script.pop(0) == "dies":
            raise Died("killed by SIGKILL")
        return Outcome()

    def stop(self):
        pass


def ended(script, saved, *, size=1):
    crew = Crew(lambda _: Mortal(script), size, saved)
    return {job.cell: how.kind for job, how in crew.work(Board(jobs("a", "b")))}


def test_a_job_whose_worker_died_is_run_again():
    assert ended(["dies"] * (DEATHS - 1), lambda _: None) == {"a": "done", "b": "done"}


def test_a_job_whose_workers_always_die_has_failed_and_others_go_on():
    script = ["dies"] * DEATHS
    assert ended(script, lambda _: None) == {"a": "failed", "b": "done"}


def test_deaths_with_progress_between_them_are_forgiven():
    marks = iter(range(100))
    script = ["dies"] * 10
    assert ended(script, lambda _: next(marks)) == {"a": "done", "b": "done"}


def test_every_core_has_a_worker_and_every_worker_a_core():
    cores = sorted(os.sched_getaffinity(0))
    for count in (1, 2, 3, 5):
        shares = [share(index, count) for index in range(count)]
        assert all(shares)
        assert sorted(set().union(*shares)) == cores[: max(count, len(cores))]
