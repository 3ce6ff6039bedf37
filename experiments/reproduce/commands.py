"""`reproduce`, from files to tables, pages and an answer for the exit code."""

from collections.abc import Sequence
from pathlib import Path

from experiments import terminal
from experiments.configs.cells import Experiment
from experiments.configs.documents import read, subtree
from experiments.configs.faults import ConfigError, Fault
from experiments.configs.papers import PaperExperiment, has_paper, load_paper
from experiments.executors import kinds
from experiments.executors.workers import Origin
from experiments.progress import progress
from experiments.registry import load_tasks
from experiments.reproduce.page import Reproduced, ready, table, write_all, write_one
from experiments.reproduce.reproduce import failed, planned, run
from experiments.reproduce.verdict import succeeded
from experiments.storage.files import StoreError, make_folder

CONFIGS = Path("paper_configs")


def expecting(folder: Path = CONFIGS) -> list[Path]:
    """The configs of a folder that have an [expect], by name.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(folder.glob("*.toml"))
    found = [file for file in files if subtree(read(file), ("expect",))]
    if not found:
        message = "no config here has an [expect]"
        raise ConfigError([Fault(str(folder), message=message)])
    return found


def loaded(origin: Origin) -> PaperExperiment | Experiment:
    """The cells of any config, those of every command it has."""
    load_tasks(tuple(map(Path, origin.tasks)))
    if has_paper(Path(origin.config), origin.settings):
        return load_paper(Path(origin.config), origin.settings)
    return origin.load()


def reproduce(
    origins: Sequence[Origin],
    page: Path | None,
    resume: bool,
    dry_run: bool,
    executor: str,
) -> bool:
    """Run each config and print its verdict; whether all is within.

    Args:
        origins: the configs, all of which are read before the first is run.
        page: where a page of all goes; each has one of its own in its run folder.
        resume: keep what is done.
        dry_run: print the cells only.
        executor: for ordinary configs; a paper's protocol runs in this process.
    """
    where, screen = kinds.executor(executor), terminal.console()
    load_tasks(tuple(map(Path, origins[0].tasks)))
    plans = [planned(origin) for origin in origins]
    names = [plan.name for plan in plans]
    twice = [plan for plan in plans if names.count(plan.name) > 1]
    if twice:
        message = "configs of one page have names of their own"
        faults = [Fault(p.origin.config, ("name",), message, p.name) for p in twice]
        raise ConfigError(faults)
    if dry_run:
        for plan in plans:
            screen.print(terminal.cells(plan.loaded))
        return True
    folders = [Path(plan.origin.runs) / plan.name / "reproduce" for plan in plans]
    for folder in folders:
        make_folder(folder)
    if page is not None:
        ready(page)
    every: list[Reproduced] = []
    for plan, folder in zip(plans, folders, strict=True):
        try:
            with progress(terminal.console(stderr=True)) as report:
                done = run(plan, resume, report, where)
        except (ConfigError, StoreError) as error:
            if page is None:
                raise
            done = failed(plan, str(error))  # The page of all others is written.
        every.append(done)
        screen.print(table(done))
        for line in done.lines:
            if line.within is False and line.remark:
                screen.print(f"{line.title}: {line.remark}", soft_wrap=True)
        for failure in done.found.failures:
            screen.print(f"failed: {failure}", soft_wrap=True)
        screen.print(f"{done.summary}. Page: {write_one(folder, done)}", soft_wrap=True)
    if page is not None:
        screen.print(f"All: {write_all(page, every)}", soft_wrap=True)
    return all(succeeded(done.lines, done.found) for done in every)
