"""Bayesian search: a Gaussian process of F over the cube, and expected improvement."""

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import jax
import jax.numpy as jnp

import hypergrad.searchers.gaussian_process as gp
from hypergrad.searchers.acquisition import Predict
from hypergrad.searchers.features import features, filled, groups, standardise
from hypergrad.searchers.process_search import ProcessSearch
from hypergrad.space import Space
from hypergrad.typing import Key

# A share of the variance of the targets that is noise, from which fits start too.
_NOISY = 0.1


class BayesianState(NamedTuple):
    """The trials so far, padded: cube [n, d], values [n]; the process's parameters."""

    cube: jax.Array
    values: jax.Array
    num_told: jax.Array
    params: gp.GPParams
    key: Key


@final
@dataclass(frozen=True)
class BayesianSearch(ProcessSearch):
    """z = argmax E[max(F* − F(z), 0)] under a Gaussian process of the trials so far.

    The process lives on the unit cube, with a Matérn-5/2 kernel, a length-scale for
    each coordinate (above 30 coordinates: for each hyperparameter), a constant mean,
    and learned noise. Its parameters maximise evidence times prior, refitted every
    `refit_every` trials from where they were, the prior's median and much noise. F* is
    the least posterior mean at a trial, so that a lucky noisy value does not count.

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

    def init(self, space: Space, num_trials: int, key: Key) -> BayesianState:
        """Room for all trials, and for the believed ones of the last batch."""
        room = num_trials + self.batch
        return BayesianState(
            cube=jnp.full((room, space.dim), 0.5, float),
            values=jnp.zeros(room),
            num_told=jnp.zeros((), int),
            params=gp.prior_params(groups(space)),
            key=key,
        )

    def fit(self, space: Space, state: BayesianState) -> gp.GPParams:
        """Maximise the evidence from where it was, the prior's median, and much noise.

        The last is further from the median than so few steps go, and trainings with
        fresh keys are there: taken for exact, lucky ones are looked for.
        """
        mask = filled(state.values, state.num_told)
        median = gp.prior_params(groups(space))
        noisy = median._replace(log_noise=jnp.full((), math.log(_NOISY), float))
        starts = jax.tree.map(
            lambda *params: jnp.stack(params), state.params, median, noisy
        )
        return gp.fit(
            starts,
            features(space, state.cube),
            standardise(state.values, mask),
            mask,
            groups(space),
            self.jitter,
            self.fit_steps,
        )

    def surrogate(
        self,
        space: Space,
        state: BayesianState,
        cube: jax.Array,
        targets: jax.Array,
        count: jax.Array,
    ) -> Predict:
        """The process of values alone."""
        known, mask = groups(space), filled(targets, count)
        inputs = features(space, cube)
        posterior = gp.condition(
            state.params, inputs, targets, mask, known, self.jitter
        )
        return lambda points: gp.predict(posterior, features(space, points), known)
