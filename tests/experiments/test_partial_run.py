"""Searches in stretches in their run folders: budgets, resuming, what is tested."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments import engine
from experiments.configs.cells import load
from experiments.registry import Task, register
from experiments.runs.programs import Programs
from experiments.runs.searched import Searched
from experiments.runs.seed_run import SeedRun
from experiments.storage import journal
from experiments.storage.store import run_path
from hypergrad.api import estimate
from hypergrad.estimators import Value

CONFIG = """
name = "try"
[task]
name = "slope"
[searcher]
name = "SuccessiveHalving"
num = 4
eta = 2
num_rungs = 3
[budget]
trainings = 6
finalists = 2
retrain = 2
execution = "loop"
training_keys = "FreshKeys"
"""
POPULATION = (
    'searcher={name = "PopulationBasedTraining", population = 3, num_rounds = 3, '
    "truncation = 0.4}"
)


def _step(hparams, state, tick):
    w, velocity = state
    noise = jnp.sin(jax.random.key_data(tick.key)[-1] % 1000.0 + tick.t)
    rate = hparams["rate"] * (1.0 - tick.t / 12)
    velocity = hparams["momentum"] * velocity - rate * (w - tick.data + noise)
    return w + velocity, velocity


@register("slope")
class Slope(Task):
    """Noisy descent with momentum that compiles in no time."""

    metric = "distance"
    higher_is_better = False

    def space(self):
        rate, momentum = hg.Log(1e-2, 1.0, default=0.05), hg.Linear(0.1, 0.9)
        return hg.Space({"rate": rate, "momentum": momentum})

    def problem(self, seed):
        return hg.Problem.from_step(
            start=_start,
            step=_step,
            outer_at=_outer,
            num_steps=12,
            data=jnp.asarray(seed + 1.0),
        )

    def validation(self, seed):
        return lambda state, hparams: {"distance": abs(state[0] - seed - 1.0)}

    test = validation

    def schedules(self, hparams):
        return {"rate": hparams["rate"] * (1.0 - jnp.arange(12) / 12)}


def _start(hparams, tick):
    return jnp.zeros(()), jnp.zeros(())


def _outer(hparams, state, tick):
    return (state[0] - tick.data) ** 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "try.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def programs():
    return Programs()


def run(cell, root, programs, report=lambda *_: None, seed=0):
    return SeedRun(cell, seed, root, True, report, programs).result(None)


def trials_of(cell, root):
    lines = (run_path(root, cell, 0) / "trials.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_it_spends_the_budget_and_tests_what_was_trained_whole(
    config, tmp_path, programs
):
    (cell,) = load(config, mode="run").cells
    seen = []
    result = run(cell, tmp_path, programs, lambda *told: seen.append(told))
    compiled = len(programs._compiled)
    # Stretches of 3 and 6 steps, the start of a training, and the retraining.
    assert compiled == 4
    assert np.all(np.diff(result.cost) > 0)
    assert 5 < result.cost[-1] <= 6
    assert seen[-1][1:] == (6, 6)
    trials = trials_of(cell, tmp_path)
    firsts = [t["parent"] >= 0 and trials[t["parent"]]["steps"] for t in trials]
    lengths = np.array(result.steps) - np.array(firsts)
    np.testing.assert_allclose(result.cost, np.cumsum(lengths) / 12)
    assert result.parents == [t["parent"] for t in trials]

    losses = np.where(np.array(result.steps) == 12, result.values, np.inf)
    best = Searched(trials).finalists(2)
    for found, trial in zip(best, np.argsort(losses)[:2], strict=True):
        np.testing.assert_array_equal(found.coords, [trials[trial]["coords"]])
    rates = [cell.space.from_coords(f.coords[0])["rate"] for f in best]
    assert any(np.allclose(rate, result.hparams["rate"]) for rate in rates)

    # A survivor's F is that of one unbroken training with its key.
    trial = root = int(np.argmin(losses))
    while result.parents[root] >= 0:
        root = result.parents[root]
    key = jax.random.fold_in(jax.random.split(jax.random.key(0), 4)[1], root)
    hparams = cell.space.from_coords(jnp.asarray(trials[trial]["coords"]))
    whole, _ = estimate(cell.task.problem(0), Value(), hparams, (), key)
    np.testing.assert_allclose(result.values[trial], whole.value, rtol=1e-9)

    run(cell, tmp_path, programs, seed=1)
    assert len(programs._compiled) == compiled


class Killed(Exception):
    pass


@pytest.mark.parametrize("settings", [(), (POPULATION,)], ids=["rungs", "population"])
def test_killed_and_resumed_equals_undisturbed(
    settings, config, tmp_path, programs, monkeypatch
):
    (cell,) = load(config, settings, mode="run").cells
    calm = run(cell, tmp_path / "calm", programs)

    def kill_at(count):
        """What comes after ask `count` is in no checkpoint."""
        asks = 0

        def report(label, done, total):
            nonlocal asks
            asks += 1
            if asks == count:
                monkeypatch.setattr(journal, "SAVE_EVERY", 1e9)
            if asks == count + 2:
                raise Killed

        return report

    for count in (1, 2):
        monkeypatch.setattr(journal, "SAVE_EVERY", 0.0)
        with pytest.raises(Killed):
            run(cell, tmp_path / "killed", programs, kill_at(count))
    again = run(cell, tmp_path / "killed", programs)
    known = ("values", "steps", "parents", "cost", "objective", "test", "hparams")
    for name in (*known, "schedules", "tried", "trajectories"):
        assert getattr(again, name) == getattr(calm, name), name
    assert len(trials_of(cell, tmp_path / "killed")) == len(calm.values)


def test_a_lineage_is_tested_as_it_was_trained(config, tmp_path, programs):
    (cell,) = load(config, [POPULATION, "budget.finalists=1"], mode="run").cells
    result = run(cell, tmp_path, programs)
    trials = trials_of(cell, tmp_path)
    (found,) = Searched(trials).finalists(1)
    whole = [t for t in trials if t["steps"] == 12]
    best = min(whole, key=lambda t: t["value"])
    np.testing.assert_array_equal(found.coords[-1], best["coords"])
    last = cell.space.from_coords(found.coords[-1])
    np.testing.assert_allclose(result.hparams["rate"], last["rate"])
    line = result.schedules["rate"]
    assert len(line) == 12
    first = 0
    ends = found.ends if len(found.ends) > 1 else [12]
    for coords, end in zip(found.coords, ends, strict=True):
        stage = cell.task.schedules(cell.space.from_coords(coords))["rate"]
        np.testing.assert_allclose(line[first:end], stage[first:end])
        first = end


@pytest.mark.slow
def test_every_such_search_is_named_in_a_config(config, tmp_path):
    for name in ("SuccessiveHalving", "Hyperband", "ASHA", "PopulationBasedTraining"):
        searcher = f'searcher={{name = "{name}"}}'
        (cell,) = load(config, [searcher], mode="run").cells
        result = engine.run_cell(cell, 0, tmp_path)
        assert result.cost[-1] <= 6
        assert len(result.test) == 2
