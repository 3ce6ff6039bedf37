"""The logs of runs as event files: `python -m experiments tensorboard runs/NAME`.

    runs/NAME/tensorboard/STUDY, METHOD, CELL/seed=N/events.out.tfevents.0.hypergrad

An event file is a function of its run's logs, down to the times in it, and is written
whole: exporting twice changes nothing, and while a run goes on its file only grows.
"""

import datetime
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.configs.documents import flatten
from experiments.configs.faults import ConfigError, Fault
from experiments.results import read_result
from experiments.statistics.methods import best_so_far
from experiments.storage.files import (
    DamagedError,
    StoreError,
    make_folder,
    write_bytes,
)
from experiments.storage.store import RunFolder, is_led

EVERY = 5.0  # seconds between two looks at logs that grow
FILE = "events.out.tfevents.0.hypergrad"
METRICS = ("objective", "validation", "test")


def export(folder: Path, follow: bool = False) -> Path:
    """Write the event files of all runs below a folder; returns where they are.

    Args:
        folder: runs/NAME, or the folder of one run.
        follow: go on for as long as a command is at work on runs/NAME.

    Raises:
        ConfigError: tensorboardX is not installed.
        StoreError: there is no run, or it cannot be written.
    """
    _imported()
    if not any(folder.rglob("config.json")):
        raise StoreError(f"{folder} holds no run")
    if any(map(_is_paper, folder.rglob("config.json"))):
        page = folder / "reproduce" / "README.md"
        raise StoreError(f"{folder} is of a paper, which has no trials; see {page}")
    writing = True
    while writing:
        writing = follow and is_led(folder)  # Asked first: the last look sees it all.
        for path in sorted(folder.rglob("config.json")):
            _export(RunFolder(path.parent), folder / "tensorboard")
        if writing:
            time.sleep(EVERY)
    return folder / "tensorboard"


def _is_paper(config: Path) -> bool:
    return "paper" in RunFolder(config.parent).config


def _export(run: RunFolder, target: Path) -> None:
    config = run.config
    told = ", ".join(str(config.get(key, "")) for key in ("study", "method", "hash"))
    place = target / re.sub(r"[^\w.,=+ -]", "_", told) / f"seed={config.get('seed')}"
    data = b"".join(_record(event.SerializeToString()) for event in _events(run))
    path = place / FILE
    if not path.exists() or path.read_bytes() != data:
        make_folder(place)
        write_bytes(path, data)


def _events(run: RunFolder) -> Iterator[Any]:
    """Scalars by trial and by cost, then what the retrainings on test say."""
    summary, proto = _imported()
    start = _start(run)

    def scalars(seconds: float, step: int, **values: float | None) -> Iterator[Any]:
        for tag, value in values.items():
            if value is not None:
                told = summary.scalar(tag.replace("__", "/"), value)
                yield proto.Event(wall_time=start + seconds, step=step, summary=told)

    yield proto.Event(wall_time=start, file_version="brain.Event:2")
    trials = run.trials("trial", "value", "cost", "seconds")
    best = best_so_far([record["value"] for record in trials])
    seconds = 0.0
    for record, least in zip(trials, best, strict=True):
        seconds, step = record["seconds"], record["trial"]
        yield from scalars(
            seconds,
            step,
            trial__value=record["value"],
            trial__best_so_far=float(least),
            trial__gradient_norm=record.get("gradient_norm"),
            trial__cost=record["cost"],
        )
        # The axis of a fair comparison: inner-training equivalents spent so far.
        yield from scalars(seconds, round(record["cost"]), cost__best=float(least))
    table = run.result
    if table is not None:
        result = read_result(run.path, table)
        scores = {name: getattr(result, name) for name in METRICS}
        final = {f"final__{n}": float(np.mean(x)) for n, x in scores.items() if x}
        names = [name.replace("__", "/") for name in final]
        for told in summary.hparams(_settings(run), dict.fromkeys(names, 0.0)):
            yield proto.Event(wall_time=start + seconds, summary=told)
        yield from scalars(seconds, len(trials), **final)


def _start(run: RunFolder) -> float:
    """When the run began, in seconds."""
    began = run.meta.get("started", "1970-01-01T00:00:00+00:00")
    try:
        return datetime.datetime.fromisoformat(began).timestamp()
    except (TypeError, ValueError) as error:
        path = run.path / "meta.json"
        raise DamagedError(f"{path}: 'started' is {began!r:.40}, no time") from error


def _settings(run: RunFolder) -> dict[str, str | bool | float]:
    """The resolved config as the columns of TensorBoard's table."""
    kept = {k: v for k, v in run.config.items() if k not in ("name", "hash")}
    return {
        ".".join(path): leaf.value
        if isinstance(leaf.value, str | bool | int | float)
        else str(leaf.value)
        for path, leaf in sorted(flatten(kept, "").items())
        if leaf.value not in (None, {}, [])
    }


def _record(data: bytes) -> bytes:
    """A TFRecord: length, its checksum, data, its checksum."""
    from tensorboardX.crc32c import crc32c

    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        rotated = ((crc >> 15) | (crc << 17)) + 0xA282EAD8
        return struct.pack("<I", rotated & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def _imported() -> tuple[Any, Any]:
    try:
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2
    except ImportError:
        remedy = "pip install 'hypergrad[tensorboard]'"
        message = "the package tensorboardX is not installed"
        raise ConfigError([Fault("tensorboard", (), message, hint=remedy)]) from None
    return summary, event_pb2
