"""The page: self-contained, whole, and honest in its first line."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import pytest
from rich.console import Console

from experiments.figures import plots
from experiments.figures.drawing import as_svg, looks
from experiments.report.page import columns, rows, write_report
from experiments.report.tables import overall_table, paired_table, speed_table
from experiments.results import Comparison, Failure
from experiments.terminal import summary

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting; collects text, links and images."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.urls, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory, comparison):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, comparison(reference=0.97))
    return folder


def test_the_page_needs_nothing_but_itself(written):
    html = (written / "report.html").read_text()
    page = Page(html)
    assert page.urls
    assert all(url.startswith("data:image/svg+xml;base64,") for url in page.urls)
    assert "script" not in page.tags
    assert not re.search(r"@import|url\(|https?://", html.split("<body>")[0])
    for url in page.urls:
        svg = base64.b64decode(url.partition(",")[2])
        assert b"<svg" in svg
        assert not re.search(rb"<script", svg)
        assert not re.search(rb'href="(?!#|data:)', svg)  # rasters are within


def test_it_says_what_it_must(written):
    text = " ".join(" ".join(Page((written / "report.html").read_text()).text).split())
    first = text.index("Trained on train + validation” wins")
    assert first < text.index("The best gradient search")
    for words in (
        "Gradient, 4 starts",
        "Untuned defaults",
        "grid over rate × momentum × decay",
        "measured once",
        "python -m experiments compare paper_configs/quickstart.toml",
        "jax 0.10.2",
        "3 seeds",
        "5 fresh keys",
        "(a) Twelve <hyperparameters>",  # escaped, not a tag
    ):
        assert words in text


def test_the_table_holds_each_method(comparison):
    page = comparison()
    table = rows(page.studies[0])
    assert all(len(row) == len(columns(page)) for row in table)
    by_title = {row[0]: dict(zip(columns(page), row, strict=True)) for row in table}
    gradient = by_title["Gradient, 4 starts"]
    assert (gradient["trainings"], gradient["trials"]) == ("140", "40")
    assert re.fullmatch(r"0\.9\d\d ± 0\.\d{3}", gradient["test accuracy"])
    assert by_title["Untuned defaults"]["trials"] == "–"


def test_the_pngs_beside_it_can_be_read(written):
    names = {path.name for path in written.glob("*.png")}
    figures = {"optimization_history", "schedules", "distributions", "trajectories"}
    assert names == {f"a-{figure}.png" for figure in figures}
    drawn = matplotlib.image.imread(written / "a-optimization_history.png")
    assert drawn.shape[1] > 1500


def test_the_numbers_beside_it_are_the_page(written, comparison):
    text = (written / "report.json").read_text()
    back = Comparison.model_validate_json(text)
    assert back == comparison(reference=0.97)


def test_the_same_numbers_make_the_same_figure(comparison):
    page = comparison(drawn=False)
    once, again = (
        as_svg(plots.figures(page.studies[0], page)["optimization_history"])
        for _ in range(2)
    )
    assert once == again


def test_gradients_are_warm_and_no_two_searches_share_a_colour(comparison):
    page = comparison()
    found = looks(page)
    labels = [m.label for m in page.studies[0].methods if m.kind != "reference"]
    assert len({found[label].color for label in labels}) == len(labels)
    assert found["gradient"].color == "#D55E00"
    assert found["defaults"].color == found["both"].color


def test_twenty_searches_are_told_apart_and_keep_their_look(comparison):
    page = comparison(drawn=False)
    study = page.studies[0]
    many = [study.methods[1].model_copy(update={"label": f"b{i}"}) for i in range(20)]
    studies = [study, study.model_copy(update={"methods": many})]
    found = looks(page.model_copy(update={"studies": studies}))
    told = {found[f"b{i}"][2:4] for i in range(20)}
    assert len(told) == 20
    assert looks(page)["bayes"] == found["bayes"]


def test_one_seed_that_diverged_throughout_still_has_a_page(tmp_path, comparison):
    page = comparison(seeds=1, drawn=False)
    study = page.studies[0]
    broken = (
        study.methods[1]
        .seeds[0]
        .model_copy(update={"values": [float("nan")] * 140, "test": [float("nan")]})
    )
    methods = list(study.methods)
    methods[1] = methods[1].model_copy(update={"seeds": [broken]})
    page = page.model_copy(
        update={"studies": [study.model_copy(update={"methods": methods})]}
    )
    html = write_report(tmp_path, page).read_text()
    assert "diverged" in " ".join(Page(html).text)


def test_a_reference_alone_has_a_page(tmp_path, comparison):
    page = comparison(drawn=False)
    study = page.studies[0]
    only = study.model_copy(update={"methods": study.methods[-1:]})
    write_report(tmp_path, page.model_copy(update={"studies": [only]}))
    names = [path.name for path in tmp_path.glob("*.png")]
    assert names == ["a-optimization_history.png"]


def without(study, label, keep=()):
    """The study in which a method has lost all seeds but some."""
    methods = list(study.methods)
    for i, method in enumerate(methods):
        if method.label == label or label == "all":
            lost = [s.seed for s in method.seeds if s.seed not in keep]
            seeds = [s for s in method.seeds if s.seed in keep]
            failures = [Failure(seed=s, message="Boom: <x>") for s in lost]
            update = {"seeds": seeds, "failures": failures}
            methods[i] = method.model_copy(update=update)
    return study.model_copy(update={"methods": methods})


def read(path):
    return " ".join(" ".join(Page(path.read_text()).text).split())


def test_a_method_that_finished_no_seed_is_listed_and_breaks_nothing(tmp_path, scaling):
    some, whole = scaling((3, 12), drawn=False).studies
    for label in ("gradient", "bayes", "defaults"):
        some = without(some, label)
    studies = [some, without(whole, "all")]
    page = scaling((), drawn=False).model_copy(update={"studies": studies})
    text = read(write_report(tmp_path, page))
    lost = 3 + len(whole.methods)
    assert text.count("Boom: <x>") == 5 * lost
    assert text.count("no seed finished") == lost
    assert "No seed of any method has finished." in text
    console = Console(width=300, file=io.StringIO())
    console.print(summary(page))
    assert "Hybrid has the best mean on test" in console.file.getvalue()


@pytest.fixture(scope="module")
def several(tmp_path_factory, scaling):
    """A page of two studies, in the second of which one seed has failed."""
    page = scaling((1, 100), drawn=False)
    studies = [page.studies[0], without(page.studies[1], "bayes", keep=(0, 2, 3, 4))]
    page = page.model_copy(update={"studies": studies})
    return page, write_report(tmp_path_factory.mktemp("several"), page)


def test_one_seed_that_failed_is_listed_and_the_others_count(several):
    page, path = several
    assert "Bayesian, seed 1. Boom: <x>" in read(path)
    table = speed_table(page.studies[1])
    row = dict(zip(table.labels, table.rows, strict=True))["bayes"]
    assert row[1].endswith("4 of 5")
    paired = paired_table(page.studies[1], page)
    row = dict(zip(paired.labels, paired.rows, strict=True))["bayes"]
    assert row[-1] == "0.125 of 4"


def test_several_studies_have_an_overall_section(several):
    page, path = several
    html = path.read_text()
    assert html.index("All studies together") < html.index("<h2>1 hyperparameters")
    names = {png.name for png in path.parent.glob("all-*.png")}
    assert names == {"all-dimensions.png", "all-performance_profile.png"}
    table = overall_table(page)
    assert table.rows[0][0] in ("Gradient", "Hybrid")
    assert {row[-1] for row in table.rows} == {"2"}


def test_studies_of_one_dimension_have_one_without_its_figure(scaling, tmp_path):
    page = write_report(tmp_path, scaling((12, 12), seeds=2, drawn=False))
    html = page.read_text()
    assert "All studies together" in html
    assert "by dimension" not in html


def test_a_page_of_one_study_has_none(written):
    assert "All studies together" not in (written / "report.html").read_text()
    assert not list(written.glob("all-*"))


def test_the_interval_is_called_what_it_is(written, several):
    few, many = read(written / "report.html"), read(several[1])
    assert "± is Student’s 95% interval" in few
    assert "BCa bootstrap" not in few
    assert "paired tests" not in few
    assert "95% BCa bootstrap interval" in many
    assert "Interquartile means and paired tests" in many
    assert "Student’s 95% interval over seeds" not in many.split("100 hyperp")[1]


def test_what_is_for_a_second_look_is_folded(written):
    html = (written / "report.html").read_text()
    folded = html.index("More figures: edf, slice, rank")
    title = "(a) Twelve &lt;hyperparameters&gt;"
    assert html.index(f'alt="{title}: edf') > folded
    assert html.index(f'alt="{title}: trajectories') < folded
