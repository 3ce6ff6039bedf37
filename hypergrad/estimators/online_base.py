"""What an online estimator is: one that moves with the training, a few steps a call."""

from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import Estimate, Estimator, Target, estimator_key
from hypergrad.gradients import InnerGradient, Plain
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar
from hypergrad.unroll import (
    Checkpoint,
    NoCheckpoint,
    add_outer,
    check_step,
    loop,
    zero_outer,
)


class Progress(NamedTuple):
    """Where a training stands: t steps done, its key, and s_t."""

    t: jax.Array
    key: Key
    inner: PyTree


def begin(problem: Problem, hparams: HParams, key: Key) -> Progress:
    """The training with this key before its first step, its step checked."""
    hparams = tree.as_arrays(hparams)
    inner = problem.start(hparams, key)
    check_step(problem, hparams, inner, key)
    return Progress(jnp.zeros((), jnp.int32), key, inner)


class OnlineEstimator(Estimator):
    """An estimator whose call is K inner steps, from where the last call ended.

    Its state is a NamedTuple with at least `t` (steps done, int32) and `key` (that of
    the inner run). After T steps the next call starts a new training. λ may change
    between calls, which is the point; with λ held, the calls of one training together
    estimate what `target` names.
    """

    @property
    def target(self) -> Target:
        """An update."""
        return Target.UPDATE

    @property
    def accumulates(self) -> bool:
        """Whether an episode's estimate is the sum over its calls.

        If not, it is the last call's where the problem has a loss at step T alone.
        """
        return True

    def steps(self, problem: Problem) -> int:
        """K, the inner steps of one call; one, unless an estimator says otherwise."""
        del problem
        return 1

    def init(self, problem: Problem, hparams: HParams, key: Key) -> Any:
        """The state at t = 0 of the training with this key; s_0, if nothing more."""
        return begin(problem, hparams, key)

    @abstractmethod
    def advance(
        self, problem: Problem, hparams: HParams, state: Any, key: Key
    ) -> tuple[Estimate, Any]:
        """One call: K steps with λ, `key` being the estimator's own randomness."""

    def restart(self, problem: Problem, hparams: HParams, state: Any, key: Key) -> Any:
        """The state at t = 0 of the next training; by default nothing outlives one."""
        del state
        return self.init(problem, hparams, key)

    def applies(self, problem: Problem) -> str | None:
        """K must divide T."""
        steps = self.steps(problem)
        if problem.num_steps % steps:
            return (
                f"a call is {steps} inner steps, which must divide num_steps "
                f"({problem.num_steps})"
            )
        return None

    def estimate(
        self, problem: Problem, hparams: HParams, state: PyTree, key: Key
    ) -> tuple[Estimate, PyTree]:
        """One call; given the state `()`, all calls of one training with λ held."""
        if state == ():
            return self._episode(problem, hparams, key), ()
        state = jax.lax.cond(
            state.t >= problem.num_steps,
            lambda: tree.as_arrays(self.restart(problem, hparams, state, key)),
            lambda: state,
        )
        # The caller may hand one and the same key to a training and to its first call.
        return self.advance(problem, hparams, state, estimator_key(key))

    def _episode(self, problem, hparams, key) -> Estimate:
        """The calls of the training with this key: the sum, or the last, of them."""
        state = tree.as_arrays(self.init(problem, hparams, key))

        def call(state, i):
            own = estimator_key(key, i)
            (value, hypergrad, info), state = self.advance(problem, hparams, state, own)
            inexact, others = tree.partition_tangent(hypergrad)
            return state, (value, inexact, info._asdict()), (others, type(info))

        zeros = tree.zeros_of(lambda s: call(s, 0)[1], state)
        static = []

        def body(carry, i):
            state, (value, hypergrad, info) = carry
            state, (one, gradient, new), rest = call(state, i)
            static[:] = rest
            if problem.outer_every is not None:
                one = value + one
            if self.accumulates or problem.outer_every is not None:
                gradient = tree.axpy(1, hypergrad, gradient)
            new["doubtful"] |= info["doubtful"]
            return (state, (one, gradient, new)), None

        num_calls = problem.num_steps // self.steps(problem)
        calls = jnp.arange(num_calls, dtype=jnp.int32)
        (_, (value, hypergrad, info)), _ = jax.lax.scan(body, (state, zeros), calls)
        others, kind = static
        return Estimate(value, tree.combine(hypergrad, others), kind(**info))


def run_window(
    problem: Problem,
    hparams: HParams,
    state: PyTree,
    t: jax.Array,
    key: Key,
    num_steps: int,
    *,
    end_loss: bool,
    checkpoint: Checkpoint = NoCheckpoint(),
    gradient: InnerGradient = Plain(),
) -> tuple[Scalar, PyTree]:
    """The loss of the steps t, ..., t + K − 1 of a training, and the state after them.

    Args:
      problem: the problem.
      hparams: λ.
      state: s_t.
      t: steps done before.
      key: the run's key.
      num_steps: K, static.
      end_loss: where the problem has a loss at step T alone, use the outer loss at the
        end of these steps, wherever that is; otherwise that of T counts if reached.
      checkpoint: what reverse mode keeps of the steps.
      gradient: the inner gradient operator.

    Returns:
      `(loss, s_{t+K})`; with `outer_every` the loss is the sum of those that fall in.
    """
    every, end = problem.outer_every, t + num_steps
    zero = zero_outer(problem, hparams, state, key)

    def outer(state, t):
        return problem.outer(hparams, state, t, key)

    if every is None:

        def step(state, t):
            return problem.step(hparams, state, t, key, gradient)

        state = loop(step, state, num_steps, checkpoint=checkpoint, first=t)
        if end_loss:
            return outer(state, end), state
        reached = end >= problem.num_steps
        value = jax.lax.cond(reached, lambda: outer(state, end), lambda: zero)
        return value, state

    def advance(carry, t):
        state, value = carry
        state = problem.step(hparams, state, t, key, gradient)
        return state, add_outer(problem, hparams, state, value, t + 1, key)

    carry = loop(advance, (state, zero), num_steps, checkpoint=checkpoint, first=t)
    return carry[1], carry[0]
