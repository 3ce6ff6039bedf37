"""Real-time hyperparameter optimisation: the response carried along with training."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import Estimate, Info, objective_of_floats
from hypergrad.estimators.online_base import OnlineEstimator, begin
from hypergrad.typing import HParams, Key, PyTree
from hypergrad.unroll import loop


class RealTimeState(NamedTuple):
    """Where a training stands, and how its state answers to λ.

    Attributes:
      t: steps done.
      key: the training's key.
      inner: s_t.
      response: Z_t, shaped like the floating leaves of s_t with a leading axis of d.
    """

    t: jax.Array
    key: Key
    inner: PyTree
    response: PyTree


class RealTime(OnlineEstimator):
    """Z_{t+1} = μ A_t Z_t + B_t, and ∇E(s_t) · Z_t + ∂E/∂λ where a loss E falls.

    A_t = ∂s_{t+1}/∂s_t holds all of the state's derivative (the identity of w + u and
    the optimiser's own momenta), B_t = ∂s_{t+1}/∂λ.
    """

    steps_per_update: int
    chunk: int | None

    @property
    @abstractmethod
    def discount(self) -> float:
        """μ: how much of the past response is kept at each step."""

    @property
    def accumulates(self) -> bool:
        """Each call's response holds all that came before."""
        return False

    def __post_init__(self):
        if self.steps_per_update < 1:
            raise ValueError(
                f"{type(self).__name__}.steps_per_update must be >= 1, got "
                f"{self.steps_per_update}"
            )
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(
                f"{type(self).__name__}.chunk must be >= 1 or None, got {self.chunk}"
            )

    def steps(self, problem):
        """`steps_per_update`."""
        del problem
        return self.steps_per_update

    def init(self, problem, hparams, key):
        """s_0 and Z_0 = ∂s_0/∂λ."""
        t, key, inner = begin(problem, hparams, key)

        def start(hparams):
            return tree.partition(problem.start(hparams, key))[0]

        run, floats, _ = objective_of_floats(start, hparams)
        _, push = jax.linearize(run, floats)
        return RealTimeState(t, key, inner, self._columns(push, _basis(floats)))

    def advance(self, problem, hparams, state, key):
        """K steps of the training and of its response, and the loss along them."""
        t, key, inner, response = state
        rebuild, floats, restore = objective_of_floats(lambda hparams: hparams, hparams)
        basis = _basis(floats)

        def step(inner, response, t):
            moving, fixed = tree.partition(inner)

            def next_state(moving, floats):
                inner = tree.combine(moving, fixed)
                return tree.partition(problem.step(rebuild(floats), inner, t, key))

            moving, push, fixed = jax.linearize(
                next_state, moving, floats, has_aux=True
            )
            past = jax.tree.map(lambda z: self.discount * z, response)
            response = self._columns(lambda columns: push(*columns), (past, basis))
            return tree.combine(moving, fixed), response

        def outer(inner, response, t):
            moving, fixed = tree.partition(inner)

            def loss(moving, floats):
                return problem.outer(
                    rebuild(floats), tree.combine(moving, fixed), t, key
                )

            both = jax.value_and_grad(loss, argnums=(0, 1))
            value, (gradient, direct) = both(moving, floats)
            direct, unravel = tree.ravel(direct)
            indirect = jax.vmap(lambda z: tree.vdot(gradient, z))(response)
            return value, unravel(direct + indirect.astype(direct.dtype))

        every, end = problem.outer_every, t + self.steps_per_update

        def advance(carry, t):
            (inner, response), total = carry
            moved = step(inner, response, t)
            if every is not None:
                total = jax.lax.cond(
                    (t + 1) % every == 0,
                    lambda: tree.axpy(1, total, outer(*moved, t + 1)),
                    lambda: total,
                )
            return moved, total

        carry = ((inner, response), tree.zeros_of(outer, inner, response, t))
        moved, total = loop(advance, carry, self.steps_per_update, first=t)
        value, slope = outer(*moved, end) if every is None else total
        estimate = Estimate(value, restore(slope), Info(moved[0]))
        return estimate, RealTimeState(end, key, *moved)

    def _columns(self, push, directions):
        """`push` of each of the d rows of a tree, `chunk` of them side by side."""
        if self.chunk is None:
            return jax.vmap(push)(directions)
        return jax.lax.map(push, directions, batch_size=self.chunk)


def _basis(floats: HParams) -> PyTree:
    """The d unit directions of λ, stacked."""
    vector, unravel = tree.ravel(floats)
    return jax.vmap(unravel)(jnp.eye(vector.size, dtype=vector.dtype))


@dataclass(frozen=True)
class RTHO(RealTime):
    """∇E(s_t) · Z_t,   Z_{t+1} = A_t Z_t + B_t: forward mode that does not wait for T.

    Real-time hyperparameter optimisation (Franceschi et al. 2017). While λ is held, Z_t
    is exactly ds_t/dλ. A moving λ makes Z_t a mixture of responses at the λ of each
    step, close to the response at the present one if λ moves slowly.

    Computes: an update; with λ held, exactly dE(s_t)/dλ, so dF/dλ at the last call
              (with `outer_every`, as the sum over the calls).
    Bias:     none with λ held; otherwise the lag of Z behind λ.
    Variance: none beyond that of the loss over keys.
    Memory:   d + 1 inner states and the residuals of one step.
    Time:     about 1 + 2 d inner steps a step, and one outer gradient a call.

    Attributes:
      steps_per_update: K, the inner steps of one call.
      chunk: columns of Z pushed side by side; None for all d.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> result, _ = hg.estimate(problem, hg.RTHO(), 2.0, (), jax.random.key(0))
      >>> print(result.hypergrad)  # dλ³/dλ, with λ held
      12.0
    """

    steps_per_update: int = 1
    chunk: int | None = None

    @property
    def discount(self):
        """One: nothing is forgotten."""
        return 1.0


@dataclass(frozen=True)
class MARTHE(RealTime):
    """∇E(s_t) · Z_t,   Z_{t+1} = μ A_t Z_t + B_t: RTHO that forgets the past.

    μ = 0 sees the last step alone, hypergradient descent on the outer loss; μ = 1 is
    RTHO (Donini et al. 2020). Between the two Z looks about 1 / (1 − μ) steps back, and
    is bounded where μ times the growth of A is below one.

    Computes: an update; with λ held, dE(s_t)/dλ with the step k steps ago weighted
              by μ^k.
    Bias:     short-horizon, growing as μ falls from 1 to 0; the lag of Z behind λ.
    Variance: none beyond that of the loss over keys.
    Memory:   d + 1 inner states and the residuals of one step.
    Time:     about 1 + 2 d inner steps a step, and one outer gradient a call.

    Attributes:
      mu: μ in [0, 1].
      steps_per_update: K, the inner steps of one call.
      chunk: columns of Z pushed side by side; None for all d.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> result, _ = hg.estimate(
      ...     problem, hg.MARTHE(mu=0.5), 2.0, (), jax.random.key(0))
      >>> print(result.hypergrad)  # (1 + μ + μ²) λ²
      7.0
    """

    mu: float = 0.99
    steps_per_update: int = 1
    chunk: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.mu <= 1:
            raise ValueError(f"MARTHE.mu must be in [0, 1], got {self.mu}")

    @property
    def discount(self):
        """μ."""
        return self.mu
