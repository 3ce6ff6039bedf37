"""What a training is made of: three functions, and the loss that it minimises."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from hypergrad.gradients import InnerGradient
from hypergrad.typing import HParams, PyTree, Scalar, Tick, Weights


class Dynamics(ABC):
    """The functions of a problem, hashable so that equal ones trace once."""

    @abstractmethod
    def start(self, hparams: HParams, tick: Tick) -> PyTree:
        """s_0."""

    @abstractmethod
    def step(
        self, hparams: HParams, state: PyTree, tick: Tick, gradient: InnerGradient
    ) -> PyTree:
        """s_{t+1}; `gradient` is the operator to use for the inner gradient."""

    @abstractmethod
    def outer(self, hparams: HParams, state: PyTree, tick: Tick) -> Scalar:
        """outer_t(λ, s_t)."""

    @property
    @abstractmethod
    def has_inner_loss(self) -> bool:
        """Whether the steps minimise a loss ℓ(w, λ) that the two methods below give."""

    @abstractmethod
    def inner_loss(self, hparams: HParams, state: PyTree, tick: Tick) -> Scalar:
        """ℓ(w, λ) over all of the training data."""

    @abstractmethod
    def batch_loss(self, hparams: HParams, state: PyTree, tick: Tick) -> Scalar:
        """ℓ(w, λ) on the batch of step `tick.t`."""

    @abstractmethod
    def weights(self, state: PyTree) -> Weights:
        """The part w of the state over which ℓ is minimised."""

    @abstractmethod
    def replace_weights(self, state: PyTree, weights: Weights) -> PyTree:
        """The state with other weights."""


@dataclass(frozen=True)
class Functions(Dynamics):
    """Dynamics given as plain functions; the weights are the whole state."""

    start_fn: Callable[[HParams, Tick], PyTree]
    step_fn: Callable[[HParams, PyTree, Tick], PyTree]
    outer_fn: Callable[[HParams, PyTree, Tick], Scalar]
    inner_fn: Callable[[HParams, PyTree, Tick], Scalar] | None = None

    def start(self, hparams, tick):
        """`start_fn(hparams, tick)`."""
        return self.start_fn(hparams, tick)

    def step(self, hparams, state, tick, gradient):
        """`step_fn(hparams, state, tick)`; its gradients are its own affair."""
        del gradient
        return self.step_fn(hparams, state, tick)

    def outer(self, hparams, state, tick):
        """`outer_fn(hparams, state, tick)`."""
        return self.outer_fn(hparams, state, tick)

    @property
    def has_inner_loss(self):
        """Whether `inner_loss_at` was given."""
        return self.inner_fn is not None

    def inner_loss(self, hparams, state, tick):
        """`inner_fn(hparams, state, tick)`."""
        if self.inner_fn is None:
            raise ValueError(
                "this problem has no inner loss: give Problem.from_step its "
                "inner_loss_at, the loss that the steps minimise"
            )
        return self.inner_fn(hparams, state, tick)

    batch_loss = inner_loss

    def weights(self, state):
        """The state."""
        return state

    def replace_weights(self, state, weights):
        """The weights."""
        del state
        return weights
