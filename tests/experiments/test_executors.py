"""Executors: equal results, what dies or fails, who leads, and in which order."""

import dataclasses
import errno
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments import engine
from experiments.cli import app
from experiments.configs.faults import ConfigError
from experiments.executors.kinds import InProcess, Processes, RayExecutor, executor
from experiments.executors.workers import Origin, Worker
from experiments.report import page
from experiments.runs.jobs import Board, Outcome, jobs_of
from experiments.storage import journal
from experiments.storage.files import StoreError
from experiments.storage.store import RunFolder, is_led, leading, run_path
from hypergrad import checkpoints

CONFIG = """
name = "try"
seeds = [0, 1]
task = "valley"
estimator = "Reverse"
searcher = "RandomSearch"
budget = { trainings = 4, cost_multiple = 2.0, retrain = 2, execution = "loop" }

[compare.studies.a]
[compare.studies.b]
task.tilt = 0.5

[compare.methods.first]
studies = ["a"]
[compare.methods.second]
searcher.batch = 2
studies = ["a"]
[compare.methods.winner]
winner_of = "a"
studies = ["b"]
"""
GRADIENTS = (
    "compare.methods.third={searcher={name='GradientSearch', starts=2}, studies=['a']}",
)
quiet = lambda *_: None
slow = pytest.mark.slow
# Ray forks where JAX has threads, and leaves sockets to the garbage collector.
ray_warns = pytest.mark.filterwarnings("ignore")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="pip install 'hypergrad[dist]'"
)
EVERYWHERE = [
    InProcess(),
    pytest.param(Processes(2), marks=slow),
    pytest.param(RayExecutor(2), marks=[slow, ray_warns, needs_ray]),
]


@pytest.fixture
def valley():
    return Path(__file__).parent / "valley.py"


@pytest.fixture
def origin(tmp_path, valley, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "try.toml").write_text(CONFIG)
    monkeypatch.setattr(page, "write_report", lambda folder, _: folder / "page")
    return Origin(
        config="try.toml", tasks=(str(valley),), mode="compare", folder=str(tmp_path)
    )


def compared(origin, where, runs, resume=False, **changes):
    """The comparison of an origin's experiment, done by an executor."""
    origin = origin.model_copy(update={"runs": str(runs), **changes})
    arguments = origin.load(), Path(runs), resume, quiet, where, origin
    return engine.run_experiment(*arguments)


def numbers(comparison):
    """All but times and compilations."""
    fields = {"seed", "values", "cost", "objective", "validation", "test", "hparams"}
    return [
        (study.label, method.label, seed.model_dump(include=fields))
        for study in comparison.studies
        for method in study.methods
        for seed in method.seeds
    ]


def test_processes_give_the_numbers_of_one(origin, tmp_path):
    calm = compared(origin, InProcess(), tmp_path / "calm", mode="run")
    shared = compared(origin, Processes(1), tmp_path / "shared", mode="run")
    assert len(numbers(calm)) == 2
    assert numbers(shared) == numbers(calm)


@slow
@ray_warns
@pytest.mark.parametrize(
    "where",
    [
        *(Processes(2), Processes(4)),
        *(pytest.param(RayExecutor(n), marks=needs_ray) for n in (2, 4)),
    ],
)
def test_every_executor_gives_the_same_numbers(origin, tmp_path, where):
    origin = origin.model_copy(update={"settings": GRADIENTS})
    calm = compared(origin, InProcess(), tmp_path / "calm")
    other = compared(origin, where, tmp_path / "other")
    assert len(numbers(calm)) == 8
    assert numbers(other) == numbers(calm)
    assert [s.notes for s in other.studies] == [s.notes for s in calm.studies]


@slow
@pytest.mark.parametrize("where", EVERYWHERE)
def test_what_is_measured_is_measured_before_any_search(origin, tmp_path, where):
    settings = ("budget.cost_multiple=measure", "budget.execution=auto")
    settings += ("budget.trainings=20",)
    seen = []

    def hear(label, done, total):
        seen.append(label)

    settings += GRADIENTS
    origin = origin.model_copy(update={"settings": settings})
    origin = origin.model_copy(update={"runs": str(tmp_path / "runs")})
    arguments = origin.load(), tmp_path / "runs", False, hear, where, origin
    engine.run_experiment(*arguments)
    measured = json.loads((tmp_path / "runs/try/measured.json").read_text())
    assert len(measured) == 4  # A cost, and three layouts: values need one too.
    first = next(i for i, label in enumerate(seen) if "measuring" not in label)
    assert first > 0
    assert not any("measuring" in label for label in seen[first:])


