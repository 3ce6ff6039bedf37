"""Frozen values from tables and back: {name = "Reverse", window = 5} <-> Reverse(5).

The fields, types and defaults are read off the classes, so an algorithm that the
library gains is in the configs the same day. No table names code to import.

A table inside another says what differs from that field's default there, unless its
`name` is of something else: with `outer = Outer("sgd", clip=inf)` as default,
`outer.learning_rate = 0.1` keeps both.
"""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import to_jsonable_python

from experiments.configs.documents import Document, Keys, Source, subtree, value_at
from experiments.configs.faults import Fault, did_you_mean, one_of, show

Choices = Mapping[str, type]


class Faults:
    """Collects faults; a path is turned into the place where its value was written.

    Args:
        document: the document that is being read.
        file: the file to name for what is written nowhere, as a missing key.
    """

    def __init__(self, document: Document, file: str):
        self.document, self.file, self.found = document, file, []

    def add(self, path: Keys, message: str = "wrong value", **details: str) -> None:
        """Note a fault at `path`."""
        source = self._source(path)
        self.found.append(Fault(source.file, source.path, message, **details))

    def add_validation(
        self, error: ValidationError, path: Keys, model: type, table: Any
    ) -> None:
        """Note what pydantic found in the table at `path`, one fault a key."""
        grouped: dict[Keys, list[Any]] = {}
        for item in error.errors():
            grouped.setdefault(_written(item, table), []).append(item)
        for loc, items in grouped.items():
            kind, got = items[0]["type"], show(items[0]["input"])
            where = (*path, *loc)
            if kind == "extra_forbidden":
                self.unknown(where, _keys_at(model, loc[:-1]), got)
            elif kind == "missing":
                self.add(where, "missing")
            else:
                texts = [item["msg"] for item in items]
                expected = one_of(dict.fromkeys(map(_expected, texts)))
                self.add(where, got=got, expected=expected)

    def unknown(self, path: Keys, known: typing.Iterable[str], got: str = "") -> None:
        """Note a key that nobody reads."""
        known = list(known)
        self.add(
            path,
            "unknown key",
            got=got,
            expected=one_of(known),
            hint=did_you_mean(path[-1], known),
        )

    def _source(self, path: Keys) -> Source:
        """Where `path` was written; a table may have been in several files."""
        if path in self.document:
            return self.document[path].source
        for size in range(len(path), 0, -1):
            leaves = subtree(self.document, path[:size])
            if path[:size] in self.document:
                leaves = {(): self.document[path[:size]]}
            if leaves:
                inner, first = next(iter(leaves.items()))
                written = first.source.path
                stem = written[: len(written) - len(inner)]
                files = dict.fromkeys(leaf.source.file for leaf in leaves.values())
                return Source(" and ".join(files), (*stem, *path[size:]))
        return Source(self.file, path)


def build(
    faults: Faults, path: Keys, choices: Choices, what: str, *, given: Any = None
) -> Any:
    """The value that the table at `path` describes; None, with faults, if it is wrong.

    Args:
        faults: knows the document, and takes note of what is wrong with it.
        path: where the table stands.
        choices: the classes by name; the table's `name` picks one.
        what: the word for it in messages, such as "estimator".
        given: the table, where it is not that of the document.
    """
    table = value_at(faults.document, path) if given is None else given
    table = {"name": table} if isinstance(table, str) else table
    if not isinstance(table, Mapping):
        shape = f'"{next(iter(choices))}" or a table {{name = ..., ...}}'
        faults.add(path, "wrong type", got=show(table), expected=shape)
        return None
    name, fields = table.get("name"), {k: v for k, v in table.items() if k != "name"}
    if name is None:
        faults.add((*path, "name"), f"no {what} is named", expected=one_of(choices))
        return None
    if not isinstance(name, str) or name not in choices:
        close = did_you_mean(str(name), choices)
        faults.add(
            (*path, "name"),
            f"unknown {what}",
            got=show(name),
            expected=one_of(choices),
            hint=close,
        )
        return None
    return _construct(faults, path, choices[name], fields)


def table_of(value: Any, names: Mapping[type, str] | None = None) -> Any:
    """The full table of a value, defaults included: what `build` would rebuild.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Reverse:
    ...     window: int = 5
    >>> table_of(Reverse())
    {'name': 'Reverse', 'window': 5}
    """
    if isinstance(value, BaseModel):
        name = (names or {}).get(type(value))
        head = {"name": name} if name else {}
        return head | value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f: table_of(getattr(value, f), names) for f in _fields(type(value))}
        return own if "name" in own else {"name": type(value).__name__} | own
    if isinstance(value, list | tuple):
        return [table_of(item, names) for item in value]
    return value


def _construct(
    faults: Faults, path: Keys, cls: type, fields: dict[str, Any], default: Any = None
) -> Any:
    """A value of `cls`; fields that are not given are those of `default`, if any."""
    if issubclass(cls, BaseModel):
        table = json.dumps(_completed(cls, fields), default=str)
        try:
            return cls.model_validate_json(table, strict=True)
        except ValidationError as error:
            faults.add_validation(error, path, cls, fields)
            return None
    known, before, values = _fields(cls), len(faults.found), {}
    if default is not None:
        values = {key: getattr(default, key) for key in known}
    defaults = _defaults(cls) | values
    for key, raw in fields.items():
        if key in known:
            where, own = (*path, key), defaults.get(key)
            values[key] = _field(faults, where, known[key], raw, own)
        else:
            faults.unknown((*path, key), known, show(raw))
    if len(faults.found) > before:
        return None
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        faults.add(path, f"{cls.__name__}: {error}", got=show(fields))
        return None


