"""The page: self-contained, whole, and honest in its first line."""

import base64
import re
from html.parser import HTMLParser

import matplotlib.image
import pytest

from experiments import plots
from experiments.report import columns, rows, write_report
from experiments.results import Comparison

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
        assert not re.search(rb'href="http|<script|<image', svg)


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
    figures = ("summary", "schedules", "distributions", "trajectories")
    assert names == {f"a-{figure}.png" for figure in figures}
    assert matplotlib.image.imread(written / "a-summary.png").shape[1] > 1500


def test_the_numbers_beside_it_are_the_page(written, comparison):
    text = (written / "report.json").read_text()
    back = Comparison.model_validate_json(text)
    assert back == comparison(reference=0.97)


def test_the_same_numbers_make_the_same_figure(comparison):
    page = comparison(drawn=False)
    once, again = (
        plots.as_svg(plots.figures(page.studies[0], page)["summary"]) for _ in range(2)
    )
    assert once == again


def test_gradients_are_warm_and_no_two_searches_share_a_colour(comparison):
    study = comparison().studies[0]
    hues = plots.colors(study)
    searched = [hues[m.label] for m in study.methods if m.kind != "reference"]
    assert len(set(searched)) == len(searched)
    assert hues["gradient"] == "#D55E00"


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
    assert [path.name for path in tmp_path.glob("*.png")] == ["a-summary.png"]
