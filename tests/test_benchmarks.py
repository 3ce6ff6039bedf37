"""Every benchmark at its smallest size: does it work, do its contenders agree?

Nothing here looks at a clock, and no other library takes part.
"""

import functools
import json
import math

import jax
import numpy as np
import pytest

from benchmarks import cli, measure, race, results

# Two estimators each, of all: compiling takes the time.
COMMANDS = {
    "w1": ["w1", "--only", "EveryStep, Mixed"],
    "implicit": ["implicit"],
    "baselines": ["baselines", "--only", "Chunk(4)"],
}
SLOW_COMMANDS = {
    "w1 backwards": ["w1", "--only", "Reversible"],
    "wide": ["wide", "--only", "EveryStep, Mixed"],
    "w2": ["w2", "--only", "EveryStep, Mixed"],
    "deep": ["deep", "--only", "EveryStep, Mixed), recomputed"],
    "compile": ["compile", "--only", "EveryStep, Mixed"],
    "plan": ["plan", "--of", "w1", "--only", "EveryStep"],
}


@pytest.fixture
def unoptimised():
    """Programs compiled in a hurry: what they take is of no interest."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(
    "command",
    [
        *(pytest.param(words, id=name) for name, words in COMMANDS.items()),
        *(
            pytest.param(words, id=name, marks=pytest.mark.slow)
            for name, words in SLOW_COMMANDS.items()
        ),
    ],
)
@pytest.mark.usefixtures("unoptimised")
def test_a_work_runs_at_its_smallest_size(command, tmp_path):
    path = tmp_path / "record.json"
    cli.main([*command, "--smallest", "--rounds", "2", "--out", str(path)])

    record = json.loads(path.read_text())
    rows = {row["name"]: row for row in record["contenders"]}
    assert record["base"] in rows
    assert len(rows) >= 2
    for row in rows.values():
        assert math.isfinite(row["value"])
        assert row["bytes"] >= 0
        assert len(row["cpu"]) == len(row["wall"]) == 2
        assert row.get("wrong", []) == [], row["differences"]
        assert row["flags"].get("recovered", True)
        assert row.get("true_residual", 0.0) < 1e-5
        assert not row["flags"].get("doubtful")
    assert record["title"] in results.document([record])


def test_parts_are_compared_by_name_and_a_missing_one_is_passed_over():
    reference = {"rates": np.array([3.0, 4.0]), "decay": np.array(2.0)}
    found = {"rates": np.array([3.0, 4.5])}
    assert race.difference(found, reference) == {"rates": pytest.approx(0.1)}


def test_the_first_in_turn_changes_with_the_round():
    order = []

    def run(name):
        order.append(name)
        return measure.Seconds(1.0, 2.0)

    runs = {name: functools.partial(run, name) for name in "abc"}
    taken = measure.interleave(runs, 2)
    assert "".join(order) == "abcabcbca"
    assert taken["b"] == [measure.Seconds(1.0, 2.0)] * 2


def test_ratios_are_taken_round_by_round():
    assert measure.ratios([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]).median == 3.0
