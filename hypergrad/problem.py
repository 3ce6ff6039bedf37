"""A problem: training as a pure function of its hyperparameters, and what it is for.

F(λ) = Σ_t outer_t(λ, s_t),   s_{t+1} = step(λ, s_t, tick_t),   s_0 = start(λ, tick_0)
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.batches import Batches, as_batches
from hypergrad.dynamics import Dynamics, Functions
from hypergrad.gradients import InnerGradient, Plain
from hypergrad.training import FoldData, Folds, Training, TrainingData, WithoutContext
from hypergrad.typing import HParams, Key, PyTree, Scalar, Tick, Weights


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, init=False)
class Problem:
    """min over λ of F(λ), the outer loss at the end of T steps of inner training.

    The constructor is the everyday form: weights, two losses, an optax optimiser and
    two data sets. `Problem.from_step` takes any dynamics; `Problem.with_context` takes
    losses that need a key, model state or the train / eval mode; `Problem.from_folds`
    cross-validates. A problem is a pytree: `data` are its leaves, functions and sizes
    are static, so the data never enter a compiled program as constants and problems of
    equal shape and functions share one compilation.

    Args:
      init: `(key, hparams) -> weights`, w_0; may depend on λ.
      inner_loss: `(weights, hparams, batch) -> scalar`, minimised by training.
      outer_loss: `(weights, hparams, valid) -> scalar`, F is its value after training.
      optimizer: `hparams -> optax.GradientTransformation`, called inside the trace, so
        every number optax does not branch on in Python is differentiable.
      train: pytree of arrays with one leading row axis.
      valid: pytree handed to `outer_loss` whole.
      num_steps: T >= 1.
      batch_size: rows a step, drawn with replacement; None for the full batch.
      batches: instead of `batch_size`, any `hypergrad.batches.Batches` value.
      outer_every: None: F is the outer loss after step T. k: F is the sum of the outer
        losses after steps k, 2k, 3k, ... <= T.

    Raises:
      ValueError: a function has the wrong result, with the argument named, when traced.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(hp["lr"]),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=3)
      >>> F = hg.objective(problem, hg.Reverse())
      >>> F({"lr": 0.5}, jax.random.key(0))  # w_3 = 1 - 0.5^3, F = 0.5 (0.125)^2
      Array(0.0078125, dtype=float32)
    """

    dynamics: Dynamics
    data: PyTree
    num_steps: int
    outer_every: int | None

    def __init__(
        self,
        *,
        init,
        inner_loss,
        outer_loss,
        optimizer,
        train: PyTree,
        valid: PyTree,
        num_steps: int,
        batch_size: int | None = None,
        batches: Batches | None = None,
        outer_every: int | None = None,
    ):
        training = WithoutContext(init, inner_loss, outer_loss).training(optimizer)
        data = TrainingData(train, valid, as_batches(batches, batch_size))
        self._set(training, data, num_steps, outer_every)

    @classmethod
    def with_context(
        cls,
        *,
        init,
        inner_loss,
        outer_loss,
        optimizer,
        train: PyTree,
        valid: PyTree,
        num_steps: int,
        batch_size: int | None = None,
        batches: Batches | None = None,
        outer_every: int | None = None,
        given: PyTree = None,
    ) -> "Problem":
        """The everyday form with losses that see a `Context`.

        Dropout and augmentation take `context.key`, batch norm `context.model_state`.

        Args:
          init: `(key, hparams) -> (weights, model_state)`; with `given`,
            `(key, hparams, given) -> (weights, model_state)`.
          inner_loss: `(weights, hparams, batch, context) -> (scalar, model_state)`.
          outer_loss: the same signature; `context.train` is False.
          optimizer: as in `Problem`, and so are all other arguments.
          train: pytree of training rows.
          valid: pytree of validation rows.
          num_steps: T.
          batch_size: rows a step.
          batches: instead of `batch_size`.
          outer_every: as in `Problem`.
          given: pytree of arrays that are neither rows nor λ, such as pre-trained
            weights: `init` and, as `context.given`, both losses see them.
        """
        training = Training(init, inner_loss, outer_loss, optimizer)
        data = TrainingData(train, valid, as_batches(batches, batch_size), given)
        return cls._make(training, data, num_steps, outer_every)

    @classmethod
    def from_step(
        cls,
        start: Callable[[HParams, Tick], PyTree],
        step: Callable[[HParams, PyTree, Tick], PyTree],
        outer_at: Callable[[HParams, PyTree, Tick], Scalar],
        *,
        num_steps: int,
        data: PyTree = (),
        outer_every: int | None = None,
        inner_loss_at: Callable[[HParams, PyTree, Tick], Scalar] | None = None,
    ) -> "Problem":
        """Any dynamics: s_0 = start(λ, tick), s_{t+1} = step(λ, s_t, tick).

        Args:
          start: `(hparams, tick) -> state`, any pytree.
          step: `(hparams, state, tick) -> state` of the same structure and dtypes.
          outer_at: `(hparams, state, tick) -> scalar`; `tick.t` steps have been done.
          num_steps: T.
          data: pytree of arrays, reached as `tick.data`.
          outer_every: None: F = outer_T; k: F = outer_k + outer_2k + ...
          inner_loss_at: `(hparams, state, tick) -> scalar`, the loss that the steps
            minimise over the state, for estimators that need one (`Implicit`, ...).

        Example:
          >>> import jax, jax.numpy as jnp, hypergrad as hg
          >>> problem = hg.Problem.from_step(
          ...     start=lambda hp, tick: jnp.ones(()),
          ...     step=lambda hp, s, tick: hp * s,
          ...     outer_at=lambda hp, s, tick: s, num_steps=3)
          >>> hg.hypergrad(problem, hg.Forward())(2.0, jax.random.key(0))  # d λ³ / dλ
          Array(12., dtype=float32)
        """
        dynamics = Functions(start, step, outer_at, inner_loss_at)
        return cls._make(dynamics, data, num_steps, outer_every)

    @classmethod
    def from_folds(
        cls,
        *,
        init,
        inner_loss,
        outer_loss,
        optimizer,
        data: PyTree,
        num_folds: int,
        num_steps: int,
        batch_size: int | None = None,
        batches: Batches | None = None,
    ) -> "Problem":
        """K-fold cross-validation: F is the mean outer loss over K trainings.

        Fold k validates on every K-th row of `data` starting at row k (shuffle the rows
        first) and trains on all others; the K trainings run side by side under vmap.

        Args:
          init: as in `Problem`, and so are the losses and the optimiser.
          inner_loss: `(weights, hparams, batch) -> scalar`.
          outer_loss: `(weights, hparams, batch) -> scalar`.
          optimizer: `hparams -> optax.GradientTransformation`.
          data: pytree of n rows; K must divide n.
          num_folds: K >= 2.
          num_steps: T.
          batch_size: rows a step and fold.
          batches: instead of `batch_size`.
        """
        training = WithoutContext(init, inner_loss, outer_loss).training(optimizer)
        fold_data = FoldData.split(data, num_folds, as_batches(batches, batch_size))
        return cls._make(Folds(training), fold_data, num_steps, None)

    @classmethod
    def _make(cls, dynamics, data, num_steps, outer_every) -> "Problem":
        self = object.__new__(cls)
        self._set(dynamics, data, num_steps, outer_every)
        return self

    def _set(self, dynamics, data, num_steps, outer_every):
        for name, number in (("num_steps", num_steps), ("outer_every", outer_every)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(
                    f"{name} must be a Python int >= 1, got {number!r}: lengths of "
                    "loops are static"
                )
        if outer_every is not None and outer_every > num_steps:
            raise ValueError(
                f"outer_every ({outer_every}) must not exceed num_steps ({num_steps})"
            )
        object.__setattr__(self, "dynamics", dynamics)
        object.__setattr__(self, "data", jax.tree.map(jnp.asarray, data))
        object.__setattr__(self, "num_steps", num_steps)
        object.__setattr__(self, "outer_every", outer_every)

    def replace(self, **changes: Any) -> "Problem":
        """The same problem with some of its four fields changed."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if unknown := set(changes) - set(fields):
            raise ValueError(f"Problem has no field {unknown}, it has {set(fields)}")
        return self._make(**(fields | changes))

    def tree_flatten_with_keys(self):
        """Data are leaves."""
        leaves = ((jax.tree_util.GetAttrKey("data"), self.data),)
        return leaves, (self.dynamics, self.num_steps, self.outer_every)

    @classmethod
    def tree_unflatten(cls, static, leaves):
        """Inverse of `tree_flatten_with_keys`; leaves may be anything."""
        self = object.__new__(cls)
        dynamics, num_steps, outer_every = static
        object.__setattr__(self, "dynamics", dynamics)
        object.__setattr__(self, "data", leaves[0])
        object.__setattr__(self, "num_steps", num_steps)
        object.__setattr__(self, "outer_every", outer_every)
        return self

    def start(self, hparams: HParams, key: Key) -> PyTree:
        """s_0, as arrays of strong dtype."""
        return tree.as_arrays(self.dynamics.start(hparams, self._tick(0, key)))

    def step(
        self,
        hparams: HParams,
        state: PyTree,
        t,
        key: Key,
        gradient: InnerGradient = Plain(),
    ) -> PyTree:
        """s_{t+1} from s_t."""
        return self.dynamics.step(hparams, state, self._tick(t, key), gradient)

    def outer(self, hparams: HParams, state: PyTree, t, key: Key) -> Scalar:
        """outer_t(λ, s_t)."""
        value = self.dynamics.outer(hparams, state, self._tick(t, key))
        shape, dtype = jnp.shape(value), jnp.result_type(value)
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                "the outer loss must return a real scalar, got shape "
                f"{shape} and dtype {dtype}: reduce it (jnp.mean) before returning"
            )
        return jnp.asarray(value)

    @property
    def has_inner_loss(self) -> bool:
        """Whether `inner_loss` and `batch_loss` are known (see `from_step`)."""
        return self.dynamics.has_inner_loss

    def inner_loss(self, hparams: HParams, state: PyTree, key: Key) -> Scalar:
        """ℓ(w, λ) over all of the training data, at the state's weights."""
        return self.dynamics.inner_loss(hparams, state, self._tick(self.num_steps, key))

    def batch_loss(self, hparams: HParams, state: PyTree, t, key: Key) -> Scalar:
        """ℓ(w, λ) on the batch of step t: the loss whose gradient that step uses."""
        return self.dynamics.batch_loss(hparams, state, self._tick(t, key))

    def weights(self, state: PyTree) -> Weights:
        """The part w of the state over which ℓ is minimised."""
        return self.dynamics.weights(state)

    def replace_weights(self, state: PyTree, weights: Weights) -> PyTree:
        """The state with other weights."""
        return self.dynamics.replace_weights(state, weights)

    def _tick(self, t, key: Key) -> Tick:
        return Tick(jnp.asarray(t, jnp.int32), key, self.data)
