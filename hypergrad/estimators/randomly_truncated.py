"""Truncated reverse mode with a window drawn at random, unbiased."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Info,
    Target,
    objective_of_floats,
)
from hypergrad.estimators.online_base import run_window
from hypergrad.estimators.sweep import pull_start, pull_window, zeros_like_floats
from hypergrad.gradients import InnerGradient, Mixed
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key
from hypergrad.unroll import Checkpoint, EveryStep, check_step

# Folded into the run's key. Steps are numbered in int32: none has this number.
_DRAW = 2**31


@dataclass(frozen=True)
class RandomlyTruncated(Estimator):
    """dF/dλ ≈ ∂outer_T/∂λ + Σ_{j<K} g_j / P(K > j), the window K drawn at random.

    g_j = (∂s_{T−j}/∂λ)ᵀ v_{T−j} is what step T − j adds to dF/dλ. The windows are
    K_i = window · growthⁱ, the last one T; P(K ≥ K_i) = survivalⁱ. Every g_j thus has
    mean weight 1: the compensated truncation of Tallec and Ollivier (2017), which is
    the Russian roulette of randomized telescopes (Beatson and Adams 2019).

    Computes: a draw whose mean over keys is dF/dλ (where the training itself depends on
              the key: given the training's own use of it, dF/dλ of that key).
    Bias:     none.
    Variance: small where g_j falls faster than P(K > j); large where F remembers its
              early steps, for then a few long draws carry the mean.
    Memory:   one state a window, and that of `checkpoint` over the longest stretch
              between two windows, (1 − 1/growth) T steps: XLA reserves it before the
              draw. A shorter draw saves time only.
    Time:     T inner steps and 3 to 5 K more; under vmap over keys as if K = T. One
              loop a window to compile.

    Attributes:
      window: K_0, the shortest window, always swept.
      growth: ratio of one window to the one before; a whole number.
      survival: probability that the window grows once more, in (0, 1].
      checkpoint: what is kept of a stretch between two windows.
      gradient: the inner gradient's derivative rule, `Mixed()` or `Plain()`.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> draw = hg.hypergrad(problem, hg.RandomlyTruncated(window=1, growth=3))
      >>> keys = jax.random.split(jax.random.key(0), 6)
      >>> jax.vmap(draw, (None, 0))(2.0, keys)  # λ² or (1 + 2 · 2) λ², mean 3 λ²
      Array([ 4., 20., 20.,  4., 20., 20.], dtype=float32)
    """

    window: int = 8
    growth: int = 2
    survival: float = 0.5
    checkpoint: Checkpoint = EveryStep()
    gradient: InnerGradient = Mixed()

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(
                f"RandomlyTruncated.window must be >= 1, got {self.window}"
            )
        if self.growth < 2:
            raise ValueError(
                f"RandomlyTruncated.growth must be >= 2, got {self.growth}"
            )
        if not 0 < self.survival <= 1:
            raise ValueError(
                f"RandomlyTruncated.survival must be in (0, 1], got {self.survival}"
            )

    @property
    def target(self) -> Target:
        """dF/dλ."""
        return Target.OBJECTIVE

    @property
    def unbiased(self) -> bool:
        """True: in the mean, not draw by draw."""
        return True

    def applies(self, problem):
        """The outer loss must lie at step T alone."""
        if problem.outer_every is None:
            return None
        return (
            f"with outer losses every {problem.outer_every} steps each step lies close "
            "before one, so that no sweep could stop early: use Reverse()"
        )

    def windows(self, num_steps: int) -> tuple[tuple[int, float], ...]:
        """(K_i, P(K ≥ K_i)), shortest first, the last of length T."""
        lengths = [min(self.window, num_steps)]
        while lengths[-1] < num_steps:
            lengths.append(min(lengths[-1] * self.growth, num_steps))
        return tuple((k, self.survival**i) for i, k in enumerate(lengths))

    def estimate(self, problem, hparams, state, key):
        """One training, and a sweep back over the window drawn from the key."""
        longer = [survival for _, survival in self.windows(problem.num_steps)[1:]]
        uniform = jax.random.uniform(jax.random.fold_in(key, _DRAW))
        drawn = sum((uniform < p for p in longer), jnp.zeros((), jnp.int32))
        return self.estimate_within(problem, hparams, key, drawn), state

    def estimate_within(
        self, problem: Problem, hparams: HParams, key: Key, drawn: jax.Array | int
    ) -> Estimate:
        """The estimate given that K is the window of this number, 0 the shortest."""
        _, floats, restore = objective_of_floats(lambda hparams: hparams, hparams)
        windows = self.windows(problem.num_steps)
        # Stretch i lies between the starts of the windows i and i − 1.
        starts = [problem.num_steps - k for k, _ in windows]
        ends = [problem.num_steps, *starts[:-1]]

        state = problem.start(hparams, key)
        check_step(problem, hparams, state, key, self.gradient)
        value, states = jnp.zeros(()), []
        for start, end in reversed(list(zip(starts, ends, strict=True))):
            states.insert(0, state)
            value, state = run_window(
                problem,
                hparams,
                state,
                jnp.asarray(start, jnp.int32),
                key,
                end - start,
                end_loss=False,
            )

        def pull(i, adjoint):
            return pull_window(
                problem,
                hparams,
                states[i],
                jnp.asarray(starts[i], jnp.int32),
                key,
                ends[i] - starts[i],
                adjoint,
                checkpoint=self.checkpoint,
                gradient=self.gradient,
            )

        hypergrad, adjoint = zeros_like_floats((floats, state))
        cut = zeros_like_floats((floats, state))
        for i, (_, survival) in enumerate(windows):
            # Past the window the adjoint is zero, and so is all that it adds.
            added, adjoint = jax.lax.cond(
                drawn >= i, functools.partial(pull, i), lambda v: cut, adjoint
            )
            hypergrad = tree.axpy(1 / survival, added, hypergrad)
        added = pull_start(problem, hparams, key, adjoint)
        hypergrad = tree.axpy(1 / windows[-1][1], added, hypergrad)
        return Estimate(value, restore(hypergrad), Info(state))