# A cell that fails.


BAD = ("compare.methods.second.task.breaks=1",)


@pytest.mark.parametrize("where", EVERYWHERE)
def test_a_bad_cell_is_recorded_and_the_others_finish(origin, tmp_path, where):
    comparison = compared(origin, where, tmp_path / "runs", settings=BAD)
    a, b = comparison.studies
    first, second = a.methods
    assert [seed.seed for seed in second.seeds] == [0]
    (failure,) = second.failures
    assert failure.seed == 1
    assert failure.message == "ValueError: seed 1 breaks"
    assert len(first.seeds) == 2
    assert first.failures == []
    (winner,) = b.methods  # It would have chosen among fewer than it should.
    assert [seed.seed for seed in winner.seeds] == [0]
    assert "one failed" in winner.failures[0].message
    folder = tmp_path / "runs/try" / second.cell / "seed=1"
    told = json.loads((folder / "FAILED").read_text())
    assert told["message"] == failure.message
    assert "Traceback" in told["traceback"]
    assert told["when"]
    assert not (folder / "DONE").exists()


def test_failures_are_run_again_and_nothing_else(origin, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    monkeypatch.setenv("VALLEY_BREAKS", "1")
    broken = compared(origin, InProcess(), runs, mode="run")
    (method,) = broken.studies[0].methods
    assert [failure.seed for failure in method.failures] == [1]
    done = runs / "try" / method.cell / "seed=0" / "DONE"
    before = done.stat().st_mtime_ns
    monkeypatch.delenv("VALLEY_BREAKS")
    whole = compared(origin, InProcess(), runs, resume=True, mode="run")
    (method,) = whole.studies[0].methods
    assert [seed.seed for seed in method.seeds] == [0, 1]
    assert method.failures == []
    assert done.stat().st_mtime_ns == before
    assert not (runs / "try" / method.cell / "seed=1" / "FAILED").exists()


def test_the_command_says_what_failed_and_exits_with_one(origin, valley, monkeypatch):
    monkeypatch.setenv("VALLEY_BREAKS", "1")
    result = CliRunner().invoke(app, ["run", "try.toml", "--tasks", str(valley)])
    assert result.exit_code == 1, result.output
    (line,) = [li for li in result.stderr.splitlines() if li.startswith("failed: ")]
    assert "seed 1: ValueError: seed 1 breaks" in line
    assert "Report: " in result.stdout
    shown = CliRunner().invoke(app, ["show", "runs/try"])
    assert shown.stdout.count("failed") == shown.stdout.count("done") == 1


def test_all_cells_of_a_command_may_fail(origin, valley, monkeypatch):
    monkeypatch.setenv("VALLEY_BREAKS", "1")
    settings = ["--seed", "1", "--tasks", str(valley)]
    result = CliRunner().invoke(app, ["run", "try.toml", *settings])
    assert result.exit_code == 1, result.output
    assert "seed 1 breaks" in result.stderr


def test_a_budget_that_pays_for_nothing_is_found_at_the_start(origin, tmp_path):
    words = r"^try.toml: \[budget\] trainings: pays for 4 trials of 'second'"
    with pytest.raises(ConfigError, match=words):
        compared(
            origin,
            InProcess(),
            tmp_path / "runs",
            settings=("compare.methods.second.searcher.batch=9",),
        )
    assert not list(tmp_path.rglob("trials.jsonl"))


# What is there already.


@pytest.mark.parametrize("where", [InProcess(), pytest.param(Processes(1), marks=slow)])
def test_a_refused_config_keeps_the_results_that_are_there(origin, tmp_path, where):
    runs = tmp_path / "runs"
    compared(origin, InProcess(), runs)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("DONE")}
    assert len(before) == 6
    extra = ("compare.methods.extra={searcher={batch=9}, studies=['a']}",)
    with pytest.raises(ConfigError, match="pays for 4 trials of 'extra'"):
        compared(origin, where, runs, settings=extra)
    after = {path: path.stat().st_mtime_ns for path in runs.rglob("DONE")}
    assert after == before
    compared(origin, InProcess(), runs)
    again = {path: path.stat().st_mtime_ns for path in runs.rglob("DONE")}
    assert all(again[path] > before[path] for path in before)


