"""Equations that the end of a training satisfies, and how they move.

At its end a training solves G(x, λ) = 0: the gradient is zero, or a step changes
nothing. Then x moves with λ as A dx/dλ = −∂G/∂λ with A = ∂G/∂x, and

    dF/dλ = ∂outer/∂λ − (∂G/∂λ)ᵀ v,     Aᵀ v = ∂outer/∂x.

An operator is a value that names x, G and A; what it gives is G at the end of training
and one linear function v ↦ (Aᵀ v, (∂G/∂λ)ᵀ v).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.gradients import Mixed
from hypergrad.outputs import cut_at_outputs
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar
from hypergrad.unroll import loop


class Point(NamedTuple):
    """Where an equation is looked at.

    Attributes:
      hparams: the floating leaves of λ.
      whole: from these to λ.
      x: the unknowns, floating leaves all of them.
      state: from x to the state s.
      t: the step whose batch is meant; None for all of the training data.
      key: the run's key.
    """

    hparams: HParams
    whole: Callable[[HParams], HParams]
    x: PyTree
    state: Callable[[PyTree], PyTree]
    t: Any
    key: Key


class Linearised(NamedTuple):
    """An equation at a point.

    Attributes:
      residual: G(x, λ), like x.
      pull: v ↦ (Aᵀ v, (∂G/∂λ)ᵀ v), linear.
    """

    residual: PyTree
    pull: Callable[[PyTree], tuple[PyTree, HParams]]


class Operator(ABC):
    """G and A, as a value."""

    @property
    @abstractmethod
    def symmetric(self) -> bool:
        """Whether A = Aᵀ."""

    def applies(self, problem: Problem) -> str | None:
        """None where the problem has what the operator needs, otherwise what lacks."""
        del problem
        return None

    @abstractmethod
    def unknowns(
        self, problem: Problem, state: PyTree
    ) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
        """X, and the function from x to the state with all else held."""

    @abstractmethod
    def linearise(self, problem: Problem, point: Point) -> Linearised:
        """G and its transposed derivative on one batch, or on all of the data."""

    def average(
        self, problem: Problem, point: Point, num_batches: int | None
    ) -> Linearised:
        """The mean over the batches of steps T, ..., T + M − 1; one at a time."""
        if num_batches is None:
            return self.linearise(problem, point._replace(t=None))

        def mean(fn):
            def add(total, t):
                term = fn(self.linearise(problem, point._replace(t=t)))
                return jax.tree.map(lambda a, b: a + b / num_batches, total, term)

            first = jnp.int32(problem.num_steps)
            zero = tree.zeros_of(
                lambda t: fn(self.linearise(problem, point._replace(t=t))), first
            )
            return loop(add, zero, num_batches, first=first)

        return Linearised(
            mean(lambda at: at.residual), lambda v: mean(lambda at: at.pull(v))
        )


def _floats_of_weights(problem, state):
    floats, others = tree.partition(problem.weights(state))

    def rebuild(x):
        return problem.replace_weights(state, tree.combine(x, others))

    return floats, rebuild


def _needs_inner_loss(problem):
    if problem.has_inner_loss:
        return None
    return (
        "it has no inner loss whose curvature could be taken: give Problem.from_step "
        "its inner_loss_at, or use Implicit(operator=FixedPoint())"
    )


def _loss(problem: Problem, point: Point) -> Callable[[PyTree, HParams], Scalar]:
    """ℓ(x, λ), on the batch of step t or on all of the training data."""

    def loss(x, hparams):
        hparams, state = point.whole(hparams), point.state(x)
        if point.t is None:
            return problem.inner_loss(hparams, state, point.key)
        return problem.batch_loss(hparams, state, point.t, point.key)

    return loss


@final
@dataclass(frozen=True)
class Hessian(Operator):
    """G = ∇_w ℓ(w, λ) and A = ∇²_w ℓ: the weights minimise the inner loss.

    One forward-over-reverse product d/dε ∇_{(w, λ)} ℓ(w + ε v, λ) gives both A v and
    (∂G/∂λ)ᵀ v (Bengio 2000, Pedregosa 2016).
    """

    @property
    def symmetric(self):
        """True."""
        return True

    def applies(self, problem):
        """Where there is an inner loss."""
        return _needs_inner_loss(problem)

    def unknowns(self, problem, state):
        """The weights."""
        return _floats_of_weights(problem, state)

    def linearise(self, problem, point):
        """∇_w ℓ and v ↦ d/dε ∇_{(w, λ)} ℓ(w + ε v, λ)."""
        gradient = jax.grad(_loss(problem, point), (0, 1))
        (residual, _), pull = jax.linearize(
            lambda x: gradient(x, point.hparams), point.x
        )
        return Linearised(residual, pull)


@final
@dataclass(frozen=True)
class GaussNewton(Operator):
    """G = ∇_w ℓ(w, λ), and for A the Hessian of L(w, z_0 + J (w − w_0)).

    The loss ℓ(w) = L(w, z(w)) with its model z replaced by its linearisation, J =
    ∂z/∂w: A = Jᵀ (∂²L/∂z²) J + ∂²L/∂w² and, where L mixes w and z, their mixed terms;
    positive semi-definite where L is convex, and equal to the Hessian where the model
    is linear or fits (Schraudolph 2002). The loss marks z with `hypergrad.outputs`.
    """

    @property
    def symmetric(self):
        """True."""
        return True

    def applies(self, problem):
        """Where there is an inner loss; its mark is looked for when it is traced."""
        return _needs_inner_loss(problem)

    def unknowns(self, problem, state):
        """The weights."""
        return _floats_of_weights(problem, state)

    def linearise(self, problem, point):
        """∇_w ℓ and v ↦ (d/dε ∇_w L(w + ε v, z + ε J v), d/dε ∇_λ ℓ(w + ε v, λ))."""
        loss, x = _loss(problem, point), point.x
        model, loss_of_outputs = cut_at_outputs(lambda x: loss(x, point.hparams), x)
        z, jacobian = jax.linearize(model, x)

        def linearised(step):
            moved = jax.tree.map(lambda a, b: a + b, x, step)
            return loss_of_outputs(
                moved, [a + b for a, b in zip(z, jacobian(step), strict=True)]
            )

        zero = jax.tree.map(jnp.zeros_like, x)
        residual, product = jax.linearize(jax.grad(linearised), zero)
        _, cross = jax.linearize(lambda x: jax.grad(loss, 1)(x, point.hparams), x)
        return Linearised(residual, lambda v: (product(v), cross(v)))


@final
@dataclass(frozen=True)
class FixedPoint(Operator):
    """G = s − Φ(s, λ) and A = I − ∂Φ/∂s: a step of training changes nothing.

    Φ is the problem's own step T, its batch included, and the unknowns are all floating
    leaves of the state, the optimiser's too; integers (a count) are held. It serves any
    dynamics that converge, proximal ones among them, where only the support of the
    weights moves (Bertrand et al. 2020, Blondel et al. 2022).
    """

    @property
    def symmetric(self):
        """False: with momentum it is not."""
        return False

    def unknowns(self, problem, state):
        """The state's floating leaves."""
        del problem
        floats, others = tree.partition(state)
        return floats, lambda x: tree.combine(x, others)

    def linearise(self, problem, point):
        """One reverse sweep through one step."""
        t = problem.num_steps if point.t is None else point.t

        def phi(x, hparams):
            state = point.state(x)
            new = problem.step(point.whole(hparams), state, t, point.key, Mixed())
            return tree.partition(new)[0]

        after, back = jax.vjp(phi, point.x, point.hparams)

        def pull(v):
            of_x, of_hparams = back(v)
            of_x = jax.tree.map(lambda a, b: a - b, v, of_x)
            return of_x, jax.tree.map(lambda a: -a, of_hparams)

        return Linearised(jax.tree.map(lambda a, b: a - b, point.x, after), pull)
