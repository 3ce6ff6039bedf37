"""Every figure of a page by name; names run parallel to Optuna's visualization."""

from collections.abc import Callable, Mapping

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.figures import (
    comparison_plots,
    history_plots,
    lambda_plots,
    trial_plots,
)
from experiments.figures.drawing import STYLE, Looks, looks
from experiments.results import Comparison, StudyResult

FOLDED = ("edf", "slice", "rank", "parallel_coordinate")  # for a second look


def figures(study: StudyResult, page: Comparison) -> dict[str, Figure]:
    """Every figure that the study has data for, by name."""
    found = looks(page)
    history = history_plots.optimization_history
    return _drawn(
        {"optimization_history": lambda: history(study, page, found)}
        | _of_study(study, found)
    )


def overall_figures(page: Comparison) -> dict[str, Figure]:
    """The figures over all studies; none for a page of one."""
    found = looks(page)
    return _drawn(
        {
            "dimensions": lambda: comparison_plots.dimensions(page, found),
            "performance_profile": (
                lambda: comparison_plots.performance_profile(page, found)
            ),
        }
    )


def _of_study(
    study: StudyResult, found: Looks
) -> dict[str, Callable[[], Figure | None]]:
    drawn = (
        history_plots.intermediate_values,
        lambda_plots.schedules,
        lambda_plots.distributions,
        lambda_plots.pictures,
        lambda_plots.trajectories,
        history_plots.edf,
        trial_plots.slice,
        trial_plots.rank,
        trial_plots.parallel_coordinate,
    )
    return {draw.__name__: lambda draw=draw: draw(study, found) for draw in drawn}


def _drawn(by_name: Mapping[str, Callable[[], Figure | None]]) -> dict[str, Figure]:
    with mpl.rc_context(STYLE):
        made = {name: draw() for name, draw in by_name.items()}
    return {name: figure for name, figure in made.items() if figure is not None}
