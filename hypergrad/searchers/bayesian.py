"""Bayesian search: a Gaussian process of F over the cube, and expected improvement."""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard, final

import jax
import jax.numpy as jnp
import optax

import hypergrad.searchers.gaussian_process as gp
from hypergrad.choices import Choice
from hypergrad.searchers.base import Searcher, check_positive, starts
from hypergrad.space import Entry, Space
from hypergrad.typing import Key

# Above this many coordinates a length-scale each is more than a study can learn.
_MAX_OWN_LENGTHS = 30
# Tags the stream of candidates apart from the starting points fold_in(key, trial).
_CANDIDATES = 2**31 - 1
# How often a candidate near the best trial draws a choice anew.
_OTHER_OPTION = 0.25
_NUM_POLISHED, _POLISH_STEPS, _POLISH_RATE = 4, 12, 0.02


class BayesianState(NamedTuple):
    """The trials so far, padded: cube [n, d], values [n]; the process's parameters."""

    cube: jax.Array
    values: jax.Array
    num_told: jax.Array
    params: gp.GPParams
    key: Key


@final
@dataclass(frozen=True)
class BayesianSearch(Searcher):
    """z = argmax E[max(F* − F(z), 0)] under a Gaussian process of the trials so far.

    The process lives on the unit cube, with a Matérn-5/2 kernel, a length-scale for
    each coordinate (above 30 coordinates: for each hyperparameter), a constant mean,
    and learned noise. Its parameters maximise evidence times prior, refitted every
    `refit_every` trials from where they were and from the prior's median. F* is the
    least posterior mean at a trial, so that a lucky noisy value does not count.

    The maximum is sought among uniform points and perturbations of the best trial, the
    best few of which climb log-EI by projected gradient steps. A batch is chosen point
    by point: each is believed to return its posterior mean (Ginsbourger et al.'s
    kriging believer). Should the kernel matrix not factorise, the ask is a uniform
    point.

    A choice among numbers that rise or fall is one more coordinate of the cube; the
    options of any other are all at the same distance, one side of the cube, apart.

    Args:
        batch: points per ask.
        warmup: trials before the model is asked: the default, then random points.
        refit_every: trials between fits.
        num_candidates: points at which EI is compared, half of them near the best.
        fit_steps: Adam steps of a fit.
        jitter: added to the kernel's diagonal, relative to its variance. In float32 a
            smooth kernel of a few hundred points needs about 1e-4.

    Reference: Jones, Schonlau and Welch, Efficient Global Optimization of Expensive
    Black-Box Functions (1998); priors after Hvarfner et al., Vanilla Bayesian
    Optimization Performs Great in High Dimensions (2024).

    >>> BayesianSearch(batch=2).batch
    2
    """

    batch: int = 1
    warmup: int = 8
    refit_every: int = 8
    num_candidates: int = 512
    fit_steps: int = 30
    jitter: float = 1e-4

    def __post_init__(self):
        for name in ("batch", "warmup", "refit_every", "num_candidates", "fit_steps"):
            check_positive(name, getattr(self, name))
        if not self.jitter > 0:
            raise ValueError(f"jitter must be positive; got {self.jitter}")

    def init(self, space: Space, num_trials: int, key: Key) -> BayesianState:
        """Room for all trials, and for the believed ones of the last batch."""
        room = num_trials + self.batch
        return BayesianState(
            cube=jnp.full((room, space.dim), 0.5, float),
            values=jnp.zeros(room),
            num_told=jnp.zeros((), int),
            params=gp.prior_params(_groups(space)),
            key=key,
        )

    def ask(
        self, space: Space, state: BayesianState
    ) -> tuple[jax.Array, BayesianState]:
        """Starting points while warming up, then the points of most expected gain."""

        def warm():
            return starts(space, state.key, state.num_told + jnp.arange(self.batch))

        def model():
            key = jax.random.fold_in(state.key, _CANDIDATES)
            return self._propose(space, state, jax.random.fold_in(key, state.num_told))

        return jax.lax.cond(state.num_told < self.warmup, warm, model), state

    def tell(
        self,
        space: Space,
        state: BayesianState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> BayesianState:
        """Append the trials; refit when due."""
        del grads
        before, count = state.num_told, state.num_told + len(coords)
        cube = jax.vmap(space.to_cube)(coords).astype(state.cube.dtype)
        cube = jax.lax.dynamic_update_slice(state.cube, cube, (before, 0))
        values = values.astype(state.values.dtype)
        values = jax.lax.dynamic_update_slice(state.values, values, (before,))

        def refit() -> gp.GPParams:
            groups, mask = _groups(space), _filled(values, count)
            both = jax.tree.map(
                lambda a, b: jnp.stack([a, b]), state.params, gp.prior_params(groups)
            )
            targets = standardise(values, mask)
            inputs = _features(space, cube)
            return gp.fit(
                both, inputs, targets, mask, groups, self.jitter, self.fit_steps
            )

        passed = count // self.refit_every > before // self.refit_every
        due = (count >= self.warmup) & (passed | (before < self.warmup))
        params = jax.lax.cond(due, refit, lambda: state.params)
        return state._replace(cube=cube, values=values, num_told=count, params=params)

    def _propose(self, space: Space, state: BayesianState, key: Key) -> jax.Array:
        groups = _groups(space)
        mask = _filled(state.values, state.num_told)
        targets = standardise(state.values, mask)

        def believe(carry, key):
            cube, targets, count = carry
            mask = _filled(targets, count)
            inputs = _features(space, cube)
            posterior = gp.condition(
                state.params, inputs, targets, mask, groups, self.jitter
            )
            point, mean = self._best_point(space, posterior, cube, key)
            carry = (cube.at[count].set(point), targets.at[count].set(mean), count + 1)
            return carry, point

        carry = (state.cube, targets, state.num_told)
        _, cube = jax.lax.scan(believe, carry, jax.random.split(key, self.batch))
        return jax.vmap(space.from_cube)(cube)

    def _best_point(
        self, space: Space, posterior: gp.Posterior, cube: jax.Array, key: Key
    ) -> tuple[jax.Array, jax.Array]:
        """The cube's point of largest EI, [d], and its posterior mean."""
        groups = _groups(space)
        known, _ = gp.predict(posterior, posterior.inputs, groups)
        known = jnp.where(posterior.mask & jnp.isfinite(known), known, jnp.inf)
        incumbent, best = cube[jnp.argmin(known)], jnp.min(known)

        def acquisition(points: jax.Array) -> jax.Array:
            mean, deviation = gp.predict(posterior, _features(space, points), groups)
            return gp.log_expected_improvement(mean, deviation, best)

        def into(points: jax.Array) -> jax.Array:
            """Project points of the cube onto the space's constraints."""
            return jax.vmap(lambda u: space.to_cube(space.project(space.from_cube(u))))(
                points
            )

        points = _candidates(key, incumbent, self.num_candidates)
        if space.has_choices:
            points = _with_other_options(space, key, points)
        points = into(points)
        scores = _or_worst(acquisition(points))
        _, top = jax.lax.top_k(scores, min(_NUM_POLISHED, self.num_candidates))
        polished = _climb(acquisition, into, points[top])

        points = jnp.concatenate([points, polished])
        scores = jnp.concatenate([scores, _or_worst(acquisition(polished))])
        point = points[jnp.argmax(scores)]
        mean, _ = gp.predict(posterior, _features(space, point[None]), groups)
        return point, mean[0]


def standardise(values: jax.Array, mask: jax.Array) -> jax.Array:
    """(y − mean)/deviation of the unmasked values, [n], after taming the diverged ones.

    A value that is not finite becomes the worst finite one. Then all are cut off at
    median + 3 (median − best): one loss of 1e30 would make all others look equal.

    >>> values = jnp.array([1.0, 2.0, 3.0, 1e30, jnp.nan, 0.0])
    >>> print(standardise(values, jnp.arange(6) < 5).round(2))
    [-1.38 -0.75 -0.13  1.12  1.12  0.  ]
    """
    usable = mask & jnp.isfinite(values)
    values = values / 16.0  # so that no range of finite values overflows
    ordered = jnp.sort(jnp.where(usable, values, jnp.inf))
    last = jnp.maximum(jnp.sum(usable) - 1, 0)
    best, median, worst = ordered[0], ordered[last // 2], ordered[last]
    spread = median - best
    fence = jnp.where(spread > 0, jnp.minimum(worst, median + 3.0 * spread), worst)

    # Scaled to [0, 1] before anything is squared.
    tamed = jnp.minimum(jnp.where(usable, values, fence), fence) - best
    tamed = jnp.where(mask & (fence > best), tamed / (fence - best), 0.0)
    count = jnp.maximum(jnp.sum(mask), 1)
    centered = jnp.where(mask, tamed - jnp.sum(tamed) / count, 0.0)
    deviation = jnp.sqrt(jnp.sum(centered * centered) / count)
    return centered / jnp.where(deviation > 0, deviation, 1.0)


def _features(space: Space, cube: jax.Array) -> jax.Array:
    """What the process sees of points [n, d]: an unordered choice as one-hot / √2.

    Equal options are then at distance 0 and different ones at distance 1.
    """
    if not any(map(_is_unordered, space.discrete.values())):
        return cube
    columns, start = [], 0
    for _, entry in space.entries:
        piece = cube[:, start : start + entry.size]
        if _is_unordered(entry):
            count = len(entry.options)
            index = entry.project(count * piece[:, 0] - 0.5).astype(int)
            piece = jax.nn.one_hot(index, count, dtype=cube.dtype) / math.sqrt(2)
        columns.append(piece)
        start += entry.size
    return jnp.concatenate(columns, axis=1)


def _groups(space: Space) -> tuple[int, ...]:
    """The index of each feature's length-scale; an unordered choice has one."""
    shared = space.dim > _MAX_OWN_LENGTHS
    groups: list[int] = []
    for _, entry in space.entries:
        first = groups[-1] + 1 if groups else 0
        if _is_unordered(entry):
            groups += [first] * len(entry.options)
        else:
            groups += [first if shared else first + i for i in range(entry.size)]
    return tuple(groups)


def _is_unordered(entry: Entry) -> TypeGuard[Choice]:
    return isinstance(entry, Choice) and not entry.ordered


def _filled(buffer: jax.Array, count: jax.Array) -> jax.Array:
    """Mask [n] of the first `count` rows."""
    return jnp.arange(len(buffer)) < count


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
    keys = jax.random.split(jax.random.fold_in(key, _CANDIDATES))
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
