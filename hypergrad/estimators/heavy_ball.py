"""The heavy ball, v' = γ v + G(w), w' = w + β v', read off a problem's own step.

Which number of λ is the rate and which the momentum, and how schedules, clipping or
decay enter, is the optimiser's affair: `problem.step` is asked at gradients and states
chosen so that its answer is γ, β or G, and asked again to confirm the rule.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.gradients import Given, InnerGradient, Plain
from hypergrad.problem import Problem
from hypergrad.training import InnerState
from hypergrad.typing import HParams, Key, PyTree, Scalar


@dataclass(frozen=True)
class HeavyBall:
    """A training by momentum, its weights and velocity as two vectors.

    Attributes:
      problem: an everyday problem.
      key: the run's key.
      example: s_0 at some λ, for structure, shapes and step counters.
    """

    problem: Problem
    key: Key
    example: InnerState

    @classmethod
    def of(cls, problem: Problem, hparams: HParams, key: Key) -> "HeavyBall":
        """The problem seen so; a `ValueError` where its state is of another form."""
        start = problem.start(hparams, key)
        velocity, counters = tree.partition(start.opt_state)
        shapes = [x.shape for x in jax.tree.leaves(start.weights)]
        if [x.shape for x in jax.tree.leaves(velocity)] != shapes:
            raise ValueError(
                "optimizer(hparams) must keep one velocity a weight and no other "
                "floating state, as optax.sgd(rate, momentum=γ) does; its state has "
                f"{[x.shape for x in jax.tree.leaves(velocity)]} for weights {shapes}. "
                "Use Reverse() for other optimisers"
            )
        kinds = (start.weights, jnp.floating), (counters, jnp.integer)
        for leaves, kind in kinds:
            for leaf in jax.tree.leaves(leaves):
                if not jnp.issubdtype(leaf.dtype, kind):
                    raise ValueError(
                        "weights must be floating, and what else the optimiser keeps "
                        f"must be step counters; got a leaf of {leaf.dtype}. Use "
                        "Reverse()"
                    )
        if jax.tree.leaves(start.model_state):
            raise ValueError(
                "model state (batch-norm statistics and the like) cannot be run "
                "backwards: use Reverse()"
            )
        return cls(problem, key, start)

    @property
    def dtype(self):
        """That of the two vectors."""
        return _vectors(self.example)[0].dtype

    def start(self, hparams: HParams) -> tuple[jax.Array, jax.Array]:
        """(w_0, v_0)."""
        return _vectors(self.problem.start(hparams, self.key))

    def state(self, w: jax.Array, v: jax.Array, t) -> InnerState:
        """s_t from its two vectors; its counters have counted t steps."""
        velocity, counters = tree.partition(self.example.opt_state)
        return self.example._replace(
            weights=_unravel(self.example.weights, w),
            opt_state=tree.combine(
                _unravel(velocity, v),
                jax.tree.map(lambda n: n + jnp.asarray(t, n.dtype), counters),
            ),
        )

    def step(self, hparams: HParams, w, v, t, gradient) -> tuple[jax.Array, jax.Array]:
        """(w_{t+1}, v_{t+1}) by `problem.step`."""
        state = self.state(w, v, t)
        return _vectors(self.problem.step(hparams, state, t, self.key, gradient))

    def force(
        self, hparams: HParams, w, t, gradient: InnerGradient = Plain()
    ) -> jax.Array:
        """G_t(w, λ): the velocity after a step from rest; ∇ℓ for plain momentum."""
        return self.step(hparams, w, jnp.zeros_like(w), t, gradient)[1]

    def factors(self, hparams: HParams, t) -> tuple[jax.Array, jax.Array]:
        """(γ_t, β_t), a number a weight each; β is minus the learning rate."""
        zero = jnp.zeros_like(_vectors(self.example)[0])
        one = jnp.ones_like(zero)
        # Too small to add to γ; at 0 itself clipping by a norm has no derivative.
        tiny = Given(lambda x: jnp.full_like(x, jnp.finfo(x.dtype).eps ** 2))
        _, gamma = self.step(hparams, zero, one, t, tiny)
        moved, v = self.step(hparams, zero, zero, t, Given(jnp.ones_like))
        return gamma, moved / v

    def error(self, hparams: HParams, t, size=1.0) -> Scalar:
        """‖rule − problem.step‖ / ‖problem.step‖ at a random gradient and state.

        The numbers of the state are of this size, since a rule may bend at some size
        only (a clipped update). Infinite where the optimiser's counters do not go from
        t to t + 1.
        """
        example = _vectors(self.example)[0]
        shape = (2, *example.shape)
        w, v = size * jax.random.normal(jax.random.key(0), shape, example.dtype)
        given = Given(lambda x: jnp.cos(3 * x))
        state = self.problem.step(hparams, self.state(w, v, t), t, self.key, given)
        got = jnp.concatenate(_vectors(state))
        gamma, beta = self.factors(hparams, t)
        v = gamma * v + self.force(hparams, w, t, given)
        error = jnp.concatenate((w + beta * v, v)) - got
        counters = (
            tree.partition(s.opt_state)[1] for s in (state, self.state(w, v, t + 1))
        )
        counted = jax.tree.map(lambda a, b: jnp.all(a == b), *counters)
        counted = jnp.all(jnp.asarray(jax.tree.leaves(counted), bool))
        return jnp.where(counted, tree.norm(error) / tree.norm(got), jnp.inf)


def _vectors(state: InnerState):
    w = tree.ravel(state.weights)[0]
    v = tree.ravel(tree.partition(state.opt_state)[0])[0]
    return w, v.astype(w.dtype)


def _unravel(example: PyTree, vector) -> PyTree:
    flat, unravel = tree.ravel(example)
    return unravel(vector.astype(flat.dtype))
