"""Logistic regression on sparse rows as a bilevel problem in one coefficient.

    h(w, α) = Σ_train log(1 + exp(−y x·w)) + ½ e^α ‖w‖²,   g(w) = the sum over held out

The inner solution is found outside of the problem, to a tolerance, and handed in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

import hypergrad as hg

EXACT = 1e-6  # ‖∇h‖ of an inner solution that counts as exact
_MOST = 3000  # steps of an inner solution
Part = tuple[hg.SparseMatrix, jax.Array]


class Data(NamedTuple):
    """Matrix and signs of each part, and w, solved for outside of the problem."""

    train: Part
    valid: Part
    weights: jax.Array


def held_out(w: jax.Array, part: Part) -> jax.Array:
    """Σ_i log(1 + exp(−y_i x_i·w))."""
    rows, signs = part
    return jnp.sum(jax.nn.softplus(-signs * (rows @ w)))


def loss(w: jax.Array, alpha: ArrayLike, part: Part) -> jax.Array:
    """h(w, α)."""
    return held_out(w, part) + hg.l2(w, jnp.exp(alpha))


def handed_in(hparams, state, tick):
    """The w that was solved for outside."""
    del hparams, state
    return tick.data.weights


def newton(hparams, state, tick):
    """The Newton step w − H⁻¹ ∇h at that w.

    Its derivative in α is −H⁻¹ ∂∇h/∂α where ∇h = 0, which is that of the solution.
    """
    del state
    w, slope = tick.data.weights, jax.grad(loss)
    residual, product = jax.linearize(lambda w: slope(w, hparams, tick.data.train), w)
    return w - jax.lax.custom_linear_solve(
        product,
        residual,
        lambda matvec, b: hg.CG(max_iterations=2000).solve(matvec, b).x,
        symmetric=True,
    )


@jax.jit
def slope_norm(w, alpha, part):
    """‖∇h‖."""
    return jnp.linalg.norm(jax.grad(loss)(w, alpha, part))


def error_rate(w: jax.Array, part: Part) -> jax.Array:
    """The share of rows whose sign is not the predicted one."""
    rows, signs = part
    return jnp.mean(jnp.sign(rows @ w) != signs)


@jax.jit
def solve(data: Data, w: jax.Array, alpha: float, goal: float):
    """L-BFGS on h from w until ‖∇h‖ < goal; w, and how many gradients it took."""
    optimizer = optax.lbfgs(memory_size=10)

    def height(w):
        return loss(w, alpha, data.train)

    both = optax.value_and_grad_from_state(height)

    def unfinished(carry):
        _, _, slope, steps, _ = carry
        return (jnp.linalg.norm(slope) >= goal) & (steps < _MOST)

    def step(carry: Any) -> Any:
        w, state, _, steps, count = carry
        value, slope = both(w, state=state)
        given = {"value": value, "grad": slope, "value_fn": height}
        new: Any
        move, new = optimizer.update(slope, state, w, **given)
        search = new[-1]
        count += jnp.int32(search.info.num_linesearch_steps)
        return w + move, new, search.grad, steps + 1, count

    start = (w, optimizer.init(w), jax.grad(height)(w), jnp.int32(0), jnp.int32(1))
    w, _, _, _, count = jax.lax.while_loop(unfinished, step, start)
    return w, count


def problem(data: Data, step: Callable) -> hg.Problem:
    """g(w) as a function of α, λ being α itself; `step` is the whole training."""
    return hg.Problem.from_step(
        start=_nothing,
        step=step,
        outer_at=_outer,
        inner_loss_at=_inner,
        num_steps=1,
        data=data,
    )


def slope_gap(data: Data, alpha: float, apart: float = 0.01) -> float:
    """How far dg/dα by `Implicit` is from a central difference of exact solutions."""
    values, weights = [], jnp.zeros_like(data.weights)
    for side in (-apart, apart, 0.0):
        weights, _ = solve(data, weights, alpha + side, EXACT)
        values.append(float(held_out(weights, data.valid)))
    solver = hg.CG(max_iterations=2000)
    estimator = hg.Implicit(solver=solver, tolerance=float("inf"))
    exact = problem(data._replace(weights=weights), handed_in)
    slope = hg.hypergrad(exact, estimator)(alpha, jax.random.key(0))
    difference = (values[1] - values[0]) / (2.0 * apart)
    return abs(float(slope) / difference - 1.0)


def _nothing(hp, tick):
    return jnp.zeros_like(tick.data.weights)


def _outer(hp, w, tick):
    return held_out(w, tick.data.valid)


def _inner(hp, w, tick):
    return loss(w, hp, tick.data.train)
