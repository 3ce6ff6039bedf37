"""Evolution strategies: derivatives of a smoothed F, from values of F alone.

Each draws N/2 perturbations ε ~ N(0, σ²I) of the raveled floating leaves of λ, runs the
training at λ ± ε side by side on the same key, and weighs the losses L_i of the next K
steps with vectors ξ_i,

    ĝ = 1/(Nσ²) Σ_i ξ_i L_i  =  1/(Nσ²) Σ_pairs ξ (L⁺ − L⁻).

They part in where a window begins and in what ξ is:

| estimator             | a window begins at         | ε of a window     | ξ           |
|-----------------------|----------------------------|-------------------|-------------|
| `EvolutionStrategies` | the state of the run at λ  | drawn anew        | ε           |
| `PersistentES`        | where its particle stopped | drawn anew        | sum of ε    |
| `NoiseReuseES`        | where its particle stopped | as in window 1    | ε           |
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import (
    Estimate,
    Info,
    Target,
    objective_of_floats,
)
from hypergrad.estimators.online_base import OnlineEstimator, begin, run_window
from hypergrad.typing import Key, PyTree


class EvolutionState(NamedTuple):
    """What evolution strategies carry from window to window.

    Attributes:
      t: steps done, int32.
      key: the inner run's key, the same for every particle.
      mean: s_t of the run at λ itself, which gives value and info.
      particles: s_t of each particle, [N, ...], those at λ + ε first; or ().
      xi: ξ of the particles at λ + ε, [N/2, d]; or ().
    """

    t: jax.Array
    key: Key
    mean: PyTree
    particles: PyTree
    xi: PyTree


@dataclass(frozen=True)
class _Evolution(OnlineEstimator):
    sigma: float = 0.01
    num_particles: int = 100
    window: int | None = None
    chunk: int | None = None

    def __post_init__(self):
        name = type(self).__name__
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"{name}.sigma must be > 0, got {self.sigma}")
        if self.num_particles < 2 or self.num_particles % 2:
            raise ValueError(
                f"{name}.num_particles must be even and >= 2 (pairs λ ± ε), got "
                f"{self.num_particles}"
            )
        for field in ("window", "chunk"):
            number = getattr(self, field)
            if number is not None and number < 1:
                raise ValueError(f"{name}.{field} must be >= 1 or None, got {number}")

    @property
    def target(self) -> Target:
        """A derivative of F smoothed over λ."""
        return Target.SMOOTHED

    @property
    def unbiased(self) -> bool:
        """Over the perturbations, for the derivative of the smoothed F."""
        return True

    @property
    def persistent(self) -> bool:
        """Whether a particle goes on where it stopped, or from the run at λ."""
        return True

    @abstractmethod
    def perturb(
        self, first: jax.Array, xi: PyTree, drawn: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(ε, ξ) of a window, each [N/2, d].

        Args:
          first: whether this is the training's first window.
          xi: ξ of the window before.
          drawn: fresh samples of N(0, σ²).
        """

    def steps(self, problem):
        """The window, or all T."""
        return self.window or problem.num_steps

    def init(self, problem, hparams, key):
        """All particles at s_0 (their own start follows once they are perturbed)."""
        hparams = tree.as_arrays(hparams)
        progress = begin(problem, hparams, key)
        if not self.persistent:
            return EvolutionState(*progress, (), ())
        _, floats, _ = objective_of_floats(lambda hparams: hparams, hparams)
        vector, _ = tree.ravel(floats)
        n = self.num_particles
        particles = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (n, *x.shape)), progress.inner
        )
        xi = jnp.zeros((n // 2, vector.size), vector.dtype)
        return EvolutionState(*progress, particles, xi)

    def advance(self, problem, hparams, state, key):
        """The next window of every particle and of the run at λ."""
        fill, floats, restore = objective_of_floats(lambda hparams: hparams, hparams)
        vector, unravel = tree.ravel(floats)
        n, first, steps = self.num_particles, state.t == 0, self.steps(problem)

        shape = (n // 2, vector.size)
        drawn = self.sigma * jax.random.normal(key, shape, vector.dtype)
        epsilon, xi = self.perturb(first, state.xi, drawn)

        def run(hparams, s):
            return run_window(
                problem, hparams, s, state.t, state.key, steps, end_loss=False
            )

        def particle(args):
            offset, s = args
            at = fill(unravel(vector + offset))
            s = s if self.persistent else state.mean
            s = jax.lax.cond(first, lambda: problem.start(at, state.key), lambda: s)
            return run(at, s)

        particles = (jnp.concatenate([epsilon, -epsilon]), state.particles)
        if self.chunk is None:
            losses, ends = jax.vmap(particle)(particles)
        else:
            losses, ends = jax.lax.map(particle, particles, batch_size=self.chunk)
        value, mean = run(hparams, state.mean)

        plus, minus = losses[: n // 2], losses[n // 2 :]
        gradient = jnp.sum((plus - minus)[:, None] * xi, axis=0) / (n * self.sigma**2)
        hypergrad = restore(unravel(gradient.astype(vector.dtype)))
        kept = (ends, xi) if self.persistent else ((), ())
        state = EvolutionState(state.t + steps, state.key, mean, *kept)
        return Estimate(value, hypergrad, Info(mean)), state


@dataclass(frozen=True)
class EvolutionStrategies(_Evolution):
    """ĝ = 1/(Nσ²) Σ_i ε_i F(λ + ε_i), antithetic: ∇ E F(λ + ε), ε ~ N(0, σ²I).

    With a window it is the short-sighted baseline of Vicol et al. 2021: each window
    begins at the state of the unperturbed run, so that ε reaches the losses of its own
    window only (Salimans et al. 2017 for the episodic form).

    Computes: ∇ E F(λ + ε), all T steps of a training run at the same λ + ε; the value
              is F(λ) itself.
    Bias:     smoothing, O(σ²); with `window=K` also truncation, as in
              `Reverse(window=K)`.
    Variance: 2 (d + 1) ‖∇F‖² / N summed over coordinates as σ → 0.
    Memory:   N + 1 inner states, or `chunk`.
    Time:     (N + 1) T inner steps, no derivative.

    Attributes:
      sigma: σ > 0, in units of λ, the same for every coordinate.
      num_particles: N, even.
      window: K, inner steps of a call; None for all T.
      chunk: particles run side by side; None for all.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> es = hg.EvolutionStrategies(sigma=0.1, num_particles=100_000)
      >>> slope = hg.hypergrad(problem, es)(2.0, jax.random.key(0))
      >>> bool(abs(slope - 12.03) < 0.3)  # 3 λ² + 3 σ²
      True
    """

    @property
    def unbiased(self) -> bool:
        """Without a window."""
        return self.window is None

    @property
    def persistent(self) -> bool:
        """No: every window begins at the run at λ."""
        return False

    def perturb(self, first, xi, drawn):
        """ε = ξ, drawn anew."""
        return drawn, drawn


@dataclass(frozen=True)
class PersistentES(_Evolution):
    """ĝ = 1/(Nσ²) Σ_i (Σ_{τ ≤ t} ε_{i,τ}) L_{i,t}, window t of particles that go on.

    ε_τ is drawn anew in each window τ and the particle keeps its state and the sum ξ of
    its perturbations, so that a loss credits all perturbations that led to it (Vicol,
    Metz, Sohl-Dickstein 2021). The sum over a training's windows is an estimate of

        ∇_λ E F(λ + ε_1 in window 1, ..., λ + ε_{T/K} in window T/K),   ε_τ independent

    which is not E F(λ + ε) unless K = T.

    Computes: the derivative above.
    Bias:     smoothing, O(σ²); none by truncation (λ must move slowly against T).
    Variance: grows with T/K, as ξ does; falls as 1/N.
    Memory:   N + 1 inner states.
    Time:     (N + 1) K inner steps a call, no derivative.

    Attributes:
      sigma: σ > 0, in units of λ, the same for every coordinate.
      num_particles: N, even.
      window: K, inner steps of a call; must divide T; None for all T.
      chunk: particles run side by side; None for all.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=4)
      >>> pes = hg.PersistentES(sigma=0.1, num_particles=100, window=2)
      >>> state = pes.init(problem, 2.0, jax.random.key(0))
      >>> result, state = hg.estimate(problem, pes, 2.0, state, jax.random.key(1))
      >>> print(state.t)
      2
    """

    def perturb(self, first, xi, drawn):
        """ε drawn anew, ξ ← ξ + ε."""
        return drawn, jnp.where(first, 0, xi) + drawn


@dataclass(frozen=True)
class NoiseReuseES(_Evolution):
    """ĝ = 1/(Nσ²) Σ_i ε_i L_{i,t}, window t of particles that go on, ε_i kept.

    The perturbation is drawn once a training and used in every window of it (Li et al.
    2023, "NRES"; Vicol 2023, "ES-Single"); summed over a training it is the episodic
    `EvolutionStrategies`, available window by window.

    Computes: ∇ E F(λ + ε), as ES does, with the online call of PES.
    Bias:     smoothing, O(σ²); none by truncation (λ must move slowly against T).
    Variance: that of ES over a training; usually below that of PES.
    Memory:   N + 1 inner states.
    Time:     (N + 1) K inner steps a call, no derivative.

    Attributes:
      sigma: σ > 0, in units of λ, the same for every coordinate.
      num_particles: N, even.
      window: K, inner steps of a call; must divide T; None for all T.
      chunk: particles run side by side; None for all.

    Example:
      >>> import hypergrad as hg
      >>> hg.NoiseReuseES(sigma=0.04, num_particles=200, window=100).target
      <Target.SMOOTHED: 'the derivative of F smoothed over a ball in λ'>
    """

    def perturb(self, first, xi, drawn):
        """ε = ξ, drawn in the first window."""
        epsilon = jnp.where(first, drawn, xi)
        return epsilon, epsilon
