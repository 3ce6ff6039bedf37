"""`python -m benchmarks results FILES...`: RESULTS.md from the JSON files."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.tables import HEADER, cells, markdown, size

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"

_HEAD = """# Speed and memory, measured

Made from the measurements' JSON files by `python -m benchmarks results FILES...`; the
command above each table makes it again. One thread on one core. A ratio is to the
contender whose ratio is 1, taken within each of the interleaved rounds; the median is
given, with the quartiles in brackets. Bytes of JAX programs are what XLA reserves
beside arguments and results, those of other libraries by how much their process grew
in its first run; *histories* are bytes over those of one history of inner gradients.
*Difference* is the largest relative one of a part of the hypergradient from the
reference's; above the tolerance a contender is marked wrong. `no: x` says that a
library does not differentiate x.
"""


def main(words: Sequence[str]) -> None:
    """Write RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks results")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    records = [json.loads(path.read_text()) for path in options.files]
    options.out.write_text(document(records))


def document(records: Sequence[Mapping]) -> str:
    """RESULTS.md, a section a record."""
    return "\n".join([_HEAD, *map(section, records)])


def section(record: Mapping) -> str:
    """What was measured, in which circumstances, and the tables."""
    device, versions = record["device"], record["versions"]
    peers = {
        name: version
        for row in record.get("contenders", ())
        for name, version in row.get("versions", {}).items()
    }
    lines = [
        f"## {record['work']}, T = {record['steps']}\n",
        f"{record['title']}.\n",
        f"```sh\n{record['command']}\n```\n",
        f"{device['processor']}, {device['jax']}, {device['system']}, cores used: "
        f"{device['cores_used']}, {device['float']}; {_listed(versions)}"
        + (f"; peers: {_listed(peers)}" if peers else "")
        + f"; commit {record['commit']}; {record['date']}; {record['rounds']} rounds"
        + (", at the smallest size" if record.get("smallest") else "")
        + ".\n",
    ]
    if record.get("reference"):
        lines.append(
            f"Reference: {record['reference']}; wrong above {record['tolerance']:g}."
        )
    if record.get("history_bytes"):
        history = size(record["history_bytes"])
        lines.append(f"One history of inner gradients: {history}.")
    if record.get("contenders"):
        lines += ["", markdown(HEADER, [cells(row) for row in record["contenders"]])]
    for table in record.get("tables", ()):
        lines += ["", table["title"] + "\n", markdown(table["header"], table["rows"])]
    return "\n".join(lines) + "\n"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
