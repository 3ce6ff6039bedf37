"""Every code block of the README runs."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order(capsys):
    names = {}
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        for language, code in BLOCKS:
            if language == "python":
                exec(compile(code, "README.md", "exec"), names)
    assert names["grads"]["l2"].shape == (5,)
    assert names["study"].best_value < names["value"]
    assert "agrees" in capsys.readouterr().out


def commands():
    blocks = [code for language, code in BLOCKS if language == "sh"]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("line", commands())
def test_shell_commands_exist(line):
    """Make targets, configs, options and extras are real; long work is not repeated."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        dry = subprocess.run(
            ["make", "--dry-run", words[1]], cwd=ROOT, capture_output=True, text=True
        )
        assert dry.returncode == 0, dry.stderr
    elif words[:3] == ["python", "-m", "experiments"]:
        if words[3] == "verify":
            words[3] = "check"  # Of the same config, which is all that can be short.
        dry = [] if words[3] == "check" else ["--dry-run"]
        command = [sys.executable, *words[1:], *dry]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[2] == "pip":
        extra = re.search(r"\[(\w+)\]", words[-1]).group(1)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert extra in project["optional-dependencies"]
    else:
        assert words == ["python", "-m", "pytest"], f"unknown command: {line}"


def test_blocks_are_of_known_languages():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}


def test_it_is_short():
    assert 80 <= len(TEXT.splitlines()) <= 120


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
