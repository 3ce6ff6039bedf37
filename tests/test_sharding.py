"""One run on 1, 2 and 8 devices and in two processes: the same numbers, really shared.

Devices are a matter of the process, so each number of them is a process of its own,
which also checks that the work is spread; see tests/sharded.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

import hypergrad as hg
from experiments.storage.store import RunFolder
from hypergrad.runner import EXECUTIONS
from hypergrad.sharding import Shard, device_mesh, shard_rows
from hypergrad.sparse import SparseMatrix
from tests.problems import cubic, ridge
from tests.sharded import agree
from tests.test_docs import run

ROOT = Path(__file__).resolve().parents[1]


def start(num_devices, *command, **more):
    """A process with as many devices."""
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )


def finish(*processes, timeout):
    """Their end; one that hangs or fails fails the test, and takes the others along."""
    try:
        for process in processes:
            output, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, output[-4000:]
    finally:
        for process in processes:
            process.kill()


def assert_agree(path, parts):
    """What the process wrote is what this one, with one device, computes."""
    here = agree.flat({part: agree.PARTS[part]() for part in parts.split(",")})
    with np.load(path) as there:
        assert set(there.files) == set(here)
        for name, expected in here.items():
            message = f"{name} in {path.name}"
            np.testing.assert_allclose(
                there[name], expected, rtol=1e-10, atol=1e-12, err_msg=message
            )


def test_eight_devices_agree_with_one(tmp_path):
    out = tmp_path / "8.npz"
    finish(start(8, "tests.sharded.agree", out, "quick"), timeout=120)
    assert_agree(out, "quick")


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_all_agree_on_every_number_of_devices(num_devices, tmp_path):
    out, parts = tmp_path / f"{num_devices}.npz", ",".join(agree.PARTS)
    finish(start(num_devices, "tests.sharded.agree", out, parts), timeout=600)
    assert_agree(out, parts)


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    parts = "quick,own_rows,copied"
    outs = [tmp_path / f"process{i}.npz" for i in range(2)]
    processes = [
        start(2, "tests.sharded.process", out, parts, port, i)
        for i, out in enumerate(outs)
    ]
    finish(*processes, timeout=600)
    for out in outs:
        assert_agree(out, parts)


CONFIG = """
name = "sharded"
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
starts = 5

[budget]
trainings = 30
cost_multiple = 3.0
retrain = 2
training_keys = "FreshKeys"
"""


@pytest.mark.slow
def test_the_command_line_shares_a_round_and_gives_the_numbers_of_loop(tmp_path):
    config = tmp_path / "sharded.toml"
    config.write_text(CONFIG)
    found = {}
    for layout in ("loop", "shard"):
        runs = tmp_path / layout
        setting = f"budget.execution={layout}"
        command = ("experiments", "run", config, "--runs", runs, "--set", setting)
        finish(start(4, *command), timeout=600)
        done = sorted(runs.rglob("DONE"))
        assert len(done) == 2
        for path in done:
            folder = RunFolder(path.parent)
            assert folder.config["budget"]["execution"] == layout
            assert folder.meta["device"].startswith("4 x")
        folders = [RunFolder(path.parent) for path in done]
        trials = [row for folder in folders for row in folder.records("trials")]
        results = [folder.result or {} for folder in folders]
        found[layout] = [
            [[row["value"], row["gradient_norm"], *row["coords"]] for row in trials],
            [[*result["objective"], *result["test"]] for result in results],
        ]
    for loop, shard in zip(*found.values(), strict=True):
        np.testing.assert_allclose(shard, loop, rtol=1e-4)  # float32


def test_on_one_device_a_share_is_all(key):
    keys = jax.random.split(key, 5)
    for each in (hg.Loop(), hg.Vmap(), hg.Chunk(2)):
        shard = Shard(each=each)
        np.testing.assert_array_equal(
            shard.map(jax.random.normal, keys), each.map(jax.random.normal, keys)
        )
        assert shard.width(5) == each.width(5)
    assert EXECUTIONS["shard"]() == Shard() == Shard(each=hg.Loop())


def mesh_of(size):
    """A mesh that says it has as many devices; good for refusals."""
    devices = np.array([jax.devices()[0]] * size)
    return Mesh(devices, ("rows",), axis_types=(jax.sharding.AxisType.Auto,))


def test_rows_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ValueError, match=r"train has 20 rows.* 8 devices.*multiple"):
        shard_rows(ridge(3), mesh_of(8))
    with pytest.raises(ValueError, match=r"batch has 6 rows.* 4 devices"):
        shard_rows(ridge(3, batch_size=6), mesh_of(4))
    valid = (jnp.ones((7, 4)), jnp.ones(7))
    with pytest.raises(ValueError, match=r"valid has 7 rows"):
        shard_rows(ridge(3, valid=valid), mesh_of(4))
    with pytest.raises(ValueError, match=r"valid has no rows.*leave it out of parts"):
        shard_rows(ridge(3, valid=(jnp.ones((8, 4)), jnp.ones(()))), mesh_of(4))


def test_problems_and_meshes_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match=r"Problem.with_context; got data of tuple"):
        shard_rows(cubic())
    with pytest.raises(ValueError, match="parts must be"):
        shard_rows(ridge(3), parts=("test",))
    with pytest.raises(ValueError, match="Auto axes"):
        shard_rows(ridge(3), jax.make_mesh((1,), ("rows",)))
    rows = jnp.arange(2)
    sparse = SparseMatrix(jnp.ones(2), rows, rows, (2, 2))
    with pytest.raises(ValueError, match="train holds a SparseMatrix"):
        shard_rows(ridge(3, train=(sparse, jnp.ones(2))))


def test_functions_and_hypergradients_stay(key):
    problem = ridge(4, batch_size=5)
    laid = shard_rows(problem, device_mesh())
    assert laid.dynamics == problem.dynamics
    hparams = {"lr": 0.1, "l2": 0.01}
    expected = hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)
    got = hg.value_and_hypergrad(laid, hg.Reverse())(hparams, key)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    only_train = shard_rows(problem, parts=("train",))
    assert len(jax.tree.leaves(only_train.data)) == len(jax.tree.leaves(laid.data))


def test_processes_that_share_a_program_do_not_ask_their_clocks(monkeypatch, key):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    problem, hparams = ridge(3), agree.SPACE.defaults()
    with pytest.raises(ValueError, match="choose_execution reads a clock"):
        hg.choose_execution(problem, agree.SPACE, hg.Value(), key, 4)
    with pytest.raises(ValueError, match="cost_multiple reads a clock"):
        hg.cost_multiple(problem, hg.Value(), hparams, key)


@pytest.mark.slow
def test_the_page_on_scaling_runs():
    names = run(ROOT / "docs" / "scaling.md")
    assert names["study"].trials.values.shape == (16,)
    assert np.isfinite(names["slopes"]["lr"])
    assert isinstance(names["train"][0].sharding, NamedSharding)
