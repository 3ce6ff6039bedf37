"""The example of a problem and a protocol of one's own: closed forms and configs."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import hypergrad as hg
from experiments.cli import app
from experiments.configs.papers import has_paper, load_paper
from experiments.registry import load_tasks
from experiments.reproduce.reproduce import load_any

FOLDER = Path(__file__).parents[2] / "examples" / "benchmark_bilevel"
TASKS = FOLDER / "quadratic.py"
CONFIGS = sorted(FOLDER.glob("*.toml"))
SMALL = {"num_samples": 64, "dim": 3}


@pytest.fixture(scope="module")
def quadratic():
    load_tasks((TASKS,))
    return sys.modules["tasks_from_quadratic"]


def test_closed_forms(quadratic, key):
    """Against losses summed row by row, an exact inner solution, and autodiff."""
    draw = quadratic.Draw(**SMALL)
    (inner, outer), form = draw.rows(), quadratic.closed(draw)

    def value(hp):
        loss = lambda w, of: quadratic.mean_loss(w, {"x": hp}, of)
        at_zero = jax.grad(loss)(jnp.zeros(3), inner)
        hessian = jax.hessian(loss)(jnp.zeros(3), inner)
        return loss(-jnp.linalg.solve(hessian, at_zero), outer)

    hp = jax.random.normal(key, (3,))
    found = form.metrics(None, {"x": hp})
    np.testing.assert_allclose(value(hp) - form.least, found["gap"], rtol=1e-10)
    slope = jnp.linalg.norm(jax.grad(value)(hp))
    np.testing.assert_allclose(slope, found["slope"], rtol=1e-10)
    np.testing.assert_allclose(value(form.best), form.least, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(value)(form.best), 0.0, atol=1e-12)
    assert np.linalg.eigvalsh(form.H)[0] > 0


def test_one_loss_is_what_it_says(quadratic):
    row = quadratic.Draw(**SMALL).rows()[0]
    x, y, a, b, p, q = (part[0] for part in row)
    w, hp = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -1.0])
    loss = (
        0.5 * (x @ w) ** 2 + 0.5 * (y @ hp) ** 2 + (a @ hp) * (b @ w) + p @ w + q @ hp
    )
    one = type(row)(*(part[:1] for part in row))
    np.testing.assert_allclose(quadratic.mean_loss(w, {"x": hp}, one), loss)


def test_the_draw_has_the_spectra_of_the_benchmark(quadratic):
    inner, _ = quadratic.Draw(num_samples=40_000, dim=4, cross=0.5).rows()
    n, steps = 40_000, np.geomspace(0.1, 1.0, 4)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(inner.x.T @ inner.x / n), steps, rtol=0.05
    )
    zero_too = [0.0, *np.geomspace(0.1, 1.0, 3)]
    eigenvalues = np.linalg.eigvalsh(inner.y.T @ inner.y / n)
    np.testing.assert_allclose(eigenvalues, zero_too, rtol=0.05, atol=1e-12)
    coupling = np.linalg.svd(inner.a.T @ inner.b / n)[1]
    np.testing.assert_allclose(coupling[::-1], np.geomspace(0.1, 0.5, 4), rtol=0.05)


def test_training_ends_at_the_value_function(quadratic, key):
    task = quadratic.Quadratic(**SMALL, num_steps=400, rate=0.8)
    hparams = task.space().defaults()
    value, slope = hg.value_and_hypergrad(task.problem(0), hg.Implicit())(hparams, key)
    form = quadratic.closed(task)
    np.testing.assert_allclose(value, form.at_zero, rtol=1e-10)
    np.testing.assert_allclose(slope["x"], form.g, rtol=1e-8)


def test_saba_finds_the_minimum_on_batches(quadratic):
    options = {"num_calls": 400, "batch_size": 32, "look_every": 100}
    options |= {"num_samples": 64, "dim": 4, "mu": 0.5, "cross": 0.5, "outer_rate": 0.2}
    loop = quadratic.SingleLoop(precision="float64", **options)
    saba = hg.SABA(0.1, 0.1, num_batches=2)
    found = loop.measure(saba, 0, lambda done, total: None)
    assert found.numbers["last_distance"] < 1e-3
    distance = found.curves["distance"]
    assert distance.x == [0, 100, 200, 300, 400]
    assert distance.y[0] == 1.0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_headers_and_cells(path, quadratic):
    text = path.read_text()
    command = re.search(r"reproduce (\S+) \\\n# +--tasks (\S+)", text)
    assert command
    for file, named in zip((path, TASKS), command.groups(), strict=True):
        assert FOLDER.parents[1] / named == file
    experiment = load_any(path)
    assert experiment.config.name == path.stem
    assert len(experiment.cells) >= 3
    if has_paper(path):
        for cell in load_paper(path).cells:
            assert cell.table["paper"]["draw_seed"] == 2442


def test_the_ordinary_config_at_small_size(tmp_path):
    settings = {"dim": 2, "num_samples": 32, "num_steps": 40, "rate": 0.3}
    arguments = [str(FOLDER / "value_function.toml"), "--tasks", str(TASKS)]
    arguments += ["--runs", str(tmp_path), "--set", "budget.trainings=6"]
    for name, value in settings.items():
        arguments += ["--set", f"task.{name}={value}"]
    result = CliRunner().invoke(app, ["reproduce", *arguments])
    assert result.exit_code == 0, result.output
    assert "0 of 0 within" in result.stdout  # Another setting than that of the config.
