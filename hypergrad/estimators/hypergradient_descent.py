"""Hypergradient descent: the last step alone, differentiated at the next batch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import Estimate, Info, objective_of_floats
from hypergrad.estimators.online_base import OnlineEstimator, Progress
from hypergrad.gradients import Mixed
from hypergrad.problem import Problem
from hypergrad.typing import HParams
from hypergrad.unroll import outer_term


class Rule(ABC):
    """How the slope along λ becomes what is subtracted from λ."""

    @abstractmethod
    def hypergrad(
        self, problem: Problem, hparams: HParams, progress: Progress
    ) -> tuple[HParams, Progress]:
        """One inner step with λ: its hypergradient, and where it led."""


@dataclass(frozen=True)
class Additive(Rule):
    """λ ← λ − β h,   h = ⟨∇ℓ(w_{t+1}; batch_{t+1}), ∂w_{t+1}/∂λ⟩.

    Example:
      >>> import hypergrad as hg
      >>> hg.HypergradientDescent(hg.Additive())
      HypergradientDescent(rule=Additive())
    """

    def hypergrad(self, problem, hparams, progress):
        """One vjp of one step."""
        t, key, inner = progress

        def next_loss(moved):
            state = problem.step(moved, inner, t, key, Mixed())
            return problem.batch_loss(hparams, state, t + 1, key), state

        run, floats, restore = objective_of_floats(next_loss, hparams)
        slope, state = jax.grad(run, has_aux=True)(floats)
        return restore(slope), Progress(t + 1, key, state)


@dataclass(frozen=True)
class Multiplicative(Rule):
    """λ_j ← λ_j (1 − β h_j / (‖∇ℓ‖ ‖∂w/∂λ_j‖)), for each number λ_j by itself.

    The relative change of λ_j is β times a cosine, so that β has no unit (Baydin et
    al. 2018); where a norm is zero λ_j stays. It takes a jvp of one step for each
    number of λ.

    Example:
      >>> import hypergrad as hg
      >>> hg.HypergradientDescent(hg.Multiplicative())
      HypergradientDescent(rule=Multiplicative())
    """

    def hypergrad(self, problem, hparams, progress):
        """The cosine of ∇ℓ with each column of ∂w/∂λ, times λ."""
        t, key, inner = progress

        def step(moved):
            state = problem.step(moved, inner, t, key)
            return tree.partition(problem.weights(state))[0], state

        run, floats, restore = objective_of_floats(step, hparams)
        vector, unravel = tree.ravel(floats)
        weights, push, state = jax.linearize(
            lambda vector: run(unravel(vector)), vector, has_aux=True
        )
        _, fixed = tree.partition(problem.weights(state))

        def next_loss(weights):
            moved = problem.replace_weights(state, tree.combine(weights, fixed))
            return problem.batch_loss(hparams, moved, t + 1, key)

        gradient = jax.grad(next_loss)(weights)

        def cosine(direction):
            column = push(direction)
            norms = tree.norm(gradient) * tree.norm(column)
            safe = jnp.where(norms == 0, 1.0, norms)  # and a NaN stays one
            return tree.vdot(gradient, column) / safe

        cosines = jax.lax.map(cosine, jnp.eye(vector.size, dtype=vector.dtype))
        slope = unravel(vector * cosines.astype(vector.dtype))
        return restore(slope), Progress(t + 1, key, state)


@dataclass(frozen=True)
class HypergradientDescent(OnlineEstimator):
    """h = ⟨∇ℓ(w_{t+1}; batch_{t+1}), ∂w_{t+1}/∂λ⟩, where w_t counts as a constant.

    A call makes one step with λ and then asks whether another λ would have lowered the
    *training* loss of the batch to come (Baydin et al. 2018). For the rate of SGD that
    is −∇ℓ_{t+1} · ∇ℓ_t, and for any optimiser −∇ℓ_{t+1} · (its direction): one number
    for a rate that all tensors share. λ moves the loss through w alone: its own
    penalty in ℓ is not counted. On the validation loss it is `MARTHE(mu=0)`, or in
    reverse mode `OnlineReverse(window=1)`.

    Computes: the derivative of the next batch's loss through one step.
    Bias:     short-horizon (Wu et al. 2018): later steps and validation are not seen.
    Variance: that of two batches.
    Memory:   one inner state and one step's residuals.
    Time:     2 to 3 inner steps a call, and one outer loss for `value`; with
              `Multiplicative()` one more inner step for each number of λ.

    Attributes:
      rule: `Additive()` or `Multiplicative()`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.ones(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * w**2,
      ...     outer_loss=lambda w, hp, batch: 0.5 * w**2,
      ...     optimizer=lambda hp: optax.sgd(hp["lr"]),
      ...     train=jnp.ones(1), valid=jnp.ones(1), num_steps=4)
      >>> estimator, hparams = hg.HypergradientDescent(), {"lr": 0.5}
      >>> state = estimator.init(problem, hparams, jax.random.key(0))
      >>> result, state = hg.estimate(
      ...     problem, estimator, hparams, state, jax.random.key(1))
      >>> print(result.hypergrad["lr"])  # w goes from 1 to 0.5
      -0.5
    """

    rule: Rule = Additive()

    def applies(self, problem):
        """It needs the loss that the steps minimise."""
        if not problem.has_inner_loss:
            return (
                "it descends the training loss, which this problem does not give: "
                "pass inner_loss_at to Problem.from_step, or use MARTHE(mu=0.0)"
            )
        return super().applies(problem)

    def advance(self, problem, hparams, state, key):
        """One step, and its λ judged by the next batch."""
        del key
        hypergrad, state = self.rule.hypergrad(problem, hparams, state)
        value = outer_term(problem, hparams, state.inner, state.t, state.key)
        return Estimate(value, hypergrad, Info(state.inner)), state
