"""Stochastic bilevel optimisation with a Neumann series of fresh batches."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import Estimate
from hypergrad.estimators.bilevel import (
    AdjointInfo,
    BilevelEstimator,
    Losses,
    check_count,
    check_positive,
    relative_norm,
    unseen,
)
from hypergrad.estimators.online_base import Progress
from hypergrad.unroll import loop


@dataclass(frozen=True)
class StocBiO(BilevelEstimator):
    """d = ∇_λ f − (∂²ℓ_b/∂λ∂w) v,   v = η Σ_{q<Q} (I − ηH_q) ... (I − ηH_1) ∇_w f.

    First D training steps from where the last call ended, then a Neumann series for
    H⁻¹ ∇_w f each of whose factors sees a fresh batch, then the mixed product on one
    more (Ji, Yang, Liang 2021). The weights take the problem's own training steps; in
    the paper these are SGD. The fresh batches are those of steps t, t + 1, ... in the
    run of the call's own key, and the outer loss is whole.

    Computes: a direction for λ which approaches dF/dλ at w*(λ).
    Bias:     inexact linear solve, (1 − ημ)^Q relative at curvature μ, and inexact
              inner solution, (1 − αμ)^D with the rate α of training.
    Variance: that of the batches of the series and of training, at every call anew.
    Memory:   one inner state and three weights.
    Time:     D + 2 Q + 4 inner steps a call.

    Attributes:
      inner_steps: D.
      neumann_terms: Q.
      neumann_rate: η, below 2 / (largest curvature of any batch's ℓ).

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=60)
      >>> stocbio = hg.StocBiO(neumann_rate=0.5)  # dF/dλ = λ − 1, less 2⁻¹⁰ of it
      >>> estimate, _ = hg.estimate(problem, stocbio, 3.0, (), jax.random.key(0))
      >>> print(f"{estimate.hypergrad:.4f}")
      1.9980
    """

    inner_steps: int = 10
    neumann_terms: int = 10
    neumann_rate: float = 0.1

    def __post_init__(self):
        check_count(self, "inner_steps", "neumann_terms")
        check_positive(self, "neumann_rate")

    def steps(self, problem):
        """D."""
        return self.inner_steps

    def advance(self, problem, hparams, state, key):
        """D steps, Q Hessian products, one mixed product."""
        t, run_key, inner = state
        end = t + self.inner_steps

        def train(inner, t):
            return problem.step(hparams, inner, t, run_key)

        inner = loop(train, inner, self.inner_steps, first=t)
        losses = Losses.at(problem, hparams, inner, run_key)
        w = problem.weights(inner)
        value, (df_dw, direct) = jax.value_and_grad(losses.outer, (0, 1))(
            w, losses.floats, end
        )

        def term(carry, q):
            v, r = carry
            v = tree.axpy(self.neumann_rate, r, v)
            _, hessian_r, _ = losses.products(w, r, q, key)
            return v, tree.axpy(-self.neumann_rate, hessian_r, r)

        zero = jax.tree.map(jnp.zeros_like, df_dw)
        v, r = loop(term, (zero, df_dw), self.neumann_terms, first=end)
        _, _, cross_v = losses.products(w, v, end + self.neumann_terms, key)
        hypergrad = tree.axpy(-1.0, cross_v, direct)

        residual = relative_norm(r, df_dw)
        info = AdjointInfo(inner, ~(residual <= 1), residual)
        state = Progress(end, run_key, inner)
        return Estimate(value, losses.restore(hypergrad), info), state

    def doubt(self, info):
        """The residual of the series, where it grew."""
        if not bool(info.doubtful):
            return None
        residual = float(info.residual)
        return (
            f"{self}: the Neumann series grew (last residual: {residual:.3g} "
            "of its first term). Lower neumann_rate: it must stay below 2 / (largest "
            "curvature of the inner loss on any batch). If it did not grow: "
            f"{unseen(info)}"
        )
