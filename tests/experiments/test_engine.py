"""The engine on real trainings: equal budgets, resuming, divergence, honesty."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments import engine
from experiments.configs.cells import load
from experiments.configs.faults import ConfigError
from experiments.registry import load_tasks
from experiments.results import SeedResult
from experiments.runs.programs import Programs
from experiments.runs.seed_run import SeedRun
from experiments.storage.files import StoreError
from experiments.storage.store import run_path
from experiments.tasks.digits import Digits, _images

ROOT = Path(__file__).resolve().parents[2]
VALLEY = Path(__file__).parent / "valley.py"
CONFIG = """
name = "try"
seeds = [0, 1]

[task]
name = "digits"
num_train = 40
num_valid = 20
num_test = 50
hidden = [8]
num_steps = 12
batch_size = 10
knots = 3

[estimator]
name = "Reverse"

[searcher]
name = "GradientSearch"
starts = 2

[budget]
trainings = 24
cost_multiple = 3.0
retrain = 2
execution = "loop"
training_keys = "FreshKeys"

[compare.studies.a]
[compare.studies.b]
task.example_weights = true

[compare.methods.gradient]
[compare.methods.random]
searcher = { name = "RandomSearch" }
[compare.methods.sobol]
searcher = { name = "SobolSearch", batch = 4 }
studies = ["a"]
[compare.methods.valid_only]
reference = true
task = { fit_on = "valid", example_weights = false }
budget = { cost_multiple = "measure" }  # nothing to measure
[compare.methods.winner]
winner_of = "a"
studies = ["b"]
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "try.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """(comparison, runs folder) of the whole config."""
    load_tasks()
    runs = tmp_path_factory.mktemp("runs")
    experiment = load(config, mode="compare")
    return engine.run_experiment(experiment, runs, False, lambda *_: None), runs


def test_every_method_spends_the_same_budget(done):
    comparison, _ = done
    assert [study.label for study in comparison.studies] == ["a", "b"]
    for study in comparison.studies:
        for method in study.methods:
            for result in method.seeds:
                assert len(result.test) == len(result.validation) == 2
                if method.kind == "reference":
                    assert result.values == []
                    continue
                per_trial = 3.0 if method.kind == "gradient" else 1.0
                assert len(result.values) == 24 / per_trial
                assert result.cost[-1] == 24


def test_all_methods_begin_at_the_same_default_with_the_same_key(done):
    comparison, _ = done
    for study in comparison.studies:
        for i in range(2):
            firsts = [m.seeds[i].values[0] for m in study.methods if m.seeds[i].values]
            np.testing.assert_allclose(firsts, firsts[0], rtol=1e-9)


def test_the_chosen_hparams_are_those_of_the_best_trial(done):
    comparison, runs = done
    for method in comparison.studies[0].methods:
        for result in method.seeds:
            if not result.values:
                continue
            folder = runs / "try" / method.cell / f"seed={result.seed}"
            lines = (folder / "trials.jsonl").read_text().splitlines()
            trials = [json.loads(line) for line in lines]
            best = trials[int(np.argmin(result.values))]
            space = Digits(
                **{"num_train": 40, "hidden": (8,), "knots": 3, "batch_size": 10}
            ).space()
            chosen = space.from_coords(jnp.asarray(best["coords"]))
            np.testing.assert_allclose(chosen["rate"], result.hparams["rate"])
            last = {name: t[-1] for name, t in result.trajectories.items()}
            np.testing.assert_allclose(last["momentum"], result.hparams["momentum"])
            np.testing.assert_allclose(last["rate[1]"], result.hparams["rate"][1])


def test_the_winner_of_an_earlier_study_is_taken_over(done):
    a, b = done[0].studies
    winner = next(m for m in b.methods if m.label == "winner")
    searches = [m for m in a.methods if m.kind != "reference"]
    for i, result in enumerate(winner.seeds):
        best = max(searches, key=lambda m: np.mean(m.seeds[i].validation))  # noqa: B023
        expected = best.seeds[i]
        np.testing.assert_allclose(result.hparams["rate"], expected.hparams["rate"])
        assert set(result.hparams["weights"]) == {1.0}
        np.testing.assert_allclose(result.test, expected.test, rtol=1e-6)


def test_resuming_a_finished_experiment_changes_nothing(done, config):
    comparison, runs = done
    experiment = load(config, mode="compare")
    again = engine.run_experiment(experiment, runs, True, lambda *_: None)
    assert again.studies == comparison.studies


def test_one_compilation_for_all_seeds_of_a_cell(config, tmp_path):
    experiment = load(config, mode="run")
    (cell,) = experiment.cells
    programs = Programs()
    for seed in (0, 1, 2):
        run = SeedRun(cell, seed, tmp_path, False, lambda *_: None, programs)
        run.result(None)
        if seed == 0:
            count = len(programs._compiled)
    assert len(programs._compiled) == count == 4  # ask, train, tell, retrain


def test_a_diverging_trial_is_recorded_and_the_study_goes_on(config, tmp_path):
    settings = [
        "hparams.rate.high=1e60",
        "hparams.rate.default=1e60",
        "searcher.starts=2",
    ]
    (cell,) = load(config, settings, mode="run").cells
    result = engine.run_cell(cell, 0, tmp_path)
    assert not np.isfinite(result.values[0])
    assert np.isfinite(min(v for v in result.values if np.isfinite(v)))
    folder = tmp_path / "try" / cell.hash / "seed=0"
    first = json.loads((folder / "trials.jsonl").read_text().splitlines()[0])
    assert first["diverged"]
    assert SeedResult.model_validate(json.loads((folder / "DONE").read_text()))


def test_what_is_measured_once_holds_for_all_that_train_alike(config, tmp_path):
    load_tasks((VALLEY,))
    settings = ["task=valley", "budget.cost_multiple=measure", "budget.execution=auto"]
    (cell,) = load(config, settings, mode="run").cells
    engine.run_cell(cell, 0, tmp_path)
    path = tmp_path / "try" / "measured.json"
    measured = json.loads(path.read_text())
    cost = next(key for key in measured if key.startswith("cost"))
    assert (2 * measured[cost]).is_integer()
    folder = run_path(tmp_path, cell, 0)
    resolved = json.loads((folder / "config.json").read_text())["budget"]
    assert resolved["cost_multiple"] == measured[cost]
    assert resolved["execution"] in measured.values()

    path.write_text(json.dumps(measured | {cost: 12.0}))
    assert engine.run_cell(cell, 1, tmp_path).cost == [12.0, 24.0]
    (other,) = load(config, [*settings, "searcher.starts=1"], mode="run").cells
    assert engine.run_cell(other, 1, tmp_path).cost == [12.0, 24.0]

    path.write_text(json.dumps(measured | {cost: "a lot"}))
    with pytest.raises(StoreError, match=r"measured\.json is damaged"):
        engine.run_cell(cell, 1, tmp_path)


def test_a_budget_is_never_overspent(config, tmp_path):
    (cell,) = load(config, ["budget.trainings=5"], mode="run").cells
    words = (
        "pays for 1 trials of 'GradientSearch' at 3 trainings each; one round takes 2 "
        "of them: give at least 6, or lower the searcher's batch"
    )
    with pytest.raises(ConfigError, match=words):
        engine.run_cell(cell, 0, tmp_path)


def test_rounding_takes_no_trial_from_a_budget(config, tmp_path):
    settings = ["budget.trainings=33", "budget.cost_multiple=1.1"]
    (cell,) = load(config, settings, mode="run").cells
    assert int(33 / 1.1) == 29
    run = SeedRun(cell, 0, tmp_path, False, lambda *_: None, Programs())
    assert run._rounds(1.1) == 15
    with pytest.raises(ConfigError, match="give at least 36,"):
        run._rounds(18.0)


def run_command(config, runs, *extra):
    command = ["-m", "experiments", "run", str(config), "--runs", str(runs), *extra]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(runs):
    """What must not depend on interruptions, of the only seed."""
    (path,) = runs.rglob("DONE")
    result = json.loads(path.read_text())
    return {k: result[k] for k in ("values", "cost", "validation", "test", "hparams")}


def test_killed_and_resumed_equals_undisturbed(config, tmp_path, monkeypatch):
    """`kill -9` twice in the middle of a study, then --resume."""
    settings = ["--seed", "0", "--set", "budget.trainings=6000"]
    settings += ["--tasks", str(VALLEY), "--set", "task=valley"]
    monkeypatch.setenv("VALLEY_SAVES_EVERY", "0.01")
    calm = run_command(config, tmp_path / "calm", *settings)
    _, errors = calm.communicate(timeout=300)
    assert calm.returncode == 0, errors

    runs = tmp_path / "killed"
    for _ in range(2):
        process = run_command(config, runs, "--resume", *settings)
        before = {p: p.stat().st_mtime_ns for p in runs.rglob("checkpoint.npz")}
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            now = {p: p.stat().st_mtime_ns for p in runs.rglob("checkpoint.npz")}
            if now != before:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL  # It was not done already.
    last = run_command(config, runs, "--resume", *settings)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert numbers(runs) == numbers(tmp_path / "calm")


def test_trials_without_a_checkpoint_are_run_again(config, tmp_path):
    (cell,) = load(config, mode="run").cells
    calm = engine.run_cell(cell, 0, tmp_path / "calm")
    folder = run_path(tmp_path / "torn", cell, 0)
    folder.mkdir(parents=True)
    (folder / "trials.jsonl").write_text('{"value": 0.0, "trial": 0}\n{"value": 0.')
    again = engine.run_cell(cell, 0, tmp_path / "torn", resume=True)
    assert again.values == calm.values
    assert len((folder / "trials.jsonl").read_text().splitlines()) == len(calm.values)


def test_splits_of_a_seed_never_overlap_and_have_the_noise_asked_for():
    task = Digits(num_train=200, noise=0.3)
    images, _ = _images()
    for seed in (0, 1):
        train, valid, test = task.splits(seed)
        rows = np.concatenate(
            [np.asarray(part.images) for part in (train, valid, test)]
        )
        # Digits has no two equal images, so that a row seen twice would be an overlap.
        assert len(np.unique(images, axis=0)) == len(images)
        assert len(np.unique(rows, axis=0)) == len(rows)
        wrong = np.mean(np.asarray(train.labels != train.true_labels))
        np.testing.assert_allclose(wrong, 0.3)
        for part in (valid, test):
            assert bool(jnp.all(part.labels == part.true_labels))
    again = task.splits(0)[0]
    assert bool(jnp.all(again.images == task.splits(0)[0].images))


def test_hypergradients_of_the_digits_task_are_right():
    task = Digits(
        num_train=40, num_steps=6, hidden=(8,), batch_size=10, example_weights=True
    )
    import jax

    problem, hparams = task.problem(0), task.space().defaults()
    report = hg.verify(problem, hg.Reverse(), hparams, jax.random.key(0))
    assert report.ok, str(report)
