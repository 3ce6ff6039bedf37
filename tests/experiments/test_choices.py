"""Discrete hyperparameters of a config: what they mean, how they run and fail."""

import json
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field, model_validator

import hypergrad as hg
from experiments import engine
from experiments.configs import refusals
from experiments.configs.cells import load
from experiments.configs.choices import hashable, rebuilt, told
from experiments.configs.faults import ConfigError
from experiments.configs.refusals import refusal
from experiments.registry import Task, register
from experiments.runs.programs import Programs
from experiments.runs.seed_run import SeedRun
from experiments.storage import journal

PLACES = {"a": 0.1, "b": 0.5, "c": 0.8}


@register("hills")
class Hills(Task):
    """F = the hill's height + Σ (x - its place)² / rise, in closed form."""

    hill: Literal["a", "b", "c"] = "b"
    size: tuple[Annotated[int, Field(ge=1)], ...] = (3,)
    knots: Annotated[int, Field(ge=1)] = 2
    limit: int = 4
    metric: ClassVar[str] = "distance"
    higher_is_better: ClassVar[bool] = False

    @model_validator(mode="after")
    def _within(self):
        if max(self.size) > self.limit:
            raise ValueError(f"size exceeds the limit {self.limit}")
        return self

    def space(self):
        return hg.Space({"x": hg.Linear(0.0, 1.0, shape=self.knots)})

    def value(self, x):
        return 0.1 / sum(self.size) + ((x - PLACES[self.hill]) ** 2).sum()

    def problem(self, seed):
        return hg.Problem.from_step(
            start=lambda hp, tick: hp["x"],
            step=lambda hp, x, tick: x,
            outer_at=lambda hp, x, tick: self.value(x) + 0.01 * seed,
            num_steps=1,
        )

    def validation(self, seed):
        return lambda x, hparams: {"distance": self.value(x)}

    test = validation


class Model(BaseModel):
    width: int = 4


@register("nested")
class Nested(Hills):
    model: Model = Model()


CONFIG = """
name = "try"
[task]
name = "hills"
[estimator]
name = "Reverse"
[searcher]
name = "RandomSearch"
batch = 2
[budget]
trainings = 12
cost_multiple = 3.0
retrain = 2
execution = "loop"
[choices]
hill = ["a", "b", "c"]
size = [[2], [3], [1, 3]]
"""
COMPARISON = """
[compare.studies.a]
[compare.studies.b]
[compare.methods.random]
studies = ["a"]
[compare.methods.gradient]
searcher = { name = "GradientSearch", starts = 4 }
studies = ["a"]
[compare.methods.winner]
winner_of = "a"
studies = ["b"]
[compare.methods.plain]
reference = true
studies = ["b"]
"""


@pytest.fixture
def write(tmp_path):
    def write(text=CONFIG):
        path = tmp_path / "try.toml"
        path.write_text(text)
        return path

    return write


def run_cell(cell, root, **changes):
    arguments = {"resume": False, "report": lambda *_: None, "programs": Programs()}
    return SeedRun(cell, 0, root, **(arguments | changes))


# What a config means.


def test_choices_are_fields_of_the_task(write):
    (cell,) = load(write()).cells
    assert cell.space.names == ("x[0]", "x[1]", "hill", "size")
    assert cell.space.default_choices() == {"hill": "b", "size": (3,)}
    task = cell.task_of({"hill": "c", "size": (1, 3)})
    assert task == Hills(hill="c", size=(1, 3))
    assert task is cell.task_of({"hill": "c", "size": (1, 3)})
    assert cell.table["choices"] == {
        "hill": ["a", "b", "c"],
        "size": [[2], [3], [1, 3]],
    }


def test_the_default_is_the_first_option_where_the_task_has_none_of_them(write):
    (cell,) = load(write(), ['choices.hill=["c", "a"]']).cells
    assert cell.space.default_choices()["hill"] == "c"
    assert cell.task.hill == "c"


def test_options_stand_in_for_a_default_that_the_task_does_not_take(write):
    """With limit = 2 the class default size = (3,) is refused, and no option is."""
    settings = ["task.limit=2", "choices.size=[[2], [1, 2]]"]
    (cell,) = load(write(), settings).cells
    assert cell.space.default_choices()["size"] == cell.task.size == (2,)
    named = CONFIG.replace('[task]\nname = "hills"', 'task = "hills"')
    assert load(write(named)).cells[0].task.hill == "b"  # Its own default serves.


@pytest.mark.parametrize("given", [[], ["task.size=[3]"]])
def test_what_no_first_option_puts_right_is_a_fault_of_the_task(write, given):
    size = "[[2], [1]]" if given else "[[3], [1]]"
    with pytest.raises(ConfigError, match="exceeds the limit 2") as caught:
        load(write(), ["task.limit=2", f"choices.size={size}", *given])
    assert caught.value.faults[0].path[0] == "task"


