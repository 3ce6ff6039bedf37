"""`python -m experiments`: run, ablate, compare; reproduce; verify, diagnose, plan; ...

What a user can put right is one message on stderr and exit code 2, never a traceback;
cells that failed are a line each and exit code 1, when all others are done; Ctrl-C is
130 and says how to go on. Heavy imports wait until a command needs them.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from experiments.configs.cells import Experiment, Mode
    from experiments.executors.workers import Origin

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hypergradients against grid, random and Bayesian search, from TOML configs.",
)


def _bytes(text: str) -> int:
    """2GB, 500MiB or a plain number."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise typer.BadParameter(
            f"{text!r} is no size, such as 2GB or 500MiB"
        ) from None


Config = Annotated[Path, typer.Argument(help="a TOML file", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="override a value; repeatable"),
]
Seed = Annotated[int | None, typer.Option(help="run this seed only")]
Resume = Annotated[bool, typer.Option("--resume", help="go on where a run stopped")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would run")]
Tasks = Annotated[
    list[Path] | None,
    typer.Option(help="a Python file that registers tasks; repeatable"),
]
Memory = Annotated[
    int, typer.Option(parser=_bytes, metavar="SIZE", help="such as 2GB or 500MiB")
]
KeyCount = Annotated[int, typer.Option("--keys", min=2, help="keys to average over")]
Executor = Annotated[
    str,
    typer.Option(
        "--executor", help="in-process, processes:4 or ray:4", metavar="WHERE"
    ),
]
Runs = Annotated[Path, typer.Option(help="where run folders are")]


def _add_command(mode: "Mode", about: str) -> None:
    """The three commands that run cells differ in which cells alone."""

    @app.command(mode, help=about)
    def command(
        config: Config,
        settings: Set = None,
        seed: Seed = None,
        resume: Resume = False,
        dry_run: DryRun = False,
        tasks: Tasks = None,
        runs: Runs = Path("runs"),
        executor: Executor = "in-process",
    ) -> None:
        with _polite():
            origin = _origin(config, settings, seed, tasks, mode, runs)
            failures = _execute(origin, executor, resume, dry_run)
        if failures:
            raise typer.Exit(1)


_add_command("run", "Run the base tables of a config on each seed.")
_add_command("ablate", "Run every combination of the lists in the table ablate.")
_add_command("compare", "Run every method on every study, and write one page.")


@app.command()
def reproduce(
    config: Annotated[Path | None, typer.Argument(help="a TOML file")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="all paper_configs that expect something")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="where --all writes its page")
    ] = None,
    settings: Set = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    tasks: Tasks = None,
    runs: Runs = Path("runs"),
    executor: Executor = "in-process",
) -> None:
    """Run published experiments and hold each number against the published one."""
    with _polite():
        from experiments.reproduce import commands

        if every != (config is None):
            raise typer.BadParameter("give one config, or --all")
        if page is not None and not every:
            raise typer.BadParameter("--page is that of --all")
        files = commands.expecting() if config is None else [config]
        origins = [
            _origin(file, settings, seed, tasks, "check", runs) for file in files
        ]
        whole = page or runs / "reproductions.md" if every else None
        good = commands.reproduce(origins, whole, resume, dry_run, executor)
    if not good:
        raise typer.Exit(1)


@app.command()
def check(
    config: Config, settings: Set = None, seed: Seed = None, tasks: Tasks = None
) -> None:
    """Validate a config and print the cells it asks for."""
    with _polite():
        from experiments import terminal
        from experiments.reproduce import commands

        origin = _origin(config, settings, seed, tasks, "check", Path("runs"))
        terminal.console().print(terminal.cells(commands.loaded(origin)))


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="a run folder, or one above several")],
) -> None:
    """Print what a run folder holds."""
    with _polite():
        from experiments import terminal
        from experiments.storage.files import StoreError
        from experiments.storage.store import RunFolder

        found = sorted(path.parent for path in folder.rglob("config.json"))
        if not found:
            raise StoreError(f"{folder} holds no run")
        alone = found == [folder]
        shown = terminal.run(RunFolder(folder)) if alone else terminal.runs(found)
        terminal.console().print(shown)


@app.command()
def verify(
    config: Config,
    settings: Set = None,
    keys: KeyCount = 16,
    tasks: Tasks = None,
    runs: Runs = Path("runs"),
) -> None:
    """Compare each estimator of a config with the exact hypergradient of its task."""
    with _polite():
        from experiments import terminal, trust
        from experiments.progress import progress

        experiment = _load(config, settings, tasks)
        trust.remembered(runs, experiment)  # Damaged? Said before the work, not after.
        with progress(terminal.console(stderr=True)) as report:
            found = trust.estimators(experiment, keys, runs, report)
        trust.keep(runs, experiment, estimators=found)
        terminal.console().print(terminal.estimators(found))
    if any(row.verdict == "disagrees" for row in found):
        raise typer.Exit(1)


