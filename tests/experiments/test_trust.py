"""What `verify`, `diagnose` and `plan` say of a config, and where it goes."""

import json
from dataclasses import dataclass

import jax
import pytest
from typer.testing import CliRunner

import hypergrad as hg
from experiments import registry, trust
from experiments.cli import app
from experiments.configs import build, cells
from experiments.configs.faults import ConfigError
from experiments.report.page import write_report
from experiments.results import EstimatorRow, Trust

CONFIG = """
name = "tiny"
seeds = [0]
[task]
name = "digits"
num_train = 20
num_valid = 10
num_test = 10
hidden = [4]
num_steps = 6
batch_size = 10
[estimator]
name = "Reverse"
[searcher]
name = "GradientSearch"
starts = 1
[budget]
trainings = 12
cost_multiple = 4
retrain = 1
execution = "loop"
"""


@dataclass(frozen=True)
class Inflated(hg.Forward):
    """Five per cent too long."""

    def estimate(self, problem, hparams, state, key):
        result, state = super().estimate(problem, hparams, state, key)
        long = jax.tree.map(lambda x: 1.05 * x, result.hypergrad)
        return result._replace(hypergrad=long), state


@pytest.fixture
def call(tmp_path):
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)

    def call(command, *arguments):
        runs = "--runs", str(tmp_path / "runs")
        return CliRunner().invoke(app, [command, str(config), *arguments, *runs])

    return call


def silent(*_):
    """A report that nobody reads."""


def experiment(tmp_path, *settings, mode="check"):
    registry.load_tasks(())
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)
    return cells.load(config, settings, mode=mode)


def test_every_estimator_has_its_name_in_configs():
    installed = build.concrete(hg.Estimator)
    assert set(hg.estimators.ESTIMATORS) <= set(installed)
    ours = {n for n, c in installed.items() if c.__module__.startswith("hypergrad.")}
    assert ours == set(hg.estimators.ESTIMATORS)


@pytest.mark.parametrize("name", hg.estimators.ESTIMATORS)
def test_every_estimator_is_built_from_its_name(name, tmp_path):
    searcher = ["searcher='RandomSearch'"] if name == "Value" else []
    loaded = experiment(tmp_path, f"estimator={{name='{name}'}}", *searcher)
    assert type(loaded.cells[0].estimator) is hg.estimators.ESTIMATORS[name]


@pytest.mark.slow
def test_rows_of_the_table_of_estimators(tmp_path):
    names = "['Reverse', {name = 'Reverse', window = 2}, {name = 'StocBiO'}]"
    loaded = experiment(tmp_path, f"ablate.estimator={names}", mode="ablate")
    assert trust.compares_estimators(loaded)
    exact, cut, refused = trust.estimators(loaded, 2, tmp_path, silent)
    assert exact.verdict == cut.verdict == "agrees"
    assert exact.bias < 1e-12
    assert exact.cosine == pytest.approx(1)
    assert 0.1 < cut.cosine < 0.9999
    assert exact.time > 1
    assert exact.memory > 1
    assert "must divide num_steps" in refused.refused
    again = trust.estimators(loaded, 2, tmp_path, silent)
    assert again[0].time == exact.time, "what was measured is kept"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"name": "StocBiO"}, "must divide num_steps"),
        ({"name": "ForwardSharing", "window": 2}, "shares tables"),
    ],
)
def test_an_estimator_that_does_not_apply_is_refused_before_anything_runs(
    table, reason, call
):
    text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    result = call("run", "--set", f"estimator={{{text}}}")
    assert result.exit_code == 2
    assert "does not apply" in result.output
    assert reason in result.output


@pytest.mark.slow
def test_diagnose_and_plan_print_and_are_remembered(call, tmp_path):
    diagnosed = call("diagnose", "--keys", "2")
    assert diagnosed.exit_code == 0, diagnosed.output
    assert "exponent" in diagnosed.output
    planned = call("plan", "--memory", "1GB")
    assert planned.exit_code == 0, planned.output
    assert "Reverse" in planned.output

    kept = trust.remembered(tmp_path / "runs", experiment(tmp_path))
    assert kept.diagnosis.splitlines()[0] in diagnosed.output
    assert kept.plan.splitlines()[0] in planned.output


@pytest.mark.slow
def test_verify_fails_what_disagrees_and_remembers_it(call, tmp_path):
    result = call("verify", "--keys", "2", "--set", "estimator={name='Inflated'}")
    assert result.exit_code == 1, result.output
    assert "disagrees" in result.output
    (row,) = trust.remembered(tmp_path / "runs", experiment(tmp_path)).estimators
    assert row.verdict == "disagrees"
    assert row.bias == pytest.approx(0.05, rel=1e-6)


@pytest.mark.slow
def test_a_budget_that_nothing_fits_is_one_message(call):
    result = call("plan", "--memory", "10")
    assert result.exit_code == 2
    assert "--memory" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_budget_that_is_no_size_is_refused(call):
    result = call("plan", "--memory", "much")
    assert result.exit_code == 2
    assert "is no size" in result.output


def test_damaged_memory_is_refused(tmp_path):
    loaded = experiment(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "trust.json").write_text(json.dumps({"plan": 3}))
    with pytest.raises(trust.StoreError, match="damaged"):
        trust.remembered(tmp_path, loaded)


def test_the_report_shows_what_is_known(comparison, tmp_path):
    rows = [
        EstimatorRow(estimator="Reverse()", target="dF/dλ", verdict="agrees", bias=0.0),
        EstimatorRow(estimator="Tower()", target="an update", refused="no <model>"),
    ]
    known = Trust(estimators=rows, diagnosis="chaotic beyond T≈400", plan="fits")
    page = comparison(seeds=2, drawn=False).model_copy(update={"trust": known})
    text = write_report(tmp_path, page).read_text()
    for part in ("Reverse()", "does not apply", "no &lt;model&gt;", "chaotic beyond"):
        assert part in text


def test_a_searcher_may_use_an_online_estimator(tmp_path):
    loaded = experiment(tmp_path, "estimator='RTHO'")
    with pytest.raises(ConfigError, match="unknown estimator"):
        experiment(tmp_path, "estimator='RTHOO'")
    assert isinstance(loaded.cells[0].estimator, hg.RTHO)
