"""Implicit differentiation: one linear solve at the end of training."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.curvature import Hessian, Operator, Point
from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Target,
    estimator_key,
    objective_of_floats,
)
from hypergrad.estimators.bilevel import model_state_matters, relative_norm
from hypergrad.linear_solvers import CG, GMRES, LinearSolver
from hypergrad.typing import PyTree, Scalar
from hypergrad.unroll import train


class ImplicitInfo(NamedTuple):
    """What an implicit estimate knows of its own errors.

    Attributes:
      state: s_T.
      doubtful: residual or stationarity above the tolerance, a direction of no positive
        curvature, a model state that is ignored, or a number that is not finite.
      residual: ‖b − (Aᵀ + ρI) v‖ / ‖b‖ with b = ∂outer/∂x: the inexact linear solve.
      stationarity: ‖G(x_T)‖ / ‖G(x_0)‖, what training left of the equation that it
        solves (of the gradient, or of the length of a step at the last rate): the
        inexact inner solution.
      iterations: of the solver.
      curvature: the smallest Rayleigh quotient that the solver met; +∞ where it looks
        at none.
      ignored: whether the outer loss or the inner gradient sees a model state that
        moves with the weights or λ and is held here (`FixedPoint()` holds nothing).
    """

    state: PyTree
    doubtful: jax.Array
    residual: Scalar
    stationarity: Scalar
    iterations: jax.Array
    curvature: Scalar
    ignored: jax.Array


class ImplicitState(NamedTuple):
    """What one estimate leaves to the next.

    Attributes:
      adjoint: v, the guess that the next solve starts from.
    """

    adjoint: PyTree


@dataclass(frozen=True)
class Implicit(Estimator):
    """dF/dλ = ∂outer/∂λ − (∂G/∂λ)ᵀ v with (Aᵀ + ρI) v = ∂outer/∂x, A = ∂G/∂x at s_T.

    The end of training is taken for a solution of G(x, λ) = 0, which moves with λ by
    the implicit function theorem (Bengio 2000, Pedregosa 2016, Lorraine et al. 2020,
    Grazzi et al. 2020). With `Hessian()` G = ∇_w ℓ and A is the inner Hessian. A
    solution does not know how it was reached: rates, momentum, w_0 and everything else
    that does not enter G get no hypergradient (with `FixedPoint()`, that of the map's
    fixed point).

    Computes: dF/dλ at a solution of the inner problem; of outer_T alone.
    Bias:     inexact inner solution, of order κ · `info.stationarity`; inexact linear
              solve, of order κ · `info.residual`; damping, of order ρ / the smallest
              eigenvalue.
    Variance: none beyond that of F over keys; with `num_batches`, that of M batches.
    Memory:   that of one product with A, and a few vectors like the weights; no T.
    Time:     T inner steps, and two gradients (of all training data, or of M batches)
              for each iteration of the solver.

    Attributes:
      operator: G and A: `Hessian()`, `GaussNewton()` or `FixedPoint()`.
      solver: of the linear system; None for `CG()`, or `GMRES()` where A ≠ Aᵀ.
        `IdentityInverse(α)` gives the identity-inverse approximation v = α ∂outer/∂x.
      damping: ρ >= 0.
      num_batches: M, batches averaged in G and A; None for all training data (with
        `FixedPoint()`, for the batch of one step).
      tolerance: the residual and the stationarity above which the estimate is doubtful;
        None for √ε (1.5e-8 in float64, 3.5e-4 in float32). Nothing else depends on it.
        Errors may be κ, the condition number of A, times as large as these two.

    With the state of `init`, rather than `()`, each solve starts from the last v.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> def distance(w, hp, batch):
      ...     return 0.5 * jnp.sum((w - batch) ** 2)
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(2),
      ...     inner_loss=lambda w, hp, batch: distance(w, hp, batch) + hg.l2(w, hp),
      ...     outer_loss=distance, optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(2), valid=jnp.zeros(2), num_steps=40)
      >>> F = hg.value_and_hypergrad(problem, hg.Implicit())  # w* = 1 / (1 + λ)
      >>> value, slope = F(1.0, jax.random.key(0))
      >>> print(value.round(4), slope.round(4))
      0.25 -0.25
    """

    operator: Operator = Hessian()
    solver: LinearSolver | None = None
    damping: float = 0.0
    num_batches: int | None = None
    tolerance: float | None = None

    def __post_init__(self):
        for name, kind in (("operator", Operator), ("solver", LinearSolver | None)):
            if not isinstance(got := getattr(self, name), kind):
                raise ValueError(f"Implicit.{name} must be a value, got {got}")
        if not self.damping >= 0:
            raise ValueError(f"Implicit.damping must be >= 0, got {self.damping}")
        if self.num_batches is not None and self.num_batches < 1:
            raise ValueError(
                f"Implicit.num_batches must be >= 1 or None, got {self.num_batches}"
            )
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(
                f"Implicit.tolerance must be >= 0 or None, got {self.tolerance}"
            )
        if (
            self.solver is not None
            and self.solver.symmetric_only
            and not self.operator.symmetric
        ):
            raise ValueError(
                f"Implicit.solver {self.solver} serves symmetric operators, and "
                f"{self.operator} is not one: use GMRES(), NormalCG(), Neumann() or "
                "Dense()"
            )

    @property
    def target(self):
        """dF/dλ."""
        return Target.OBJECTIVE

    def applies(self, problem):
        """Not to a sum of outer losses, nor without what the operator needs."""
        if problem.outer_every not in (None, problem.num_steps):
            return (
                f"F sums the outer losses of every {problem.outer_every} steps, and "
                "the implicit function theorem holds at the end of training only: "
                "drop outer_every, or use Reverse() or Forward()"
            )
        return self.operator.applies(problem)

    def init(self, problem, hparams, key):
        """The adjoint 0: the first solve is a cold one."""
        return ImplicitState(
            tree.zeros_of(
                lambda h: self.operator.unknowns(problem, problem.start(h, key))[0],
                tree.as_arrays(hparams),
            )
        )

    def estimate(self, problem, hparams, state, key):
        """One training and one solve."""
        whole, floats, restore = objective_of_floats(lambda h: h, hparams)
        start, end = problem.start(hparams, key), train(problem, hparams, key)

        x, rebuild = self.operator.unknowns(problem, end)

        def outer(hparams, x):
            return problem.outer(whole(hparams), rebuild(x), problem.num_steps, key)

        value, (direct, slope) = jax.value_and_grad(outer, (0, 1))(floats, x)

        point = Point(floats, whole, x, rebuild, None, key)
        equation = self.operator.average(problem, point, self.num_batches)
        # The start's x in the end's state: a rate that decayed must not look converged.
        first, _ = self.operator.unknowns(problem, start)
        before = self.operator.average(
            problem, point._replace(x=first), self.num_batches
        )

        solver = self.solver or (CG() if self.operator.symmetric else GMRES())
        solution = solver.solve(
            lambda v: tree.axpy(self.damping, v, equation.pull(v)[0]),
            slope,
            x0=state.adjoint if isinstance(state, ImplicitState) else None,
            key=estimator_key(key),
            symmetric=self.operator.symmetric,
        )
        indirect = equation.pull(solution.x)[1]
        hypergrad = jax.tree.map(lambda d, i: d - i, direct, indirect)

        stationarity = relative_norm(equation.residual, before.residual)
        ignored = jnp.asarray(False)
        if len(jax.tree.leaves(x)) < len(jax.tree.leaves(tree.partition(end)[0])):
            ignored = model_state_matters(problem, hparams, end, key)
        info = self._judge(end, solution, stationarity, ignored, hypergrad)
        if isinstance(state, ImplicitState):
            state = ImplicitState(solution.x)
        return Estimate(value, restore(hypergrad), info), state

    def _judge(self, end, solution, stationarity, ignored, hypergrad):
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = float(jnp.finfo(solution.residual.dtype).eps) ** 0.5
        # Written so that a NaN is doubtful.
        sound = (solution.residual <= tolerance) & (stationarity <= tolerance)
        sound = sound & (solution.curvature > 0) & ~ignored
        sound = sound & tree.all_finite(hypergrad)
        return ImplicitInfo(
            end,
            ~sound,
            solution.residual,
            stationarity,
            solution.iterations,
            solution.curvature,
            ignored,
        )

    def doubt(self, info: Any) -> str | None:
        """The numbers, and what each asks for."""
        if not bool(info.doubtful):
            return None
        text = (
            f"{self}: the hypergradient is doubtful. Linear solve: relative residual "
            f"{float(info.residual):.2g} after {int(info.iterations)} iterations (a "
            "better solver, more iterations or damping lower it). Inner problem: "
            f"training left {float(info.stationarity):.2g} of what it started from "
            "(more steps lower it)"
        )
        if float(info.curvature) <= 0:
            text += (
                f". The solver met the curvature {float(info.curvature):.2g}: the end "
                "of training is no minimum; use GaussNewton(), or damping above "
                "minus that"
            )
        if bool(info.ignored):
            text += (
                ". The outer loss or the inner gradient sees the model's state, which "
                "moves with the weights and λ, too, and is held: use FixedPoint()"
            )
        return text
