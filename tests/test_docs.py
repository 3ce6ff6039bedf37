"""Every Python block of the pages in docs/ runs."""

import re
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from experiments.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def run(page: Path) -> dict:
    """The names that a page's Python blocks, run in order, leave behind."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
    )
    names = {}
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        for code in blocks:
            exec(compile(code, page.name, "exec"), names)
    return names


@pytest.mark.slow
def test_choosing_an_estimator(capsys):
    names = run(ROOT / "docs" / "choosing-an-estimator.md")
    out = capsys.readouterr().out
    assert "converged and smooth: Implicit(solver=CG()) is cheapest" in out
    assert "Forward costs 13 trainings" in out
    assert names["cut"].ok
    assert names["cut"].norm_ratio < 0.99
    assert names["wild"].chaotic
    assert "chaotic beyond" in out


@pytest.mark.slow
def test_what_can_be_tuned():
    names = run(ROOT / "docs" / "what-can-be-tuned.md")
    assert names["study"].best_choices["kernel"] in (3, 5)
    assert names["study"].best_value < 2.5


def test_writing_a_paper(tmp_path):
    page = (ROOT / "docs" / "writing-a-paper.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (config,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^python -m experiments (.*)$", page, re.MULTILINE)
    (tmp_path / "ridge_path.py").write_text(code)
    (tmp_path / "ridge_path.toml").write_text(config)
    assert len(commands) == 2
    for command in commands:
        arguments = [*command.split(), "--runs", str(tmp_path / "runs")]
        files = [str(tmp_path / x) if "." in x[-5:] else x for x in arguments]
        result = CliRunner().invoke(app, files)
        assert result.exit_code == 0, result.output
        assert "1 of 1 within" in result.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_sound(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    if page.name == "reproductions.md":
        return  # written by `reproduce --all`, a paragraph a line
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert max(map(len, prose), default=0) <= 160
