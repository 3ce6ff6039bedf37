"""A paper of one line, for tests of `reproduce`: ys = slope · x, noise by seed."""

import numpy as np

from experiments.paper import Measured, Panel, Paper, curve, numbers, paper


@paper("ramp")
class Ramp(Paper):
    """Options.

    Attributes:
        slope: of the curve.
        points: of it.
        broken: raise, as a wrong option would.
        wrong: answer what is no result.
    """

    panels = (Panel("Ramp", ("height",), "x", "y"),)
    differentiates = False

    slope: float = 2.0
    points: int = 5
    broken: bool = False
    wrong: bool = False

    def measure(self, estimator, seed, report):
        assert estimator is None
        if self.broken:
            raise ValueError("slope must\nbe whole")
        report(1, 2)
        if self.wrong:
            return {"end": 1.0}
        noise = np.random.default_rng(seed).normal()
        xs = np.arange(self.points)
        bits = np.asarray(1.0 if self.precision == "float64" else 0.0)
        return Measured(
            numbers=numbers(end=self.slope * (self.points - 1), noise=noise, bits=bits),
            curves={"height": curve(self.slope * xs, xs)},
            pictures={"square": [[[0.0, 1.0], [1.0, 0.0]]]},
        )
