"""Bilevel problems: what the estimators of dF/dλ at the inner solution share.

min over λ of F(λ) = f(w*(λ), λ),   w*(λ) = argmin over w of ℓ(w, λ),
dF/dλ = ∇_λ f − (∂²ℓ/∂λ∂w) v,      H v = ∇_w f,   H = ∂²ℓ/∂w².
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hypergrad import tree
from hypergrad.estimators.base import estimator_key, objective_of_floats
from hypergrad.estimators.online_base import OnlineEstimator
from hypergrad.linear_solvers.base import refuse_sixteen_bits
from hypergrad.problem import Problem
from hypergrad.training import Folds, InnerState, Training
from hypergrad.typing import HParams, Key, PyTree, Scalar, Weights


class BilevelEstimator(OnlineEstimator):
    """An online estimator of dF/dλ at w*(λ), of which T knows nothing.

    Its directions approach dF/dλ while training converges, so that an episode's
    estimate is the last of them. Hyperparameters that move training but not w* (rates,
    momentum, the start) have derivative zero here, and so has a penalty that is in the
    optimiser rather than in ℓ (decoupled decay, `proximal_sgd`), which makes the
    estimate doubtful. Those that step by their own rule, rather than by the problem's,
    leave the optimiser's and the model's state alone. No derivative passes through the
    model's state: where F or the inner gradient sees one that moves (the averages of
    batch normalisation, of a teacher's weights), the estimate is doubtful, too. After T
    steps all starts anew: let T be as long as λ is to move.
    """

    @property
    def accumulates(self) -> bool:
        """An episode's estimate is its last direction."""
        return False

    def applies(self, problem: Problem) -> str | None:
        """There must be an inner loss, and one outer loss: that at the solution."""
        if not problem.has_inner_loss:
            return (
                "it has no inner loss to be minimised: give inner_loss_at= to "
                "Problem.from_step, or use Reverse()"
            )
        if problem.outer_every is not None:
            return (
                "its F sums outer losses along training (outer_every is "
                f"{problem.outer_every}), and here F is the outer loss at the inner "
                "solution: leave outer_every out, or use Reverse()"
            )
        return super().applies(problem)

    def estimate(self, problem, hparams, state, key):
        """Doubtful, too, where ℓ is not all that the optimiser minimises."""
        result, state = super().estimate(problem, hparams, state, key)
        weights = problem.weights(result.info.state)
        hidden = moves_without_gradient(problem, hparams, weights)
        hidden = hidden | model_state_matters(problem, hparams, result.info.state, key)
        info = result.info._replace(doubtful=result.info.doubtful | hidden)
        return result._replace(info=info), state

    def doubt(self, info):
        """What the minimum of ℓ does not know."""
        return f"{self}: {unseen(info)}" if bool(info.doubtful) else None


def unseen(info) -> str:
    """What F may depend on beside λ and the minimum of the inner loss."""
    hidden = (
        "the optimiser moves weights where the gradient of inner_loss is zero "
        "(decoupled weight decay, a proximal step), which the minimum of inner_loss "
        "does not know: put that into inner_loss, or use Reverse()"
    )
    if not jax.tree.leaves(split_model_state(info.state)[0]):
        return hidden
    return (
        "the outer loss or the inner gradient sees the model's state (running "
        "averages), which moves with the weights and λ and is held here: use "
        f"Reverse(), or a model without one (layer or group norm). Or else {hidden}"
    )


def split_model_state(state: PyTree):
    """`(m, rebuild)`: the floating leaves of the model's state; with others."""
    if not isinstance(state, InnerState):
        return (), lambda m: state
    m, fixed = tree.partition(state.model_state)
    return m, lambda m: state._replace(model_state=tree.combine(m, fixed))


def model_state_matters(
    problem: Problem, hparams: HParams, state: PyTree, key: Key
) -> jax.Array:
    """Whether F or the inner gradient sees a model state m that moves with (w, λ).

    With m' the model's state a step later, M = ∂m'/∂m and c = ∂f/∂m + (∂∇_w ℓ/∂m)ᵀ r
    at m', r random: (∂m'/∂(w, λ))ᵀ (Mᵀ)ᵏ c ≠ 0 for a k below the size of m and T. The
    powers are there for what comes from one part of m through others (delays).
    """
    held, frozen = jax.lax.stop_gradient(tree.partition(state))
    state = tree.combine(held, frozen)
    m, rebuild = split_model_state(state)
    if not jax.tree.leaves(m):
        return jnp.asarray(False)
    T = problem.num_steps
    w, others = tree.partition(problem.weights(state))
    whole, floats, _ = objective_of_floats(lambda h: h, jax.lax.stop_gradient(hparams))
    flat, unravel = tree.ravel(w)
    r = unravel(jax.random.normal(estimator_key(key), flat.shape, flat.dtype))

    def at(m, w):
        return problem.replace_weights(rebuild(m), tree.combine(w, others))

    def seen(m):
        slope = jax.grad(lambda w: problem.batch_loss(hparams, at(m, w), T, key))(w)
        return problem.outer(hparams, at(m, w), T, key) + tree.vdot(slope, r)

    def later(m, w, floats):
        return split_model_state(problem.step(whole(floats), at(m, w), T, key))[0]

    after, pull = jax.vjp(later, m, w, floats)

    def push(carry):
        k, c, _, _ = carry
        before, *moved = pull(c)
        still = tree.norm(tree.axpy(-1, c, before)) == 0  # and so for all k
        return k + 1, before, still, ~(tree.norm(moved) == 0)  # and a NaN matters

    def undecided(carry):
        k, _, still, matters = carry
        return (k < min(T, tree.size(m))) & ~still & ~matters

    no = jnp.asarray(False)
    start = (jnp.int32(0), jax.grad(seen)(after), no, no)
    return jax.lax.while_loop(undecided, push, start)[3]


