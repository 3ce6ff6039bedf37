"""Where a surrogate expects the most improvement: the argmax of log-EI over the cube.

A surrogate is a function `predict`: points of the cube [m, d] -> mean and deviation of
F there, each [m], in the units of standardised targets.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import hypergrad.searchers.gaussian_process as gp
from hypergrad.searchers.features import filled
from hypergrad.space import Space
from hypergrad.typing import Key

Predict = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

# Tags the stream of candidates apart from the starting points fold_in(key, trial).
CANDIDATES = 2**31 - 1
# How often a candidate near the best trial draws a choice anew.
_OTHER_OPTION = 0.25
_NUM_POLISHED, _POLISH_STEPS, _POLISH_RATE = 4, 12, 0.02


def believed_batch(
    space: Space,
    surrogate: Callable[[jax.Array, jax.Array, jax.Array], Predict],
    cube: jax.Array,
    targets: jax.Array,
    count: jax.Array,
    key: Key,
    batch: int,
    num_candidates: int,
) -> jax.Array:
    """The points of most expected improvement, one after the other: u [batch, d].

    Each is believed to return its posterior mean (Ginsbourger et al.'s kriging
    believer), so the next one lies elsewhere.

    Args:
        space: where.
        surrogate: (cube, targets, count) -> the `predict` conditioned on them.
        cube: the trials' points [n, d], of which `count` are known; room for the batch.
        targets: their standardised values [n].
        count: how many rows are known.
        key: draws the candidates.
        batch: number of points.
        num_candidates: points at which EI is compared.
    """

    def believe(carry, key):
        cube, targets, count = carry
        predict = surrogate(cube, targets, count)
        mask = filled(targets, count)
        point, mean = best_point(space, predict, cube, mask, key, num_candidates)
        carry = (cube.at[count].set(point), targets.at[count].set(mean), count + 1)
        return carry, point

    keys = jax.random.split(key, batch)
    _, points = jax.lax.scan(believe, (cube, targets, count), keys)
    return points


def best_point(
    space: Space,
    predict: Predict,
    cube: jax.Array,
    mask: jax.Array,
    key: Key,
    num_candidates: int,
) -> tuple[jax.Array, jax.Array]:
    """The cube's point of largest EI, [d], and its posterior mean.

    EI is over the least posterior mean at a trial: a lucky noisy value does not count.
    It is compared at uniform points and perturbations of the best trial, the best few
    of which climb it by projected steps.
    """
    known, _ = predict(cube)
    known = jnp.where(mask & jnp.isfinite(known), known, jnp.inf)
    incumbent, best = cube[jnp.argmin(known)], jnp.min(known)

    def acquisition(points: jax.Array) -> jax.Array:
        mean, deviation = predict(points)
        return gp.log_expected_improvement(mean, deviation, best)

    def into(points: jax.Array) -> jax.Array:
        """Project points of the cube onto the space's constraints."""
        return jax.vmap(lambda u: space.to_cube(space.project(space.from_cube(u))))(
            points
        )

    points = _candidates(key, incumbent, num_candidates)
    if space.has_choices:
        points = _with_other_options(space, key, points)
    points = into(points)
    scores = _or_worst(acquisition(points))
    _, top = jax.lax.top_k(scores, min(_NUM_POLISHED, num_candidates))
    polished = _climb(acquisition, into, points[top])

    points = jnp.concatenate([points, polished])
    scores = jnp.concatenate([scores, _or_worst(acquisition(polished))])
    point = points[jnp.argmax(scores)]
    mean, _ = predict(point[None])
    return point, mean[0]


def _or_worst(scores: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def _candidates(key: Key, incumbent: jax.Array, num: int) -> jax.Array:
    """[num, d]: uniform points, then as many perturbations of the incumbent.

    A perturbation moves about 20 coordinates by a log-uniform distance: all of them at
    once, in high dimension, would nearly always lead away from what is good.
    """
    keys = jax.random.split(key, 4)
    dim = len(incumbent)
    uniform = jax.random.uniform(keys[0], (num - num // 2, dim))
    shape = (num // 2, dim)
    distance = 10.0 ** jax.random.uniform(
        keys[1], (num // 2, 1), minval=-3.0, maxval=-0.5
    )
    moves = jax.random.bernoulli(keys[2], min(1.0, 20.0 / dim), shape)
    shift = distance * moves * jax.random.normal(keys[3], shape)
    return jnp.concatenate([uniform, jnp.clip(incumbent[None] + shift, 0.0, 1.0)])


def _with_other_options(space: Space, key: Key, points: jax.Array) -> jax.Array:
    """Some choices of the points [n, d] drawn anew: a small move seldom changes one."""
    keys = jax.random.split(jax.random.fold_in(key, CANDIDATES))
    anew = jax.random.bernoulli(keys[0], _OTHER_OPTION, points.shape)
    drawn = jax.random.uniform(keys[1], points.shape)
    return jnp.where(anew & space.is_choice[None], drawn, points)


def _climb(acquisition, into, points: jax.Array) -> jax.Array:
    """A few projected Adam steps up the acquisition from each of the points [k, d]."""
    optimizer = optax.adam(_POLISH_RATE)

    def step(carry, _):
        points, state = carry
        slope = jax.grad(lambda p: -jnp.sum(acquisition(p)))(points)
        updates, state = optimizer.update(slope, state)
        return (into(optax.apply_updates(points, updates)), state), None

    carry = (points, optimizer.init(points))
    (points, _), _ = jax.lax.scan(step, carry, length=_POLISH_STEPS)
    return points
