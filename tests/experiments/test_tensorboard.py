"""Event files: read back, the same when written twice, growing with their run."""

import math
import struct
import sys
import threading

import pytest
from typer.testing import CliRunner

from experiments import tensorboard
from experiments.cli import app
from experiments.configs.cells import load
from experiments.registry import load_tasks
from experiments.storage.store import leading, open_run

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

VALUES = [3.0, math.inf, 2.0, 2.5]


@pytest.fixture
def cell(toy, tmp_path):
    load_tasks((toy,))
    path = tmp_path / "config.toml"
    path.write_text('name = "try"\ntask = "toy"\nsearcher = "RandomSearch"\n')
    return load(path).cells[0]


def trials(first, last):
    for i in range(first, last):
        yield {
            "trial": i,
            "value": VALUES[i],
            "gradient_norm": None if i == 3 else 0.5 * i,
            "cost": 3.0 * (i + 1),
            "seconds": 0.25 * (i + 1),
        }


@pytest.fixture
def runs(cell, tmp_path):
    with open_run(tmp_path, cell, 0) as run:
        run.log("trials", *trials(0, 4))
        numbers = {"objective": [2.0, 3.0], "validation": [0.5], "test": [0.25, 0.75]}
        run.finish({"seed": 0} | numbers)
    return tmp_path / "try"


def events(path):
    """A reader of TFRecords of its own."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        place += 12
        yield event_pb2.Event.FromString(data[place : place + length])
        place += length + 4
    assert place == len(data)


def scalars(path):
    """{tag: [(step, value)]}."""
    found = {}
    for event in events(path):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_events_say_what_the_logs_say(runs):
    (path,) = tensorboard.export(runs).rglob("events*")
    assert path.parent.name == "seed=0"
    first, *rest = events(path)
    assert first.file_version == "brain.Event:2"
    assert [e.wall_time - first.wall_time for e in rest] == sorted(
        e.wall_time - first.wall_time for e in rest
    )
    found = scalars(path)
    assert found["trial/value"] == list(enumerate(VALUES))
    assert [v for _, v in found["trial/best_so_far"]] == [3.0, 3.0, 2.0, 2.0]
    assert found["trial/gradient_norm"] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert found["trial/cost"] == [(i, 3.0 * (i + 1)) for i in range(4)]
    assert found["cost/best"] == [(3, 3.0), (6, 3.0), (9, 2.0), (12, 2.0)]
    assert found["final/test"] == [(4, 0.5)]
    assert found["final/objective"] == [(4, 2.5)]


def test_the_settings_are_columns_of_the_table(runs):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    (path,) = tensorboard.export(runs).rglob("events*")
    contents = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    assert len(contents) == 3
    start = contents[1].session_start_info.hparams
    assert start["searcher.name"].string_value == "RandomSearch"
    assert start["task.rows"].number_value == 4
    metrics = {info.name.tag for info in contents[0].experiment.metric_infos}
    assert metrics == {"final/objective", "final/validation", "final/test"}


def test_checksums_are_those_of_the_format(runs):
    from tensorboardX.record_writer import masked_crc32c

    (path,) = tensorboard.export(runs).rglob("events*")
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    checks = struct.unpack_from("<I", data, 8) + struct.unpack_from(
        "<I", data, 12 + length
    )
    expected = masked_crc32c(data[:8]), masked_crc32c(data[12 : 12 + length])
    assert checks == expected


def test_exporting_twice_changes_nothing(runs):
    (path,) = tensorboard.export(runs).rglob("events*")
    before = path.read_bytes(), path.stat().st_mtime_ns
    tensorboard.export(runs)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_following_a_run_until_its_leader_ends(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "EVERY", 0.01)
    runs, seen = tmp_path / "try", []
    with leading(tmp_path, "try"), open_run(tmp_path, cell, 0) as run:
        run.log("trials", *trials(0, 2))
        follower = threading.Thread(target=tensorboard.export, args=(runs, True))
        follower.start()
        while not seen:
            seen = list(runs.rglob("events*"))
        early = seen[0].read_bytes()
        run.log("trials", *trials(2, 4))
    follower.join(10)
    assert not follower.is_alive()
    late = seen[0].read_bytes()
    assert late.startswith(early)
    assert len(scalars(seen[0])["trial/value"]) == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DONE", "{}"),
        ("trials.jsonl", '{"trial": 0, "value": 1.0, "cost": 1.0}\n'),
        ("trials.jsonl", '{"trial": 0, "value": "x", "cost": 1, "seconds": 1}\n'),
        ("meta.json", '{"started": 3}'),
        ("meta.json", '{"started": "soon"}'),
    ],
)
def test_a_damaged_run_is_one_message(runs, name, text):
    (path,) = runs.rglob(name)
    path.write_text(text)
    result = CliRunner().invoke(app, ["tensorboard", str(runs)])
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert "run again with --resume" in result.stderr


def test_the_command_and_what_it_refuses(runs, tmp_path, monkeypatch):
    result = CliRunner().invoke(app, ["tensorboard", str(runs)])
    assert result.exit_code == 0, result.output
    assert "tensorboard --logdir" in result.stdout
    result = CliRunner().invoke(app, ["tensorboard", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "holds no run" in result.stderr
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    result = CliRunner().invoke(app, ["tensorboard", str(runs)])
    assert result.exit_code == 2
    assert "hypergrad[tensorboard]" in result.stderr
