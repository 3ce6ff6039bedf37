"""One step stands for all of training: T1-T2, and DARTS."""

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
from hypergrad.estimators.bilevel import split_model_state
from hypergrad.gradients import Mixed
from hypergrad.linear_solvers.base import refuse_sixteen_bits
from hypergrad.unroll import check_step, loop


class _LastStep(Estimator):
    """What the two have in common: s_{T−1}, and no sum of outer losses."""

    @property
    def target(self):
        """dF/dλ with s_{T−1} held constant."""
        return Target.WINDOW

    def applies(self, problem):
        """Not to a sum of outer losses."""
        if problem.outer_every not in (None, problem.num_steps):
            return (
                f"F sums the outer losses of every {problem.outer_every} steps, of "
                "which it would see the last alone: use Reverse(window=1)"
            )
        return None


def _before_last(problem, hparams, key):
    """s_{T−1}."""
    state = problem.start(hparams, key)
    check_step(problem, hparams, state, key)
    return loop(
        lambda s, t: problem.step(hparams, s, t, key), state, problem.num_steps - 1
    )


@dataclass(frozen=True)
class OneStep(_LastStep):
    """d/dλ of outer(λ, step(λ, s_{T−1})) with s_{T−1} held constant.

    ∂outer/∂λ + (∂outer/∂s_T)(∂step/∂λ), the T1-T2 of Luketina et al. 2016, for any
    optimiser; for gradient descent of rate α, ∂outer/∂λ − α (∂²ℓ/∂w∂λ)ᵀ ∂outer/∂w. It
    is `Reverse(window=1)`, written out (which for T = 1 differentiates s_0, too).

    Computes: the part of dF/dλ that passes through the last step.
    Bias:     short-horizon: everything that λ did before the last step is left out;
              near a minimum of curvature μ, 1 − αμ of the indirect part.
    Variance: none beyond that of F over keys.
    Memory:   one step's residuals.
    Time:     T + 3 inner steps.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> hg.hypergrad(problem, hg.OneStep())(2.0, jax.random.key(0))  # λ² alone
      Array(4., dtype=float32)
    """

    def estimate(self, problem, hparams, state, key):
        """T − 1 steps, and one that is differentiated."""
        before, last = _before_last(problem, hparams, key), problem.num_steps - 1

        def objective(hparams):
            end = problem.step(hparams, before, last, key, Mixed())
            return problem.outer(hparams, end, last + 1, key), end

        run, floats, restore = objective_of_floats(objective, hparams)
        (value, end), hypergrad = jax.value_and_grad(run, has_aux=True)(floats)
        return Estimate(value, restore(hypergrad), Info(end)), state


@dataclass(frozen=True)
class Darts(_LastStep):
    """∇_λ outer(w', λ) − ξ (∇_λ ℓ(w⁺, λ) − ∇_λ ℓ(w⁻, λ)) / 2ε at w = w_{T−1}.

    A virtual step of gradient descent w' = w − ξ ∇_w ℓ(w, λ) on the batch of the last
    step stands for training, and central differences at w± = w ± ε v, v = ∇_w
    outer(w', λ), ε = `epsilon` / ‖v‖, for its mixed second derivative (Liu et al.
    2019, equations 7 and 8). ξ = 0 is their first-order approximation, the direct term
    alone. A model state (the paper has none) moves with λ in the last step, as it does
    in `OneStep()`.

    Computes: the derivative of the outer loss after the virtual step; that of
              `OneStep()` where the optimiser is gradient descent of rate ξ.
    Bias:     short-horizon, as `OneStep()`; the virtual step is not the optimiser's;
              differences, O(ε²), and rounding O(1e-7 ‖v‖ / ε) in float32.
    Variance: none beyond that of F over keys.
    Memory:   one gradient's residuals.
    Time:     T inner steps and 4 gradients; one gradient for ξ = 0.

    Attributes:
      rate: ξ >= 0, in the paper the rate of the weights' optimiser (0.025 at first).
      epsilon: the length of the step between w and w±.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.ones(2),
      ...     inner_loss=lambda w, hp, batch: hg.l2(w, hp),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.sum(w**2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.zeros(1), valid=jnp.zeros(1), num_steps=1)
      >>> slope = hg.hypergrad(problem, hg.Darts(rate=0.5))(1.0, jax.random.key(0))
      >>> print(slope.round(3))  # −ξ w · w' with w = (1, 1) and w' = w / 2
      -0.5
    """

    rate: float = 0.025
    epsilon: float = 0.01

    def __post_init__(self):
        if not self.rate >= 0:
            raise ValueError(f"Darts.rate must be >= 0, got {self.rate}")
        if not self.epsilon > 0:
            raise ValueError(f"Darts.epsilon must be > 0, got {self.epsilon}")

    def applies(self, problem):
        """Not to a sum of outer losses, nor without an inner loss."""
        if not problem.has_inner_loss:
            return (
                "it has no inner loss to take a virtual step on: give "
                "Problem.from_step its inner_loss_at, or use OneStep()"
            )
        return super().applies(problem)

    def estimate(self, problem, hparams, state, key):
        """T steps, and the five gradients of the formula."""
        whole, floats, restore = objective_of_floats(lambda h: h, hparams)
        last = problem.num_steps - 1
        before = _before_last(problem, hparams, key)
        end = problem.step(hparams, before, last, key)
        value = problem.outer(hparams, end, last + 1, key)
        w, others = tree.partition(problem.weights(before))
        refuse_sixteen_bits("weights", w)

        def at(w, state):
            return problem.replace_weights(state, tree.combine(w, others))

        def inner(w, hparams):
            return problem.batch_loss(whole(hparams), at(w, before), last, key)

        def outer(w, hparams):
            return problem.outer(whole(hparams), at(w, end), last + 1, key)

        def model_state(hparams):
            last_step = problem.step(whole(hparams), before, last, key)
            return split_model_state(last_step)[0]

        virtual = w
        if self.rate:
            virtual = tree.axpy(-self.rate, jax.grad(inner)(w, floats), w)
        v, hypergrad = jax.grad(outer, (0, 1))(virtual, floats)
        if self.rate:
            length = tree.norm(v)
            epsilon = self.epsilon / jnp.where(length > 0, length, 1)
            of_hparams = jax.grad(inner, 1)
            plus = of_hparams(tree.axpy(epsilon, v, w), floats)
            minus = of_hparams(tree.axpy(-epsilon, v, w), floats)
            hypergrad = jax.tree.map(
                lambda d, p, m: (
                    d - (self.rate * (p - m) / (2 * epsilon)).astype(d.dtype)
                ),
                hypergrad,
                plus,
                minus,
            )
        m, rebuild = split_model_state(end)
        if jax.tree.leaves(m):
            seen = lambda m: problem.outer(
                hparams, at(virtual, rebuild(m)), last + 1, key
            )
            _, pull = jax.vjp(model_state, floats)
            hypergrad = tree.axpy(1, hypergrad, pull(jax.grad(seen)(m))[0])
        return Estimate(value, restore(hypergrad), Info(end)), state
