"""Single-loop bilevel optimisation: weights, adjoint and λ move together."""

from dataclasses import dataclass
from typing import NamedTuple

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
from hypergrad.estimators.online_base import begin
from hypergrad.typing import Key, PyTree, Weights

# ‖H_t v − ∇f‖ may well exceed ‖∇f‖ where f changes fast or batches are small; beyond
# this multiple the adjoint is diverging.
_DIVERGING = 10.0


class SOBAState(NamedTuple):
    """Weights and adjoint after t steps."""

    t: jax.Array
    key: Key
    inner: PyTree
    adjoint: Weights


class SABAState(NamedTuple):
    """As `SOBAState`, and the last seen products of each of the m batches."""

    t: jax.Array
    key: Key
    inner: PyTree
    adjoint: Weights
    table: tuple[PyTree, PyTree, PyTree]


class _SingleLoop(BilevelEstimator):
    """One step of everything a call."""

    adjoint_rate: float

    def doubt(self, info):
        """The adjoint's residual, or what else may be the reason."""
        if not bool(info.doubtful):
            return None
        return (
            f"{self}: the adjoint's residual may be more than {_DIVERGING:g} times its "
            f"right-hand side (last: {float(info.residual):.3g}). Lower adjoint_rate: "
            "it must stay below 2 / (largest curvature of the inner loss). If that is "
            f"no reason: {unseen(info)}"
        )

    def _adjoint_step(self, v, hessian_v, df_dw):
        """`v − η (H v − ∇_w f)` and the relative residual."""
        residual = tree.axpy(-1.0, df_dw, hessian_v)
        v = tree.axpy(-self.adjoint_rate, residual, v)
        return v, relative_norm(residual, df_dw)


@dataclass(frozen=True)
class SOBA(_SingleLoop):
    """d = ∇_λ f − (∂²ℓ_t/∂λ∂w) v;   w ← step_t(w),   v ← v − η (H_t v − ∇_w f).

    The weights w, the adjoint v and, by the caller's hand, λ move at once, each from
    where all three were before, on one batch (Dagréou et al. 2022, whose v is −v here).
    The weights take the problem's own training step; in the paper this is SGD.

    Computes: a direction for λ which, with λ held, converges to dF/dλ at w*(λ).
    Bias:     v and w lag behind λ, the less the slower λ moves; none in the limit.
    Variance: that of the batch in the mixed product, and of w and v at constant rates:
              a floor that does not go away with λ held.
    Memory:   one inner state, one adjoint.
    Time:     about 5 inner steps a call: step, Hessian product, two outer losses.

    Attributes:
      adjoint_rate: η, below 2 / (largest curvature of ℓ).

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=60)
      >>> soba = hg.SOBA(adjoint_rate=0.5)  # w* = λ, so dF/dλ = λ − 1
      >>> estimate, _ = hg.estimate(problem, soba, 3.0, (), jax.random.key(0))
      >>> print(f"{estimate.hypergrad:.4f}")
      2.0000
    """

    adjoint_rate: float = 0.1

    def __post_init__(self):
        check_positive(self, "adjoint_rate")

    def init(self, problem, hparams, key):
        """The start of training, and no adjoint yet."""
        progress = begin(problem, hparams, key)
        zero = jax.tree.map(jnp.zeros_like, problem.weights(progress.inner))
        return SOBAState(*progress, adjoint=zero)

    def advance(self, problem, hparams, state, key):
        """All three directions at one point, then all three steps."""
        del key  # the batches are those of training
        t, run_key, inner, v = state
        losses = Losses.at(problem, hparams, inner, run_key)
        w = problem.weights(inner)
        df_dw, direct = jax.grad(losses.outer, (0, 1))(w, losses.floats, t)
        _, hessian_v, cross_v = losses.products(w, v, t)
        hypergrad = tree.axpy(-1.0, cross_v, direct)

        v, residual = self._adjoint_step(v, hessian_v, df_dw)
        inner = problem.step(hparams, inner, t, run_key)
        value = problem.outer(hparams, inner, t + 1, run_key)
        info = AdjointInfo(inner, ~(residual <= _DIVERGING), residual)
        state = SOBAState(t + 1, run_key, inner, v)
        return Estimate(value, losses.restore(hypergrad), info), state


