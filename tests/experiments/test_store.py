"""Run folders: whole or absent, one writer, and what a kill or a bad disk leaves."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.cells import load
from experiments.registry import load_tasks
from experiments.results import read_result
from experiments.storage import checkpoints
from experiments.storage.files import (
    DamagedError,
    StoreError,
    append_jsonl,
    make_folder,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
)
from experiments.storage.journal import Journal
from experiments.storage.store import measured_once, open_run, run_path


@pytest.fixture
def cell(toy, tmp_path):
    load_tasks((toy,))
    path = tmp_path / "config.toml"
    path.write_text('name = "try"\ntask = "toy"\nsearcher = "RandomSearch"\n')
    return load(path).cells[0]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Files.


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        write_json(path, {"x": 2})
    assert read_json(path) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_append_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"x": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"log.jsonl: no space left .* is kept"):
            append_jsonl(path, [{"x": 2}])
    assert read_jsonl(path) == [{"x": 1}]
    append_jsonl(path, [{"x": 3}])
    assert read_jsonl(path) == [{"x": 1}, {"x": 3}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path):
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="no space left"):
        append_jsonl(path, [{"x": 1}])


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path, cut):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"x": 1}, {"x": 2}])
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_jsonl(path) == [{"x": 1}]
    append_jsonl(path, [{"x": 3}])
    assert read_jsonl(path) == [{"x": 1}, {"x": 3}]


def test_a_long_torn_line_is_found(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"x": 1}])
    with path.open("a") as file:
        file.write('{"y": "' + "z" * 200_000)
    append_jsonl(path, [{"x": 2}])
    assert read_jsonl(path) == [{"x": 1}, {"x": 2}]


def test_damage_inside_a_log_is_no_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"x": 1}\n{"x"\n{"x": 3}\n')
    with pytest.raises(StoreError, match="line 2"):
        read_jsonl(path)


@pytest.mark.parametrize("text", ["3", "[1]", "null", '"x"'])
def test_json_that_is_no_object_is_no_record(tmp_path, text):
    path = tmp_path / "log.jsonl"
    path.write_text('{"x": 1}\n' + text + "\n")
    with pytest.raises(DamagedError, match="line 2: not a record: expected an object"):
        read_jsonl(path)
    path.write_text(text)
    with pytest.raises(
        DamagedError, match=r"log.jsonl: expected an object.* --resume$"
    ):
        read_json(path)


def test_numbers_that_are_not_finite_come_back(tmp_path):
    append_jsonl(tmp_path / "log", [{"x": float("inf")}, {"x": float("nan")}])
    first, second = read_jsonl(tmp_path / "log")
    assert first["x"] == float("inf")
    assert second["x"] != second["x"]


def test_what_is_not_there_is_empty(tmp_path):
    assert read_jsonl(tmp_path / "none") == []
    assert read_json(tmp_path / "none") is None


# Checkpoints.


def tree(scale=1.0):
    return {
        "coords": scale * jnp.arange(6.0).reshape(2, 3),
        "half": jnp.asarray([scale, 2.5], jnp.bfloat16),
        "key": jax.random.key(3),
        "many": jax.random.split(jax.random.key(4), 2),
        "count": jnp.asarray(7, jnp.int32),
        "numpy": np.asarray([True, False]),
        "step": 12,
    }


def same(a, b):
    def equal(x, y):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        return np.array_equal(x, y) and type(x) is type(y)

    return jax.tree.all(jax.tree.map(equal, a, b))


def test_a_tree_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoints.save(path, tree(np.pi))
    back = checkpoints.load(path, tree(0.0))
    assert same(back, tree(np.pi))
    assert back["half"].dtype == jnp.bfloat16
    draws = [jax.random.normal(t["key"], 3) for t in (back, tree())]
    assert np.array_equal(*draws)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.load(tmp_path / "checkpoint.npz", tree()) is None


def test_every_flipped_byte_costs_one_generation(tmp_path):
    path = tmp_path / "checkpoint.npz"
    small = {"x": jnp.arange(3.0)}
    checkpoints.save(path, small)
    checkpoints.save(path, {"x": jnp.arange(3.0) + 1})
    older, newer = path.with_name("checkpoint.previous.npz"), path.read_bytes()
    kept, fell_back = older.read_bytes(), 0
    for position in range(0, len(newer), 3):
        flipped = bytearray(newer)
        flipped[position] ^= 4
        path.write_bytes(bytes(flipped))
        back = checkpoints.load(path, small)["x"].tolist()
        assert back in ([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])  # never another number
        fell_back += back[0] == 0.0
        assert older.read_bytes() == kept
    assert fell_back > 50


def test_a_save_after_a_flipped_bit_keeps_the_good_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    for value in (1.0, 2.0):
        checkpoints.save(path, {"x": jnp.asarray(value)})
    path.write_bytes(path.read_bytes()[:-40])
    assert checkpoints.load(path, {"x": jnp.zeros(())})["x"] == 1.0
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        checkpoints.save(path, {"x": jnp.asarray(3.0)})
    assert checkpoints.load(path, {"x": jnp.zeros(())})["x"] == 1.0


def test_two_damaged_checkpoints_are_an_error(tmp_path):
    path = tmp_path / "checkpoint.npz"
    for _ in range(2):
        checkpoints.save(path, tree())
    for file in tmp_path.iterdir():
        file.write_bytes(b"PK")
    words = f"checkpoint.npz and checkpoint.previous.npz .* the folder {tmp_path} and"
    with pytest.raises(DamagedError, match=words):
        checkpoints.load(path, tree())


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoints.save(path, {"x": jnp.zeros(3)})
    with pytest.raises(DamagedError, match="another kind of state; delete the folder"):
        checkpoints.load(path, {"x": jnp.zeros(4)})


# Run folders.


def test_a_run_from_start_to_end(cell, tmp_path):
    with open_run(tmp_path, cell, 3) as run:
        run.log("trials", {"value": 1.0}, {"value": 2.0})
        run.save({"x": jnp.ones(2)})
        run.finish({"test": [0.5]})
    assert run.path == tmp_path / "try" / cell.hash / "seed=3"
    with open_run(tmp_path, cell, 3, resume=True) as run:
        assert run.result == {"test": [0.5]}
        assert [r["value"] for r in run.records("trials")] == [1.0, 2.0]
        assert run.load({"x": jnp.zeros(2)})["x"].tolist() == [1.0, 1.0]
        assert run.config["searcher"]["name"] == "RandomSearch"
        assert run.config["seed"] == 3
        assert "jax" in run.meta["versions"]
    with open_run(tmp_path, cell, 3) as run:
        assert run.result is None
        assert run.records("trials") == []
        assert run.load({"x": jnp.zeros(2)}) is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "seed: field required"),
        ({"seed": 0, "validation": ["x"], "test": []}, r"validation.0: .* number"),
        ({"seed": 0, "validation": [], "test": [], "best": 1}, "best: extra"),
    ],
)
def test_a_result_that_no_run_wrote(tmp_path, table, words):
    remedy = "; delete it and run again with --resume"
    with pytest.raises(DamagedError, match=f"DONE .*{words}.*{remedy}$"):
        read_result(tmp_path, table)


def test_rewind_keeps_what_the_checkpoint_knows(cell, tmp_path):
    with open_run(tmp_path, cell, 0) as run:
        run.log("trials", *({"trial": i} for i in range(5)))
        assert [r["trial"] for r in run.rewind("trials", 3)] == [0, 1, 2]
        run.log("trials", {"trial": 3})
        assert [r["trial"] for r in run.records("trials")] == [0, 1, 2, 3]
        remedy = f"; delete the folder {run.path} and run again with --resume"
        with pytest.raises(DamagedError, match=f"knows of 9{remedy}$"):
            run.rewind("trials", 9)


@pytest.mark.parametrize("name", ["trial", "value", "cost", "seconds"])
@pytest.mark.parametrize("value", [None, "1.0", []])
def test_a_record_without_its_numbers(cell, tmp_path, name, value):
    whole = dict.fromkeys(("trial", "value", "cost", "seconds"), 1.0)
    with open_run(tmp_path, cell, 0) as run:
        run.log("trials", whole | {"seconds_searcher": 0.0}, whole | {name: value})
        assert len(run.trials()) == 2
        words = f"trials.jsonl, line 2: '{name}' is .* delete the folder {run.path} and"
        with pytest.raises(DamagedError, match=words):
            run.trials(*whole)
        journal, count = Journal.resume(run, 1, lambda count: count)
        assert len(journal.records) == count == 1  # What is cut off is not judged.


def test_a_config_without_the_table_that_is_resolved(cell, tmp_path):
    with open_run(tmp_path, cell, 0) as run:
        write_json(run.path / "config.json", {})
        with pytest.raises(DamagedError, match="no table 'budget'; delete it and run"):
            run.resolve("budget", {"cost_multiple": 1.0})


def test_what_is_measured_first_stays(tmp_path):
    assert measured_once(tmp_path, "try", "cost", lambda: 3.5) == 3.5
    assert measured_once(tmp_path, "try", "cost", lambda: 4.0) == 3.5
    assert measured_once(tmp_path, "try", "execution", lambda: "loop") == "loop"


HOLD = """
    import fcntl, sys, time
    handle = open(sys.argv[1], "a+")
    fcntl.flock(handle, fcntl.LOCK_EX)
    handle.write("4242"); handle.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_dead(cell, tmp_path):
    folder = run_path(tmp_path, cell, 0)
    make_folder(folder)
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(folder / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout.readline() == "held\n"
            with (
                pytest.raises(StoreError, match="another process .pid 4242."),
                open_run(tmp_path, cell, 0),
            ):
                pass
            with open_run(tmp_path, cell, 1):
                pass
        finally:
            first.send_signal(signal.SIGKILL)
    with open_run(tmp_path, cell, 0) as run:
        assert run.meta


@pytest.mark.parametrize("depth", range(4))
def test_a_file_where_a_folder_should_be(cell, tmp_path, depth):
    target = run_path(tmp_path / "runs", cell, 0)
    place = [*reversed(target.parents), target][-4:][depth]
    make_folder(place.parent)
    write_bytes(place, b"mine")
    with (
        pytest.raises(StoreError, match="a file stands where a folder should be"),
        open_run(tmp_path / "runs", cell, 0),
    ):
        pass
    assert place.read_bytes() == b"mine"
