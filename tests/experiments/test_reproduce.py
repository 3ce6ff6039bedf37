"""`reproduce`: what is expected, what is judged, what is kept, and what is shown."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from experiments.cli import app
from experiments.configs.config import Expected
from experiments.executors.workers import Origin
from experiments.paper import Curve, Panel
from experiments.registry import load_tasks
from experiments.reproduce.figure import draw
from experiments.reproduce.found import Found, mean_curve, of_comparison
from experiments.reproduce.reproduce import planned
from experiments.reproduce.verdict import judge, succeeded
from experiments.storage.store import leading

RAMP = Path(__file__).parent / "ramp.py"
VALLEY = Path(__file__).parent / "valley.py"
CONFIG = """
name = "try"
title = "A ramp"
reference = "Nobody 2026, figure 1"
claim = "It rises."
[paper]
name = "ramp"
[expect.height]
at = [0, 2]
value = [0.0, 4.0]
tolerance = 0.01
origin = "printed"
[expect.end]
value = 8.0
origin = "closed form"
"""


def expected(**fields) -> Expected:
    return Expected.model_validate({"origin": "printed"} | fields)


def line(number, *, same=True, **fields):
    """The line of one expectation on a single number."""
    found = Found(methods={"": ""}, numbers={"x": np.atleast_1d(number).tolist()})
    (only,) = judge({"x": expected(**fields)}, found, same)
    return only


@pytest.fixture
def write(tmp_path):
    def write(text=CONFIG, name="try.toml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def reproduce(tmp_path):
    def reproduce(*arguments):
        runs = ["--runs", str(tmp_path / "runs"), "--tasks", str(RAMP)]
        return CliRunner().invoke(app, ["reproduce", *arguments, *runs])

    return reproduce


# What an expectation says.


@pytest.mark.parametrize(
    ("number", "fields", "within"),
    [
        (1.05, {"value": 1.0, "tolerance": 0.051}, True),
        (1.05, {"value": 1.0, "tolerance": 0.049}, False),
        (0.95, {"value": 1.0, "relative": 0.051}, True),
        (-1.05, {"value": -1.0, "relative": 0.049}, False),
        (1.05, {"value": 1.0, "tolerance": 0.03, "relative": 0.03}, True),
        (1.0, {"value": 1.0}, True),
        (1.0 + 1e-12, {"value": 1.0}, False),
        (0.0, {"value": 0.0}, True),
        (2.9, {"value": 1.0, "factor": 3.0}, True),
        (0.3, {"value": 1.0, "factor": 3.0}, False),
        (-1.0, {"value": 1.0, "factor": 3.0}, False),
        (2.0, {"at_least": 2.0}, True),
        (1.9, {"at_least": 2.0, "at_most": 3.0}, False),
        (3.1, {"at_least": 2.0, "at_most": 3.0}, False),
        (math.nan, {"value": 1.0, "tolerance": 10.0}, False),
        (math.nan, {"at_most": 10.0}, False),
        (-math.inf, {"at_most": 10.0}, False),
    ],
)
def test_within_or_not(number, fields, within):
    assert line(number, **fields).within is within


def test_the_mean_over_seeds_is_judged_and_its_error_shown():
    found = line([0.0, 2.0], value=1.0, tolerance=0.1)
    assert found.within
    assert found.ours == "1 ± 1 (2 seeds)"


@pytest.mark.parametrize(
    ("fields", "same", "remark"),
    [
        ({"origin": "recalled"}, True, "recalled"),
        ({"origin": "printed"}, False, "another setting"),
    ],
)
def test_what_decides_nothing(fields, same, remark):
    found = line(99.0, same=same, value=1.0, **fields)
    assert found.within is None
    assert found.verdict == "–"
    assert remark in found.remark
    assert found.ours == "99"


def test_one_quantity_below_another():
    found = Found(numbers={"a": [1.0], "b": [2.0], "c": [math.nan]})
    expect = {
        "a": expected(below="b"),
        "again": expected(quantity="b", below="a"),
        "nan": expected(quantity="a", below="c"),
        "itself": expected(quantity="a", below="a"),
        "unknown": expected(quantity="a", below="bb"),
    }
    lines = judge(expect, found, True)
    assert [line.within for line in lines] == [True, False, False, False, False]
    assert 'did you mean "b"' in lines[-1].remark
    assert "2" in lines[0].ours


def test_a_curve_below_a_curve_is_so_at_every_x():
    curves = {"low": [1.0, 2.0, 3.0], "high": [4.0, 4.0, 2.5], "short": [9.0, 9.0]}
    found = Found(
        numbers={"one": [2.0]},
        curves={n: [Curve(x=list(range(len(y))), y=y)] for n, y in curves.items()},
    )
    expect = {
        "all": expected(quantity="low", below="high"),
        "some": expected(quantity="low", below="high", at=[0, 1]),
        "number": expected(quantity="one", below="high"),
        "of number": expected(quantity="low", below="one", at=[0]),
        "lengths": expected(quantity="low", below="short"),
    }
    lines = judge(expect, found, True)
    assert [line.within for line in lines] == [False, True, True, True, False]
    assert "other x" in lines[-1].remark


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({"quantity": "empty", "at_least": 0.0}, "has no points"),
        ({"quantity": "empty", "at": [0], "value": [1.0]}, "has no points"),
        ({"quantity": "number", "at": [0, 1], "value": [1.0, 1.0]}, "has no x"),
        ({"quantity": "number", "at": [0], "at_least": 0.0}, "has no x"),
        ({"quantity": "small", "at": [1e-7], "value": [1.0]}, "no x = 1e-07"),
        ({"quantity": "apart", "at_least": 0.0}, "has no points"),
    ],
)
def test_what_there_is_no_number_for_is_outside(fields, remark):
    found = Found(
        numbers={"number": [1.0]},
        curves={
            "empty": [Curve(x=[], y=[])],
            "small": [Curve(x=[5e-7, 1.0], y=[1.0, 1.0])],
            "apart": [Curve(x=[0], y=[1.0]), Curve(x=[1], y=[1.0])],
        },
    )
    (found_line,) = judge({"x": expected(**fields)}, found, True)
    assert found_line.within is False
    assert remark in found_line.remark


def test_seeds_of_unlike_length_share_what_both_have():
    curves = [Curve(x=[0, 1, 2], y=[1.0, 2.0, 3.0]), Curve(x=[0, 1], y=[3.0, 4.0])]
    assert mean_curve(curves) == Curve(x=[0, 1], y=[2.0, 3.0])
    twice = Curve(x=[0, 0], y=[1.0, 2.0])
    assert mean_curve([twice, twice]) == twice
    found = Found(curves={"loss": curves})
    (late,) = judge({"loss": expected(at=[2], value=[3.0])}, found, True)
    assert late.within is False


def test_two_that_diverged_apart_are_no_number():
    found = Found(numbers={"x": [math.inf, -math.inf]})
    assert judge({"x": expected(at_most=1.0)}, found, True)[0].within is False


def test_what_decides_nothing_may_be_missing():
    for same, origin in ((True, "recalled"), (False, "printed")):
        expect = {"x": expected(value=1.0, origin=origin)}
        (found_line,) = judge(expect, Found(), same)
        assert found_line.within is None
        assert "nothing is called" in found_line.remark


def test_curves_are_read_at_their_x():
    curves = [Curve(x=[0, 10, 20], y=[1.0, y, 3.0]) for y in (2.0, 4.0)]
    found = Found(curves={"loss": curves})
    one = judge({"loss": expected(at=[10], value=[3.0])}, found, True)[0]
    assert one.within  # The mean of the seeds.
    every = judge({"loss": expected(at_least=2.0)}, found, True)[0]
    assert not every.within
    assert "1, 3" in every.ours
    part = judge({"loss": expected(at=[10, 20], at_least=2.0)}, found, True)[0]
    assert part.within
    nowhere = judge({"loss": expected(at=[15], value=[3.0])}, found, True)[0]
    assert not nowhere.within
    assert "no x = 15" in nowhere.remark


def test_the_worst_point_of_a_curve_decides():
    found = Found(curves={"loss": [Curve(x=[0, 1], y=[1.0, 2.3])]})
    expect = {"loss": expected(at=[0, 1], value=[1.0, 2.0], tolerance=0.1)}
    (found_line,) = judge(expect, found, True)
    assert not found_line.within
    assert found_line.off == pytest.approx(3.0)


def test_what_was_not_measured_is_outside():
    (found,) = judge({"ende": expected(value=1.0)}, Found(numbers={"end": [1.0]}), True)
    assert found.within is False
    assert 'did you mean "end"' in found.remark


def test_a_place_beyond_a_shorter_run_decides_nothing_in_another_setting():
    found = Found(curves={"loss": [Curve(x=[0, 1], y=[2.0, 1.0])]})
    expect = {"loss": expected(at=[10], value=[0.5])}
    for same, within in ((True, False), (False, None)):
        (found_line,) = judge(expect, found, same)
        assert found_line.within is within
        assert found_line.ours == "not measured"


def test_a_failure_is_no_success():
    assert succeeded([], Found())
    with pytest.raises(ValidationError, match="2 x and 1 y"):
        Curve(x=[0, 1], y=[0.0])
    assert not succeeded([], Found(failures=["seed 0"]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"value": 1.0, "at_most": 2.0},
        {"value": 1.0, "below": "b"},
        {"value": [1.0, 2.0], "at": [1.0]},
        {"value": 1.0, "at": [1.0, 2.0]},
        {"value": 1.0, "factor": 1.0},
        {"value": 1.0, "tolerance": -1.0},
        {"value": 1.0, "origin": "Table 1"},
        {"value": []},
        {"value": math.nan},
        {"value": 1.0, "tolerance": math.inf},
        {"at_most": math.inf},
        {"at_most": 1.0, "tolerance": 0.1},
        {"below": "b", "relative": 0.1},
        {"value": 1.0, "factor": 2.0, "tolerance": 0.1},
        {"value": 0.0, "factor": 2.0},
        {"at_least": 2.0, "at_most": 1.0},
    ],
)
def test_expectations_that_say_nothing_are_refused(fields):
    with pytest.raises(ValidationError):
        expected(**fields)


# The command.


def test_all_within_is_zero_and_leaves_a_page(write, reproduce, tmp_path):
    result = reproduce(write())
    assert result.exit_code == 0, result.output
    assert "2 of 2 within" in result.stdout
    folder = tmp_path / "runs/try/reproduce"
    page = (folder / "README.md").read_text()
    for text in ("A ramp", "Nobody 2026", "It rises.", "0, 4", "closed form", "within"):
        assert text in page
    assert f"![A ramp]({(folder / 'try.png').name})" in page
    assert (folder / "try.png").read_bytes().startswith(b"\x89PNG")
    found = Found.model_validate_json((folder / "found.json").read_text())
    assert found.numbers["end"] == [8.0]
    assert found.seconds > 0


def test_one_outside_is_one_and_says_by_how_much(write, reproduce, tmp_path):
    result = reproduce(write(CONFIG.replace("[0.0, 4.0]", "[0.0, 4.03]")))
    assert result.exit_code == 1
    assert "OUTSIDE" in result.stdout
    assert "1 of 2 within" in result.stdout
    page = (tmp_path / "runs/try/reproduce/README.md").read_text()
    assert "OUTSIDE, 3 x what is allowed" in page


def test_another_setting_is_not_held_against_the_paper(write, reproduce, tmp_path):
    result = reproduce(write(), "--set", "paper.slope=3.0")
    assert result.exit_code == 0
    assert "0 of 0 within" in result.stdout
    assert "12" in result.stdout
    page = (tmp_path / "runs/try/reproduce/README.md").read_text()
    command = f"reproduce {write()} --tasks {RAMP} --set paper.slope=3.0`"
    assert f"`python -m experiments {command} took" in page
    unchanged = reproduce(write(), "--set", "paper.slope=2.0")
    assert "2 of 2 within" in unchanged.stdout
    assert "0 of 0 within" in reproduce(write(), "--seed", "3").stdout


def test_precision_is_that_of_the_paper(write, reproduce, tmp_path):
    assert reproduce(write(), "--set", "paper.precision=float64").exit_code == 0
    found = json.loads((tmp_path / "runs/try/reproduce/found.json").read_text())
    assert found["numbers"]["bits"] == [1.0]


def test_methods_and_seeds(write, reproduce, tmp_path):
    text = CONFIG.replace('name = "try"', 'name = "try"\nseeds = [1, 2]')
    text = text.replace("[expect.height]", '[expect."steep.height"]')
    text = text.replace("value = [0.0, 4.0]", "value = [0.0, 6.0]")
    text = text.replace("[expect.end]", '[expect."flat.end"]')
    text += "[compare.methods.flat]\n[compare.methods.steep]\ntitle = 'Steep'\n"
    text += "paper = { slope = 3.0 }\n[expect.order]\nquantity = 'flat.end'\n"
    text += "below = 'steep.end'\norigin = 'claim'\n"
    result = reproduce(write(text))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "runs/try/reproduce/found.json").read_text())
    assert found["methods"] == {"flat": "flat", "steep": "Steep"}
    assert found["numbers"]["steep.end"] == [12.0, 12.0]
    noises = found["numbers"]["flat.noise"]
    assert noises == found["numbers"]["steep.noise"]
    assert noises[0] != noises[1]


def test_resume_keeps_what_is_done(write, reproduce, tmp_path):
    config = write()
    assert reproduce(config).exit_code == 0
    (done,) = (tmp_path / "runs/try").rglob("DONE")
    table = json.loads(done.read_text())
    table["measured"]["numbers"]["end"] = 7.0
    done.write_text(json.dumps(table))
    assert reproduce(config, "--resume").exit_code == 1  # The changed file was read.
    assert reproduce(config).exit_code == 0  # It is measured again.
    done.write_text("{}")
    damaged = reproduce(config, "--resume")
    assert damaged.exit_code == 1
    assert "failed: seed 0:" in damaged.output
    assert "delete the folder" in damaged.output


def test_damage_costs_one_run(write, reproduce, tmp_path):
    config = write(CONFIG.replace('name = "try"', 'name = "try"\nseeds = [1, 2]'))
    assert reproduce(config).exit_code == 0
    (done,) = (tmp_path / "runs/try").rglob("seed=1/DONE")
    done.write_text("{ torn")
    result = reproduce(config, "--resume")
    assert result.exit_code == 1
    assert "2 of 2 within, 1 failed" in result.stdout
    done.unlink()
    assert reproduce(config, "--resume").exit_code == 0


def test_a_method_that_fails_is_a_line_and_the_others_finish(write, reproduce):
    text = CONFIG.replace("[expect.height]", '[expect."good.height"]')
    text = text.replace("[expect.end]", '[expect."bad.end"]')
    text += "[compare.methods.bad]\npaper = { broken = true }\n[compare.methods.good]\n"
    result = reproduce(write(text))
    assert result.exit_code == 1
    assert "failed: bad · seed 0: ValueError: slope must be whole" in result.stdout
    assert "not measured" in result.stdout
    assert "1 of 2 within" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[expect", "[ablate"), "nothing is expected"),
        (('name = "ramp"', 'name = "ramps"'), 'did you mean "ramp"'),
        (('name = "ramp"', 'name = "ramp"\nslop = 1.0'), 'did you mean "slope"'),
        (("[paper]", "[estimator]\nname = 'Reverse'\n[paper]"), "its own rule"),
        (("[paper]", "[budget]\ntrainings = 3\n[paper]"), "no meaning beside [paper]"),
        (('origin = "printed"', 'origin = "Table 1"'), "closed form"),
    ],
)
def test_configs_that_are_refused(write, reproduce, change, message):
    text = CONFIG.replace(*change)
    if "nothing" in message:
        text = CONFIG[: CONFIG.index("[expect")]
    result = reproduce(write(text))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_paper_is_no_search(write):
    for command in ("run", "compare", "verify"):
        arguments = [command, write(), "--tasks", str(RAMP)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "python -m experiments reproduce" in result.output


def test_a_result_of_the_wrong_kind_is_a_failure(write, reproduce):
    result = reproduce(write(), "--set", "paper.wrong=true")
    assert result.exit_code == 1
    assert "failed: seed 0: ValidationError" in result.stdout
    assert "Traceback" not in result.output


def test_brackets_are_printed_as_they_are(write, reproduce):
    text = CONFIG.replace("[expect.end]", '[expect.end]\ntitle = "loss [train] [/b]"')
    assert "loss [train] [/b]" in reproduce(write(text)).stdout


def test_why_there_is_no_number_is_said(write, reproduce, tmp_path):
    result = reproduce(write(CONFIG.replace("at = [0, 2]", "at = [0, 2.5]")))
    assert "height: the curve 'height' has no x = 2.5" in result.stdout
    text = CONFIG.replace('title = "A ramp"\nreference = "Nobody 2026, figure 1"\n', "")
    assert reproduce(write(text)).exit_code == 0
    page = (tmp_path / "runs/try/reproduce/README.md").read_text()
    assert "**try**\n" in page


def test_check_and_dry_run_print_the_cells(write, reproduce):
    checked = CliRunner().invoke(app, ["check", write(), "--tasks", str(RAMP)])
    assert checked.exit_code == 0
    assert "Ramp()" in checked.stdout
    assert "Ramp()" in reproduce(write(), "--dry-run").stdout


def test_show_prints_what_was_found(write, reproduce, tmp_path):
    reproduce(write())
    (done,) = (tmp_path / "runs/try").rglob("DONE")
    shown = CliRunner().invoke(app, ["show", str(done.parent)])
    assert shown.exit_code == 0
    for pattern in (r"end +8", r"height +8", r"config.paper.slope +2.0"):
        assert re.search(pattern, shown.stdout)
    assert CliRunner().invoke(app, ["show", str(tmp_path / "runs")]).exit_code == 0
    exported = CliRunner().invoke(app, ["tensorboard", str(tmp_path / "runs/try")])
    assert exported.exit_code == 2
    assert "no trials" in exported.output


def test_one_config_or_all(reproduce, write, tmp_path, monkeypatch):
    assert reproduce().exit_code == 2
    assert reproduce(write(), "--all").exit_code == 2
    monkeypatch.chdir(tmp_path)
    assert "no config here" in reproduce("--all").output
    (tmp_path / "paper_configs").mkdir()
    write(CONFIG.replace('"try"', '"first"'), "paper_configs/first.toml")
    second = CONFIG.replace('"try"', '"second"').replace("8.0", "9.0")
    write(second, "paper_configs/second.toml")
    write("[task]\nname = 'digits'\n", "paper_configs/third.toml")
    result = reproduce("--all", "--page", "docs/all.md")
    assert result.exit_code == 1, result.output
    page = (tmp_path / "docs/all.md").read_text()
    assert "| [first](#first) | Nobody 2026, figure 1 | 2 of 2 within |" in page
    assert "1 of 2 within" in page
    assert "third" not in page
    for image in re.findall(r"!\[.*\]\((.*)\)", page):
        assert (tmp_path / "docs" / image).is_file()


def test_a_page_that_cannot_be_written_is_said_before_the_work(
    reproduce, write, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper_configs").mkdir()
    write(CONFIG, "paper_configs/try.toml")
    (tmp_path / "folder.md").mkdir()
    for page in ("paper_configs/try.toml/all.md", "folder.md"):
        result = reproduce("--all", "--page", page)
        assert result.exit_code == 2
        assert "cannot write" in result.output
    assert not [*tmp_path.rglob("DONE")]
    assert reproduce("paper_configs/try.toml", "--page", "all.md").exit_code == 2
    assert reproduce("--all", "--page", "all").exit_code == 0
    assert "(all_files/try.png)" in (tmp_path / "all").read_text()


def test_one_that_cannot_be_run_does_not_take_the_page_from_the_others(
    reproduce, write, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper_configs").mkdir()
    for name in ("first", "second"):
        text = CONFIG.replace('"try"', f'"{name}"')
        write(text, f"paper_configs/{name}.toml")
    write(text, "paper_configs/third.toml")
    refused = reproduce("--all")
    assert refused.exit_code == 2
    assert refused.output.count("names of their own") == 2
    (tmp_path / "paper_configs/third.toml").unlink()
    with leading(tmp_path / "runs", "first"):
        result = reproduce("--all", "--page", "all.md")
    assert result.exit_code == 1
    assert "being written by another process" in result.stdout
    page = (tmp_path / "all.md").read_text()
    assert "0 of 2 within, 1 failed" in page
    assert "2 of 2 within" in page


# Ordinary configs.


def test_the_quantities_of_a_comparison(comparison):
    page = comparison(seeds=3)
    (study,) = page.studies
    found = of_comparison(page, [])
    method = study.methods[0]
    means = [np.mean(seed.test) for seed in method.seeds]
    assert found.numbers[f"{method.label}.test"] == pytest.approx(means)
    assert len(found.curves[f"{method.label}.values"]) == 3
    diverged = method.seeds[0].model_copy(update={"values": [math.nan, 2.0, math.nan]})
    lost = method.seeds[1].model_copy(update={"values": [math.nan]})
    methods = [method.model_copy(update={"seeds": [diverged, lost]})]
    one = study.model_copy(update={"methods": methods})
    alone = of_comparison(page.model_copy(update={"studies": [one]}), [])
    least, nothing = alone.numbers["least"]
    assert least == 2.0
    assert math.isnan(nothing)
    assert math.isnan(alone.curves["best"][0].y[0])
    assert alone.curves["best"][0].y[1:] == [2.0, 2.0]
    other = study.model_copy(update={"label": "other"})
    several = of_comparison(page.model_copy(update={"studies": [study, other]}), [])
    assert f"{study.label}.{method.label}.test" in several.numbers


def test_an_ordinary_config_is_run_and_judged(write, tmp_path):
    text = """
    [task]
    name = "valley"
    [searcher]
    name = "RandomSearch"
    batch = 1
    [budget]
    trainings = 2
    retrain = 1
    [expect.least]
    at_least = 0.0
    origin = "identity"
    [expect.test]
    value = -1.0
    origin = "recalled"
    """
    arguments = [write(text), "--tasks", str(VALLEY), "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, ["reproduce", *arguments])
    assert result.exit_code == 0, result.output
    assert "1 of 1 within" in result.stdout
    assert "recalled" in result.stdout
    found = json.loads((tmp_path / "runs/try/reproduce/found.json").read_text())
    first, second = found["curves"]["values"][0]["y"]
    assert found["curves"]["best"][0]["y"] == [first, min(first, second)]
    assert found["numbers"]["least"] == [min(first, second)]


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("searcher.name=SobolSearch", True),
        ("budget.execution=loop", True),
        ("budget.trainings=3", False),
        ("hparams.rate.high=0.4", False),
        ("seeds=[4]", False),
    ],
)
def test_what_is_another_setting_of_an_ordinary_config(write, setting, same):
    text = "[task]\nname = 'valley'\n[searcher]\nname = 'RandomSearch'\n"
    text += "[budget]\ntrainings = 2\n[expect.least]\nat_least = 0.0\norigin = 'claim'"
    load_tasks((VALLEY,))
    origin = Origin(config=write(text), settings=(setting,))
    assert planned(origin).same is same


# The figure.


def test_published_points_are_rings_and_lines_are_ours():
    found = Found(
        methods={"a": "A", "b": "B"},
        curves={
            "a.loss": [Curve(x=[0, 1], y=[1.0, 2.0])],
            "b.loss": [Curve(x=[0, 1], y=[2.0, 3.0])],
        },
    )
    panels = (Panel("Loss", ("loss",), "step", "F"), Panel("None", ("no",), "x", "y"))
    expect = {"a.loss": expected(at=[1], value=[2.5])}
    figure = draw(panels, found, expect)
    assert figure is not None
    axes = [axes for axes in figure.axes if axes.get_visible()]
    assert len(axes) == 1
    rings = [line for line in axes[0].get_lines() if line.get_marker() == "o"]
    assert np.asarray(rings[0].get_ydata()).tolist() == [2.5]
    legend = axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["A", "B", "published"]
    assert draw((), Found(), {}) is None


def test_what_cannot_be_drawn_is_left_out():
    pictures = {"none": [], "ragged": [[[1.0]], [[1.0, 2.0]]], "one": [[[1.0, 0.0]]]}
    curves = {"loss": [Curve(x=[], y=[])], "lost": [Curve(x=[1], y=[math.nan])]}
    found = Found(methods={"": ""}, curves=curves, pictures=pictures)
    figure = draw((Panel("Loss", ("loss", "lost"), "x", "y", "xy"),), found, {})
    assert figure is not None
    drawn = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert drawn == ["Loss", "one"]


def test_a_short_logarithmic_axis_has_plain_numbers():
    curves = {"a": [Curve(x=[16, 256], y=[1.0, 30.0])]}
    found = Found(methods={"": ""}, curves=curves)
    figure = draw((Panel("", ("a",), "x", "y", "xy"),), found, {})
    assert figure is not None
    figure.canvas.draw()
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert {"20", "50", "100", "200"} <= set(labels)
