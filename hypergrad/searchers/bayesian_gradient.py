"""Bayesian search that is told slopes: a process conditioned on hypergradients."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp

import hypergrad.searchers.derivative_process as dp
from hypergrad.searchers.acquisition import Predict
from hypergrad.searchers.base import (
    check_continuous,
    check_gradient,
    check_positive,
)
from hypergrad.searchers.features import (
    continuous_features,
    features,
    filled,
    groups,
    tame,
)
from hypergrad.searchers.process_search import ProcessSearch
from hypergrad.space import Space
from hypergrad.typing import Key

# Values of variance 1 have no slope this steep (in deviations per side of the cube)
# that lasts: it belongs to a cliff, or to a training that amplifies its rounding.
_STEEPEST = 100.0


class GradientBayesianState(NamedTuple):
    """The trials so far, padded: cube [n, d], values [n], slopes dF/du [n, d].

    A slope that is unknown, not finite or not yet told is NaN.
    """

    cube: jax.Array
    values: jax.Array
    slopes: jax.Array
    num_told: jax.Array
    params: dp.SlopeParams
    key: Key


class _Data(NamedTuple):
    """What the process is conditioned on: observations, targets [m], mask [m]."""

    observed: dp.Observations
    targets: jax.Array
    mask: jax.Array


@final
@dataclass(frozen=True)
class GradientBayesianSearch(ProcessSearch):
    """z = argmax E[max(F* − F(z), 0)] given the values F and slopes dF/dz of trials.

    As `BayesianSearch`, but a trial tells the Gaussian process up to `slopes`
    directional derivatives besides its value: all of dF/du where the space has no more
    continuous coordinates u than that; else the derivative along the gradient itself,
    which is all of it, then along the leading directions of all trials' gradients.
    Values and slopes have a noise each, and both are learned: a biased hypergradient
    is trusted as far as it agrees with the values.

    A gradient that is not finite, or steeper than 100 deviations per side of the cube,
    is dropped, and its value kept; so is that of a value which was tamed. Along a
    choice there is no derivative, and none is observed.

    One ask factorises a matrix of n (1 + slopes) rows, n the trials of the study, and a
    fit some hundred of them: this is a search for up to about 150 dear trainings.

    Args:
        batch: points per ask.
        warmup: trials before the model is asked: the default, then random points.
        refit_every: trials between fits.
        num_candidates: points at which EI is compared, half of them near the best.
        fit_steps: Adam steps of a fit.
        jitter: added to the kernel's diagonal, relative to its own entries.
        slopes: directional derivatives per trial, at most.

    Reference: Solak et al., Derivative Observations in Gaussian Process Models of
    Dynamic Systems (2003); Wu et al., Bayesian Optimization with Gradients (2017).

    >>> GradientBayesianSearch(slopes=4).needs_gradient
    True
    """

    needs_gradient: ClassVar[bool] = True
    warmup: int = 4
    slopes: int = 6

    def __post_init__(self):
        super().__post_init__()
        check_positive("slopes", self.slopes)

    def init(self, space: Space, num_trials: int, key: Key) -> GradientBayesianState:
        """Room for all trials, and for the believed ones of the last batch."""
        check_continuous(space)
        room = num_trials + self.batch
        return GradientBayesianState(
            cube=jnp.full((room, space.dim), 0.5, float),
            values=jnp.zeros(room),
            slopes=jnp.full((room, space.dim), jnp.nan, float),
            num_told=jnp.zeros((), int),
            params=dp.prior_params(groups(space)),
            key=key,
        )

    def tell(
        self,
        space: Space,
        state: GradientBayesianState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> GradientBayesianState:
        """Append the trials and their slopes; refit when due."""
        grads = check_gradient(self, grads)
        low, high = space.bounds()
        slopes = (grads * (high - low)[None]).astype(state.slopes.dtype)
        slopes = jax.lax.dynamic_update_slice(state.slopes, slopes, (state.num_told, 0))
        return super().tell(space, state._replace(slopes=slopes), coords, values)

    def fit(self, space: Space, state: GradientBayesianState) -> dp.SlopeParams:
        """Maximise the evidence from where it was and from the prior's median."""
        known = groups(space)
        targets = tame(state.values, filled(state.values, state.num_told)).values
        data = self._data(space, state, state.cube, targets, state.num_told)
        both = jax.tree.map(
            lambda a, b: jnp.stack([a, b]), state.params, dp.prior_params(known)
        )
        return dp.fit(both, *data, known, self.jitter, self.fit_steps)

    def surrogate(
        self,
        space: Space,
        state: GradientBayesianState,
        cube: jax.Array,
        targets: jax.Array,
        count: jax.Array,
    ) -> Predict:
        """The process of values and slopes; a believed trial has no slope."""
        known = groups(space)
        data = self._data(space, state, cube, targets, count)
        posterior = dp.condition(state.params, *data, known, self.jitter)
        return lambda points: dp.predict(
            posterior, dp.values_at(features(space, points)), known
        )

    def _data(
        self,
        space: Space,
        state: GradientBayesianState,
        cube: jax.Array,
        targets: jax.Array,
        count: jax.Array,
    ) -> _Data:
        """The values [n], then the slopes [n k] in units of the targets."""
        told = tame(state.values, filled(state.values, state.num_told))
        slopes = state.slopes[:, ~space.is_choice] / told.unit
        # NaN is not below either: a slope of no unit, or never told, is left out.
        usable = told.whole & (jnp.max(jnp.abs(slopes), 1) <= _STEEPEST)
        slopes = jnp.where(usable[:, None], slopes, 0.0)

        inputs = features(space, cube)
        directions = dp.telling_directions(slopes, self.slopes)
        along = jnp.einsum("nkd,nd->nk", directions, slopes)
        num, k, _ = directions.shape
        embedded = jnp.zeros((num, k, inputs.shape[1]), inputs.dtype)
        embedded = embedded.at[:, :, continuous_features(space)].set(directions)
        return _Data(
            dp.join(dp.values_at(inputs), dp.slopes_at(inputs, embedded)),
            jnp.concatenate([targets, along.reshape(-1)]),
            jnp.concatenate([filled(targets, count), jnp.repeat(usable, k)]),
        )
