"""`python -m experiments`: run, ablate, compare; verify, diagnose, plan; check, show.

What a user can put right is one message on stderr and exit code 2, never a traceback;
Ctrl-C is 130 and says how to go on. Heavy imports wait until a command needs them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from experiments.cells import Experiment, Mode

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
    ) -> None:
        with _polite():
            experiment = _load(config, settings, seed, tasks, mode)
            _execute(experiment, runs, mode, resume, dry_run)


_add_command("run", "Run the base tables of a config on each seed.")
_add_command("ablate", "Run every combination of the lists in the table ablate.")
_add_command("compare", "Run every method on every study, and write one page.")


@app.command()
def check(
    config: Config, settings: Set = None, seed: Seed = None, tasks: Tasks = None
) -> None:
    """Validate a config and print the cells it asks for."""
    with _polite():
        from experiments import terminal

        experiment = _load(config, settings, seed, tasks, "check")
        terminal.console().print(terminal.cells(experiment))


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="a run folder, or one above several")],
) -> None:
    """Print what a run folder holds."""
    with _polite():
        from experiments import terminal
        from experiments.files import StoreError
        from experiments.store import RunFolder

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

        experiment = _load(config, settings, None, tasks, "check")
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

        experiment = _load(config, settings, None, tasks, "check")
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
        from experiments.faults import ConfigError, Fault

        experiment = _load(config, settings, None, tasks, "check")
        try:
            found = str(trust.plan(experiment, memory))
        except ValueError as error:
            raise ConfigError([Fault("--memory", (), str(error))]) from None
        trust.keep(runs, experiment, plan=found)
        terminal.console().print(found, markup=False)


def _load(
    config: Path,
    settings: list[str] | None,
    seed: int | None,
    tasks: list[Path] | None,
    mode: "Mode",
) -> "Experiment":
    from experiments.cells import load
    from experiments.registry import load_tasks

    load_tasks(tuple(tasks or ()))
    only = [f"seeds=[{seed}]"] if seed is not None else []
    return load(config, [*(settings or ()), *only], mode=mode)


def _execute(
    experiment: "Experiment", runs: Path, mode: str, resume: bool, dry_run: bool
) -> None:
    from experiments import terminal

    screen = terminal.console()
    if dry_run:
        screen.print(terminal.cells(experiment))
        return
    from experiments import engine, trust
    from experiments.files import make_folder
    from experiments.progress import progress
    from experiments.report import write_report

    folder = runs / experiment.config.name / mode
    make_folder(folder)  # Before hours of work, not after.
    with progress(terminal.console(stderr=True)) as report:
        comparison = engine.run_experiment(experiment, runs, resume, report)
        if mode == "ablate" and trust.compares_estimators(experiment):
            found = trust.estimators(experiment, 16, runs, report)
            trust.keep(runs, experiment, estimators=found)
    known = trust.remembered(runs, experiment)
    comparison = comparison.model_copy(update={"trust": known})
    page = write_report(folder, comparison)
    screen.print(terminal.summary(comparison))
    screen.print(f"Report: {page}", soft_wrap=True)


@contextlib.contextmanager
def _polite() -> Iterator[None]:
    """Expected errors as one message; everything else keeps its traceback."""
    from experiments.faults import ConfigError
    from experiments.files import StoreError

    try:
        yield
    except (ConfigError, StoreError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        from experiments.store import command_line

        command = command_line().removesuffix(" --resume")
        typer.echo(f"\nStopped. Go on with: {command} --resume", err=True)
        raise typer.Exit(130) from None
