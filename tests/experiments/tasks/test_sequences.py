"""Tasks on sequences: text, characters, series and speech, each with its networks."""

import jax
import numpy as np
import pytest

import hypergrad as hg
from experiments.registry import TASKS, load_tasks

load_tasks()

TINY = {"num_steps": 3, "batch_size": 4, "num_train": 8, "num_valid": 6, "num_test": 5}
RNN = {"name": "recurrent", "cell": "rnn", "units": 3}
CNN = {"name": "cnn", "filters": 2, "depth": 1}
FEW = {"mels": 4, "hop_seconds": 0.2}
CHEAP = {"optimizer": "sgd", "fixed": {"momentum": 0.5}}
ROWS = {
    "sentiment": CHEAP | {"model": RNN, "tune": ["rate", "label_smoothing"]},
    "characters": CHEAP | {"model": RNN, "length": 4, "tune": ["rate", "dropout"]},
    "forecasting": CHEAP | {"model": RNN, "length": 4, "tune": ["rate", "noise"]},
    "speech": CHEAP | FEW | {"model": CNN, "tune": ["rate", "decay"]},
}
TUNED = ["rate", "final_rate", "warmup", "b1", "clip_norm", "decay", "dropout"]
DEAR = {"schedule": "cosine", "fixed": {"eps": 1e-3}, "tune": TUNED}
MORE = {
    "sentiment, gru": {"model": {"cell": "gru", "units": 3}},
    "sentiment, lstm": {"model": {"cell": "lstm", "units": 3}},
    "sentiment, transformer": {"model": {"name": "transformer", "width": 4}},
    "characters, lstm": {"model": {"cell": "lstm", "units": 3}, "length": 5},
    "characters, transformer": {
        "model": {"name": "transformer", "width": 4},
        "length": 5,
    },
    "forecasting, gru": {"model": {"cell": "gru", "units": 3}, "length": 5},
    "forecasting, mlp": {"model": {"name": "mlp", "width": 4}, "length": 5},
    "speech, gru": {**FEW, "model": RNN | {"cell": "gru"}},
}
REAL = [
    ("sentiment", "tiny_shakespeare"),
    ("characters", "tiny_shakespeare"),
    ("characters", "wikitext2"),
    *(("forecasting", series) for series in ("co2", "sunspots", "airline", "etth1")),
    ("speech", "spoken_digits"),
]


def task_of(row, **options):
    name = row.split(",")[0]
    return TASKS[name](
        **(TINY | (ROWS[row] if row in ROWS else DEAR | MORE[row]) | options)
    )


@pytest.mark.parametrize(
    "row",
    [
        "sentiment",
        *(pytest.param(r, marks=pytest.mark.slow) for r in ROWS if r != "sentiment"),
        *(pytest.param(r, marks=pytest.mark.slow) for r in MORE),
    ],
)
def test_reverse_is_forward_and_metrics_are_finite(row, key):
    task = task_of(row)
    problem, hparams, metrics = task.problem(0), task.space().defaults(), task.test(0)
    if "clip_norm" in hparams:
        hparams["clip_norm"] = 0.05 * hparams["clip_norm"]  # so that it clips

    def run(hparams, key):
        estimates = [
            hg.estimate(problem, estimator, hparams, (), key)[0]
            for estimator in (hg.Reverse(), hg.Forward())
        ]
        scores = metrics(problem.start(hparams, key), hparams)
        return [e.hypergrad for e in estimates], estimates[0].value, scores

    # These programs run once: most of their time is the compiler's.
    quick = {"xla_backend_optimization_level": 0}
    program = jax.jit(run).lower(hparams, key).compile(quick)
    (found, expected), value, scores = program(hparams, key)
    assert np.isfinite(value)
    assert np.isfinite(scores[task.metric])
    for name in hparams:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-12)
        assert np.any(found[name] != 0), name


EXACT = [
    hg.Forward(),
    hg.Reversible(),
    hg.Implicit(),
    hg.ForwardSharing(),
    hg.FiniteDifference(),
    hg.OnlineReverse(),
]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", EXACT, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("row", [*ROWS, "sentiment, transformer"])
def test_an_exact_estimator_runs_or_says_why_not(row, estimator, key):
    task = task_of(row, optimizer="sgd", fixed={}, tune=["rate", "momentum", "decay"])
    problem, hparams = task.problem(0), task.space().defaults()
    if estimator.applies(problem) is not None:
        return
    state = estimator.init(problem, hparams, key)
    estimate, _ = hg.estimate(problem, estimator, hparams, state, key)
    for leaf in jax.tree.leaves(estimate.hypergrad):
        assert np.all(np.isfinite(leaf))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_training_beats_the_untrained_model(name, key):
    task = TASKS[name]()
    check_learns(task, task.space().defaults() | {"rate": 0.03}, key)


def check_learns(task, hparams, key):
    problem, metrics = task.problem(0), jax.jit(task.test(0))
    states = problem.start(hparams, key), jax.jit(hg.train)(problem, hparams, key)
    before, after = (metrics(state, hparams)[task.metric] for state in states)
    if task.higher_is_better:
        assert after > before + 0.15
    else:
        assert after < 0.95 * before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), REAL)
def test_real_data_by_one_option(name, source, real_data, key):
    task = TASKS[name](source=source, num_steps=100)
    parts = task.splits(0)
    assert [len(part.inputs) for part in parts] == list(task.sizes.values())
    check_learns(task, task.space().defaults(), key)
