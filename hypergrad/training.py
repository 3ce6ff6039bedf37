"""The everyday dynamics: losses, an optax optimiser and minibatches.

g_t = ∇_w ℓ(w_t, λ; batch_t),   (u_t, o_{t+1}) = optimizer(λ).update(g_t, o_t, w_t),
w_{t+1} = w_t + u_t,            s_t = InnerState(w_t, o_t, model state)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hypergrad.batches import Batches, num_rows
from hypergrad.dynamics import Dynamics
from hypergrad.gradients import InnerGradient, named
from hypergrad.typing import HParams, Key, PyTree, Scalar, Tick, Weights


class InnerState(NamedTuple):
    """s_t: all that training carries from step to step."""

    weights: Weights
    opt_state: PyTree
    model_state: PyTree


class Context(NamedTuple):
    """What a loss may need beside weights, hyperparameters and a batch.

    Attributes:
      key: a key of this step alone (dropout, augmentation).
      model_state: running statistics and the like, carried in `InnerState`.
      train: True in the inner loss, False in the outer one (a Python bool).
      given: that of `Problem.with_context`.
    """

    key: Key
    model_state: PyTree
    train: bool
    given: PyTree = None


class TrainingData(NamedTuple):
    """The leaves of an everyday problem."""

    train: PyTree
    valid: PyTree
    batches: Batches
    given: PyTree = None


@dataclass(frozen=True)
class Training(Dynamics):
    """Dynamics of gradient training with losses that see a `Context`."""

    init_fn: Callable[..., tuple[Weights, PyTree]]
    inner_fn: Callable[[Weights, HParams, PyTree, Context], tuple[Scalar, PyTree]]
    outer_fn: Callable[[Weights, HParams, PyTree, Context], tuple[Scalar, PyTree]]
    optimizer: Callable[[HParams], optax.GradientTransformation]

    def start(self, hparams: HParams, tick: Tick) -> InnerState:
        """s_0 = (init(key, λ), optimizer(λ).init(w_0))."""
        init_key, _, _ = jax.random.split(tick.key, 3)
        given = () if tick.data.given is None else (tick.data.given,)
        weights, model_state = _pair(self.init_fn(init_key, hparams, *given), "init")
        opt_state = self._optax(lambda: self.optimizer(hparams).init(weights))
        return InnerState(weights, opt_state, model_state)

    def step(
        self,
        hparams: HParams,
        state: InnerState,
        tick: Tick,
        gradient: InnerGradient,
    ) -> InnerState:
        """One optimiser step on one batch."""
        constants = self._batch(tick)
        weights, opt_state, model_state = state
        grads, new_model_state = named(
            gradient(self._inner, weights, hparams, model_state, constants)
        )

        def update():
            tx = optax.with_extra_args_support(self.optimizer(hparams))
            # Unused by most transformations, and then dropped by the compiler.
            value = self._inner(weights, hparams, model_state, constants)[0]
            return tx.update(grads, opt_state, weights, value=value)

        updates, new_opt_state = self._optax(update)
        new_weights = optax.apply_updates(weights, updates)
        return InnerState(new_weights, new_opt_state, new_model_state)

    def outer(self, hparams: HParams, state: InnerState, tick: Tick) -> Scalar:
        """outer_loss(w_t, λ; valid) in eval mode."""
        given = tick.data.given
        context = Context(tick.step_key, state.model_state, train=False, given=given)
        result = self.outer_fn(state.weights, hparams, tick.data.valid, context)
        return _pair(result, "outer_loss")[0]

    @property
    def has_inner_loss(self) -> bool:
        """Always."""
        return True

    def inner_loss(self, hparams: HParams, state: InnerState, tick: Tick) -> Scalar:
        """ℓ(w_t, λ; all of train), the model state held."""
        constants = (tick.data.train, tick.step_key, tick.data.given)
        return self._inner(state.weights, hparams, state.model_state, constants)[0]

    def batch_loss(self, hparams: HParams, state: InnerState, tick: Tick) -> Scalar:
        """ℓ(w_t, λ; batch_t)."""
        constants = self._batch(tick)
        return self._inner(state.weights, hparams, state.model_state, constants)[0]

    def weights(self, state: InnerState) -> Weights:
        """`state.weights`."""
        return state.weights

    def replace_weights(self, state: InnerState, weights: Weights) -> InnerState:
        """The optimiser's and the model's state stay."""
        return state._replace(weights=weights)

    @staticmethod
    def _batch(tick: Tick):
        """(batch_t, key of the loss, given): what the loss of step t depends on."""
        _, batch_key, loss_key = jax.random.split(tick.key, 3)
        batch = tick.data.batches.gather(tick.data.train, tick.t, batch_key)
        return batch, jax.random.fold_in(loss_key, tick.t), tick.data.given

    def _inner(self, weights, hparams, model_state, constants):
        batch, key, given = constants
        context = Context(key, model_state, train=True, given=given)
        result = self.inner_fn(weights, hparams, batch, context)
        value, model_state = _pair(result, "inner_loss")
        if jnp.shape(value) != ():
            raise ValueError(
                f"inner_loss must return a scalar, got shape {jnp.shape(value)}: "
                "reduce it (jnp.mean) before returning"
            )
        return value, model_state

    @staticmethod
    def _optax(call):
        """Run optax code; a Python branch on a traced number becomes a clear error."""
        try:
            return call()
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                "optimizer(hparams) branches in Python on a number taken from hparams "
                "(a schedule length, a flag), which cannot be differentiated. Keep "
                "that number out of hparams, or use a schedule of hypergrad.schedules, "
                "whose every number may be a hyperparameter."
            ) from error


def _pair(result, name: str):
    if not (isinstance(result, tuple) and len(result) == 2):
        expected = (
            "(weights, model_state)" if name == "init" else "(scalar, model_state)"
        )
        raise ValueError(
            f"{name} must return the pair {expected} in a problem with context, got "
            f"{type(result).__name__}"
        )
    return result


@dataclass(frozen=True)
class WithoutContext:
    """Everyday functions seen as functions with a context (and no model state)."""

    init_fn: Callable[[Key, HParams], Weights]
    inner_fn: Callable[[Weights, HParams, PyTree], Scalar]
    outer_fn: Callable[[Weights, HParams, PyTree], Scalar]

    def training(self, optimizer) -> Training:
        """The dynamics; equal functions give equal (and equally hashed) dynamics."""
        return Training(
            _Init(self.init_fn), _Loss(self.inner_fn), _Loss(self.outer_fn), optimizer
        )


@dataclass(frozen=True)
class _Init:
    fn: Callable

    def __call__(self, key, hparams):
        return self.fn(key, hparams), ()


@dataclass(frozen=True)
class _Loss:
    fn: Callable

    def __call__(self, weights, hparams, batch, context):
        return self.fn(weights, hparams, batch), context.model_state


class FoldData(NamedTuple):
    """All rows once, and which of them each fold trains and validates on."""

    rows: PyTree
    train_rows: jax.Array
    valid_rows: jax.Array
    batches: Batches

    @classmethod
    def split(cls, rows: PyTree, num_folds: int, batches: Batches) -> "FoldData":
        """Fold k validates on rows k, k + K, k + 2K, ..."""
        rows = jax.tree.map(jnp.asarray, rows)
        n = num_rows(rows)
        if not 2 <= num_folds <= n or n % num_folds:
            raise ValueError(
                f"num_folds must be at least 2 and divide the {n} rows, got {num_folds}"
            )
        fold_of = jnp.arange(n) % num_folds
        folds = range(num_folds)
        return cls(
            rows,
            jnp.stack([jnp.flatnonzero(fold_of != k) for k in folds]),
            jnp.stack([jnp.flatnonzero(fold_of == k) for k in folds]),
            batches,
        )

    def fold(self, k) -> TrainingData:
        """The training data of fold k (k may be traced)."""

        def take(index):
            return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self.rows)

        return TrainingData(
            take(self.train_rows[k]), take(self.valid_rows[k]), self.batches
        )


@dataclass(frozen=True)
class Folds(Dynamics):
    """K trainings side by side; the outer loss is their mean."""

    training: Training

    def start(self, hparams, tick):
        """s_0 of each fold, stacked."""
        return self._each(lambda fold: self.training.start(hparams, fold), tick)

    def step(self, hparams, state, tick, gradient):
        """One step in each fold."""

        def step(fold, state):
            return self.training.step(hparams, state, fold, gradient)

        return self._each(step, tick, state)

    def outer(self, hparams, state, tick):
        """The mean outer loss over the folds."""

        def outer(fold, state):
            return self.training.outer(hparams, state, fold)

        return jnp.mean(self._each(outer, tick, state))

    @property
    def has_inner_loss(self) -> bool:
        """Always: the sum over the folds, whose gradient is that of each fold."""
        return True

    def inner_loss(self, hparams, state, tick):
        """Σ over the folds of ℓ(w_k, λ; all that fold k trains on)."""

        def loss(fold, state):
            return self.training.inner_loss(hparams, state, fold)

        return jnp.sum(self._each(loss, tick, state))

    def batch_loss(self, hparams, state, tick):
        """Σ over the folds of ℓ(w_k, λ; batch_t of fold k)."""

        def loss(fold, state):
            return self.training.batch_loss(hparams, state, fold)

        return jnp.sum(self._each(loss, tick, state))

    def weights(self, state):
        """The folds' weights, stacked."""
        return self.training.weights(state)

    def replace_weights(self, state, weights):
        """As for one training."""
        return self.training.replace_weights(state, weights)

    @staticmethod
    def _each(fn, tick, *args):
        folds = jnp.arange(tick.data.train_rows.shape[0])

        def one(k, *args):
            key = jax.random.fold_in(tick.key, k)
            return fn(tick._replace(data=tick.data.fold(k), key=key), *args)

        return jax.vmap(one)(folds, *args)
