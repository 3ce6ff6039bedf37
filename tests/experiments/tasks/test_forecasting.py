"""Forecasting: time is cut once, and forecasts without a model are what they say."""

import numpy as np
import pytest

from experiments.data.values import Series
from experiments.tasks import forecasting
from experiments.tasks.forecasting import PERIODS, Forecasting


@pytest.fixture
def series(monkeypatch):
    """The task with two channels in place of the series that it asks for."""

    def put(values):
        values = np.stack([np.zeros(len(values)), values], axis=1)
        found = Series(values, np.zeros(values.shape, bool), (), ("other", "load"))
        monkeypatch.setattr(forecasting, "load", lambda name: found)
        return type("Local", (Forecasting,), {})  # What is cached is by type.

    return put


def steps(part):
    """Which steps of a ramp a set holds, its scale undone."""
    return np.concatenate([part.inputs[..., -1], part.truth], axis=1)


def test_no_step_of_time_is_in_two_sets(series):
    local = series(np.arange(120.0))
    task = local(source="co2", length=6, horizon=2, anchor="none", batch_size=8)
    assert task.sizes == {"train": 53, "valid": 23, "test": 23}  # all there are
    assert task.num_rows == 53
    first, *others = (steps(part) for part in task.splits(0))
    scale = np.ptp(first) / 59  # 60 steps are for training
    ends = [(part.min() / scale, part.max() / scale) for part in (first, *others)]
    for (_, end), (start, _) in zip(ends[:-1], ends[1:], strict=True):
        assert start - end == pytest.approx(1, abs=1e-3)


def test_anchored_windows_are_differences_from_their_last_step(series):
    local = series(np.random.default_rng(0).normal(size=150))
    options = {"source": "co2", "length": 6, "horizon": 2, "batch_size": 8}
    plain = local(**options, anchor="none").splits(3).test
    anchored = local(**options).splits(3).test
    last = plain.inputs[:, -1:]
    np.testing.assert_allclose(anchored.inputs, plain.inputs - last, atol=1e-6)
    np.testing.assert_allclose(anchored.truth, plain.truth - last[:, :, 1], atol=1e-6)


def test_naive_forecasts_by_hand(series):
    """A pure season is foreseen; persistence errs by Σ (x_t − x_{t+h})²."""
    period = PERIODS["airline"]
    wave = np.sin(2 * np.pi * np.arange(20 * period) / period)
    local = series(wave)
    task = local(source="airline", length=period + 3, horizon=3, num_test=300)
    naive = task.naive(0)
    assert naive["season"] < 1e-6
    # The mean of (sin a − sin(a + b))² over a is 1 − cos b; the scale of a sine is √½.
    angles = 2 * np.pi * np.arange(1, 4) / period
    expected = np.sqrt(np.mean(1 - np.cos(angles)) * 2)
    assert naive["persistence"] == pytest.approx(expected, rel=0.05)
    assert set(local(source="airline", length=6).naive(0)) == {"persistence"}


def test_a_forecast_can_beat_those_without_a_model():
    """Least squares on the windows, by numpy: what networks are to come near to."""
    task = Forecasting(num_train=600, num_valid=300)
    train, _, test = task.splits(0)
    past, future = train.inputs[..., 0], test.inputs[..., 0]
    solution = np.linalg.lstsq(past, train.truth, rcond=None)[0]
    rmse = np.sqrt(np.mean((future @ solution - test.truth) ** 2))
    assert rmse < 0.9 * min(task.naive(0).values())
