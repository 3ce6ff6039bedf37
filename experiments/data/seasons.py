"""A synthetic series: a trend, two seasons and noise that remembers.

    y_t = 0.002 t + sin(2πt / 24) + 0.5 (1 + sin(2πt / 168)) sin(2πt / 12 + 1) + ε_t
    ε_t = 0.7 ε_{t-1} + 0.15 η_t,    η_t ~ N(0, 1)

Hours of a load with a day and a week, where no measured series is at hand.
"""

import numpy as np

from experiments.data.values import Series


def seasons(length: int = 1500, seed: int = 0) -> Series:
    """The first `length` steps of y; the same seed gives the same noise.

    No forecast can have a mean squared error below 0.15² = 0.0225.

    Example:
        >>> seasons(10).values.shape
        (10, 1)
    """
    rng, noise = np.random.default_rng(seed), np.zeros(length)
    shocks = 0.15 * rng.normal(size=length)
    for t in range(length):
        noise[t] = (0.7 * noise[t - 1] if t else 0.0) + shocks[t]
    turn = 2 * np.pi * np.arange(length)
    week = 0.5 * (1 + np.sin(turn / 168))
    clean = 0.002 * np.arange(length) + np.sin(turn / 24) + week * np.sin(turn / 12 + 1)
    return Series(
        values=(clean + noise)[:, None],
        filled=np.zeros((length, 1), bool),
        times=(),
        channels=("load",),
    )