def _completed(cls: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model, their tables laid over its defaults."""
    known = cls.model_fields.items()
    defaults = {key: f.get_default(call_default_factory=True) for key, f in known}
    return {key: _over(defaults.get(key), raw) for key, raw in fields.items()}


def _over(default: Any, raw: Any) -> Any:
    """What is written, over the fields of the same thing that are not."""
    if not _changes(raw, default):
        return raw
    given = {key: _over(getattr(default, key, None), each) for key, each in raw.items()}
    return to_jsonable_python(default) | given


def _changes(raw: Any, default: Any) -> typing.TypeGuard[Mapping[str, Any]]:
    """Whether a table is about the default value, and not another one in its place."""
    if isinstance(default, type) or not isinstance(raw, Mapping):
        return False
    if not (isinstance(default, BaseModel) or dataclasses.is_dataclass(default)):
        return False
    name = getattr(default, "name", type(default).__name__)
    return raw.get("name", name) == name


def _field(faults: Faults, path: Keys, hint: Any, raw: Any, default: Any = None) -> Any:
    """One field by its type: a nested value, or numbers, strings and lists of them."""
    members = _members(hint)
    if isinstance(raw, list) and (items := _items(members)) is not None:
        rows = enumerate(raw)
        built = [_field(faults, (*path, str(i)), items, item) for i, item in rows]
        return tuple(built)
    nested = {
        name: cls
        for member in members
        if _is_value_class(member)
        for name, cls in concrete(member).items()
    }
    plain = [member for member in members if not _is_value_class(member)]
    optional = type(None) in plain
    if optional and raw == "none":  # TOML has no null.
        return None
    named = isinstance(raw, str) and str not in plain
    wants_table = named or isinstance(raw, Mapping)
    if _changes(raw, default) and type(default) in nested.values():
        own = "name" in _fields(type(default))
        table = {key: each for key, each in raw.items() if own or key != "name"}
        return _construct(faults, path, type(default), table, default)
    if nested and (wants_table or not set(plain) - {type(None)}):
        only = next(iter(nested.values()))
        if len(nested) == 1 and isinstance(raw, Mapping | str):
            table = {"name": raw} if isinstance(raw, str) else dict(raw)
            if "name" in _fields(only) or "name" not in table:
                return _construct(faults, path, only, table)
        what = next(part for part in reversed(path) if not part.isdigit())
        return build(faults, path, nested, what, given=raw)
    try:
        kind: Any = typing.Union[tuple(plain)]  # noqa: UP007 - made at run time
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        texts = dict.fromkeys(_expected(item["msg"]) for item in error.errors())
        faults.add(path, "wrong value", got=show(raw), expected=one_of(texts))
    except PydanticSchemaGenerationError:
        faults.add(path, "cannot be set from a config", got=show(raw))
    return None


def concrete(base: type) -> dict[str, type]:
    """Every concrete frozen dataclass under `base`, itself included, by name."""
    found = {}
    if not inspect.isabstract(base) and dataclasses.is_dataclass(base):
        found[base.__name__] = base
    for child in base.__subclasses__():
        found |= concrete(child)
    return found


def _items(members: tuple[Any, ...]) -> Any:
    """The value class whose tuple is among the members, `tuple[Level, ...]`."""
    for member in members:
        args = typing.get_args(member)
        if typing.get_origin(member) is tuple and args and _is_value_class(args[0]):
            return args[0]
    return None


def _is_value_class(hint: Any) -> bool:
    if not isinstance(hint, type) or issubclass(hint, tuple):
        return False
    return dataclasses.is_dataclass(hint) or inspect.isabstract(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _fields(cls: type) -> dict[str, Any]:
    """Names and types of the arguments of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _defaults(cls: type) -> dict[str, Any]:
    """Values of the arguments of a dataclass that have one."""
    return {
        f.name: f.default
        for f in dataclasses.fields(cls)
        if f.default is not dataclasses.MISSING
    }


def _expected(message: str) -> str:
    """Pydantic's message as what was expected."""
    for prefix in ("Value error, ", "Input should be ", "a valid "):
        message = message.removeprefix(prefix)
    counted = r"(?:List|Tuple) should have (.*) after validation, not .*"
    message = re.sub(counted, r"a list of \1", message)
    for theirs, ours in (("'", '"'), ("an object", "a table"), ("array", "list")):
        message = message.replace(theirs, ours)
    return message


def _written(item: Any, table: Any) -> Keys:
    """How far the location of an error leads into the table as it was written.

    Pydantic adds the branches of a union and the positions in a list.
    """
    path: Keys = ()
    for part in item["loc"]:
        if not (isinstance(table, Mapping) and part in table):
            return (*path, str(part)) if item["type"] == "missing" else path
        table, path = table[part], (*path, str(part))
    return path


def _keys_at(model: Any, loc: Keys) -> list[str]:
    """The keys that the model nested at `loc` knows."""
    for part in loc:
        fields = getattr(model, "model_fields", None)
        if fields is not None and part in fields:
            hint = fields[part].annotation
            models = [m for m in _members(hint) if hasattr(m, "model_fields")]
            model = models[0] if models else hint
        elif typing.get_args(model):
            model = typing.get_args(model)[-1]
    return list(getattr(model, "model_fields", {}))
