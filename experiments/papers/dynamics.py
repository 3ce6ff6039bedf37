"""A training changed from outside: begun at a given state, or halted at a given step.

State and step are data of the problem, so that other ones need no other program.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import jax
import jax.numpy as jnp

import hypergrad as hg
from hypergrad.dynamics import Dynamics
from hypergrad.typing import PyTree, Tick


class _Data(NamedTuple):
    """The training's own data, and what changes it."""

    own: PyTree
    given: PyTree


def begun_at(problem: hg.Problem, state: PyTree) -> hg.Problem:
    """One step from a state that does not depend on λ, and the outer loss after it."""
    data = _Data(problem.data, state)
    dynamics = _Begun(problem.dynamics)
    return problem.replace(dynamics=dynamics, data=data, num_steps=1)


def halted_after(problem: hg.Problem, count: int | jax.Array) -> hg.Problem:
    """The training whose state stays as it is after `count` steps, up to step T."""
    data = _Data(problem.data, jnp.asarray(count, jnp.int32))
    return problem.replace(dynamics=_Halted(problem.dynamics), data=data)


@dataclass(frozen=True)
class _Changed(Dynamics):
    """The functions of another training."""

    training: Dynamics

    def start(self, hparams, tick):
        """s_0."""
        return self.training.start(hparams, _own(tick))

    def step(self, hparams, state, tick, gradient):
        """s_{t+1}."""
        return self.training.step(hparams, state, _own(tick), gradient)

    def outer(self, hparams, state, tick):
        """outer_t."""
        return self.training.outer(hparams, state, _own(tick))

    @property
    def has_inner_loss(self):
        """That of the training."""
        return self.training.has_inner_loss

    def inner_loss(self, hparams, state, tick):
        """ℓ over all of the training data."""
        return self.training.inner_loss(hparams, state, _own(tick))

    def batch_loss(self, hparams, state, tick):
        """ℓ on a batch."""
        return self.training.batch_loss(hparams, state, _own(tick))

    def weights(self, state):
        """W."""
        return self.training.weights(state)

    def replace_weights(self, state, weights):
        """All else stays."""
        return self.training.replace_weights(state, weights)


@final
@dataclass(frozen=True)
class _Begun(_Changed):
    def start(self, hparams, tick):
        """The state that is given."""
        del hparams
        return tick.data.given


@final
@dataclass(frozen=True)
class _Halted(_Changed):
    def step(self, hparams, state, tick, gradient):
        """A step, or none."""
        after = super().step(hparams, state, tick, gradient)
        moves = tick.t < tick.data.given
        return jax.tree.map(lambda a, b: jnp.where(moves, a, b), after, state)


def _own(tick: Tick) -> Tick:
    return tick._replace(data=tick.data.own)
