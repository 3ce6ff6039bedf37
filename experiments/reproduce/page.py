"""What people read: verdict tables on a terminal, and one Markdown page of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.table import Table

from experiments.configs.config import Config
from experiments.figures.drawing import as_png
from experiments.reproduce.found import Found
from experiments.reproduce.verdict import Line
from experiments.storage.files import StoreError, make_folder, write_bytes

_HEADS = ("quantity", "published", "ours", "tolerance", "verdict", "origin")


class Reproduced(NamedTuple):
    """One config that was run and judged.

    Attributes:
        command: that does so again.
        figure: None where it has nothing to draw.
    """

    command: str
    config: Config
    found: Found
    lines: list[Line]
    figure: Figure | None

    @property
    def title(self) -> str:
        """The config's, or its name."""
        return self.config.title or self.config.name

    @property
    def summary(self) -> str:
        """How many of the judged quantities are within."""
        judged = [line for line in self.lines if line.within is not None]
        within = sum(line.within is True for line in judged)
        text = f"{within} of {len(judged)} within"
        if self.found.failures:
            text += f", {len(self.found.failures)} failed"
        return text


def table(done: Reproduced) -> Table:
    """The verdict table of one config."""
    shown = Table(title=done.title, title_justify="left", title_style="bold")
    for head in _HEADS:
        right = head in ("published", "ours", "tolerance")
        shown.add_column(head, justify="right" if right else "left", overflow="fold")
    for line in done.lines:
        style = {True: "", False: "bold red", None: "dim"}[line.within]
        shown.add_row(*_cells(line), style=style)
    return shown


def ready(page: Path) -> None:
    """Before hours of work, not after: make the folders of a page of all.

    Raises:
        StoreError: it cannot be written.
    """
    if page.is_dir():
        raise StoreError(f"cannot write {page}: a folder stands where the page should")
    make_folder(_figures(page))


def write_one(folder: Path, done: Reproduced) -> Path:
    """README.md, found.json and figure.png of one config; returns the page."""
    make_folder(folder)
    write_bytes(folder / "found.json", done.found.model_dump_json(indent=1).encode())
    return _write(folder / "README.md", [done], folder, "")


def write_all(page: Path, every: Sequence[Reproduced]) -> Path:
    """One page of all configs, with PNGs in a folder of its own name beside it."""
    return _write(page, every, _figures(page), f"{_figures(page).name}/")


def _figures(page: Path) -> Path:
    return page.with_suffix("") if page.suffix else page.with_name(f"{page.name}_files")


def _write(page: Path, every: Sequence[Reproduced], figures: Path, prefix: str) -> Path:
    make_folder(figures)
    images = {}
    for done in every:
        if done.figure is not None:
            name = f"{done.config.name}.png"
            write_bytes(figures / name, as_png(done.figure, dpi=90))
            images[done.config.name] = prefix + name
    parts = [_overview(every)] if len(every) > 1 else []
    parts += [_section(done, images.get(done.config.name)) for done in every]
    write_bytes(page, ("\n\n".join(parts) + "\n").encode())
    return page


def _overview(every: Sequence[Reproduced]) -> str:
    rows = [
        (
            f"[{done.config.name}](#{done.config.name})",
            done.config.reference,
            done.summary,
            _took(done.found.seconds),
        )
        for done in every
    ]
    total = _took(sum(done.found.seconds for done in every))
    return "\n\n".join(
        (
            "# Published results, rerun",
            "Every number below was written by `python -m experiments reproduce --all`;"
            f" the configs took {total} together. Lines are ours, rings are"
            " published. A verdict says whether our number is within the tolerance that"
            " the config states; where a number was only recalled, or another setting"
            " was run, nothing is decided.",
            _markdown(("config", "paper", "verdict", "time"), rows),
        )
    )


def _section(done: Reproduced, image: str | None) -> str:
    config = done.config
    parts = [
        f"## {config.name}",
        f"**{done.title}**" + (f" {config.reference}." if config.reference else ""),
        config.claim,
        f"`{done.command}` took {_took(done.found.seconds)}: {done.summary}.",
        f"![{done.title}]({image})" if image else "",
        _markdown(_HEADS, [_cells(line) for line in done.lines]),
        "\n".join(
            f"- {line.title}: {line.remark}." for line in done.lines if line.remark
        ),
        "\n".join(f"- failed: {failure}" for failure in done.found.failures),
    ]
    return "\n\n".join(part for part in parts if part)


def _cells(line: Line) -> tuple[str, ...]:
    verdict = line.verdict
    if line.within is False and 1 < line.off < 1000:
        verdict += f", {line.off:.3g} x what is allowed"
    shown = (line.published, line.ours, line.tolerance, verdict, line.origin)
    return (line.title, *shown)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        plain = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
        return f"| {' | '.join(plain)} |"

    return "\n".join((row(heads), row(["---"] * len(heads)), *map(row, rows)))


def _took(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
