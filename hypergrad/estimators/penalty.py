"""First-order bilevel optimisation: the inner problem as a penalty, no Hessian."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import Estimate, Info
from hypergrad.estimators.bilevel import (
    BilevelEstimator,
    Losses,
    check_count,
    check_positive,
)
from hypergrad.estimators.online_base import Progress, begin
from hypergrad.typing import Key, PyTree, Scalar, Weights
from hypergrad.unroll import loop


class F2SAState(NamedTuple):
    """After t steps: z in an inner state, and y."""

    t: jax.Array
    key: Key
    inner: PyTree
    pulled: Weights


@dataclass(frozen=True)
class F2SA(BilevelEstimator):
    """d = ∇_λ f(y, λ) + σ (∇_λ ℓ(y, λ) − ∇_λ ℓ(z, λ)), y ≈ argmin f + σℓ, z ≈ argmin ℓ.

    The gradient of L_σ(λ) = min_w f + σ (ℓ − min ℓ), fully first order (Kwon et al.
    2023). A call takes K plain gradient steps of one rate, z ← z − α ∇ℓ and
    y ← y − α (∇ℓ + ∇f/σ), the paper's rates α and α/σ; the problem's optimiser is not
    asked. Both see the same batches (the paper draws two), so that their difference
    is small before it is multiplied with σ.

    Computes: a direction for λ which, with λ held, converges to dL_σ/dλ.
    Bias:     penalty, O(1/σ): it halves as σ doubles; `growth` lets σ_k grow with k.
    Variance: that of the last batch, and of those of y − z, times σ.
    Memory:   one inner state, one more weights.
    Time:     3 K inner steps and about 4 more. Rounding: σε, the price of a large σ.

    Attributes:
      inner_rate: α, below 2 / (largest curvature of ℓ + f/σ).
      penalty: σ_0.
      growth: what each call adds to σ.
      inner_steps: K.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=60)
      >>> f2sa = hg.F2SA(0.5, penalty=99.0)  # dL_σ/dλ = (λ − 1) σ / (1 + σ)
      >>> estimate, _ = hg.estimate(problem, f2sa, 3.0, (), jax.random.key(0))
      >>> print(f"{estimate.hypergrad:.3f}")
      1.980
    """

    inner_rate: float = 0.1
    penalty: float = 10.0
    growth: float = 0.0
    inner_steps: int = 1

    def __post_init__(self):
        check_positive(self, "inner_rate", "penalty")
        check_count(self, "inner_steps")
        if not self.growth >= 0:
            raise ValueError(f"F2SA.growth must be >= 0, got {self.growth}")

    def steps(self, problem):
        """K."""
        return self.inner_steps

    def init(self, problem, hparams, key):
        """Both at the start of training."""
        progress = begin(problem, hparams, key)
        return F2SAState(*progress, pulled=problem.weights(progress.inner))

    def advance(self, problem, hparams, state, key):
        """K steps of z and y, then the difference of two gradients in λ."""
        del key  # the batches are those of training
        t, run_key, inner, y = state
        end = t + self.inner_steps
        sigma = self.penalty + self.growth * (t // self.inner_steps)
        losses = Losses.at(problem, hparams, inner, run_key)
        x, slope = losses.floats, jax.grad(losses.inner)

        def descend(carry, t):
            z, y = carry
            pull = jax.grad(losses.outer)(y, x, t)
            down_y = tree.axpy(1 / sigma, pull, slope(y, x, t))
            return (
                tree.axpy(-self.inner_rate, slope(z, x, t), z),
                tree.axpy(-self.inner_rate, down_y, y),
            )

        start = (problem.weights(inner), y)
        z, y = loop(descend, start, self.inner_steps, first=t)
        direct, at_y, at_z = (
            jax.grad(loss, 1)(w, x, end)
            for loss, w in ((losses.outer, y), (losses.inner, y), (losses.inner, z))
        )
        hypergrad = tree.axpy(sigma, tree.axpy(-1.0, at_z, at_y), direct)

        inner = problem.replace_weights(inner, z)
        value = problem.outer(hparams, inner, end, run_key)
        state = F2SAState(end, run_key, inner, y)
        return Estimate(value, losses.restore(hypergrad), Info(inner)), state


class BOMEInfo(NamedTuple):
    """What a BOME estimate knows.

    Attributes:
      state: the inner state after the call.
      doubtful: False.
      multiplier: shape (), the multiplier μ of the constraint that the barrier chose.
    """

    state: PyTree
    doubtful: jax.Array | bool
    multiplier: Scalar


@dataclass(frozen=True)
class BOME(BilevelEstimator):
    """d = ∇_λ f + μ ∇_λ q,   w ← w − ξ (∇_w f + μ ∇_w q),   q = ℓ(w, λ) − ℓ(w_K, λ).

    The bilevel problem as min f subject to q <= 0, where w_K, held constant in q, is K
    gradient steps on ℓ away from w (Liu et al. 2022, "BOME!"). A dynamic barrier makes
    q decrease at least at the rate η ‖∇q‖²,
        μ = max(0, η − ⟨∇f, ∇q⟩ / ‖∇q‖²),  ∇ taken in w and λ together.
    λ and w are meant to move at one rate: subtract ξ · hypergrad from λ. All steps are
    plain; the problem's optimiser is not asked. With minibatches the K steps see those
    of steps t, ..., t + K − 1 and q one more (the paper has none).

    Computes: a direction for λ whose zeros, with w, solve the bilevel problem.
    Bias:     with λ held, d tends to the direction of `F2SA` at σ = μ, so O(1/μ), where
              μ grows with η; with λ moving the optimum is met to O(ξ). Both if K is
              large: else inexact inner solution, (1 − αc)^K at curvature c.
    Variance: that of batches.
    Memory:   one inner state, two weights.
    Time:     K inner steps and about 6 more.

    Attributes:
      rate: ξ.
      inner_rate: rate of the K steps, below 2 / (largest curvature of ℓ).
      inner_steps: K.
      barrier: η.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=4000)
      >>> bome, hp, key = hg.BOME(0.02, inner_rate=0.5), 3.0, jax.random.key(0)
      >>> state = bome.init(problem, hp, key)
      >>> for _ in range(400):  # λ* = 1
      ...     estimate, state = hg.estimate(problem, bome, hp, state, key)
      ...     hp = hp - 0.02 * estimate.hypergrad
      >>> print(f"{hp:.1f}")
      1.0
    """

    rate: float = 0.01
    inner_rate: float = 0.1
    inner_steps: int = 10
    barrier: float = 0.5

    def __post_init__(self):
        check_positive(self, "rate", "inner_rate", "barrier")
        check_count(self, "inner_steps")

    def steps(self, problem):
        """K."""
        return self.inner_steps

    def advance(self, problem, hparams, state, key):
        """K steps for the value function, one of the weights."""
        del key  # the batches are those of training
        t, run_key, inner = state
        end = t + self.inner_steps
        losses = Losses.at(problem, hparams, inner, run_key)
        w, x = problem.weights(inner), losses.floats

        def descend(w, t):
            return tree.axpy(-self.inner_rate, jax.grad(losses.inner)(w, x, t), w)

        best = loop(descend, w, self.inner_steps, first=t)

        def gap(w, x):
            return losses.inner(w, x, end) - losses.inner(best, x, end)

        df = jax.grad(losses.outer, (0, 1))(w, x, end)
        dq = jax.grad(gap, (0, 1))(w, x)
        square = tree.vdot(dq, dq)
        overlap = tree.vdot(df, dq) / jnp.where(square > 0, square, 1)
        multiplier = jnp.maximum(0, self.barrier - overlap)
        down, hypergrad = jax.tree.map(
            lambda f, q: f + (multiplier * q).astype(f.dtype), df, dq
        )

        inner = problem.replace_weights(inner, tree.axpy(-self.rate, down, w))
        value = problem.outer(hparams, inner, end, run_key)
        info = BOMEInfo(inner, False, multiplier)
        state = Progress(end, run_key, inner)
        return Estimate(value, losses.restore(hypergrad), info), state
