"""One self-contained HTML page for a comparison, and its figures as PNGs beside it."""

import base64
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from experiments import estimator_plots, plots
from experiments.files import make_folder, write_bytes
from experiments.learned import learned
from experiments.results import (
    Comparison,
    EstimatorRow,
    MethodResult,
    StudyResult,
)
from experiments.statistics import (
    best_so_far,
    difference,
    over_seeds,
    t_interval,
    untuned,
)
from experiments.verdict import number, verdicts, with_interval

CAPTIONS = {
    "summary": (
        "Left and middle: the best validation loss found so far, mean over seeds; the "
        "band is their range. Right: each seed's retrainings on test (small dots), "
        "their mean over seeds and its 95% interval."
    ),
    "schedules": "Learned schedules, a line for each seed; dashed, the default.",
    "distributions": "Entries of the chosen hyperparameters, all seeds together.",
    "pictures": "What the chosen hyperparameters look like, on the first seed.",
    "estimators": (
        "Cosine of the mean estimate to the exact hypergradient; standard deviation, "
        "over keys, of the difference between the two at the same key, relative to "
        "‖dF/dλ‖ (drawn at 1e-8 if below); time and memory of one estimate over those "
        "of one plain training. Colours say what an estimator aims at."
    ),
    "trajectories": "Hyperparameters of the best trial so far, a line for each seed.",
}
COLUMNS = (
    "method",
    "best validation loss",
    "validation loss F, retrained",
    "validation {metric}",
    "test {metric}",
    "test less untuned",
    "gap",
    "trainings",
    "trials",
    "training + searcher + compile, s",
)

ESTIMATOR_COLUMNS = (
    "estimator",
    "aims at",
    "bias",
    "cosine to dF/dλ",
    "norm ratio",
    "variance",
    "own variance",
    "time",
    "memory",
    "verdict",
)


def write_report(folder: Path, comparison: Comparison) -> Path:
    """Write report.html, report.json and the PNGs into a folder; returns the page."""
    make_folder(folder)
    drawn = [plots.figures(study, comparison) for study in comparison.studies]
    for study, figures in zip(comparison.studies, drawn, strict=True):
        plots.write_pngs(folder, study.label, figures)
    write_bytes(folder / "report.json", comparison.model_dump_json(indent=1).encode())
    page = folder / "report.html"
    write_bytes(page, _html(comparison, drawn).encode())
    return page


def rows(study: StudyResult) -> list[list[str]]:
    """The table of a study as text: a row a method, in the order of `COLUMNS`."""
    reference = untuned(study)
    return [_row(method, reference) for method in study.methods]


def columns(comparison: Comparison) -> list[str]:
    """The heads of the table."""
    return [column.format(metric=comparison.metric) for column in COLUMNS]


def estimator_rows(found: list[EstimatorRow]) -> list[list[str]]:
    """The table of estimators as text, in the order of `ESTIMATOR_COLUMNS`."""
    return [_estimator_row(row) for row in found]


def _estimator_row(row: EstimatorRow) -> list[str]:
    if row.refused:
        blank = ["–"] * (len(ESTIMATOR_COLUMNS) - 3)
        return [row.estimator, row.target, *blank, "does not apply"]
    doubt = f", doubtful at {row.doubtful:.0%}" if row.doubtful else ""
    return [
        row.estimator,
        row.target,
        f"{row.bias:.1e} ± {row.standard_error:.0e}",
        f"{row.cosine:.4f}",
        f"{row.norm_ratio:.3g}",
        f"{row.variance:.2g}",
        f"{row.own_variance:.1e}",
        f"{row.time:.1f} ×",
        f"{row.memory:.1f} ×",
        row.verdict + doubt,
    ]


def _row(method: MethodResult, reference: MethodResult | None) -> list[str]:
    seeds = method.seeds
    losses = [best_so_far(seed.values)[-1] for seed in seeds if seed.values]
    validation, test = over_seeds(method, "validation"), over_seeds(method, "test")
    retrained = over_seeds(method, "objective")
    spent = [seed.cost[-1] for seed in seeds if seed.cost]
    trials = [len(seed.values) for seed in seeds if seed.values]
    times = [
        np.mean([getattr(seed, f"seconds_{part}") for seed in seeds])
        for part in ("training", "searcher", "compile")
    ]
    return [
        method.title,
        number(t_interval(losses).mean) if losses else "–",
        with_interval(retrained) if retrained.n else "–",
        number(validation.mean),
        with_interval(test),
        _against(method, reference),
        f"{validation.mean - test.mean:+.3f}",
        f"{np.mean(spent):.0f}" if spent else "–",
        f"{np.mean(trials):.0f}" if trials else "–",
        " + ".join(f"{time:.1f}" for time in times),
    ]


def _against(method: MethodResult, reference: MethodResult | None) -> str:
    """The paired difference on test over the seeds, with its 95% interval."""
    if reference is None or method is reference:
        return "–"
    gap = difference(method, reference)
    if math.isnan(gap.half):
        return f"{gap.mean:+.3f}"
    return f"{gap.mean:+.3f} ± {gap.half:.3f}"


def _html(comparison: Comparison, drawn: list[dict[str, Any]]) -> str:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    studies = [
        {
            "study": study,
            "colors": plots.colors(study),
            "rows": list(zip(study.methods, rows(study), strict=True)),
            "learned": learned(study),
            "untuned": untuned(study),
            "figures": {name: _data_uri(figure) for name, figure in figures.items()},
            "seeds": max(len(method.seeds) for method in study.methods),
            "retrain": max(len(s.test) for m in study.methods for s in m.seeds),
        }
        for study, figures in zip(comparison.studies, drawn, strict=True)
    ]
    figure = estimator_plots.estimators(comparison.trust.estimators)
    return environment.get_template("report.html.j2").render(
        page=comparison,
        verdicts=verdicts(comparison),
        columns=columns(comparison),
        captions=CAPTIONS,
        estimator_columns=ESTIMATOR_COLUMNS,
        estimator_figure=_data_uri(figure) if figure is not None else None,
        estimator_rows=list(
            zip(
                comparison.trust.estimators,
                estimator_rows(comparison.trust.estimators),
                strict=True,
            )
        ),
        studies=studies,
    )


def _data_uri(figure: Any) -> str:
    encoded = base64.b64encode(plots.as_svg(figure)).decode()
    return f"data:image/svg+xml;base64,{encoded}"
