"""Cells: the settings a config asks for, built into values.

`load` is the door: file -> documents merged -> models validated -> cells built, with
every fault of every step in one `ConfigError`.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.configs.build import Faults, build, concrete, table_of
from experiments.configs.choices import TaskChoice, as_written, read_choices, rebuilt
from experiments.configs.config import SECTIONS, Budget, Config, Method, Range, validate
from experiments.configs.documents import (
    Document,
    Leaf,
    Source,
    merge,
    override,
    placed,
    read,
    subtree,
    value_at,
)
from experiments.configs.faults import ConfigError, did_you_mean, one_of, show
from experiments.configs.spaces import full_space, with_ranges
from experiments.registry import TASKS, Task

if TYPE_CHECKING:
    import hypergrad as hg

Mode = Literal["run", "ablate", "compare", "check"]


@dataclass(frozen=True)
class Catalog:
    """What a config may name."""

    tasks: Mapping[str, type[Task]]
    estimators: Mapping[str, type]
    searchers: Mapping[str, type]

    @classmethod
    def installed(cls) -> "Catalog":
        """The registered tasks and all that hypergrad offers."""
        from hypergrad.estimators import Estimator
        from hypergrad.searchers import Searcher

        return cls(TASKS, concrete(Estimator), concrete(Searcher))


@dataclass(frozen=True)
class Cell:
    """One setting, built: what a run folder holds the results of.

    Attributes:
        name: of the config.
        study, method: labels; `study_title` and `title` are how reports call them.
        task, estimator, searcher: values; a reference has no estimator or searcher.
        choices: fields of the task that are searched; `task` has their defaults.
        reference, winner_of: see `experiments.configs.config.Method`.
        candidates: hashes of the cells among which `winner_of` chooses.
    """

    name: str
    study: str
    study_title: str
    method: str
    title: str
    task: Task
    estimator: Any
    searcher: Any
    budget: Budget
    ranges: tuple[tuple[str, Range], ...] = ()
    choices: tuple[TaskChoice, ...] = ()
    reference: bool = False
    winner_of: str | None = None
    candidates: tuple[str, ...] = ()

    @cached_property
    def space(self) -> "hg.Space":
        """The task's Space with this cell's bounds, defaults and choices."""
        return full_space(self.task, self.ranges, self.choices)

    @cached_property
    def task_of(self) -> Callable[[dict[str, Any]], Task]:
        """{name: option} -> the task with these options, built once."""
        from hypergrad.by_choice import once_per_choice

        def build(options: dict[str, Any]) -> Task:
            fields = as_written(self.choices, options)
            return rebuilt(self.task, fields) if fields else self.task

        return once_per_choice(build)

    @cached_property
    def table(self) -> dict[str, Any]:
        """The resolved tables, every default written out; labels are no part of it."""
        names = {cls: name for name, cls in TASKS.items()}
        choices = {choice.name: list(choice.values) for choice in self.choices}
        return {
            "task": table_of(self.task, names),
            "estimator": table_of(self.estimator),
            "searcher": table_of(self.searcher),
            "budget": table_of(self.budget),
            "hparams": {name: table_of(entry) for name, entry in self.ranges},
            "reference": self.reference,
            "winner_of": list(self.candidates) or None,
        } | ({"choices": choices} if choices else {})

    @cached_property
    def training(self) -> str:
        """A name for all cells that train alike: estimator, task and their hash."""
        alike = {"task", "hparams", "estimator", "choices"}
        same = {name: part for name, part in self.table.items() if name in alike}
        return f"{same['estimator']['name']} on {same['task']['name']} {digest(same)}"

    @cached_property
    def hash(self) -> str:
        """The digest of `table`."""
        return digest(self.table)


@dataclass(frozen=True)
class Experiment:
    """A config and the cells that a command asks of it, in the order of the file.

    Attributes:
        text: of the file when it was read; it may be edited while the cells run.
    """

    file: Path
    config: Config
    cells: tuple[Cell, ...]
    text: str = ""


def canonical(table: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"))


def digest(table: Any) -> str:
    """Ten hex digits of the sha256 of a table's canonical JSON."""
    return hashlib.sha256(canonical(table).encode()).hexdigest()[:10]


def load(
    file: Path,
    overrides: Iterable[str] = (),
    *,
    mode: Mode = "check",
    catalog: Catalog | None = None,
) -> Experiment:
    """Read, validate and build a config with the cells that a command asks of it.

    Args:
        file: a TOML file.
        overrides: settings `a.b=c`; later ones win.
        mode: the command; "check" builds the cells of every command the file has.
        catalog: what may be named; all that is installed by default.

    Raises:
        ConfigError: everything that is wrong, at once.
    """
    faults, config, written = opened(file, overrides)
    if subtree(faults.document, ("paper",)):
        message = "a paper's own protocol, on which no search runs"
        hint = f"python -m experiments reproduce {file}"
        faults.add(("paper",), message, hint=hint)
        raise ConfigError(faults.found)
    cells = tuple(_Reader(faults, catalog or Catalog.installed()).cells(mode))
    if faults.found or config is None:
        raise ConfigError(faults.found)
    return Experiment(file, config, cells, written)


