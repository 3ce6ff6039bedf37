"""A table inside another changes that field's default, and does not forget it."""

import math

import pytest

import hypergrad as hg
from experiments.configs.build import Faults, build, table_of
from experiments.configs.cells import load
from experiments.configs.documents import flatten
from experiments.configs.faults import ConfigError
from experiments.configs.papers import load_paper
from experiments.paper import PAPERS
from experiments.registry import TASKS, load_tasks
from experiments.supervised.networks import Convolutional
from experiments.tasks.images import Images

PAPER = """
name = "descent"
reference = "nobody"
claim = "none"
[paper]
name = "vicol2021_influence"
[estimator]
name = "Reverse"
"""


@pytest.fixture(autouse=True)
def _registered():
    load_tasks()


@pytest.fixture
def paper(tmp_path):
    def paper(*settings, text=PAPER):
        path = tmp_path / "descent.toml"
        path.write_text(text)
        return load_paper(path, settings).cells[0].paper

    return paper


def built(classes, what, table):
    document = flatten({what: table}, "a.toml")
    faults = Faults(document, "a.toml")
    value = build(faults, (what,), classes, what)
    return value, [str(fault) for fault in faults.found]


def test_one_field_of_an_outer_optimiser(paper):
    kept = paper().outer
    assert (kept.name, kept.clip) == ("sgd", math.inf)
    changed = paper("paper.outer.learning_rate=0.25").outer
    assert changed == hg.Outer("sgd", learning_rate=0.25, clip=math.inf)
    assert paper("paper.outer.name=sgd").outer == kept


def test_another_name_is_another_thing(paper):
    assert paper("paper.outer.name=adam").outer == hg.Outer("adam")


def test_a_field_of_a_paper_s_task_and_of_its_model(paper):
    text = PAPER.replace("vicol2021_influence", "finn2017_sinusoid")
    before = paper(text=text)
    assert before.task.tune == ("weights",)
    after = paper("paper.task.model.width=8", "paper.task.shots=5", text=text)
    assert after.task == before.task.model_copy(
        update={
            "shots": 5,
            "model": before.task.model.model_copy(update={"width": 8}),
        }
    )


def test_a_union_is_taken_by_the_name_of_the_default():
    task, faults = built(TASKS, "task", {"name": "images", "model": {"width": 5}})
    assert not faults
    assert task.model == Images().model.model_copy(update={"width": 5})
    cnn = {"name": "cnn", "filters": 3}
    task, _ = built(TASKS, "task", {"name": "images", "model": cnn})
    assert task.model == Convolutional(filters=3)


def test_values_of_the_library(tmp_path):
    text = """
    [task]
    name = "digits"
    [estimator]
    name = "Reverse"
    [searcher]
    name = "GradientSearch"
    """
    path = tmp_path / "search.toml"
    path.write_text(text)
    (cell,) = load(path, ["searcher.outer.b1=0.5"], mode="check").cells
    outer = hg.GradientSearch().outer
    assert cell.searcher.outer.b1 == 0.5
    assert table_of(cell.searcher.outer) == table_of(outer) | {"b1": 0.5}
    classes = {"RandomDirections": hg.RandomDirections}
    default = hg.RandomDirections().directions
    table = {"name": "RandomDirections", "directions": {}}
    assert built(classes, "estimator", table)[0].directions == default


def test_unknown_and_wrong_fields_are_still_faults(paper):
    with pytest.raises(ConfigError, match="rate: wrong value"):
        paper("paper.outer.rate=0.1")
    with pytest.raises(ConfigError, match="learning_rate must be positive"):
        paper("paper.outer.learning_rate=-1.0")
    _, faults = built(PAPERS, "paper", {"name": "finn2017_sinusoid", "task": 3})
    assert "task" in faults[0]
