"""Cells of a config with a [paper]: one a method, each a protocol and an estimator."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.configs.build import Faults, build, concrete, table_of
from experiments.configs.cells import digest, opened, sections
from experiments.configs.config import Config, Method, validate
from experiments.configs.documents import Document, merge, subtree, value_at
from experiments.configs.faults import ConfigError
from experiments.paper import PAPERS, Paper

if TYPE_CHECKING:
    import hypergrad as hg

_SEARCH = ("task", "searcher", "budget", "hparams", "choices", "ablate")


@dataclass(frozen=True)
class PaperCell:
    """One method of a paper, built: what a run folder holds the result of.

    Attributes:
        name: of the config.
        method: its label, "" where the config has no methods; `title` is for readers.
        estimator: None where the paper brings its own rule.
    """

    name: str
    study: str
    method: str
    title: str
    paper: Paper
    estimator: "hg.Estimator | None"

    @cached_property
    def table(self) -> dict[str, Any]:
        """The resolved tables, every default written out."""
        names = {cls: name for name, cls in PAPERS.items()}
        return {
            "paper": table_of(self.paper, names),
            "estimator": table_of(self.estimator),
        }

    @cached_property
    def hash(self) -> str:
        """The digest of `table`."""
        return digest(self.table)


@dataclass(frozen=True)
class PaperExperiment:
    """A config with a [paper], and its cells in the order of the file."""

    file: Path
    config: Config
    cells: tuple[PaperCell, ...]
    text: str = ""


def has_paper(file: Path, overrides: Iterable[str] = ()) -> bool:
    """Whether a config has a [paper] and no [task]."""
    return bool(subtree(opened(file, overrides)[0].document, ("paper",)))


def load_paper(file: Path, overrides: Iterable[str] = ()) -> PaperExperiment:
    """Read, validate and build a config with a [paper].

    Raises:
        ConfigError: everything that is wrong, at once.
    """
    faults, config, text = opened(file, overrides)
    for name in _SEARCH:
        if subtree(faults.document, (name,)) or (name,) in faults.document:
            faults.add((name,), "has no meaning beside [paper]", hint="delete it")
    labels = value_at(faults.document, ("compare", "methods")) or {"": {}}
    found = [_cell(faults, label) for label in labels] if config else []
    if faults.found or config is None:
        raise ConfigError(faults.found)
    return PaperExperiment(file, config, tuple(cell for cell in found if cell), text)


def _cell(faults: Faults, label: str) -> PaperCell | None:
    from hypergrad.estimators import Estimator

    document: Document = sections(faults.document)
    method = Method()
    if label:
        path = ("compare", "methods", label)
        method = validate(faults, path, Method)
        document = merge(document, sections(subtree(faults.document, path)))
    own = Faults(document, faults.file)
    paper, estimator = build(own, ("paper",), PAPERS, "paper"), None
    given = bool(subtree(document, ("estimator",))) or ("estimator",) in document
    if paper is not None and paper.differentiates:
        estimator = build(own, ("estimator",), concrete(Estimator), "estimator")
    elif paper is not None and given:
        own.add(("estimator",), "this paper brings its own rule", hint="delete it")
    faults.found += own.found
    if own.found or method is None or paper is None:
        return None
    name = str(value_at(faults.document, ("name",)))
    return PaperCell(name, "paper", label, method.title or label, paper, estimator)