def moves_without_gradient(
    problem: Problem, hparams: HParams, weights: Weights
) -> jax.Array:
    """Whether the optimiser's first update of weights 1 is not 0 for the gradient 0."""
    match problem.dynamics:
        case Folds(training=training) | (Training() as training):
            ones = jax.tree.map(jnp.ones_like, weights)
            rest = jax.tree.map(jnp.zeros_like, weights)
            tx = optax.with_extra_args_support(training.optimizer(hparams))
            updates, _ = tx.update(rest, tx.init(ones), ones, value=jnp.zeros(()))
            moved = tree.norm(updates)
            return moved > 8 * jnp.finfo(moved.dtype).eps * tree.norm(ones)
    return jnp.asarray(False)  # Plain steps do not say which part is a gradient.


@dataclass(frozen=True)
class Losses:
    """ℓ_t(w, x) and f(w, x) at one call, x being the floating leaves of λ.

    Attributes:
      problem: the problem.
      key: the run's key.
      state: all that an inner state holds beside its weights, which are replaced.
      hparams_of: x -> λ.
      floats: x.
      restore: a hypergradient like x -> one like λ.
    """

    problem: Problem
    key: Key
    state: PyTree
    hparams_of: Callable[[PyTree], HParams]
    floats: PyTree
    restore: Callable[[PyTree], HParams]

    @classmethod
    def at(cls, problem: Problem, hparams: HParams, state: PyTree, key: Key):
        """The losses around an inner state."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(problem.weights(state)):
            if not tree.is_inexact(leaf):
                raise ValueError(
                    "bilevel estimators minimise over all weights, which must be "
                    f"floating: leaf {jax.tree_util.keystr(path)} is {leaf.dtype}. In "
                    "Problem.from_step the weights are the whole state: count steps by "
                    "tick.t"
                )
        refuse_sixteen_bits("weights", problem.weights(state))
        return cls(problem, key, state, *objective_of_floats(lambda h: h, hparams))

    def inner(self, weights: Weights, floats, t, key: Key | None = None) -> Scalar:
        """ℓ_t(w, x), on the batch of step t of the run (or of the run of `key`)."""
        state = self.problem.replace_weights(self.state, weights)
        key = self.key if key is None else key
        return self.problem.batch_loss(self.hparams_of(floats), state, t, key)

    def outer(self, weights: Weights, floats, t) -> Scalar:
        """f(w, x) after t steps."""
        state = self.problem.replace_weights(self.state, weights)
        return self.problem.outer(self.hparams_of(floats), state, t, self.key)

    def products(self, weights: Weights, v: Weights, t, key: Key | None = None):
        """`(∇_w ℓ_t, H_t v, (∂²ℓ_t/∂x∂w) v)` from one jvp of one gradient."""

        def gradient(weights):
            return jax.grad(self.inner, (0, 1))(weights, self.floats, t, key)

        (grads, _), (hessian_v, cross_v) = jax.jvp(gradient, (weights,), (v,))
        return grads, hessian_v, cross_v


class AdjointInfo(NamedTuple):
    """What an estimate that carries an adjoint v knows.

    Attributes:
      state: the inner state after the call.
      doubtful: shape (), whether v seems to diverge.
      residual: shape (), ‖H v − ∇_w f‖ / ‖∇_w f‖ on the call's own batches; 1 at v = 0.
    """

    state: PyTree
    doubtful: jax.Array
    residual: Scalar


def relative_norm(a: PyTree, b: PyTree) -> Scalar:
    """‖a‖ / ‖b‖, and ‖a‖ where b = 0."""
    size = tree.norm(b)
    return tree.norm(a) / jnp.where(size > 0, size, 1.0)


def check_positive(value, *names: str) -> None:
    """Raise a `ValueError` for the first of these fields that is not > 0."""
    for name in names:
        if not (number := getattr(value, name)) > 0:
            raise ValueError(f"{type(value).__name__}.{name} must be > 0, got {number}")


def check_count(value, *names: str) -> None:
    """Raise a `ValueError` for the first of these fields that is no int >= 1."""
    for name in names:
        number = getattr(value, name)
        if not isinstance(number, int) or number < 1:
            raise ValueError(
                f"{type(value).__name__}.{name} must be a Python int >= 1, got "
                f"{number!r}"
            )
