"""What is wrong with a config, said so that it can be put right at once."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault: where it stands, what was found, what belongs there.

    Attributes:
        file: the file that holds it, or `--set` for the command line.
        path: the tables down to the key, outermost first; () is the file itself.
        message: what is wrong, in a few words.
        got: what stands there, as `show` writes it.
        expected: what may stand there.
        hint: the remedy.
    """

    file: str
    path: tuple[str, ...] = ()
    message: str = "wrong value"
    got: str = ""
    expected: str = ""
    hint: str = ""

    def __str__(self) -> str:
        *table, key = self.path or ("",)
        where = f"[{'.'.join(table)}] {key}" if table else key
        head = f"{self.file}: {where}: " if where else f"{self.file}: "
        details = {"got": self.got, "expected": self.expected, "hint": self.hint}
        lines = [f"    {k + ':':<10}{text}" for k, text in details.items() if text]
        return "\n".join([head + self.message, *lines])


class ConfigError(ValueError):
    """Everything wrong with a config at once."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = tuple(dict.fromkeys(faults))
        count = len(self.faults)
        head = f"{count} errors in the config\n" if count > 1 else ""
        super().__init__(head + "\n".join(map(str, self.faults)))


def show(value: object) -> str:
    """A value as a config would hold it, cut to a line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *head, last = list(names) or ["nothing"]
    return f"{', '.join(head)} or {last}" if head else last


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the closest known name, or nothing; upper and lower case alike."""
    spelled = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(spelled), n=1, cutoff=0.6)
    return f"did you mean {json.dumps(spelled[close[0]])}?" if close else ""
