"""A config run and held against its [expect]."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.configs.cells import Experiment, load
from experiments.configs.faults import ConfigError, Fault
from experiments.configs.papers import PaperExperiment, has_paper, load_paper
from experiments.executors.kinds import Executor, InProcess
from experiments.executors.workers import Origin
from experiments.progress import Report
from experiments.reproduce.figure import draw
from experiments.reproduce.found import OUTER, Found, of_comparison
from experiments.reproduce.page import Reproduced
from experiments.reproduce.protocol import run_protocol
from experiments.reproduce.verdict import judge


@dataclass(frozen=True)
class Plan:
    """A config that is ready to be run.

    Attributes:
        origin: the command.
        loaded: its cells: of a paper's protocol, or of an ordinary config.
        same: whether it asks for the published setting: no `--set` has changed the
            data, the sizes or the seeds. Another estimator or searcher asks for the
            same number.
    """

    origin: Origin
    loaded: PaperExperiment | Experiment
    same: bool

    @property
    def name(self) -> str:
        """Of the config."""
        return self.loaded.config.name

    @property
    def command(self) -> str:
        """As it can be typed, the place of the run folders left out."""
        tasks = [word for file in self.origin.tasks for word in ("--tasks", file)]
        settings = [word for each in self.origin.settings for word in ("--set", each)]
        words = ["reproduce", self.origin.config, *tasks, *settings]
        return shlex.join(["python", "-m", "experiments", *words])


def planned(origin: Origin) -> Plan:
    """Read a config for `reproduce`.

    Raises:
        ConfigError: it is wrong, or it expects nothing.
    """
    file, own = Path(origin.config), origin.settings
    loaded = load_any(file, own)
    if not loaded.config.expect:
        message, hint = "nothing is expected of this config", "[expect.QUANTITY]"
        raise ConfigError([Fault(str(file), ("expect",), message, expected=hint)])
    return Plan(origin, loaded, not own or _setting(loaded) == _setting(load_any(file)))


def run(
    plan: Plan, resume: bool, report: Report, executor: Executor = InProcess()
) -> Reproduced:
    """Run what is planned, and judge it.

    Raises:
        ConfigError, StoreError: as `engine.run_experiment` does.
    """
    loaded, root, panels = plan.loaded, Path(plan.origin.runs), (OUTER,)
    if isinstance(loaded, PaperExperiment):
        found = run_protocol(loaded, root, resume, report)
        panels = loaded.cells[0].paper.panels
    else:
        found = _compared(plan, loaded, root, resume, report, executor)
    config = loaded.config
    lines = judge(config.expect, found, plan.same)
    figure = draw(panels, found, config.expect if plan.same else {})
    return Reproduced(plan.command, config, found, lines, figure)


def failed(plan: Plan, message: str) -> Reproduced:
    """What is known of a config that could not be run."""
    config, found = plan.loaded.config, Found(failures=[" ".join(message.split())])
    lines = judge(config.expect, found, plan.same)
    return Reproduced(plan.command, config, found, lines, None)


def _compared(
    plan: Plan,
    loaded: Experiment,
    root: Path,
    resume: bool,
    report: Report,
    executor: Executor,
) -> Found:
    from experiments import engine, terminal

    origin = plan.origin.model_copy(update={"mode": _mode(loaded)})
    arguments = loaded, root, resume, report, executor, origin
    comparison = engine.run_experiment(*arguments)
    return of_comparison(comparison, terminal.failures(comparison))


def load_any(file: Path, settings: Iterable[str] = ()) -> PaperExperiment | Experiment:
    """The cells that `reproduce` runs: of a [paper], or of a comparison or one run."""
    if has_paper(file, settings):
        return load_paper(file, settings)
    checked = load(file, settings)
    return load(file, settings, mode=_mode(checked))


def _mode(experiment: Experiment) -> Literal["compare", "run"]:
    return "compare" if experiment.config.compare.methods else "run"


def _setting(loaded: PaperExperiment | Experiment) -> list[object]:
    """What the published number is of: data, sizes, seeds, and what a search may do."""
    if isinstance(loaded, PaperExperiment):
        return [loaded.config.seeds, *(cell.table["paper"] for cell in loaded.cells)]
    parts = ("task", "hparams", "choices")
    return [
        loaded.config.seeds,
        *({part: cell.table.get(part) for part in parts} for cell in loaded.cells),
        *((cell.budget.trainings, cell.budget.retrain) for cell in loaded.cells),
        *((cell.budget.finalists, cell.budget.training_keys) for cell in loaded.cells),
    ]
