"""What a series does next: the last `length` steps in, `horizon` steps out.

Training, validation and test are consecutive stretches of time, in this order. Values
are standardised by the first stretch alone, so that the root mean squared error counts
in its standard deviations. Anchored to their last step (Zeng et al. 2023), windows are
differences, in which a trend does no harm and zero is the forecast "as now".
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from experiments.data.series import forecast, stretches
from experiments.data.sources import load
from experiments.registry import register
from experiments.supervised.networks import AnyNetwork, Recurrent
from experiments.supervised.task import Count, Source, Supervised

PERIODS = {"seasons": 24, "co2": 52, "sunspots": 11, "airline": 12, "etth1": 24}
"""Steps of a season: a day of hours, a year of weeks, a solar cycle of years, ..."""


@register("forecasting")
class Forecasting(Supervised):
    """Options of the task, beside those of every task on rows.

    Attributes:
        source: the series; of several channels all are read, the last is forecast.
        length: steps of a window.
        horizon: steps that are forecast.
        anchor: what a window's values are differences from.
        stretches: fractions of time for training, validation and test.
        num_train, num_valid, num_test: windows of each stretch, at most all it has.
    """

    question: ClassVar[frozenset[str]] = Supervised.question | {
        "length",
        "horizon",
        "anchor",
        "stretches",
    }
    metric: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False
    squared_error: ClassVar[bool] = True

    model: AnyNetwork = Recurrent(units=16)
    source: Literal["seasons", "co2", "sunspots", "airline", "etth1"] = "seasons"
    length: Count = 24
    horizon: Count = 4
    anchor: Literal["last step", "none"] = "last step"
    stretches: tuple[float, float, float] = (0.5, 0.25, 0.25)
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "adam"
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate", "decay")
    num_steps: Count = 80
    num_train: Count = 600
    num_valid: Count = 300
    num_test: Count = 300

    @property
    def sizes(self) -> dict[str, int]:
        """Windows of each set: a short series has fewer than are asked for."""
        cuts = stretches(len(load(self.source).values), self.stretches)
        there = [end - start - self.length - self.horizon + 1 for start, end in cuts]
        asked = super().sizes
        return dict(zip(asked, map(min, asked.values(), there), strict=True))

    def data(self) -> Source:
        """Windows [n, length, channels]; the last channel's future [n, horizon]."""
        values = load(self.source).values
        parts = forecast(values, self.length, self.horizon, self.stretches).parts
        train, valid, test = (self._anchored(part) for part in parts)
        return Source(*train, num_outputs=self.horizon, valid=valid, test=test)

    def naive(self, seed: int) -> dict[str, float]:
        """Test rmse of forecasts without a model: as now, and as a season ago.

        The latter needs a window that is as long as the season.
        """
        test, period = self.splits(seed).test, PERIODS[self.source]
        past = test.inputs[..., -1]
        forecasts = {"persistence": past[:, -1:]}
        if self.horizon <= period <= self.length:
            start = self.length - period
            forecasts["season"] = past[:, start : start + self.horizon]
        return {
            name: float(np.sqrt(np.mean((test.truth - values) ** 2)))
            for name, values in forecasts.items()
        }

    def _anchored(self, rows) -> tuple[np.ndarray, np.ndarray]:
        inputs = rows.inputs
        targets = rows.targets.reshape(len(inputs), self.horizon, -1)[..., -1]
        if self.anchor == "none":
            return inputs, targets
        return inputs - inputs[:, -1:], targets - inputs[:, -1:, -1]
