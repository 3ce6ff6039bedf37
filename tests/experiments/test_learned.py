"""What the page says was learned, and by how much that beats the untuned model."""

import pytest

from experiments.report.learned import MAX_ROWS, learned
from experiments.report.page import columns, rows, write_report
from experiments.results import MethodResult, SeedResult, StudyResult


def seed(number, test=0.9, hparams=None, choices=None, objective=(0.5, 0.7)):
    return SeedResult(
        seed=number,
        objective=list(objective),
        validation=[test],
        test=[test],
        hparams=hparams or {},
        choices=choices or {},
    )


def study(searched, defaults=None):
    reference = MethodResult(
        label="defaults",
        title="untuned",
        kind="reference",
        seeds=[seed(n, test) for n, test in enumerate((0.80, 0.82, 0.81))],
    )
    method = MethodResult(label="g", title="gradient", kind="gradient", seeds=searched)
    methods = [method, reference]
    return StudyResult(label="a", title="A", methods=methods, defaults=defaults or {})


def test_a_number_is_shown_by_its_mean_and_range_over_seeds():
    searched = [seed(n, hparams={"rate": x}) for n, x in enumerate((0.1, 0.2, 0.6))]
    found = learned(study(searched, {"rate": 0.05}))
    assert found.columns == ["default", "gradient"]
    assert found.rows == [("learning rate", "rate", ["0.05", "0.3 (0.1 to 0.6)"])]


def test_small_arrays_are_written_out_and_large_ones_are_summarised():
    hparams = {"weights": list(range(101)), "l2": [[1.0, 2.0], [3.0, 4.0]], "rate": 1.0}
    found = learned(study([seed(0, hparams=hparams)], {"weights": [7.0] * 101}))
    names = [name for _, name, _ in found.rows]
    assert names == ["weights", "l2[0,0]", "l2[0,1]", "l2[1,0]", "l2[1,1]", "rate"]
    words, _, cells = found.rows[0]
    assert words == "weights, all 101"
    assert cells == ["7", "50 (0 to 100)"]
    assert found.rows[3][2] == ["–", "3"]


def test_rows_stay_few():
    hparams = {f"x{i}": [1.0] * 5 for i in range(4)}
    found = learned(study([seed(0, hparams=hparams)]))
    assert len(found.rows) == 2 * 5 + 2 <= MAX_ROWS


def test_options_are_counted():
    options = ({"model.depth": 2}, {"model.depth": 2}, {"model.depth": 1})
    searched = [seed(n, choices=c) for n, c in enumerate(options)]
    found = learned(study(searched, {"model.depth": 1}))
    row = ("depth of the model", "model.depth", ["1", "2 ×2, 1 ×1"])
    assert found.rows == [row]


def test_discounts_near_one_are_told_apart():
    found = learned(study([seed(0, hparams={"discount": 0.9995})], {"discount": 0.99}))
    assert found.rows[0][2] == ["0.99", "0.9995"]


def test_nothing_was_learned_where_nothing_searched():
    only = study([]).methods[1:]
    assert learned(StudyResult(label="a", title="A", methods=only)) is None


def test_the_table_says_how_far_from_the_untuned_model(comparison):
    """Differences 0.10, 0.09, 0.08: mean 0.09, half width 4.303 · 0.01 / √3."""
    page = comparison()
    searched = [seed(n, test) for n, test in enumerate((0.90, 0.91, 0.89))]
    heads = columns(page)
    tuned, untuned = (
        dict(zip(heads, row, strict=True)) for row in rows(study(searched))
    )
    assert tuned["test less untuned"] == "+0.090 ± 0.025"
    assert untuned["test less untuned"] == "–"
    assert tuned["validation loss F, retrained"] == "0.600 ± 0.000"


@pytest.mark.parametrize("objective", [(), (float("inf"), 1.0)])
def test_a_retraining_that_diverged_or_is_unknown(comparison, objective):
    searched = [seed(n, objective=objective) for n in range(3)]
    shown = dict(zip(columns(comparison()), rows(study(searched))[0], strict=True))
    expected = "diverged" if objective else "–"
    assert shown["validation loss F, retrained"] == expected


def test_the_page_has_the_section(tmp_path, comparison):
    page = write_report(tmp_path, comparison(drawn=False)).read_text()
    assert "What was learned" in page
    assert "<td>momentum</td>" in page
