"""Figures: drawn where there is something to draw, and of what they say."""

import math

import numpy as np
import pytest

from experiments.figures import comparison_plots, history_plots, plots, trial_plots
from experiments.figures.drawing import as_svg, looks
from experiments.results import MethodResult, SeedResult, StudyResult

FIGURES = {
    "optimization_history",
    "edf",
    "slice",
    "rank",
    "parallel_coordinate",
    "intermediate_values",
}


def on(page, *methods, **more):
    """The page with one study of these methods, and their looks."""
    study = StudyResult(label="s", title="s", methods=list(methods), **more)
    page = page.model_copy(update={"studies": [study]})
    return study, looks(page)


def search(label, *seeds, kind="baseline"):
    return MethodResult(label=label, title=label, kind=kind, seeds=list(seeds))


def run(values, **more):
    cost = np.arange(1.0, len(values) + 1).tolist()
    history = {"values": values, "cost": cost, "seconds": cost}
    return SeedResult(seed=0, validation=[0.5], test=[0.5], **history, **more)


def lines(axes, least=2):
    return [line for line in axes.get_lines() if len(line.get_xdata()) >= least]


def test_their_names_are_optunas_and_those_that_fold_exist(scaling):
    page = scaling((3,), seeds=2)
    found = plots.figures(page.studies[0], page)
    assert found.keys() >= {"optimization_history", "edf", "slice", "rank"}
    assert set(plots.FOLDED) < FIGURES


def test_trainings_that_went_on_are_joined_to_where_they_came_from(comparison):
    partial = run([5.0, 4.0, 3.0, 2.0], steps=[10, 10, 20, 40], parents=[-1, -1, 1, 2])
    study, found = on(comparison(), search("halving", partial), search("b", run([1.0])))
    figure = history_plots.intermediate_values(study, found)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["halving"]
    joins = [line.get_xydata().tolist() for line in lines(shown[0])]
    assert joins[:2] == [[[10, 4.0], [20, 3.0]], [[20, 3.0], [40, 2.0]]]


def test_whole_trainings_have_no_intermediate_values(comparison):
    full = run([5.0, 4.0], steps=[40, 40], parents=[-1, -1])
    study, found = on(comparison(), search("a", full))
    assert history_plots.intermediate_values(study, found) is None


def test_a_diverged_trial_counts_in_the_distribution(comparison):
    """Of a's four trials two are ≤ 3, one has diverged: the curve ends at 3/4."""
    study, found = on(
        comparison(),
        search("a", run([1.0, 3.0, math.nan, 5.0])),
        search("b", run([2.0, 2.5, 3.5, 4.5])),
    )
    (axes,) = history_plots.edf(study, found).axes
    table = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert table["a"].tolist() == [[1.0, 0.25], [3.0, 0.5], [5.0, 0.75]]
    assert table["b"][-1].tolist() == [4.5, 1.0]


def test_one_search_alone_has_no_distribution_to_compare(comparison):
    study, found = on(comparison(), search("a", run([1.0, 2.0])))
    assert history_plots.edf(study, found) is None


@pytest.mark.parametrize("draw", [trial_plots.slice, trial_plots.rank])
def test_without_coordinates_on_record_there_are_no_dots(comparison, draw):
    study, found = on(comparison(), search("a", run([1.0, 2.0])))
    assert draw(study, found) is None


def test_slices_leave_out_what_diverged_or_stopped_early(comparison):
    tried = {"rate": [0.1, 0.2, 0.3, 0.4]}
    seed = run([4.0, math.nan, 2.0, 1.0], tried=tried, steps=[9, 9, 3, 9])
    study, found = on(comparison(), search("a", seed))
    axes = trial_plots.slice(study, found).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.1, 4.0], [0.4, 1.0]]
    assert trial_plots.rank(study, found) is None  # one coordinate


def test_ranks_are_drawn_in_the_coordinates_that_matter(comparison):
    rng = np.random.default_rng(0)
    x = {name: rng.uniform(size=60) for name in "abc"}
    values = (x["c"] + 0.5 * x["a"]).tolist()
    tried = {name: column.tolist() for name, column in x.items()}
    study, found = on(comparison(), search("s", run(values, tried=tried)))
    axes = trial_plots.rank(study, found).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("c", "a")
    best = axes.collections[0].get_offsets()[-1]  # drawn last, above all others
    first = int(np.argmin(values))
    assert best.tolist() == [x["c"][first], x["a"][first]]


def test_chosen_hparams_run_from_least_to_largest(comparison):
    chosen = [{"rate": r, "l2": [1.0, x]} for r, x in ((0.01, 5.0), (1.0, 6.0))]
    methods = [
        search(label, run([1.0], hparams=hparams))
        for label, hparams in zip("ab", chosen, strict=True)
    ]
    defaults = {"rate": 0.1, "l2": [1.0, 5.5], "model.kind": "cnn"}
    study, found = on(comparison(), *methods, defaults=defaults)
    (axes,) = trial_plots.parallel_coordinate(study, found).axes
    table = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
    assert table["a"] == pytest.approx([0.0, 0.5, 0.0])
    assert table["b"] == pytest.approx([1.0, 0.5, 1.0])
    assert table["default"] == pytest.approx([0.5, 0.5, 0.5])  # rate by its logarithm


def test_dimensions_need_two_and_profiles_two_studies(scaling):
    one = scaling((12,), seeds=2)
    assert comparison_plots.dimensions(one, looks(one)) is None
    assert comparison_plots.performance_profile(one, looks(one)) is None
    same = scaling((12, 12), seeds=2)
    assert comparison_plots.dimensions(same, looks(same)) is None


def test_dimensions_show_each_search_where_it_has_a_score(scaling):
    page = scaling((1, 100, 10_000))
    left, right = comparison_plots.dimensions(page, looks(page)).axes
    drawn = {line.get_label(): line for line in lines(left, 3)}
    assert set(drawn) == {"Gradient", "Hybrid", "Bayesian", "TPE", "CMA-ES", "Random"}
    x = np.asarray(drawn["Gradient"].get_xdata(), float)
    np.testing.assert_allclose(x, [1, 100, 10_000], rtol=0.2)
    best = np.max([line.get_ydata() for line in drawn.values()], axis=0)
    np.testing.assert_allclose(best, 1.0)
    assert right.yaxis_inverted()


def test_forty_methods_are_drawn_without_their_names(scaling):
    """Axes that a legend presses to nothing warn, and a warning is an error."""
    page = scaling((3,), seeds=2)
    (study,) = page.studies
    methods = [
        method.model_copy(
            update={"label": f"{method.label}{i}", "title": f"{method.title} {i}"}
        )
        for i in range(6)
        for method in study.methods
    ]
    study = study.model_copy(update={"methods": methods})
    drawn = plots.figures(study, page.model_copy(update={"studies": [study]}))
    assert "optimization_history" in drawn
    for figure in drawn.values():
        as_svg(figure)
        assert not figure.legends
