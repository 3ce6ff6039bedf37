"""The table of `verify` as text: a row an estimator."""

from experiments.results import EstimatorRow

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
