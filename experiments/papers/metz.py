"""Two constants of the Lorenz system, of Metz et al. (2021) and Li et al. (2023).

    ẋ = a (y − x),   ẏ = x (r − z) − y,   ż = x y − b z

by Euler steps of .005 from (1.2, 1.3, 1.6). λ = (log a, log r), and F is the mean over
the steps of (z − z*)², z* being the run at the truth (10, 28, 8/3). Runs that begin
close together part as e^(.9 t), and with the length of the run dF/dλ grows likewise:
exact, and of no use. The slope of E F(λ + σ ε), ε ~ N(0, I), does not grow.
"""

from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.paper import (
    Curve,
    Measured,
    Panel,
    Paper,
    Steps,
    curve,
    numbers,
    paper,
)
from experiments.papers.tuning import tuned
from hypergrad.growth import grow

TRUTH = (10.0, 28.0, 8 / 3)
START = (3.116, 3.7)
"""log a and log r where learning starts."""
FIRST = (1.2, 1.3, 1.6)
DT = 0.005
Count = Annotated[int, Field(ge=1)]


@paper("metz2021_lorenz")
class Lorenz(Paper):
    """Options.

    Attributes:
        lengths: steps of the runs whose hypergradients are looked at; none for an
            estimator that has none without moving λ.
        shift: of log a and log r from the truth, for those near it.
        exponent_steps: of the run that the Lyapunov exponent is taken of; none if 0.
        start: λ before the first call.
        num_steps: T of the run that is learned from.
        outer: the optimiser of λ.
        num_calls: how often it moves.
        drop_after: calls after which the rate falls to a tenth; never if 0.
        sigma: of the smoothed F that is recorded; 0 records F itself.
        num_draws: over which it is a mean.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel(
            "Hypergradient over the length of the run",
            ("at_start", "near_truth"),
            "steps",
            "‖dF/dλ‖",
            "y",
        ),
        Panel("Learning: F, smoothed", ("loss",), "call", "E F(λ + σ ε)", "xy"),
        Panel("Learning: λ", ("distance",), "call", "‖λ − truth‖", "xy"),
    )

    lengths: tuple[Count, ...] = ()
    shift: float = 1e-3
    exponent_steps: Annotated[int, Field(ge=0)] = 0
    start: tuple[float, float] = START
    num_steps: Count = 2000
    outer: hg.Outer = hg.Outer("sgd", learning_rate=2e-4, clip=float("inf"))
    num_calls: Count = 5000
    drop_after: Annotated[int, Field(ge=0)] = 0
    sigma: Annotated[float, Field(ge=0)] = 0.04
    num_draws: Count = 64

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Norms of dF/dλ over lengths; loss and distance from truth over calls.

        exponent: Lyapunov's, at the truth, in units of time. first, last: loss before
        and after learning. truth: loss at the truth.
        """
        key, problem = jax.random.key(seed), lorenz(self.num_steps)
        truth = np.log(TRUTH[:2])
        found = tuned(
            problem,
            estimator,
            jnp.asarray(self.start),
            self._outer(),
            self.num_calls,
            key,
            report,
        )
        path = np.asarray(found.path)
        losses = self._smoothed(problem, np.concatenate([path, truth[None]]))
        losses, at_truth = losses[:-1], losses[-1]
        told = numbers(first=losses[0], last=losses[-1], truth=at_truth)
        if self.exponent_steps:
            told |= numbers(exponent=lyapunov(self.exponent_steps))
        drawn = {
            "loss": curve(losses, found.calls),
            "distance": curve(np.linalg.norm(path - truth, axis=1), found.calls),
        }
        if self.lengths:
            drawn["at_start"] = self._norms(estimator, self.start, key)
            drawn["near_truth"] = self._norms(estimator, truth + self.shift, key)
        return Measured(numbers=told, curves=drawn)

    def _norms(self, estimator: Any, hparams: Any, key: jax.Array) -> Curve:
        """‖dF/dλ‖ over lengths."""
        slopes = [
            hg.hypergrad(lorenz(length), estimator)(jnp.asarray(hparams), key)
            for length in self.lengths
        ]
        return curve(map(np.linalg.norm, slopes), self.lengths)

    def _outer(self) -> optax.GradientTransformation:
        outer = self.outer.transformation()
        if not self.drop_after:
            return outer
        drop = optax.piecewise_constant_schedule(1.0, {self.drop_after: 0.1})
        return optax.chain(outer, optax.scale_by_schedule(drop))

    def _smoothed(self, problem: hg.Problem, hparams: np.ndarray) -> np.ndarray:
        """The mean of F at λ + σ ε, of each λ and the same ε, antithetic."""
        half = np.random.default_rng(0).normal(size=(-(-self.num_draws // 2), 2))
        offsets = jnp.asarray(self.sigma * np.concatenate([half, -half]))
        key = jax.random.key(0)  # a run draws nothing

        @jax.jit
        def mean(hparams):
            runs = jax.vmap(lambda e: hg.unroll(problem, hparams + e, key)[0])
            return jnp.mean(runs(offsets))

        return np.asarray(jax.lax.map(mean, jnp.asarray(hparams), batch_size=16))


def lorenz(num_steps: int) -> hg.Problem:
    """The problem with λ = array (log a, log r); its data are z*."""
    a, r, b = TRUTH

    def follow(s, _):
        s = move(s, a, r, b)
        return s, s[2]

    truth = jax.lax.scan(follow, jnp.array(FIRST), length=num_steps)[1]
    return hg.Problem.from_step(
        _start, _step, _outer_at, data=truth, num_steps=num_steps, outer_every=1
    )


def move(s: jax.Array, a, r, b) -> jax.Array:
    """(x, y, z) after an Euler step."""
    x, y, z = s
    return s + DT * jnp.stack([a * (y - x), x * (r - z) - y, x * y - b * z])


def lyapunov(num_steps: int) -> float:
    """The growth of what is nearby, a unit of time, over the later half of a run."""
    problem = lorenz(num_steps)
    logs = jax.jit(grow)(problem, jnp.log(jnp.array(TRUTH[:2])), jax.random.key(0))[2]
    half = num_steps // 2
    return float((logs[-1] - logs[half - 1]) / (DT * (num_steps - half)))


def _start(hparams, tick):
    return jnp.array(FIRST, hparams.dtype)


def _step(hparams, s, tick):
    a, r = jnp.exp(hparams)
    return move(s, a, r, TRUTH[2])


def _outer_at(hparams, s, tick):
    return (s[2] - tick.data[tick.t - 1]) ** 2 / len(tick.data)