def opened(
    file: Path, overrides: Iterable[str] = ()
) -> tuple[Faults, Config | None, str]:
    """The document of a file with its overrides, its models, and its text."""
    document = read(file)
    written = file.read_text(encoding="utf-8")
    for text in overrides:
        document = merge(document, override(text))
    stem = Leaf(file.stem, Source(str(file), ("name",)))
    faults = Faults(merge({("name",): stem}, document), str(file))
    return faults, validate(faults, (), Config), written


class _Reader:
    """Reads cells off a document; what is wrong goes to `faults`."""

    def __init__(self, faults: Faults, catalog: Catalog):
        self.faults, self.catalog = faults, catalog
        self.document = faults.document
        self.base = sections(self.document)
        self.name = str(value_at(self.document, ("name",)))

    def cells(self, mode: Mode) -> Iterator[Cell]:
        """The cells of a command; those that are wrong are left out."""
        ablate = bool(subtree(self.document, ("ablate",)))
        compare = bool(subtree(self.document, ("compare",)))
        if mode == "compare" or (mode == "check" and compare):
            yield from self._comparison()
        if mode == "ablate" or (mode == "check" and ablate):
            yield from self._ablation()
        if mode == "run" or (mode == "check" and not (compare or ablate)):
            yield from self._cell(self.base, self.name, self.name, "", Method())

    def _ablation(self) -> Iterator[Cell]:
        """The product of the lists in [ablate], the last key moving fastest."""
        axes = subtree(self.document, ("ablate",))
        if not axes:
            self.faults.add(("ablate",), "missing", expected='"table.key" = [values]')
        sound = [self._is_axis(path, leaf) for path, leaf in axes.items()]
        if not all(sound):
            return
        for values in itertools.product(*(leaf.value for leaf in axes.values())):
            document, labels = self.base, []
            for (path, leaf), value in zip(axes.items(), values, strict=True):
                change = placed(_split(path), value, leaf.source)
                document = merge(document, change)
                shown = value.get("name", value) if isinstance(value, dict) else value
                labels.append(f"{'.'.join(path)} = {shown}")
            label = ", ".join(labels)
            yield from self._cell(document, "ablation", "Ablation", label, Method())

    def _is_axis(self, path: tuple[str, ...], leaf: Leaf) -> bool:
        where, section = ("ablate", *path), _split(path)[0]
        if section not in SECTIONS:
            self._unknown(where, "table", section, SECTIONS)
            return False
        if not isinstance(leaf.value, list) or not leaf.value:
            self.faults.add(where, got=show(leaf.value), expected="a list of values")
            return False
        return True

    def _comparison(self) -> Iterator[Cell]:
        """Studies x methods: the base, then the study's changes, then the method's."""
        studies = value_at(self.document, ("compare", "studies")) or {self.name: {}}
        methods = value_at(self.document, ("compare", "methods"))
        if not all(isinstance(table, dict) for table in (studies, methods)):
            return  # The models have said so.
        if not methods:
            self.faults.add(("compare", "methods"), "missing", expected="a table each")
        chosen = {label: self._method(label, studies) for label in methods}
        searches = {
            study: [
                label
                for label, method in chosen.items()
                if method is not None
                and not (method.reference or method.winner_of)
                and study in (method.studies or studies)
            ]
            for study in studies
        }
        built: list[Cell] = []
        for index, (study, changes) in enumerate(studies.items()):
            title = changes.get("title", study) if isinstance(changes, dict) else study
            base = self._overlaid(self.base, "studies", study)
            for label, method in chosen.items():
                if method is None or study not in (method.studies or studies):
                    continue
                earlier = dict(itertools.islice(searches.items(), index))
                labels = self._candidates(label, method.winner_of, earlier)
                rivals = [c for c in built if (c.study, c.method) in labels]
                hashes = [c.hash for c in rivals]
                document = self._overlaid(base, "methods", label)
                for cell in self._cell(document, study, title, label, method):
                    if any(c.choices != cell.choices for c in rivals):
                        path = ("compare", "methods", label, "winner_of")
                        message = "is of a study with other [choices] than this one"
                        self.faults.add(path, message, got=show(method.winner_of))
                    built.append(replace(cell, candidates=tuple(hashes)))
                    yield built[-1]

    def _method(self, label: str, studies: Iterable[str]) -> Method | None:
        path = ("compare", "methods", label)
        method = validate(self.faults, path, Method)
        for study in (method.studies if method else None) or ():
            if study not in studies:
                self._unknown((*path, "studies"), "study", study, studies)
        return method

    def _candidates(
        self, label: str, winner_of: str | None, earlier: dict[str, list[str]]
    ) -> list[tuple[str, str]]:
        """The (study, method) among which `winner_of` chooses."""
        if winner_of is None:
            return []
        study, dot, method = winner_of.partition(".")
        path = ("compare", "methods", label, "winner_of")
        if study not in earlier:
            self._unknown(path, "earlier study", study, earlier)
        elif dot and method not in earlier[study]:
            self._unknown(path, f"search of {study}", method, earlier[study])
        methods = [method] if dot else earlier.get(study, [])
        return [(study, each) for each in methods]

    def _overlaid(self, base: Document, kind: str, label: str) -> Document:
        return merge(base, sections(subtree(self.document, ("compare", kind, label))))

    def _cell(
        self, document: Document, study: str, study_title: str, label: str, how: Method
    ) -> Iterator[Cell]:
        """The cell of a document, unless it is wrong."""
        faults = Faults(document, self.faults.file)
        reference = how.reference or how.winner_of is not None
        task = self._task(faults)
        searcher = estimator = None
        if not reference:
            searcher = build(faults, ("searcher",), self.catalog.searchers, "searcher")
            estimator = self._estimator(faults, searcher)
        budget = validate(faults, ("budget",), Budget)
        choices: tuple[TaskChoice, ...] = ()
        if task is not None and subtree(document, ("choices",)):
            task, choices = read_choices(faults, task)
        ranges = self._ranges(faults, task)
        if task is not None and searcher is not None and not faults.found:
            try:
                searcher.describe(full_space(task, ranges, choices), 2)
            except ValueError as error:
                faults.add(("searcher",), str(error))
        self.faults.found += faults.found
        if not faults.found and budget is not None and task is not None:
            label = label or type(searcher).__name__
            yield Cell(
                name=self.name,
                study=study,
                study_title=study_title,
                method=label,
                title=how.title or label,
                task=task,
                estimator=estimator,
                searcher=searcher,
                budget=budget,
                ranges=ranges,
                choices=choices,
                reference=reference,
                winner_of=how.winner_of,
            )

    def _task(self, faults: Faults) -> Task | None:
        """The task; [choices] speak first for fields that [task] leaves out.

        But only where it does not take their own defaults.
        """
        document, what = faults.document, (self.catalog.tasks, "task")
        first = {
            ("task", *path): leaf
            for path, leaf in subtree(document, ("choices",)).items()
            if isinstance(leaf.value, list)
            and leaf.value
            and value_at(document, ("task", *path)) == {}
        }
        own = Faults(document, faults.file)
        task = build(own, ("task",), *what)
        if task is None and first:
            for path, leaf in first.items():
                document = merge(document, placed(path, leaf.value[0], leaf.source))
            other = Faults(document, faults.file)
            task = build(other, ("task",), *what)
            own = own if task is None else other
        faults.found += own.found
        return task

    def _estimator(self, faults: Faults, searcher: Any) -> Any:
        """A searcher without gradients asks for values only, whatever the base says."""
        known = self.catalog.estimators
        if searcher is not None and not searcher.needs_gradient:
            return known["Value"]()
        if searcher is None and not subtree(faults.document, ("estimator",)):
            return None
        estimator = build(faults, ("estimator",), known, "estimator")
        if searcher is not None and estimator is not None:
            from hypergrad.study import check_pair

            try:
                check_pair(searcher, estimator)
            except ValueError as error:
                faults.add(("estimator",), str(error))
        return estimator

    def _ranges(self, faults: Faults, task: Task | None) -> tuple:
        """The [hparams] tables, each tried on the task's Space."""
        names = value_at(faults.document, ("hparams",))
        names = names if isinstance(names, dict) else {}
        ranges = [(name, validate(faults, ("hparams", name), Range)) for name in names]
        if task is None:
            return ()
        try:
            space = task.space()
        except ValueError as error:
            faults.add(("task",), str(error))
            return ()
        known = dict(space.entries)
        for name, entry in ranges:
            if name not in known:
                faults.unknown(("hparams", name), known)
            elif entry is not None:
                try:
                    with_ranges(space, ((name, entry),))
                except ValueError as error:
                    given = show(entry.model_dump(exclude_none=True))
                    faults.add(("hparams", name), str(error), got=given)
        return tuple(ranges)

    def _unknown(
        self, path: tuple[str, ...], what: str, name: str, known: Iterable[str]
    ) -> None:
        known = list(known)
        hint = did_you_mean(name, known)
        expected = one_of(known)
        self.faults.add(
            path, f"unknown {what}", got=show(name), expected=expected, hint=hint
        )


def sections(document: Document) -> Document:
    """Of a document or an overlay, what makes a cell."""
    return {
        _split(path) if path[0] == "choices" else path: leaf
        for path, leaf in document.items()
        if path[0] in SECTIONS
    }


def _split(path: tuple[str, ...]) -> tuple[str, ...]:
    """`"task.noise"` and `task.noise` are the same axis."""
    return tuple(".".join(path).split("."))
