"""Documents, values from tables, and cells: what a config means and how it fails."""

import abc
import dataclasses
import json
import re

import pytest

from experiments.configs.build import Faults, build, table_of
from experiments.configs.cells import load
from experiments.configs.documents import flatten, merge, nest, override, read
from experiments.configs.faults import ConfigError
from experiments.registry import load_tasks
from hypergrad.estimators import Reverse, Value
from hypergrad.searchers import GradientSearch, GridSearch, Outer
from hypergrad.unroll import EveryStep, NoCheckpoint, Segments

BASE = """
seeds = [0, 1]
[task]
name = "toy"
noise = 0.3
[estimator]
name = "Reverse"
[searcher]
name = "GradientSearch"
starts = 2
outer = { name = "adam", learning_rate = 0.05 }
"""


@pytest.fixture(autouse=True)
def _registered(toy):
    load_tasks((toy,))


@pytest.fixture
def write(tmp_path):
    def write(text, name="base.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def faults(path, *settings, mode="check"):
    with pytest.raises(ConfigError) as caught:
        load(path, settings, mode=mode)
    return caught.value.faults


def only_fault(path, *settings, mode="check"):
    found = faults(path, *settings, mode=mode)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


# What a config means.


def test_a_config_becomes_values(write):
    (cell,) = load(write(BASE)).cells
    assert cell.task.noise == 0.3
    assert cell.searcher == GradientSearch(Outer("adam", learning_rate=0.05), starts=2)
    assert cell.estimator == Reverse()
    assert cell.budget.retrain == 5
    assert cell.name == "base"


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ('"EveryStep"', EveryStep()),
        ('{name = "Segments"}', Segments()),
        ('{name = "Segments", length = 7}', Segments(7)),
    ],
)
def test_nested_values_take_a_name_or_a_table(write, table, value):
    (cell,) = load(write(BASE), [f"estimator.checkpoint={table}"]).cells
    assert cell.estimator.checkpoint == value


def test_none_stands_for_null(write):
    path = write(BASE)
    (cell,) = load(path, ["estimator.window=3", "estimator.window=none"]).cells
    assert cell.estimator.window is None


def test_a_resolved_table_builds_the_same_cell(write):
    text = "[estimator]\nname='Reverse'\ncheckpoint='EveryStep'\nwindow=3\n"
    (cell,) = load(write(BASE.replace('[estimator]\nname = "Reverse"', text))).cells
    rebuilt = flatten({"seeds": [0, 1]} | cell.table, "again")
    lines = [
        f"{'.'.join(path)} = {json.dumps(leaf.value)}"
        for path, leaf in rebuilt.items()
        if leaf.value not in (None, {}) and path[0] not in ("reference", "winner_of")
    ]
    (again,) = load(write("\n".join(lines), "again.toml")).cells
    assert again.table == cell.table
    assert again.hash == cell.hash


def test_the_hash_sees_values_and_not_their_spelling(write):
    path = write(BASE)
    (cell,) = load(path).cells
    assert re.fullmatch("[0-9a-f]{10}", cell.hash)
    for same in ("task.noise=3e-1", "estimator.checkpoint=NoCheckpoint", "title=x"):
        if same.startswith("estimator") and Reverse().checkpoint != NoCheckpoint():
            continue
        assert load(path, [same]).cells[0].hash == cell.hash, same
    for other in ("task.noise=0.31", "searcher.starts=3", "hparams.lr.default=0.2"):
        assert load(path, [other]).cells[0].hash != cell.hash, other


