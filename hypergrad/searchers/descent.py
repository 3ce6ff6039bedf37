"""One projected descent along the hypergradient: its step, and when it has stalled."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hypergrad.searchers.outer import Outer
from hypergrad.space import Space

# An improvement of F by less than this share of |F| is none.
_TOLERANCE = 1e-3


class Best(NamedTuple):
    """The best finite trial of a descent: z [d], F (∞ before any) and dF/dz [d]."""

    coords: jax.Array
    value: jax.Array
    grad: jax.Array


class Descent(NamedTuple):
    """Where a descent stands: z [d], its best, its optimiser, and its share of η."""

    coords: jax.Array
    best: Best
    optimizer: optax.OptState
    scale: jax.Array


class Waiting(NamedTuple):
    """The last F that was a real improvement, and how many steps ago."""

    mark: jax.Array
    steps: jax.Array


def begin(outer: Outer, coords: jax.Array) -> Descent:
    """A descent from z [d]."""
    infinite = jnp.full((), jnp.inf, coords.dtype)
    return Descent(
        coords=coords,
        best=Best(coords, infinite, jnp.zeros_like(coords)),
        optimizer=outer.transformation().init(coords),
        scale=jnp.ones(()),
    )


def descend(
    space: Space, outer: Outer, descent: Descent, trial: Best, decay: jax.Array
) -> tuple[Descent, jax.Array]:
    """Step z ← project(z − decay · scale · η · direction(dF/dz)); whether it is lost.

    Where the trial's value or gradient is not finite the descent steps again from its
    best point, by the gradient known there, with a fresh optimiser and half its step
    from then on. One that has never been finite is lost, and stays where it is.
    """
    tx = outer.transformation()
    trial = trial._replace(grad=hold(space, trial.grad, jnp.zeros_like(trial.grad)))
    ok = jnp.isfinite(trial.value) & jnp.all(jnp.isfinite(trial.grad))
    best = where(ok & (trial.value < descent.best.value), trial, descent.best)
    lost = ~jnp.isfinite(best.value)

    here = where(ok, trial, best)
    optimizer = where(ok, descent.optimizer, tx.init(here.coords))
    scale = jnp.where(ok | lost, descent.scale, 0.5 * descent.scale)
    updates, optimizer = tx.update(here.grad, optimizer, here.coords)
    moved = space.project(here.coords + decay * scale * jnp.asarray(updates))
    moved = hold(space, moved, trial.coords)
    return Descent(moved, best, optimizer, scale), lost


def hopeful(dtype) -> Waiting:
    """Before the first trial of a descent.

    >>> print(hopeful(float).mark)
    inf
    """
    return Waiting(jnp.full((), jnp.inf, dtype), jnp.zeros((), int))


def wait(waiting: Waiting, value: jax.Array) -> Waiting:
    """Count the steps since F fell by more than 1/1000 of itself.

    >>> waiting = wait(hopeful(float), jnp.array(2.0))
    >>> print(wait(waiting, jnp.array(1.9999)).steps)
    1
    """
    known = jnp.isfinite(waiting.mark)
    margin = _TOLERANCE * jnp.abs(jnp.where(known, waiting.mark, 0.0))
    better = value < waiting.mark - margin
    return Waiting(
        jnp.where(better, value, waiting.mark),
        jnp.where(better, 0, waiting.steps + 1),
    )


def hold(space: Space, moved: jax.Array, held: jax.Array) -> jax.Array:
    """`moved` [d], but `held` where a coordinate is a choice."""
    return jnp.where(space.is_choice, held, moved) if space.has_choices else moved


def where(condition: jax.Array, yes, no):
    """`jnp.where` of two trees by one scalar."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