@app.command()
def diagnose(
    config: Config,
    settings: Set = None,
    keys: KeyCount = 8,
    tasks: Tasks = None,
    runs: Runs = Path("runs"),
) -> None:
    """Ask whether the hypergradient of a config's task is useful, and what to do."""
    with _polite():
        from experiments import terminal, trust

        experiment = _load(config, settings, tasks)
        trust.remembered(runs, experiment)
        found = str(trust.diagnose(experiment, keys))
        trust.keep(runs, experiment, diagnosis=found)
        terminal.console().print(found, markup=False)


@app.command()
def plan(
    config: Config,
    memory: Memory,
    settings: Set = None,
    tasks: Tasks = None,
    runs: Runs = Path("runs"),
) -> None:
    """Choose the fastest exact estimator that fits into a memory budget."""
    with _polite():
        from experiments import terminal, trust
        from experiments.configs.faults import ConfigError, Fault

        experiment = _load(config, settings, tasks)
        trust.remembered(runs, experiment)
        try:
            found = str(trust.plan(experiment, memory))
        except ValueError as error:
            raise ConfigError([Fault("--memory", (), str(error))]) from None
        trust.keep(runs, experiment, plan=found)
        terminal.console().print(found, markup=False)


@app.command()
def tensorboard(
    folder: Annotated[Path, typer.Argument(help="runs/NAME, or one run folder")],
    follow: Annotated[
        bool, typer.Option("--follow", help="go on while a command writes there")
    ] = False,
) -> None:
    """Export the logs of runs as event files that TensorBoard reads."""
    with _polite():
        from experiments.tensorboard import export

        where = export(folder, follow)
        typer.echo(f"See them with: tensorboard --logdir {shlex.quote(str(where))}")


def _origin(
    config: Path,
    settings: list[str] | None,
    seed: int | None,
    tasks: list[Path] | None,
    mode: "Mode",
    runs: Path,
) -> "Origin":
    from experiments.executors.workers import Origin

    only = [f"seeds=[{seed}]"] if seed is not None else []
    return Origin(
        config=str(config),
        settings=(*(settings or ()), *only),
        tasks=tuple(map(str, tasks or ())),
        mode=mode,
        runs=str(runs),
        folder=os.getcwd(),
    )


def _load(
    config: Path,
    settings: list[str] | None,
    tasks: list[Path] | None,
    seed: int | None = None,
) -> "Experiment":
    return _origin(config, settings, seed, tasks, "check", Path("runs")).load()


def _execute(origin: "Origin", executor: str, resume: bool, dry_run: bool) -> list[str]:
    """Run the cells and write the page; returns a line for each failure."""
    from experiments import terminal
    from experiments.executors import kinds

    where, runs = kinds.executor(executor), Path(origin.runs)
    if where != kinds.InProcess():  # A leader that takes no memory from workers.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    experiment = origin.load()
    screen = terminal.console()
    if dry_run:
        screen.print(terminal.cells(experiment))
        return []
    from experiments import engine, trust
    from experiments.progress import progress
    from experiments.report.page import write_report
    from experiments.storage.files import make_folder

    folder = runs / experiment.config.name / origin.mode
    make_folder(folder)  # Before hours of work, not after.
    trust.remembered(runs, experiment)  # Likewise.
    with progress(terminal.console(stderr=True)) as report:
        arguments = experiment, runs, resume, report, where, origin
        comparison = engine.run_experiment(*arguments)
        if origin.mode == "ablate" and trust.compares_estimators(experiment):
            found = trust.estimators(experiment, 16, runs, report)
            trust.keep(runs, experiment, estimators=found)
    known = trust.remembered(runs, experiment)
    comparison = comparison.model_copy(update={"trust": known})
    page = write_report(folder, comparison)
    screen.print(terminal.summary(comparison))
    screen.print(f"Report: {page}", soft_wrap=True)
    failures = terminal.failures(comparison)
    for line in failures:
        typer.echo(f"failed: {line}", err=True)
    return failures


@contextlib.contextmanager
def _polite() -> Iterator[None]:
    """Expected errors as one message; everything else keeps its traceback."""
    from experiments.configs.faults import ConfigError
    from experiments.storage.files import StoreError

    try:
        yield
    except (ConfigError, StoreError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        from experiments.storage.store import command_line

        command = command_line().removesuffix(" --resume")
        typer.echo(f"\nStopped. Go on with: {command} --resume", err=True)
        raise typer.Exit(130) from None