def test_a_child_extends_its_parents_and_wins(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write(BASE)
    write("[task]\nrows = 9\nnoise = 0.7\n", "deep/other.toml")
    text = 'extends = ["../base.toml", "other.toml"]\n[task]\nnoise = 0.9\n'
    (cell,) = load(write(text, "deep/child.toml")).cells
    assert (cell.task.noise, cell.task.rows) == (0.9, 9)
    assert cell.searcher.starts == 2


def test_another_name_replaces_the_whole_table(write):
    (cell,) = load(write(BASE), ["searcher.name=RandomSearch"]).cells
    assert cell.table["searcher"] == {"name": "RandomSearch", "batch": 1}
    assert isinstance(cell.estimator, Value)


def test_later_settings_win(write):
    settings = ["searcher=GridSearch", "searcher.batch=2", "searcher.batch=3"]
    (cell,) = load(write(BASE), settings).cells
    assert cell.searcher == GridSearch(batch=3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b = 3e-2 ", 0.03),
        ("a.b=adam", "adam"),
        ('a.b="3"', "3"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=true", True),
        ("a.b=x=y", "x=y"),
    ],
)
def test_settings_are_toml_and_bare_words_are_strings(text, value):
    assert nest(override(text)) == {"a": {"b": value}}


def test_merge_keeps_what_the_child_does_not_say():
    base = flatten({"a": {"x": 1, "y": {"name": "P", "k": 2}}, "b": [1, 2]}, "base")
    over = flatten({"a": {"y": {"name": "P", "m": 3}}, "b": [3]}, "over")
    merged = merge(base, over)
    assert nest(merged) == {"a": {"x": 1, "y": {"name": "P", "k": 2, "m": 3}}, "b": [3]}
    assert merged[("a", "y", "m")].source.file == "over"
    assert merged[("a", "x")].source.file == "base"


def test_hparams_move_the_bounds_and_the_default(write):
    settings = ["hparams.lr.high=10.0", "hparams.lr.default=5.0"]
    (cell,) = load(write(BASE), settings).cells
    lr = dict(cell.space.entries)["lr"]
    assert (lr.low, lr.high, lr.default) == (1e-3, 10.0, 5.0)


def test_an_ablation_is_the_product_of_its_lists(write):
    text = BASE + '[ablate]\n"task.noise" = [0.0, 0.5]\n'
    text += 'searcher = ["RandomSearch", {name = "GradientSearch", starts = 3}]\n'
    cells = load(write(text), mode="ablate").cells
    assert [(c.task.noise, type(c.searcher).__name__) for c in cells] == [
        (0.0, "RandomSearch"),
        (0.0, "GradientSearch"),
        (0.5, "RandomSearch"),
        (0.5, "GradientSearch"),
    ]
    assert cells[3].searcher.starts == 3
    assert cells[0].method == "task.noise = 0.0, searcher = RandomSearch"
    assert len({cell.hash for cell in cells}) == 4


COMPARE = """
[compare.studies.few]
title = "few"
[compare.studies.many]
task.rows = 8
[compare.methods.gradient]
[compare.methods.grid]
searcher = {name = "GridSearch", ties = {rate = ["lr"], decay = ["l2"]}}
studies = ["few"]
[compare.methods.defaults]
title = "untuned"
reference = true
[compare.methods.before]
winner_of = "few.grid"
studies = ["many"]
"""


def test_a_comparison_is_studies_times_methods(write):
    cells = load(write(BASE + COMPARE), mode="compare").cells
    assert [(cell.study, cell.method) for cell in cells] == [
        ("few", "gradient"),
        ("few", "grid"),
        ("few", "defaults"),
        ("many", "gradient"),
        ("many", "defaults"),
        ("many", "before"),
    ]
    few, many = cells[1], cells[4]
    assert few.searcher.ties == (("rate", ("lr",)), ("decay", ("l2",)))
    assert few.task.rows == 4
    assert many.task.rows == 8
    assert many.title == "untuned"
    assert many.reference
    assert many.searcher is None
    assert cells[5].winner_of == "few.grid"
    assert cells[5].candidates == (few.hash,)


def test_another_search_makes_another_winner(write):
    path = write(BASE + COMPARE)
    before = load(path, mode="compare").cells[-1]
    setting = ["compare.methods.grid.searcher.batch=2"]
    assert load(path, setting, mode="compare").cells[-1].hash != before.hash


def test_expected_numbers_are_kept(write):
    text = '[expect.loss]\nvalue = 0.5\ntolerance = 0.1\norigin = "printed"\n'
    config = load(write(BASE + text)).config
    assert config.expect["loss"].origin == "printed"


# How it fails.


def test_a_typo_names_file_table_key_and_remedy(write):
    path = write(BASE.replace("noise", "nosie"))
    fault = only_fault(path)
    assert fault.file == str(path)
    assert fault.path == ("task", "nosie")
    assert "did you mean" in str(fault)
    assert "noise" in fault.hint


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("estimator.name=Revers", ["unknown estimator", 'did you mean "Reverse"']),
        ("searcher.name=gradientsearch", ['did you mean "GradientSearch"']),
        ("task.name=toys", ["unknown task", 'did you mean "toy"']),
        ("estimator.checkpoint=Segment", ["unknown checkpoint", '"Segments"']),
        ("estimator.chekpoint=Segments", ["[estimator] chekpoint", '"checkpoint"']),
        ("searcher.starts=2.5", ["[searcher] starts", "2.5", "integer"]),
        ("searcher.starts=two", ['"two"', "integer"]),
        ("searcher.starts=0", ["starts must be a whole number"]),
        ("searcher.outer.name=adamm", ["name must be one of", "adamm"]),
        ("searcher.outer.rate=1", ["[searcher.outer] rate", "learning_rate"]),
        ("searcher.outer.learning_rate=inf", ["learning_rate must be finite"]),
        ('searcher={name="GridSearch",ties={a=["nope"]}}', ["unknown name 'nope'"]),
        ('searcher={name="GridSearch",ties={a="rate"}}', ["[searcher] ties", "list"]),
        ("task.rows=many", ["[task] rows", "integer"]),
        ("task.rows=0", ["rows must be at least 1"]),
        ("budget.trainings=0", ["greater than or equal to 1"]),
        ("budget.execution=fast", ['"loop"', '"vmap"', '"fast"']),
        ("budget.cost_multiple=often", ['"measure" or number']),
        ("budget.cost_multiple=inf", ['"measure" or a finite number']),
        ("budget.cost_multiple=nan", ["a finite number"]),
        ("hparams.lr.default=7.0", ["[hparams] lr", "[0.001, 1.0]", "7.0"]),
        ("hparams.lr.low=-1.0", ["Log needs low > 0"]),
        ("hparams.lrs.low=0.1", ["unknown key", 'did you mean "lr"']),
        ("seeds=[1, 1]", ["each seed once"]),
        ("seeds=[]", ["expected: a list of at least 1 item"]),
        ("seeds=[-1]", ["greater than or equal to 0"]),
        ("seeds=[99999999999999999999]", ["less than or equal to 4294967295"]),
        ("seeds.x=1", ["seeds: wrong value", "list"]),
        ("title.x=1", ["title: wrong value", "string"]),
        ("name.x.y=3", ["name: wrong value", '"x": {"y": 3}', "string"]),
        ("buget.trainings=3", ['did you mean "budget"']),
        ("name=a/b", ["pattern"]),
        ("estimator=Value", ["GradientSearch needs a hypergradient"]),
        ("estimator.gradient=7", ["wrong type", "name ="]),
    ],
)
def test_each_wrong_setting_is_one_clear_message(write, setting, words):
    fault = only_fault(write(BASE), setting)
    assert fault.file.endswith("--set")
    for word in words:
        assert word in str(fault)


