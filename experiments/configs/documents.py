"""TOML files as flat documents: every value remembers the place it was written.

    (("estimator", "window"), Leaf(50, Source("base.toml", ("estimator", "window"))))

Files, `--set` and the overlays of an ablation or a comparison all become documents,
and `merge` is the only way in which one changes another.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.configs.faults import ConfigError, Fault, show

Keys = tuple[str, ...]
_DEEPEST = 50  # No setting is as deep, and the stack ends at a few hundred.


@dataclass(frozen=True)
class Source:
    """Where a value was written."""

    file: str
    path: Keys


@dataclass(frozen=True)
class Leaf:
    """A value that is no table, or an empty one, and its source."""

    value: Any
    source: Source


Document = dict[Keys, Leaf]


def read(file: Path) -> Document:
    """A TOML file merged onto those it `extends`.

    Raises:
        ConfigError: a missing or unreadable file, bad TOML, a key given twice, a loop.
    """
    return _read(file, ())


def _read(file: Path, readers: tuple[Path, ...]) -> Document:
    shown, resolved = str(file), file.resolve()
    if resolved in readers:
        ring = " -> ".join(path.name for path in (*readers, resolved))
        raise _fault(readers[-1], "extends makes a loop", got=ring, path=("extends",))
    table = _parse(file, readers)
    parents = table.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
        raise _fault(
            file,
            "wrong type",
            got=show(parents),
            expected="a file name, or a list of them, relative to this file",
            path=("extends",),
        )
    document: Document = {}
    for parent in parents:
        document = merge(document, _read(file.parent / parent, (*readers, resolved)))
    return merge(document, flatten(table, shown))


def _parse(file: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text"
        who = f"{readers[-1].name} extends it" if readers else ""
        raise _fault(file, "cannot be read", got=reason.lower(), hint=who) from error
    try:
        return _loads(text, str(file))
    except tomllib.TOMLDecodeError as error:
        raise _toml_fault(file, text, str(error)) from error


def _loads(text: str, file: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
        depth = _depth(table)
    except RecursionError:
        table, depth = {}, math.inf
    if depth > _DEEPEST:
        expected = f"at most {_DEEPEST} tables and lists in one another"
        raise ConfigError([Fault(file, message="nested too deep", expected=expected)])
    return table


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


def _toml_fault(file: Path, text: str, error: str) -> ConfigError:
    """Name the line, and call a duplicate a duplicate."""
    reason, _, where = error.rpartition(" (at ")
    lines = text.splitlines() or [""]
    number = len(lines) if "end of" in where else int(where.split(",")[0].split()[-1])
    number = min(number, len(lines))
    line = lines[number - 1].strip()
    twice = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Duplicate")
    return ConfigError(
        [
            Fault(
                f"{file}, line {number}",
                message="the key is given twice"
                if reason.startswith(twice)
                else f"not TOML: {reason[:1].lower()}{reason[1:]}",
                got=line,
                expected="each key and each [table] once"
                if reason.startswith(twice)
                else "key = value, with strings in quotes",
            )
        ]
    )


def override(text: str) -> Document:
    """`a.b=c` as a document; a value that is no TOML is a string.

    >>> override("searcher.starts=4")[("searcher", "starts")].value
    4
    >>> override("searcher.name=RandomSearch")[("searcher", "name")].value
    'RandomSearch'
    """
    key, equals, value = text.partition("=")
    try:
        path = _only_path(_loads(f"{key.strip()} = 0", "--set"))
    except tomllib.TOMLDecodeError:
        path = ()
    if not (equals and path and value.strip()):
        raise ConfigError(
            [Fault("--set", message="not a setting", got=text, expected="a.b=value")]
        )
    try:
        parsed = _loads(f"value = {value}", "--set")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return placed(path, parsed, Source("--set", path))


def flatten(table: Mapping[str, Any], file: str) -> Document:
    """A nested table as a document."""
    return {path: Leaf(value, Source(file, path)) for path, value in _walk(table, ())}


def nest(document: Document) -> dict[str, Any]:
    """The nested table of a document; the inverse of `flatten`."""
    table: dict[str, Any] = {}
    for path, leaf in document.items():
        inner = table
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = leaf.value
    return table


def value_at(document: Document, path: Keys) -> Any:
    """The value at `path`: a leaf's, or a nested table, {} where there is none."""
    leaf = document.get(path)
    return nest(subtree(document, path)) if leaf is None else leaf.value


def subtree(document: Document, prefix: Keys) -> Document:
    """What stands below `prefix`, with paths relative to it; sources stay."""
    size = len(prefix)
    return {p[size:]: leaf for p, leaf in document.items() if _below(p, prefix)}


def placed(path: Keys, value: Any, source: Source) -> Document:
    """A value at `path` that was written at `source`."""
    return {
        (*path, *below): Leaf(inner, Source(source.file, (*source.path, *below)))
        for (_, *below), inner in _walk({"value": value}, ())
    }


def merge(base: Document, over: Document) -> Document:
    """`base` with the values of `over`, which wins.

    A bare string stands for the table {name = string}. A table whose `name` changes
    is replaced and not mixed: the fields of one algorithm mean nothing to another.

    >>> base = flatten({"estimator": {"name": "Reverse", "window": 5}}, "base.toml")
    >>> nest(merge(base, override("estimator.name=Forward")))
    {'estimator': {'name': 'Forward'}}
    >>> nest(merge(base, override("estimator.window=9")))
    {'estimator': {'name': 'Reverse', 'window': 9}}
    """
    merged = dict(base)
    for path, leaf in over.items():
        if leaf.value == {} and any(_below(p, path) for p in merged):
            continue
        for size in range(1, len(path)):
            short = merged.get(path[:size])
            if short is not None:
                del merged[path[:size]]
                if isinstance(short.value, str):
                    named = {"name": short.value}
                    merged |= placed(path[:size], named, short.source)
        renamed = path[-1] == "name" and len(path) > 1 and path in base
        if renamed and base[path].value != leaf.value:
            own = set(over)
            siblings = [p for p in base if _below(p, path[:-1]) and p not in own]
        else:
            siblings = [p for p in base if _below(p, path)]
        for stale in siblings:
            merged.pop(stale, None)
        merged[path] = leaf
    return merged


def _walk(table: Mapping[str, Any], prefix: Keys) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _walk(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _below(path: Keys, prefix: Keys) -> bool:
    return len(path) > len(prefix) and path[: len(prefix)] == prefix


def _only_path(table: dict[str, Any]) -> Keys:
    ((path, _),) = _walk(table, ())
    return path


def _fault(file: Path, message: str, **details: Any) -> ConfigError:
    return ConfigError([Fault(str(file), message=message, **details)])
