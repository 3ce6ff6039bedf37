"""The command line: exit codes, messages, and what it leaves on the disk."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import experiments
from experiments import trust
from experiments.cli import app
from experiments.storage.store import open_run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
seeds = [0, 1]
[task]
name = "toy"
[estimator]
name = "Reverse"
[searcher]
name = "GradientSearch"
[ablate]
"task.rows" = [2, 3]
[compare.methods.gradient]
[compare.methods.random]
searcher = "RandomSearch"
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "try.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def engine(monkeypatch, comparison):
    """An engine that records what it was asked and returns at once."""
    fake = types.ModuleType("experiments.engine")
    fake.calls = []

    def run_experiment(experiment, root, resume, progress, executor, origin):
        fake.calls.append((experiment, root, resume))
        for cell in experiment.cells:
            for seed in experiment.config.seeds:
                with open_run(root, cell, seed, resume=resume) as run:
                    progress(f"{cell.title}, seed {seed}", 1, 1)
                    run.log("trials", {"value": 0.25})
                    run.finish({"seed": seed, "validation": [], "test": [0.5, 0.7]})
        return comparison(seeds=2, drawn=False)

    fake.run_experiment = run_experiment
    monkeypatch.setitem(sys.modules, "experiments.engine", fake)
    monkeypatch.setattr(experiments, "engine", fake, raising=False)
    return fake


@pytest.fixture
def call(toy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments):
        tasks = () if command == "show" else ("--tasks", str(toy))
        return CliRunner().invoke(app, [command, *map(str, arguments), *tasks])

    return call


@pytest.mark.parametrize(
    ("command", "cells"), [("run", 1), ("ablate", 2), ("compare", 2)]
)
def test_a_command_runs_its_cells_and_names_the_report(
    call, config, engine, tmp_path, command, cells
):
    result = call(command, config, "--seed", 4)
    assert result.exit_code == 0, result.output
    ((experiment, root, resume),) = engine.calls
    assert len(experiment.cells) == cells
    assert experiment.config.seeds == [4]
    assert (root, resume) == (Path("runs"), False)
    page = Path("runs/try") / command / "report.html"
    assert f"Report: {page}" in result.stdout
    assert (tmp_path / page).is_file()
    assert "seed 4: 1 of 1" in result.stderr
    folders = list((tmp_path / "runs/try").glob("*/seed=4/DONE"))
    assert len(folders) == cells


def test_options_reach_the_engine(call, config, engine):
    settings = ("--set", "task.rows=7", "--set", "budget.trainings=9")
    result = call("run", config, *settings, "--resume", "--runs", "elsewhere")
    assert result.exit_code == 0, result.output
    ((experiment, root, resume),) = engine.calls
    assert experiment.cells[0].task.rows == 7
    assert experiment.cells[0].budget.trainings == 9
    assert (root, resume) == (Path("elsewhere"), True)


@pytest.mark.parametrize("command", ["run", "ablate", "compare"])
def test_a_dry_run_writes_nothing(call, config, engine, tmp_path, command):
    before = sorted(tmp_path.rglob("*"))
    result = call(command, config, "--dry-run")
    assert result.exit_code == 0
    assert engine.calls == []
    assert sorted(tmp_path.rglob("*")) == before
    assert "Toy(" in result.stdout


def test_check_prints_the_cells(call, config):
    result = call("check", config)
    assert result.exit_code == 0
    for words in (
        "seeds 0, 1",
        "gradient",
        "random",
        "task.rows = 3",
        "RandomSearch()",
    ):
        assert words in result.stdout


def test_show_prints_runs_and_a_run(call, config, engine, tmp_path):
    call("compare", config)
    listed = call("show", "runs/try")
    assert listed.exit_code == 0
    assert listed.stdout.count("done") == 4
    folder = next((tmp_path / "runs/try").glob("*/seed=1"))
    shown = call("show", folder)
    assert shown.exit_code == 0
    for words in ("0.250", "0.600", "config.task.rows", "meta.versions.jax"):
        assert words in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "task.nosie=1"], "unknown key"),
        (["--set", "task.rows=many"], "integer"),
        (["--set", "hparams.lr.default=9.0"], "[0.001, 1.0]"),
        (["--set", "estimator.name=Revers"], 'did you mean "Reverse"'),
        (["--set", "nonsense"], "a.b=value"),
        (["--tasks", "absent.py"], "no such file"),
    ],
)
def test_what_a_user_can_put_right_is_one_message_and_two(
    call, config, engine, tmp_path, arguments, words
):
    before = sorted(tmp_path.rglob("*"))
    for command in ("run", "check", "compare"):
        result = call(command, config, *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "Traceback" not in result.output
        assert result.stdout == ""
    assert engine.calls == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file"),
        ("seeds = [0]\nseeds = [1]\n", "given twice"),
        ('extends = "try.toml"', "loop"),
        ("seeds = [0]\n[task]\nname = toy\n", "line 3"),
    ],
)
def test_a_bad_file_is_one_message_and_two(call, config, text, words):
    config.unlink() if text is None else config.write_text(text)
    result = call("check", config)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize("place", ["runs", "runs/try", "runs/try/run"])
def test_a_file_where_the_runs_should_be(call, config, engine, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    result = call("run", config)
    assert result.exit_code == 2
    assert "a file stands where a folder should be" in result.stderr
    assert path.read_text() == "mine"
    assert engine.calls == []


def test_a_folder_without_runs(call, tmp_path):
    result = call("show", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "holds no run" in result.stderr


@pytest.mark.parametrize("name", ["trials.jsonl", "DONE", "meta.json"])
def test_a_run_folder_of_json_that_is_no_object(call, config, engine, tmp_path, name):
    call("run", config)
    folder = next((tmp_path / "runs/try").glob("*/seed=1"))
    (folder / name).write_text("[1]\n")
    result = call("show", folder)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert name in result.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trials.jsonl", '{"value": "x"}\n'),
        ("trials.jsonl", "{}\n"),
        ("DONE", '{"test": ["x"]}'),
    ],
)
def test_show_names_what_is_damaged(call, config, engine, tmp_path, name, text):
    call("run", config)
    folder = next((tmp_path / "runs/try").glob("*/seed=1"))
    (folder / name).write_text(text)
    result = call("show", folder)
    assert result.exit_code == 2
    assert str(folder / name) in result.stderr
    assert "run again with --resume" in result.stderr


def test_show_sorts_labels_of_any_kind_and_seeds_by_number(call, tmp_path):
    labels = [{"study": 3, "seed": 10}, {"study": 3, "seed": 2}, {"seed": []}, {}]
    for index, config in enumerate(labels):
        (tmp_path / f"runs/{index}").mkdir(parents=True)
        (tmp_path / f"runs/{index}/config.json").write_text(json.dumps(config))
    shown = call("show", "runs")
    assert shown.exit_code == 0, shown.output
    seeds = [line for line in shown.stdout.splitlines() if line.split()[1:2] == ["3"]]
    assert [line.split("│")[3].strip() for line in seeds] == ["2", "10"]


@pytest.mark.parametrize("text", ["{", '{"plan": 3}'])
@pytest.mark.parametrize(
    "command", [["run"], ["verify"], ["diagnose"], ["plan", "--memory", "1GB"]]
)
def test_damaged_memory_is_said_before_the_work(
    call, config, engine, monkeypatch, tmp_path, command, text
):
    for name in ("estimators", "diagnose", "plan"):
        monkeypatch.setattr(trust, name, None)
    (tmp_path / "runs/try").mkdir(parents=True)
    (tmp_path / "runs/try/trust.json").write_text(text)
    name, *options = command
    result = call(name, config, *options)
    assert result.exit_code == 2, result.output
    assert "trust.json" in result.stderr
    assert "delete it" in result.stderr
    assert "pydantic" not in result.stderr
    assert engine.calls == []


def test_a_folder_in_use_is_refused(call, config, engine, monkeypatch, tmp_path):
    call("run", config)
    experiment = engine.calls[0][0]
    with open_run(Path("runs"), experiment.cells[0], 0):
        result = call("run", config)
    assert result.exit_code == 2
    assert f"pid {os.getpid()}" in result.stderr


def test_ctrl_c_says_how_to_go_on(call, config, engine, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    engine.run_experiment = interrupted
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "try.toml", "--seed", "1"])
    result = call("run", config)
    assert result.exit_code == 130
    command = "python -m experiments run try.toml --seed 1 --resume"
    assert f"Go on with: {command}" in result.stderr


def test_a_bug_keeps_its_traceback(call, config, engine):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    engine.run_experiment = broken
    assert isinstance(call("run", config).exception, ZeroDivisionError)


def test_help_is_quick_because_it_imports_nothing_heavy():
    heavy = "{'jax', 'matplotlib', 'scipy', 'sklearn', 'pydantic'}"
    code = (
        "import sys; from typer.testing import CliRunner\n"
        "from experiments.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_module_runs(config, toy):
    command = [sys.executable, "-m", "experiments", "check", str(config)]
    command += ["--tasks", str(toy), "--set", "seeds=[5]"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "seeds 5" in done.stdout
