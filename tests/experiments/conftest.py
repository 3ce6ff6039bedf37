"""A task file, publishers' data, and a comparison made of random numbers."""

import os
from pathlib import Path

import numpy as np
import pytest

from experiments.results import (
    Comparison,
    MethodResult,
    Reproduction,
    SeedResult,
    StudyResult,
)


@pytest.fixture
def toy() -> Path:
    return Path(__file__).parent / "toy.py"


@pytest.fixture
def real_data(monkeypatch) -> Path:
    """The folder of publishers' files, which HYPERGRAD_DATA then names."""
    beside = Path(__file__).parents[2] / "../shared/data"
    folder = Path(os.environ.get("HYPERGRAD_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no publishers' files: HYPERGRAD_DATA names no folder")
    monkeypatch.setenv("HYPERGRAD_DATA", str(folder.resolve()))
    return folder


@pytest.fixture(scope="session")
def comparison():
    return make_comparison


@pytest.fixture(scope="session")
def scaling():
    return make_scaling


def seed_result(seed, floor, test, *, trials=40, multiple=1.0, drawn=True, search=True):
    rng = np.random.default_rng([seed, int(1000 * test), trials])
    steps = np.arange(1, trials + 1)
    values = floor + 2.0 * np.exp(-steps / 12) + rng.exponential(0.3, trials)
    values[3] = np.inf
    rate = 0.1 * np.exp(-np.linspace(0, rng.uniform(1, 4), 200))
    weights = rng.uniform(size=140), rng.beta(1, 4, size=60)
    return SeedResult(
        seed=seed,
        values=values.tolist() if search else [],
        cost=(multiple * steps).tolist() if search else [],
        seconds=(0.05 * multiple * steps + 0.4).tolist() if search else [],
        objective=(floor + 0.1 + 0.01 * rng.normal(size=5)).tolist(),
        validation=(test + 0.02 + 0.005 * rng.normal(size=5)).tolist(),
        test=(test + 0.01 * rng.normal(size=5)).tolist(),
        seconds_training=0.05 * multiple * trials,
        seconds_searcher=0.4,
        seconds_compile=2.1,
        hparams={"lr": 0.1, "momentum": 0.9},
        schedules={"learning rate": rate.tolist()} if drawn else {},
        trajectories={
            name: np.minimum.accumulate(np.exp(rng.normal(size=trials))).tolist()
            for name in ("lr[0]", "lr[4]", "lr[7]", "momentum", "l2[0]", "l2[1]")
        }
        if search and drawn
        else {},
        distributions={
            "weight of an image": {
                "right label": weights[0].tolist(),
                "wrong label": weights[1].tolist(),
            }
        }
        if search and drawn and multiple > 1
        else {},
        tried={
            name: np.exp(rng.normal(size=trials)).tolist()
            for name in ("lr", "momentum", "l2")
        }
        if search and drawn
        else {},
    )


def make_comparison(gradient=0.93, reference=0.90, seeds=3, drawn=True):
    """Eight methods on one study; without `drawn` there is the first figure only."""
    specs = [
        ("gradient", "Gradient, 4 starts", "gradient", 0.30, gradient, 3.5),
        ("bayes", "Bayesian", "baseline", 0.40, 0.905, 1.0),
        ("sobol", "Sobol", "baseline", 0.45, 0.895, 1.0),
        ("random", "Random", "baseline", 0.47, 0.89, 1.0),
        ("grid", "Grid, 3 tied axes", "baseline", 0.55, 0.875, 1.0),
        ("defaults", "Untuned defaults", "reference", 0.0, 0.84, 1.0),
        ("valid", "Trained on validation only", "reference", 0.0, 0.86, 1.0),
        ("both", "Trained on train + validation", "reference", 0.0, reference, 1.0),
    ]
    methods = [
        MethodResult(
            label=label,
            title=title,
            kind=kind,
            seeds=[
                seed_result(
                    seed,
                    floor,
                    test,
                    trials=int(140 / multiple),
                    multiple=multiple,
                    search=kind != "reference",
                    drawn=drawn,
                )
                for seed in range(seeds)
            ],
            note="grid over rate × momentum × decay: 5×5×5 points" * (label == "grid"),
            cost_multiple=multiple,
            cell=label.encode().hex()[:10],
        )
        for label, title, kind, floor, test, multiple in specs
    ]
    return Comparison(
        name="quickstart",
        title="Hypergradients against grid, random and Bayesian search",
        claim="Digits with 30% wrong labels; twelve hyperparameters at equal cost.",
        metric="accuracy",
        higher_is_better=True,
        studies=[
            StudyResult(
                label="a", title="(a) Twelve <hyperparameters>", methods=methods
            ),
        ],
        notes=["A gradient costs 3.5 trainings, measured once."],
        reproduction=Reproduction(
            command="python -m experiments compare paper_configs/quickstart.toml",
            device="1 x cpu",
            versions={"jax": "0.10.2"},
            seconds=201.0,
            config='name = "quickstart"\n',
        ),
    )


def make_scaling(dimensions=(1, 3, 12, 100, 10_000), seeds=5, drawn=True):
    """Studies of growing dimension, in which gradients gain and all others lose."""
    specs = [
        ("gradient", "Gradient", "gradient", 3.0, 0.015),
        ("hybrid", "Hybrid", "gradient", 3.0, 0.012),
        ("bayes", "Bayesian", "baseline", 1.0, -0.012),
        ("tpe", "TPE", "baseline", 1.0, -0.010),
        ("cmaes", "CMA-ES", "baseline", 1.0, -0.006),
        ("random", "Random", "baseline", 1.0, -0.014),
        ("defaults", "Untuned defaults", "reference", 1.0, 0.0),
        ("both", "Trained on train + validation", "reference", 1.0, 0.002),
    ]
    studies = []
    for dimension in dimensions:
        size = np.log10(dimension)
        methods = []
        for place, (label, title, kind, multiple, slope) in enumerate(specs):
            gain = 0.0 if kind == "reference" else 0.06 + slope * size
            results = [
                seed_result(
                    seed,
                    0.5 - 3 * gain + 0.003 * place,
                    0.8 + gain + 0.01 * np.sin(7 * seed) + 0.003 * np.sin(place + seed),
                    trials=int(90 / multiple),
                    multiple=multiple,
                    search=kind != "reference",
                    drawn=drawn and dimension in (1, 3, 12),
                )
                for seed in range(seeds)
            ]
            methods.append(
                MethodResult(
                    label=label,
                    title=title,
                    kind=kind,
                    seeds=results,
                    cost_multiple=multiple,
                    cell=label.encode().hex()[:10],
                )
            )
        title = f"{dimension:,} hyperparameters"
        label = f"d{dimension}"
        studies.append(
            StudyResult(label=label, title=title, methods=methods, dimension=dimension)
        )
    return make_comparison(drawn=False).model_copy(
        update={"title": "Where each search wins", "studies": studies}
    )