def test_without_choices_the_table_that_is_hashed_is_as_it_was(write):
    (cell,) = load(write(CONFIG.split("[choices]")[0])).cells
    parts = ("task", "estimator", "searcher", "budget", "hparams", "reference")
    assert tuple(cell.table) == (*parts, "winner_of")
    assert cell.task_of({}) is cell.task


def test_overlays_change_choices(write):
    extra = '[compare.methods.one]\n[compare.methods.two.choices]\nhill = ["a"]\n'
    one, two = load(write(CONFIG + extra), mode="compare").cells
    assert one.table["choices"]["hill"] == ["a", "b", "c"]
    assert two.table["choices"] == {"hill": ["a"], "size": [[2], [3], [1, 3]]}
    assert len({one.hash, two.hash, one.training, two.training}) == 4


def test_fields_of_a_nested_table(write):
    """[choices] "model.width" and [choices.model] width are one choice."""
    base = CONFIG.split("[choices]")[0].replace("hills", "nested")
    dotted, table = (
        '[choices]\n"model.width" = [2, 4]',
        "[choices.model]\nwidth = [2, 4]",
    )
    one, two = (load(write(base + text)).cells[0] for text in (dotted, table))
    assert one.hash == two.hash
    assert one.space.default_choices() == {"model.width": 4}
    assert one.task_of({"model.width": 2}).model == Model(width=2)
    with pytest.raises(ConfigError, match='did you mean "width"'):
        load(write(base + '[choices]\n"model.widht" = [2]'))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("choices.hil=['a']", 'did you mean "hill"'),
        ("choices.hill.width=[5]", "unknown key"),
        ("choices.hill=[]", "a list of options"),
        ("choices.hill='a'", "a list of options"),
        ("choices.hill=['a', 'd']", r"\[choices\] hill: not an option"),
        ("choices.hill=['a', 'a']", "must differ"),
        ("choices.hill=[{}]", "not an option"),
        ("choices.num_train=[100, 200]", "says what is asked"),
        ("choices.limit=[5, 5.0]", "not an option"),
        ("choices.limit=[5, true]", "not an option"),
        ("choices.size=[[5]]", "exceeds the limit 4"),
        ("choices.knots=[2, 3]", r"knots = 3 has x\[3\](.|\n)*x\[2\]"),
        ("choices.x=[1]", "continuous hyperparameter of the task already"),
    ],
)
def test_wrong_choices_say_where_and_why(write, setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(write(), [setting])
    assert len(caught.value.faults) == 1, str(caught.value)


def test_options_that_do_not_go_together_are_refused(write):
    with pytest.raises(ConfigError, match="exceeds the limit 3"):
        load(write(), ["choices.limit=[3, 4]", "choices.size=[[3], [4]]"])


def test_the_winner_of_other_choices_is_refused(write):
    path = write(CONFIG + COMPARISON)
    with pytest.raises(ConfigError, match=r"other \[choices\]"):
        load(path, ['compare.methods.winner.choices.hill=["a"]'], mode="compare")


def test_what_is_no_scalar_becomes_hashable_and_readable():
    assert hashable([[3, 3], [5, 5]]) == ((3, 3), (5, 5))
    assert hashable({"name": "adam"}) == "adam"
    assert hashable({"name": "adam", "b1": 0.8}) == "adam(b1=0.8)"
    assert told({"a": "gru", "b": (3, 5)}) == "a = gru, b = [3, 5]"


# How they run.


def test_each_trial_trains_the_task_of_its_choices(write, tmp_path):
    (cell,) = load(write(), ["budget.finalists=2"]).cells
    programs = Programs()
    result = run_cell(cell, tmp_path, programs=programs).result(None)
    folder = tmp_path / "try" / cell.hash / "seed=0"
    lines = (folder / "trials.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    seen = {str(trial["choices"]) for trial in trials}
    names = [name[0] for name in programs._compiled]
    assert names.count("train") == len(seen) > 2
    assert names.count("ask") == names.count("tell") == 1
    for trial in trials:
        coords = np.asarray(trial["coords"])
        assert cell.space.choices(coords) == hashable_all(trial["choices"])
        value = rebuilt(cell.task, trial["choices"]).value(coords[:2])
        np.testing.assert_allclose(trial["value"], value, rtol=1e-9)
    order = np.argsort([trial["value"] for trial in trials])[:2]
    finalists = {str(trials[i]["choices"]) for i in order}
    assert names.count("retrain") == len(finalists)
    best = min((trials[i] for i in order), key=lambda trial: trial["value"])
    assert best["choices"] == result.choices
    np.testing.assert_allclose(result.test, best["value"], rtol=1e-9)
    assert set(result.trajectories) == set(cell.space.names[:-2])


@pytest.mark.parametrize("layout", ["vmap", "chunk"])
def test_layouts_give_the_same_numbers(write, tmp_path, layout):
    settings = ["choices.size=[[3]]", "searcher.batch=4"]
    (loop,) = load(write(), settings).cells
    (other,) = load(write(), [*settings, f"budget.execution={layout}"]).cells
    a = run_cell(loop, tmp_path).result(None)
    b = run_cell(other, tmp_path).result(None)
    np.testing.assert_allclose(a.values, b.values, rtol=1e-12)
    assert a.choices == b.choices


class Killed(Exception):
    pass


def test_interrupted_and_resumed_equals_undisturbed(write, tmp_path, monkeypatch):
    """Rounds done after the last checkpoint are done again, choice by choice."""
    settings = ["searcher.name=GradientSearch", "searcher.starts=3"]
    (cell,) = load(write(), [*settings, "budget.trainings=45"]).cells
    programs = Programs()
    calm = run_cell(cell, tmp_path / "calm", programs=programs).result(None)
    monkeypatch.setattr(journal, "SAVE_EVERY", 0.0)

    def kill_at(count):
        def report(label, done, total):
            if done == count:
                monkeypatch.setattr(journal, "SAVE_EVERY", 1e9)
            if done == count + 3:
                raise Killed

        return report

    arguments = {"resume": True, "programs": programs}
    for count in (3, 9):
        with pytest.raises(Killed):
            run_cell(
                cell, tmp_path / "killed", report=kill_at(count), **arguments
            ).result(None)
        monkeypatch.setattr(journal, "SAVE_EVERY", 0.0)
    again = run_cell(cell, tmp_path / "killed", **arguments).result(None)
    for name in ("values", "cost", "objective", "test", "hparams", "choices"):
        assert getattr(again, name) == getattr(calm, name), name
    path = tmp_path / "killed" / "try" / cell.hash / "seed=0" / "trials.jsonl"
    trials = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(trials) == 15
    kept = [[str(trial["choices"]) for trial in trials[i::3]] for i in range(3)]
    assert all(len(set(each)) == 1 for each in kept)  # a start keeps its choice
    assert len({each[0] for each in kept}) == 3


@pytest.mark.slow
def test_a_comparison_hands_its_winner_on_and_tells_what_was_chosen(write, tmp_path):
    experiment = load(write(CONFIG + COMPARISON), mode="compare")
    page = engine.run_experiment(experiment, tmp_path, False, lambda *_: None)
    a, b = page.studies
    best = min((m.seeds[0] for m in a.methods), key=lambda s: np.mean(s.validation))
    winner, plain = (method.seeds[0] for method in b.methods)
    assert winner.choices == best.choices
    np.testing.assert_allclose(winner.test, best.test, rtol=1e-6)
    assert plain.choices == {"hill": "b", "size": [3]}
    for method in (*a.methods, *b.methods):
        assert f"chose {told(method.seeds[0].choices)} (1 of 1)" in method.note
    assert any("counts as one whatever its choices" in note for note in a.notes)
    again = engine.run_experiment(experiment, tmp_path, True, lambda *_: None)
    assert again.studies == page.studies


def hashable_all(choices):
    return {name: hashable(option) for name, option in choices.items()}


@pytest.mark.slow
def test_gradient_search_descends_in_each_choice(write, tmp_path):
    settings = ["searcher.name=GradientSearch", "searcher.starts=9"]
    outer = 'searcher.outer={name = "sgd", learning_rate = 0.4}'
    settings += [outer, "budget.trainings=270", "hparams.x.default=0.45"]
    (cell,) = load(write(), settings).cells
    result = run_cell(cell, tmp_path).result(None)
    assert result.choices["size"] == [1, 3]  # the least height, 0.1 / 4
    np.testing.assert_allclose(result.test, 0.1 / 4, atol=1e-6)
    np.testing.assert_allclose(
        result.hparams["x"], PLACES[result.choices["hill"]], atol=1e-3
    )


def test_an_option_that_the_estimator_does_not_serve_is_refused(write, monkeypatch):
    """Asked before anything runs, for each option."""
    (cell,) = load(write(), ["searcher.name=GradientSearch"]).cells
    assert refusal(cell, 0) is None
    monkeypatch.setattr(refusals, "_refusal", only_c_is_refused)
    assert refusal(cell, 0) == "with hill = c, size = [3]: no"


def only_c_is_refused(cell, task, seed):
    return "no" if task.hill == "c" else None