@dataclass(frozen=True)
class SABA(_SingleLoop):
    """SOBA with each product φ_i replaced by φ_i − φ_i^old + mean_j φ_j^old (SAGA).

    The inner objective is the mean of m fixed losses, those of the batches of steps
    0, ..., m − 1 of the run: with `Epochs` or an `IndexTable` that partitions the rows,
    the mean over all rows. A call draws one i, and ∇_w ℓ_i, H_i v and (∂²ℓ_i/∂λ∂w) v
    are corrected by what they were when i was last seen (Dagréou et al. 2022). The
    weights take plain steps of `inner_rate`; the problem's optimiser is not asked.

    Computes: a direction for λ which, with λ held, converges to dF/dλ of that mean.
    Bias:     v, w and the table lag behind λ; none in the limit.
    Variance: goes to zero with λ held, linearly: no floor at constant rates.
    Memory:   m times (two weights and one λ), one inner state, one adjoint.
    Time:     about 5 inner steps a call, and m at the start.

    Attributes:
      inner_rate: rate of the weights, below 1 / (3 L), L being the largest curvature of
        any ℓ_i.
      adjoint_rate: η, likewise.
      num_batches: m.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - 1.0) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5), batches=hg.Epochs(1),
      ...     train=jnp.array([0.0, 1.0, 2.0]), valid=jnp.ones(2), num_steps=200)
      >>> saba = hg.SABA(0.2, 0.2, num_batches=3)  # w* = λ, so dF/dλ = λ − 1
      >>> estimate, _ = hg.estimate(problem, saba, 3.0, (), jax.random.key(0))
      >>> print(f"{estimate.hypergrad:.4f}")
      2.0000
    """

    inner_rate: float = 0.1
    adjoint_rate: float = 0.1
    num_batches: int = 8

    def __post_init__(self):
        check_positive(self, "inner_rate", "adjoint_rate")
        check_count(self, "num_batches")

    def init(self, problem, hparams, key):
        """The start, no adjoint yet, and the table filled at this point."""
        progress = begin(problem, hparams, key)
        w = problem.weights(progress.inner)
        zero = jax.tree.map(jnp.zeros_like, w)
        losses = Losses.at(problem, hparams, progress.inner, key)
        batches = jnp.arange(self.num_batches, dtype=jnp.int32)
        table = jax.lax.map(lambda i: losses.products(w, zero, i), batches)
        return SABAState(*progress, adjoint=zero, table=table)

    def advance(self, problem, hparams, state, key):
        """The products of one batch, corrected by the table."""
        t, run_key, inner, v, table = state
        losses = Losses.at(problem, hparams, inner, run_key)
        w = problem.weights(inner)
        df_dw, direct = jax.grad(losses.outer, (0, 1))(w, losses.floats, t)

        own = jax.random.fold_in(key, t)
        i = jax.random.randint(own, (), 0, self.num_batches, jnp.int32)
        new = losses.products(w, v, i)
        grads, hessian_v, cross_v = jax.tree.map(
            lambda new, old: new - old[i] + jnp.mean(old, 0), new, table
        )
        table = jax.tree.map(lambda old, new: old.at[i].set(new), table, new)
        hypergrad = tree.axpy(-1.0, cross_v, direct)

        v, residual = self._adjoint_step(v, hessian_v, df_dw)
        w = tree.axpy(-self.inner_rate, grads, w)
        inner = problem.replace_weights(inner, w)
        value = problem.outer(hparams, inner, t + 1, run_key)
        info = AdjointInfo(inner, ~(residual <= _DIVERGING), residual)
        state = SABAState(t + 1, run_key, inner, v, table)
        return Estimate(value, losses.restore(hypergrad), info), state
