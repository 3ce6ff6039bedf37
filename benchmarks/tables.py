"""Records as tables: on the terminal, and in RESULTS.md."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

HEADER = (
    "contender",
    "CPU s",
    "wall s",
    "CPU ratio (quartiles)",
    "wall ratio",
    "bytes",
    "ratio",
    "histories",
    "difference",
    "remarks",
)


def cells(row: Mapping) -> tuple[str, ...]:
    """A contender's line, in the order of `HEADER`."""
    return (
        row["name"],
        _number(row.get("cpu_median")),
        _number(row.get("wall_median")),
        _quartiles(row.get("cpu_ratio")),
        _number(row.get("wall_ratio", (None, None))[1]),
        size(row.get("bytes")),
        _number(row.get("bytes_ratio")),
        _number(row.get("histories")),
        _number(max(row["differences"].values(), default=None))
        if row.get("differences")
        else "",
        "; ".join(remarks(row)),
    )


def remarks(row: Mapping) -> list[str]:
    """What has to be said of a contender beside its numbers."""
    said = []
    if wrong := row.get("wrong"):
        said.append(f"WRONG: {', '.join(wrong)}")
    if lacking := row.get("unsupported"):
        said.append(f"no: {', '.join(lacking)}")
    if row.get("bytes_of") not in (None, "XLA temp"):
        said.append(f"bytes: {row['bytes_of']}")
    flags = row.get("flags", {})
    if "recovered" in flags:
        bits = "bit for bit" if flags["recovered"] else "NOT to the start"
        said.append(f"ran back {bits}")
    if flags.get("doubtful"):
        said.append("calls itself doubtful")
    if "true_residual" in row:
        said.append(f"residual {row['true_residual']:.1e}")
    return said + list(row.get("notes", ()))


def show(record: Mapping) -> None:
    """Print a record."""
    console = Console(width=160)
    console.print(f"{record['work']}: {record['title']}")
    rows = [cells(row) for row in record.get("contenders", ())]
    if rows:
        console.print(_rich(HEADER, rows))
    for table in record.get("tables", ()):
        console.print(table["title"])
        console.print(_rich(table["header"], table["rows"]))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _rich(header, rows) -> Table:
    table = Table(*header)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _escaped(cell) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


def _quartiles(numbers: Sequence[float] | None) -> str:
    if numbers is None:
        return ""
    low, median, high = numbers
    return f"{median:.2f} ({low:.2f}, {high:.2f})"