@pytest.mark.parametrize("setting", ["searcher.starts", "=3", "a..b=3", "a b=3", "a="])
def test_what_is_no_setting(write, setting):
    assert "a.b=value" in str(only_fault(write(BASE), setting))


def test_all_faults_at_once(write):
    base = write(BASE + "[budget]\nretrain = 0\n")
    child = write('extends = "base.toml"\nfoo = 1\n[task]\nrows = "x"\n', "child.toml")
    settings = ["searcher.startz=3", "estimator.name=Reverze"]
    found = faults(child, *settings)
    assert {(fault.file, fault.path) for fault in found} == {
        (str(base), ("budget", "retrain")),
        (str(child), ("foo",)),
        (str(child), ("task", "rows")),
        ("--set", ("searcher", "startz")),
        ("--set", ("estimator", "name")),
    }


def test_a_fault_in_an_overlay_is_named_where_it_is_written(write):
    text = BASE + COMPARE + "[compare.methods.wide]\nsearcher.starts = 'all'\n"
    fault = only_fault(write(text), mode="compare")
    assert fault.path == ("compare", "methods", "wide", "searcher", "starts")


def test_a_fault_in_an_ablation_is_named_where_it_is_written(write):
    text = BASE + '[ablate]\n"task.noise" = [0.1, "loud"]\n"taks.rows" = [1]\n'
    assert only_fault(write(text)).path == ("ablate", "taks.rows")
    fault = only_fault(write(text.replace('"taks.rows" = [1]', "")))
    assert fault.path == ("ablate", "task.noise")
    assert '"loud"' in fault.got


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('[compare.methods.late]\nwinner_of = "many"', "earlier study"),
        ('[compare.methods.late]\nwinner_of = "few."', "unknown search of few"),
        ("[compare.methods.late]\nstudies = []", "a list of at least 1 item"),
        ('[compare.methods.late]\nstudies=["few", "mny"]', 'did you mean "many"'),
        ("[compare.methods.late]\nsearcer = 'GridSearch'", 'did you mean "searcher"'),
        ("[compare.methods.late]\nreference = 1", "boolean"),
        (
            '[compare.methods.late]\nstudies = ["many"]\nwinner_of = "few.defaults"',
            "unknown search of few",
        ),
    ],
)
def test_labels_of_a_comparison_must_exist(write, line, word):
    found = faults(write(BASE + COMPARE + line), mode="compare")
    assert word in "\n".join(map(str, found))


