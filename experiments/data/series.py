"""Time as rows: stretches that do not overlap, and sliding windows to forecast from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.values import Rows


@dataclass(frozen=True)
class Forecast:
    """Windows of standardised channels and what follows them, for each part in turn.

    Attributes:
        parts: inputs [n, length, channels], targets [n, horizon * channels], float32.
        mean, scale: [channels] of the first part; value = mean + scale * standardised.
    """

    parts: tuple[Rows[np.ndarray], ...]
    mean: np.ndarray
    scale: np.ndarray


def stretches(length: int, fractions: Sequence[float]) -> list[tuple[int, int]]:
    """[start, end) of consecutive parts of 0 .. length - 1.

    Raises:
        ValueError: a fraction is negative, or they exceed 1 together.

    Example:
        >>> stretches(10, (0.5, 0.2, 0.3))
        [(0, 5), (5, 7), (7, 10)]
    """
    if min(fractions) < 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(
            f"fractions: got {list(fractions)}, expected none below 0, at most 1 in sum"
        )
    ends = [0, *(round(length * float(f)) for f in np.cumsum(fractions))]
    return list(zip(ends[:-1], ends[1:], strict=True))


def forecast(
    values: np.ndarray, length: int, horizon: int, fractions: Sequence[float]
) -> Forecast:
    """Every window of `length` steps with the `horizon` steps after it as its target.

    Time is cut into consecutive stretches, the first for training. A window lies in one
    stretch together with its target, so no step is seen by two parts: the windows that
    would straddle a cut are the gap. Mean and scale are those of the first stretch.

    Args:
        values: [time, channels].
        length: steps of a window.
        horizon: steps of its target.
        fractions: of time, for each part in turn, such as (0.6, 0.2, 0.2).

    Raises:
        ValueError: a stretch is shorter than one window and its target.

    Example:
        >>> ramp = np.arange(12.0)[:, None]
        >>> train, valid = forecast(ramp, 2, 1, (0.5, 0.5)).parts
        >>> train.inputs.shape, valid.targets.shape
        ((4, 2, 1), (4, 1))
    """
    cuts, span = stretches(len(values), fractions), length + horizon
    sizes = [end - start for start, end in cuts]
    if min(sizes) < span:
        raise ValueError(
            f"length + horizon: got {length} + {horizon} steps for parts of {sizes}; "
            f"expected at most {min(sizes)}"
        )
    first = values[slice(*cuts[0])]
    mean, spread = first.mean(axis=0), first.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)  # A channel that stands still stays 0.
    standard = ((values - mean) / scale).astype(np.float32)
    parts = []
    for start, end in cuts:
        view = np.lib.stride_tricks.sliding_window_view(
            standard[start:end], span, axis=0
        )
        windows = np.moveaxis(view, -1, 1)  # [n, span, channels]
        inputs, targets = windows[:, :length], windows[:, length:]
        parts.append(Rows(inputs.copy(), targets.reshape(len(windows), -1)))
    return Forecast(tuple(parts), mean, scale)


def interpolate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaps (NaN) filled by the straight line between neighbours; ends are held.

    Args:
        values: [time, channels].

    Returns:
        The values without gaps, and where they were: [time, channels] bool.

    Raises:
        ValueError: a channel has no value at all.
    """
    gaps, filled, time = np.isnan(values), values.copy(), np.arange(len(values))
    if np.any(gaps.all(axis=0)):
        raise ValueError("values: got a channel without a single number")
    for channel, gap in zip(filled.T, gaps.T, strict=True):
        channel[gap] = np.interp(time[gap], time[~gap], channel[~gap])
    return filled, gaps
