"""Every config that is shipped says what it is, and asks for what there is."""

import importlib.util
import re
from pathlib import Path

import pytest

from experiments.configs.cells import load
from experiments.configs.papers import has_paper, load_paper
from experiments.registry import load_tasks

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "paper_configs").glob("*.toml"))
COMMAND = re.compile(r"^# commands? .*python -m experiments \w+ (\S+?\.toml)", re.M)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_and_cells(path):
    text = path.read_text()
    assert ROOT / COMMAND.search(text).group(1) == path
    for field in ("time", "data", "claim"):
        assert re.search(rf"^# {field}  +\S", text, re.M), f"the header has no {field}"
    assert "TIME" not in text
    if "[search,gp]" in text and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    load_tasks()
    # The cells of every command it has.
    experiment = load_paper(path) if has_paper(path) else load(path)
    assert experiment.config.name == path.stem
    assert experiment.cells
    if has_paper(path):
        assert re.search(r"^# paper  +\S", text, re.M), "the header names no paper"
        assert experiment.config.reference
        assert experiment.config.claim
        origins = {each.origin for each in experiment.config.expect.values()}
        assert origins - {"recalled"}, "nothing decides"
