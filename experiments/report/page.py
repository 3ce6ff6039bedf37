"""One self-contained HTML page for a comparison, and its figures as PNGs beside it."""

import base64
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from experiments.figures import estimator_plots, plots
from experiments.figures.drawing import as_svg, looks, write_pngs
from experiments.report.estimator_tables import ESTIMATOR_COLUMNS, estimator_rows
from experiments.report.learned import learned
from experiments.report.tables import (
    columns,
    overall_table,
    paired_table,
    rows,
    speed_table,
)
from experiments.report.verdict import verdicts
from experiments.results import Comparison, StudyResult
from experiments.statistics.curves import SHARE
from experiments.statistics.intervals import COVERAGE, ENOUGH
from experiments.statistics.methods import over_seeds, preferred, seeds_of, untuned
from experiments.statistics.profiles import normalised
from experiments.storage.files import make_folder, write_bytes

CAPTIONS = {
    "dimensions": (
        "A line a search, by how many hyperparameters a study has. Left: test score as "
        "a share of what the best search of the study gains over the untuned model on "
        "the same seed; right: mean rank on test among searches, a failed or diverged "
        "seed being last. Vertical bars: 95% intervals over seeds."
    ),
    "performance_profile": (
        "Dolan and Moré’s profile: of all problems (a study on one seed) the share on "
        "which a search reaches the target within a factor of the cost (left) or the "
        "seconds (right) of the fastest search there. At 1 ×: where it is fastest; at "
        "the right end: all that it reaches."
    ),
    "optimization_history": (
        "Left and middle: the best validation loss found so far, mean over seeds; the "
        "band is their range. Right: on test, the mean of each seed’s retrainings "
        "(small dots), their mean over seeds and its 95% interval."
    ),
    "intermediate_values": (
        "The first seed: a dot a trial at the step where it stopped, a line to the "
        "trial whose training it went on with."
    ),
    "schedules": "Learned schedules, a line for each seed; dashed, the default.",
    "distributions": "Entries of the chosen hyperparameters, all seeds together.",
    "pictures": "What the chosen hyperparameters look like, on the first seed.",
    "trajectories": "Hyperparameters of the best trial so far, a line for each seed.",
    "edf": (
        "All trials of all seeds, diverged ones included: the further left and up, the "
        "more of its trials are good. The worst fiftieth is off the axis."
    ),
    "slice": "A dot a trial, all seeds; the worst tenth is off the axis.",
    "rank": (
        "A panel a search, a dot a trial of any seed, in the two coordinates whose "
        "rank correlation with F is largest; coloured by rank among all trials."
    ),
    "parallel_coordinate": (
        "The chosen hyperparameters, a line a seed, each coordinate from its least to "
        "its largest among the lines, by its logarithm where that is a wide range."
    ),
    "estimators": (
        "Cosine of the mean estimate to the exact hypergradient; standard deviation, "
        "over keys, of the difference between the two at the same key, relative to "
        "‖dF/dλ‖ (drawn at 1e-8 if below); time and memory of one estimate over those "
        "of one plain training. Colours say what an estimator aims at."
    ),
}


def write_report(folder: Path, comparison: Comparison) -> Path:
    """Write report.html, report.json and the PNGs into a folder; returns the page."""
    make_folder(folder)
    overall = plots.overall_figures(comparison)
    drawn = [plots.figures(study, comparison) for study in comparison.studies]
    write_pngs(folder, "all", overall)
    for study, figures in zip(comparison.studies, drawn, strict=True):
        shown = {name: x for name, x in figures.items() if name not in plots.FOLDED}
        write_pngs(folder, study.label, shown)
    write_bytes(folder / "report.json", comparison.model_dump_json(indent=1).encode())
    page = folder / "report.html"
    write_bytes(page, _html(comparison, overall, drawn).encode())
    return page


def _html(
    page: Comparison, overall: dict[str, Figure], drawn: list[dict[str, Figure]]
) -> str:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = page.trust.estimators
    figure = estimator_plots.estimators(found)
    return environment.get_template("report.html.j2").render(
        page=page,
        verdicts=verdicts(page),
        colors={label: look.color for label, look in looks(page).items()},
        captions=CAPTIONS,
        share=SHARE,
        enough=ENOUGH,
        coverage=", ".join(f"{n}: {share:.0%}" for n, share in COVERAGE.items()),
        zip=zip,
        overall={"figures": _uris(overall), "table": overall_table(page)},
        undecided=_undecided(page),
        columns=columns(page),
        studies=[
            _part(study, page, figures)
            for study, figures in zip(page.studies, drawn, strict=True)
        ],
        estimator_columns=ESTIMATOR_COLUMNS,
        estimator_figure=_data_uri(figure) if figure is not None else None,
        estimator_rows=list(zip(found, estimator_rows(found), strict=True)),
    )


def _part(
    study: StudyResult, page: Comparison, figures: dict[str, Figure]
) -> dict[str, Any]:
    """What the template says of one study."""
    uris = _uris(figures)
    history = uris.pop("optimization_history")
    return {
        "study": study,
        "history": history,
        "figures": {n: uri for n, uri in uris.items() if n not in plots.FOLDED},
        "folded": {n: uri for n, uri in uris.items() if n in plots.FOLDED},
        "rows": list(zip(study.methods, rows(study), strict=True)),
        "speed": speed_table(study),
        "paired": paired_table(study, page),
        "failures": [(m, failure) for m in study.methods for failure in m.failures],
        "preferred": preferred(study, higher=page.higher_is_better),
        "learned": learned(study),
        "untuned": untuned(study),
        "seeds": len(seeds_of(study)),
        "retrain": max(
            (len(s.test) for m in study.methods for s in m.seeds), default=0
        ),
        "intervals": {over_seeds(m, "test").how for m in study.methods} - {""},
    }


def _undecided(page: Comparison) -> list[str]:
    """Studies without a normalised score: no search beats the untuned model there."""
    higher = page.higher_is_better
    return [s.title for s in page.studies if not normalised(s, higher=higher)]


def _uris(figures: dict[str, Figure]) -> dict[str, str]:
    return {name: _data_uri(figure) for name, figure in figures.items()}


def _data_uri(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(as_svg(figure)).decode()}"
