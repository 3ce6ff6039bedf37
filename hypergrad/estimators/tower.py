"""Towers: optimisers whose rates are learned by optimisers, whose rates are ..."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hypergrad import tree
from hypergrad.estimators.base import Estimate
from hypergrad.estimators.hypergradient_descent import Additive, HypergradientDescent
from hypergrad.estimators.online_base import OnlineEstimator, Progress, begin
from hypergrad.typing import Key, PyTree, Scalar
from hypergrad.unroll import outer_term


class Level(ABC):
    """An optimiser x ← x − rate · direction(gradient) of a tower."""

    rate: float

    @abstractmethod
    def transformation(self) -> optax.GradientTransformation:
        """The direction of descent as an optax transformation of the gradient."""

    def __post_init__(self):
        if not self.rate >= 0:
            raise ValueError(f"{type(self).__name__}.rate must be >= 0: {self.rate}")


@dataclass(frozen=True)
class SGDLevel(Level):
    """x ← x − rate · g."""

    rate: float = 0.01

    def transformation(self):
        """The gradient itself."""
        return optax.identity()


@dataclass(frozen=True)
class AdamLevel(Level):
    """x ← x − rate · m̂ / (√v̂ + eps), the moments corrected for their start at 0.

    A level above the first sees a gradient of 0 at its first call, and counts it.
    """

    rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        for name in ("b1", "b2"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"AdamLevel.{name} must be in [0, 1), got {value}")

    def transformation(self):
        """Adam's direction."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


class LevelState(NamedTuple):
    """A level at work: its rate, its last direction (like x), and its moments."""

    rate: Scalar
    direction: PyTree
    moments: optax.OptState


class TowerState(NamedTuple):
    """Where the training stands, and each level above it, from the lowest up."""

    t: jax.Array
    key: Key
    inner: PyTree
    levels: tuple[LevelState, ...]


class TowerInfo(NamedTuple):
    """`Info`, and the rates [height] of the levels after the call, from the lowest."""

    state: PyTree
    doubtful: jax.Array | bool
    rates: jax.Array


@dataclass(frozen=True)
class Tower(OnlineEstimator):
    """−Δλ of a tower of optimisers: level 1 moves λ, level 2 the rate of level 1, ...

    Each level x_i ← x_i − r_i d_i(G_i) has its own rate as the next one's variable,
    x_{i+1} = r_i, whose gradient passes through the last update alone (Chandra et al.
    2022),

        G_1 = ⟨∇ℓ(w_{t+1}; batch_{t+1}), ∂w_{t+1}/∂λ⟩,   G_{i+1} = −⟨G_i, d_i last⟩;

    then the levels move, the highest first, each with the rate just moved. The rate of
    the highest is fixed. λ − `hypergrad` is the tower's next λ, so update it with
    `optax.sgd(1.0)`. Levels outlive a training, and a call after which one of them
    would not be finite leaves them all as they were.

    Computes: the tower's update; with one `SGDLevel(rate)`, rate times
              `HypergradientDescent()`.
    Bias:     short-horizon (Wu et al. 2018), at every level.
    Variance: that of two batches.
    Memory:   one inner state, one step's residuals, and up to three λ a level.
    Time:     as `HypergradientDescent`, whatever the height.

    Attributes:
      levels: from the optimiser of λ upwards, at least one.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.ones(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * w**2,
      ...     outer_loss=lambda w, hp, batch: 0.5 * w**2,
      ...     optimizer=lambda hp: optax.sgd(hp["lr"]),
      ...     train=jnp.ones(1), valid=jnp.ones(1), num_steps=4)
      >>> estimator = hg.Tower((hg.SGDLevel(0.5), hg.SGDLevel(1.0)))
      >>> hparams = {"lr": 0.5}
      >>> state = estimator.init(problem, hparams, jax.random.key(0))
      >>> result, state = hg.estimate(
      ...     problem, estimator, hparams, state, jax.random.key(1))
      >>> print(result.hypergrad["lr"])  # w goes from 1 to 0.5: lr moves by 0.25
      -0.25
    """

    levels: tuple[Level, ...] = (SGDLevel(),)

    def __post_init__(self):
        if not self.levels:
            raise ValueError("Tower.levels must hold at least one level, got ()")
        object.__setattr__(self, "levels", tuple(self.levels))

    def applies(self, problem):
        """Where hypergradient descent does."""
        return HypergradientDescent().applies(problem)

    def init(self, problem, hparams, key):
        """s_0, and levels that have not moved yet."""
        variable, _ = tree.partition(hparams)
        states = []
        for level in self.levels:
            rate = jnp.asarray(level.rate, jnp.zeros(()).dtype)
            zeros = jax.tree.map(jnp.zeros_like, variable)
            states.append(LevelState(rate, zeros, level.transformation().init(zeros)))
            variable = rate
        return TowerState(*begin(problem, hparams, key), tuple(states))

    def restart(self, problem, hparams, state, key):
        """s_0 again; the levels stay."""
        return TowerState(*begin(problem, hparams, key), state.levels)

    def advance(self, problem, hparams, state, key):
        """One inner step, and one of each level."""
        del key
        progress = Progress(state.t, state.key, state.inner)
        slope, progress = Additive().hypergrad(problem, hparams, progress)
        gradient, others = tree.partition_tangent(slope)
        update, climbed = _climb(self.levels, state.levels, gradient)
        finite = tree.all_finite(climbed)
        levels = jax.tree.map(partial(jnp.where, finite), climbed, state.levels)

        t, run_key, inner = progress
        value = outer_term(problem, hparams, inner, t, run_key)
        rates = jnp.stack([level.rate for level in levels])
        info = TowerInfo(inner, jnp.asarray(False), rates)
        estimate = Estimate(value, tree.combine(update, others), info)
        return estimate, TowerState(*progress, levels)


def _climb(levels, states, gradient):
    """(r_1 d_1, the new states): gradients go up the tower, and moves come down."""
    (level, *higher), (state, *above) = levels, states
    rate = state.rate
    if higher:
        slope = -tree.vdot(gradient, state.direction)
        change, above = _climb(higher, above, slope)
        rate = rate - change
    direction, moments = level.transformation().update(gradient, state.moments)
    change = jax.tree.map(lambda d: (rate * d).astype(d.dtype), direction)
    return change, (LevelState(rate, direction, moments), *above)