def test_results_are_kept_where_nothing_could_be_prepared(
    origin, tmp_path, monkeypatch
):
    runs = tmp_path / "runs"
    compared(origin, InProcess(), runs, mode="run")

    def died(worker, job, report):
        return Outcome(kind="failed", message="killed by SIGKILL")

    monkeypatch.setattr(Worker, "do", died)
    with pytest.raises(StoreError, match="killed by SIGKILL; earlier results are kept"):
        compared(origin, InProcess(), runs, mode="run")
    assert len(list(runs.rglob("DONE"))) == 2


DAMAGE = {
    "DONE": [b"{", b"{}", b"\xff", b'{"seed": 0, "validation": [], "test": []}'],
    "config.json": [
        b"{",
        b"{}",
        b'{"budget": 3}',
        b'{"budget": {"execution": "loop"}}',
    ],
}


@pytest.mark.parametrize(
    ("name", "data"), [(name, data) for name in DAMAGE for data in DAMAGE[name]]
)
def test_a_damaged_result_is_one_failure_and_its_remedy_helps(
    origin, tmp_path, valley, name, data
):
    """Of seed 1; the others are kept, and the page is written."""
    runs = tmp_path / "runs"
    calm = compared(origin, InProcess(), runs)
    (folder,) = (runs / "try" / calm.studies[0].methods[1].cell).glob("seed=1")
    (folder / name).write_bytes(data)
    kept = {p: p.stat().st_mtime_ns for p in runs.rglob("DONE") if p.parent != folder}
    command = ["compare", "try.toml", "--tasks", str(valley), "--resume"]
    result = CliRunner().invoke(app, [*command, "--runs", "runs"])
    assert result.exit_code == 1, result.output
    assert "Report: " in result.stdout
    (line,) = [li for li in result.stderr.splitlines() if li.startswith("failed: ")]
    assert "second · seed 1" in line
    whole = "delete the folder" in line
    assert whole or "delete it and run again with --resume" in line
    assert kept == {p: p.stat().st_mtime_ns for p in kept}

    if whole:
        shutil.rmtree(folder)
    else:
        (folder / name).unlink()
    again = compared(origin, InProcess(), runs, resume=True)
    assert numbers(again) == numbers(calm)
    assert kept == {p: p.stat().st_mtime_ns for p in kept}


def test_a_damaged_checkpoint_is_a_failure_of_its_own_job(
    origin, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal, "SAVE_EVERY", 0.0)
    runs = tmp_path / "runs"
    calm = compared(origin, InProcess(), runs)
    folder = runs / "try" / calm.studies[0].methods[0].cell / "seed=0"
    (folder / "DONE").unlink()
    for path in folder.glob("checkpoint*"):
        path.write_bytes(b"PK")
    broken = compared(origin, InProcess(), runs, resume=True)
    (failure,) = broken.studies[0].methods[0].failures
    remedy = f"damaged; delete the folder {folder} and run again with --resume"
    assert failure.message.endswith(remedy)
    shutil.rmtree(folder)
    again = compared(origin, InProcess(), runs, resume=True)
    assert numbers(again) == numbers(calm)


def test_a_damaged_measurement_ends_the_command(origin, tmp_path):
    runs = tmp_path / "runs"
    (runs / "try").mkdir(parents=True)
    (runs / "try/measured.json").write_text("{")
    settings = ("budget.execution=auto",)
    with pytest.raises(StoreError, match=r"measured.json.*; delete it and run again"):
        compared(origin, InProcess(), runs, settings=settings)
    assert not list(runs.rglob("trials.jsonl"))


def test_the_page_shows_the_config_that_was_run(origin, tmp_path):
    """Whatever has become of the file meanwhile."""
    experiment = origin.load()
    (tmp_path / "try.toml").unlink()
    arguments = experiment, tmp_path / "runs", False, quiet
    page = engine.run_experiment(*arguments)
    assert page.reproduction.config == CONFIG


# Who leads.


def test_a_second_leader_is_refused(origin, tmp_path):
    with leading(tmp_path / "runs", "try"):
        assert is_led(tmp_path / "runs/try")
        with pytest.raises(StoreError, match=rf"another process .pid {os.getpid()}."):
            compared(origin, InProcess(), tmp_path / "runs")
    assert not is_led(tmp_path / "runs/try")


