"""Where hypergradients turn to noise: Maclaurin, Duvenaud and Adams (2015), section 4.

    F(s) = ℓ(w_T),   v ← γ v − (1 − γ) ∇ℓ(w, batch_t),   w ← w + e^s v

The loss of a perceptron after T steps, and its derivative with respect to the log step
size s, along a line. Beyond some s training is chaotic: F still falls, and dF/ds, exact
as it is, says nothing about where.
"""

import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.maclaurin import (
    Arithmetic,
    as_weights,
    drawn_start,
    mean_nll,
    momentum,
    num_weights,
    run_backwards,
    stacked,
)
from hypergrad import Problem


@paper("maclaurin2015_chaos")
class MaclaurinChaos(Paper):
    """Options.

    Attributes:
        source: whose images, the mean image not subtracted.
        num_train: rows, the first.
        hidden: widths of the tanh layers.
        batch_size: rows in order, round and round.
        num_steps: T.
        gamma: γ.
        log_scale: log of the standard deviation of the weights at the start.
        arithmetic: of the velocities.
        low, high, num_points: the line, of which they have computed all points.
        every: which of them we do: 1 is all, 4 every fourth.
        dense: from where to where we do all of them.
        large: size of a derivative that is one.
        backwards_at: s at which training is run backwards as well.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Loss after training", ("loss",), "log step size", "F", log="y"),
        Panel("Its derivative, cut off", ("cut",), "log step size", "dF/ds"),
        Panel("Size of the derivative", ("size",), "log step size", "|dF/ds|", log="y"),
    )

    source: ImageSet = "mnist"
    num_train: int = 1000
    hidden: tuple[int, ...] = (200, 50)
    batch_size: int = 250
    num_steps: int = 50
    gamma: float = 0.9
    log_scale: float = -2.0
    arithmetic: Arithmetic = "published"
    low: float = 0.5
    high: float = 2.5
    num_points: Annotated[int, Field(ge=1)] = 1000
    every: Annotated[int, Field(ge=1)] = 4
    dense: tuple[float, float] = (1.45, 1.7)
    large: float = 0.5
    backwards_at: tuple[float, ...] = (0.5, 1.5, 2.5)

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """loss, gradient, size, cut: F, dF/ds, its size, and dF/ds within ±`large`.

        smallest_loss, smallest_at: the least F, and its s. first_large: the first s at
        which |dF/ds| is above `large`. wrong_bits: by which ways back miss their start.
        """
        problem, key = self._problem(seed), jax.random.key(seed)
        both = hg.value_and_hypergrad(problem, estimator)
        line = self._line()
        total = len(line) + len(self.backwards_at)
        found = []
        for s in line:
            found.append([float(x) for x in both(jnp.asarray(s), key)])
            report(len(found), total)
        missed = 0
        for done, s in enumerate(self.backwards_at):
            missed += run_backwards(problem, jnp.asarray(s), key)[0]
            report(len(line) + done + 1, total)
        losses, slopes = np.array(found).T
        large = line[np.abs(slopes) > self.large]
        return Measured(
            numbers=numbers(
                smallest_loss=losses.min(),
                smallest_at=line[losses.argmin()],
                first_large=large[0] if len(large) else math.inf,
                wrong_bits=missed,
            ),
            curves={
                "loss": curve(losses, line),
                "gradient": curve(slopes, line),
                "size": curve(np.abs(slopes), line),
                "cut": curve(np.clip(slopes, -self.large, self.large), line),
            },
        )

    def _line(self) -> np.ndarray:
        """The s that are done."""
        line = np.linspace(self.low, self.high, self.num_points)
        first, last = self.dense
        regular = np.arange(self.num_points) % self.every == 0
        return line[regular | ((first <= line) & (line <= last))]

    def _problem(self, seed: int) -> Problem:
        """F, of s alone."""
        if self.num_train % self.batch_size:
            raise ValueError(
                f"batch_size has to divide num_train, {self.num_train}; got "
                f"{self.batch_size}"
            )
        rows = stacked(self.source, centred=False).rows(0, self.num_train)
        sizes = (rows.inputs.shape[1], *self.hidden, int(rows.labels.max()) + 1)
        apply, scale = hg.models.mlp(sizes).apply, math.exp(self.log_scale)
        start = scale * drawn_start(seed, num_weights(sizes))
        order = jnp.arange(self.num_train, dtype=jnp.int32).reshape(-1, self.batch_size)

        def loss(weights, log_alpha, batch, context):
            return mean_nll(apply, weights, batch), context.model_state

        return Problem.with_context(
            init=lambda key, log_alpha, start: (as_weights(start, sizes), ()),
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda log_alpha: momentum(
                lambda t: jnp.exp(log_alpha), lambda t: self.gamma, self.arithmetic
            ),
            train=rows.batch(),
            valid=rows.batch(),
            num_steps=self.num_steps,
            batches=hg.IndexTable(order),
            given=start,
        )