@pytest.mark.parametrize(
    "text", ["a = 1\na = 2\n", "[task]\nx = 1\n[task]\ny = 1\n", "a.b = 1\na.b = 2"]
)
def test_a_key_given_twice_is_named_with_its_line(write, text):
    fault = only_fault(write(text))
    assert "given twice" in fault.message
    assert re.search(r"base\.toml, line \d", fault.file)
    assert fault.got in text


def test_what_is_no_toml(write):
    fault = only_fault(write("seeds = [0]\ntask = toy\n"))
    assert "line 2" in fault.file
    assert fault.got == "task = toy"


@pytest.mark.parametrize("depth", [60, 3000])
@pytest.mark.parametrize(
    ("opened", "core", "closed"),
    [("[", "0", "]"), ("{x = ", "0", "}"), ("x.", "x = 0", "")],
)
def test_what_is_nested_too_deep(write, opened, core, closed, depth):
    key = "" if opened == "x." else "x = "
    text = key + opened * depth + core + closed * depth
    for fault in (only_fault(write(text)), only_fault(write(BASE), text)):
        assert fault.message == "nested too deep"


def test_a_missing_file_and_a_missing_parent(write, tmp_path):
    assert "no such file" in str(only_fault(tmp_path / "none.toml"))
    fault = only_fault(write('extends = "none.toml"'))
    assert "none.toml" in fault.file
    assert "base.toml extends it" in fault.hint


def test_a_folder_in_place_of_a_file(tmp_path):
    assert "directory" in only_fault(tmp_path).got


@pytest.mark.parametrize("links", [["a", "a"], ["a", "b", "a"], ["a", "b", "c", "b"]])
def test_a_loop_of_extends(write, links):
    for child, parent in zip(links, links[1:], strict=False):
        path = write(f'extends = "{parent}.toml"', f"{child}.toml")
    fault = only_fault(path.with_name("a.toml"))
    assert "loop" in fault.message
    assert " -> ".join(f"{link}.toml" for link in links) in fault.got


def test_a_diamond_of_extends_is_no_loop(write):
    write(BASE)
    write('extends = "base.toml"', "left.toml")
    write('extends = "base.toml"\ntask.rows = 5', "right.toml")
    path = write('extends = ["left.toml", "right.toml"]', "child.toml")
    assert nest(read(path))["task"]["rows"] == 5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("raise RuntimeError('boom')", "RuntimeError on import: boom"),
        ("import sys; sys.exit(3)", "SystemExit on import: 3"),
        ("x = 1", "registers no task"),
    ],
)
def test_a_file_of_tasks_that_is_none(write, text, word):
    with pytest.raises(ConfigError, match=word):
        load_tasks((write(text, "mine.py"),))


def test_tables_of_values():
    table = table_of(GradientSearch(Outer("sgd"), starts=3))
    assert table["outer"]["name"] == "sgd"
    assert table["name"] == "GradientSearch"
    assert "batch" not in table


def test_a_list_of_values_is_built_item_by_item():
    @dataclasses.dataclass(frozen=True)
    class Level(abc.ABC):
        rate: float = 0.1

        @abc.abstractmethod
        def move(self): ...

    @dataclasses.dataclass(frozen=True)
    class Small(Level):
        def move(self): ...

    @dataclasses.dataclass(frozen=True)
    class Tower:
        levels: tuple[Level, ...] = ()

    def built(levels):
        document = flatten({"x": {"name": "Tower", "levels": levels}}, "file.toml")
        faults = Faults(document, "file.toml")
        return build(faults, ("x",), {"Tower": Tower}, "thing"), faults.found

    value, found = built(["Small", {"name": "Small", "rate": 0.5}])
    assert not found
    assert value == Tower((Small(), Small(0.5)))
    value, found = built(["Smal"])
    assert value is None
    assert "unknown levels" in str(found[0])
    assert "Small" in found[0].hint