@pytest.mark.parametrize("place", ["runs/try", "runs/try/CELL", "runs/try/CELL/seed=1"])
def test_a_file_where_a_run_folder_should_be(origin, valley, tmp_path, place):
    experiment = origin.load()
    path = tmp_path / place.replace("CELL", experiment.cells[0].hash)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    result = CliRunner().invoke(app, ["compare", "try.toml", "--tasks", str(valley)])
    assert result.exit_code == 2
    assert "a file stands where a folder should be" in result.stderr
    assert path.read_text() == "mine"
    assert not list(tmp_path.rglob("DONE"))


@pytest.mark.parametrize("name", ["DONE", "checkpoint.npz"])
def test_a_full_disk_ends_the_command_and_keeps_what_is_done(
    origin, valley, tmp_path, monkeypatch, name
):
    def write(path, data, write=checkpoints.write_bytes):
        if path.name == name and len(list(tmp_path.rglob("DONE"))) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    command = ["run", "try.toml", "--tasks", str(valley)]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_bytes", write)
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "no space left on the device" in result.stderr
    (kept,) = tmp_path.rglob("DONE")
    before = kept.stat().st_mtime_ns
    result = CliRunner().invoke(app, [*command, "--resume"])
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.rglob("DONE"))) == 2
    assert kept.stat().st_mtime_ns == before


def test_a_flipped_bit_costs_the_trials_since_the_checkpoint_before(
    origin, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal, "SAVE_EVERY", 0.0)
    settings = ("budget.trainings=10",)
    origin = origin.model_copy(update={"settings": settings, "mode": "run"})
    (cell,) = origin.load().cells
    calm = engine.run_cell(cell, 0, tmp_path / "calm")

    def stop(label, done, total):
        if done == 7:
            raise KeyboardInterrupt

    runs = tmp_path / "flipped"
    with pytest.raises(KeyboardInterrupt):
        engine.run_cell(cell, 0, runs, report=stop)
    path = run_path(runs, cell, 0) / "checkpoint.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    seen = []
    again = engine.run_cell(
        cell, 0, runs, resume=True, report=lambda label, done, total: seen.append(done)
    )
    assert seen[0] == 7  # 6 trials were kept, so that the first new one is the 7th.
    assert again.values == calm.values
    assert again.test == calm.test
    trials = RunFolder(run_path(runs, cell, 0)).records("trials")
    assert [record["trial"] for record in trials] == list(range(10))


# In which order.


def test_a_job_of_a_winner_comes_after_those_it_chooses_among(origin):
    experiment = origin.load()
    found = {job.key: job for job in jobs_of(experiment)}
    assert len(found) == 6
    winner = next(cell for cell in experiment.cells if cell.winner_of)
    rivals = [c.hash for c in experiment.cells if c.study == "a"]
    for seed in (0, 1):
        assert found[winner.hash, seed].needs == tuple((r, seed) for r in rivals)
    board = Board(list(found.values()))
    order = []
    while (job := board.take()) is not None:
        order.append(job.key)
        board.settle(job, Outcome())
    assert board.settled
    assert sorted(order) == sorted(found)
    for seed in (0, 1):
        place = order.index((winner.hash, seed))
        assert all(order.index((rival, seed)) < place for rival in rivals)


def test_equal_cells_of_two_studies_are_one_job(origin):
    experiment = origin.load()
    again = [dataclasses.replace(cell, study="c") for cell in experiment.cells]
    doubled = dataclasses.replace(experiment, cells=(*experiment.cells, *again))
    assert jobs_of(doubled) == jobs_of(experiment)


# The option.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("in-process", InProcess()),
        ("processes:3", Processes(3)),
        ("ray:4", RayExecutor(4)),
    ],
)
def test_an_executor_by_its_name(text, value):
    assert executor(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("proceses:2", 'did you mean "processes"'),
        ("cluster", "in-process, processes or ray"),
        ("processes:many", "processes:4, say"),
        ("processes:0", "no number of workers"),
        ("in-process:2", "no workers to count"),
    ],
)
def test_an_executor_that_does_not_exist(origin, valley, text, words):
    arguments = ["--tasks", str(valley), "--executor", text]
    result = CliRunner().invoke(app, ["compare", "try.toml", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert not Path("runs").exists()


def test_ray_that_is_not_installed(origin, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"hypergrad\[dist\]"):
        compared(origin, RayExecutor(2), tmp_path / "runs")


def test_other_processes_need_an_origin(origin, tmp_path):
    arguments = origin.load(), tmp_path / "runs", False, quiet, Processes(2)
    with pytest.raises(ValueError, match="origin"):
        engine.run_experiment(*arguments)
