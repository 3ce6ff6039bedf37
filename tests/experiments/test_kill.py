"""`kill -9` of workers, Ray actors and leaders at random moments: nothing is lost.

Twenty kills in all. A trial lost or counted twice would show in trials.jsonl, and a
state that is not what it was in the numbers.
"""

import fcntl
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).parent / "valley.py"
CONFIG = """
name = "try"
seeds = [0, 1]
task = { name = "valley", steps = 2000 }
estimator = { name = "Reverse", checkpoint = "NoCheckpoint" }
budget = { trainings = 600, cost_multiple = 3.0, retrain = 2, execution = "loop" }

[compare.studies.a]
[compare.studies.b]
task.tilt = 0.5

[compare.methods.gradient]
searcher = { name = "GradientSearch", starts = 2 }
[compare.methods.random]
searcher = "RandomSearch"
[compare.methods.winner]
winner_of = "a"
studies = ["b"]
"""
LEADER = """
import os, sys
from pathlib import Path
from experiments import engine
from experiments.executors.kinds import executor
from experiments.executors.workers import Origin

_, tasks, runs, where = sys.argv
origin = Origin(
    config="try.toml", tasks=(tasks,), mode="compare", runs=runs, folder=os.getcwd()
)
arguments = origin.load(), Path(runs), True, lambda *_: None, executor(where), origin
found = engine.run_experiment(*arguments)
sys.exit(any(m.failures for study in found.studies for m in study.methods))
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    (tmp_path / "try.toml").write_text(CONFIG)
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= {"VALLEY_SAVES_EVERY": "0.2"}

    def start(runs, executor):
        return subprocess.Popen(
            [sys.executable, "-c", LEADER, str(TASKS), str(runs), executor],
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def finished(command, runs, executor):
    """Run until there is nothing left to do."""
    process = command(runs, executor)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return numbers(runs)


def numbers(runs):
    """What must not depend on who died when, of each cell and seed."""
    fields = ("values", "cost", "objective", "validation", "test", "hparams")
    found = {}
    for path in sorted(runs.rglob("DONE")):
        result = json.loads(path.read_text())
        place = str(path.parent.relative_to(runs))
        found[place] = {name: result[name] for name in fields}
        log = path.with_name("trials.jsonl")
        if log.exists():
            lines = map(json.loads, log.read_text().splitlines())
            trials = [line["trial"] for line in lines]
            assert trials == list(range(len(result["values"]))), place
    return found


def writers(runs):
    """Processes that hold a run folder now."""
    pids = set()
    for path in runs.rglob("lock"):
        with path.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pids.add(int(handle.read() or 0))
    return pids - {0}


def struck(process, runs, victim, moments):
    """Kill a worker or the leader at a random moment of work; False if all is done."""
    while process.poll() is None:
        if not writers(runs):
            time.sleep(0.01)
            continue
        time.sleep(moments.uniform(0.0, 1.0))
        targets = writers(runs) if victim == "worker" else {process.pid}
        if targets and process.poll() is None:
            os.kill(moments.choice(sorted(targets)), signal.SIGKILL)
            return True
    return False


@pytest.mark.parametrize(
    "executor",
    [
        "processes:2",
        pytest.param(
            "ray:2",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("ray") is None,
                reason="pip install 'hypergrad[dist]'",
            ),
        ),
    ],
)
def test_ten_kills_change_nothing(command, tmp_path, executor):
    calm = finished(command, tmp_path / "calm", "in-process")
    assert len(calm) == 10
    moments = random.Random(executor)
    plan = ["worker", "leader", "worker", "worker"] * 2 + ["leader", "worker"]
    rounds = 0
    while plan:  # Those of one experiment, until it is done; then of another.
        rounds += 1
        runs = tmp_path / f"killed{rounds}"
        process = command(runs, executor)
        while plan and struck(process, runs, plan[0], moments):
            if plan.pop(0) == "leader":
                process.communicate(timeout=60)
                process = command(runs, executor)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        assert numbers(runs) == calm
