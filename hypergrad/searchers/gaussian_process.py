"""A Gaussian process on the unit cube: Matérn-5/2 kernel, evidence, posterior, log-EI.

Pure functions of fixed-shape arrays. A data set lives in a padded buffer; rows that
its mask leaves out have unit variance and no covariance, so that they change nothing.
All is safe in float32, given targets standardised to mean 0 and variance 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.scipy.special import ndtr

# Prior medians, and widths of the logarithms. Distances in the cube grow like √d, and
# so does the length-scale: else in 200 dimensions every point would seem far away.
_LENGTH, _LENGTH_WIDTH = 0.3, 1.0
_SIGNAL, _SIGNAL_WIDTH = 1.0, 1.0
_NOISE, _NOISE_WIDTH = 1e-3, 2.0

# Where EI turns to its continued fraction, there good to 2e-8, and its depth.
_TAIL, _DEPTH = -4.0, 12

Params = TypeVar("Params")


class GPParams(NamedTuple):
    """What the evidence chooses: log ℓ [G], log s² [], log σ² [] and the mean c []."""

    log_length: jax.Array
    log_signal: jax.Array
    log_noise: jax.Array
    mean: jax.Array


class Posterior(NamedTuple):
    """A process conditioned on data: L Lᵀ = K + σ²I and α = (K + σ²I)⁻¹(y − c)."""

    params: GPParams
    inputs: jax.Array
    mask: jax.Array
    factor: jax.Array
    weights: jax.Array


def prior_params(groups: tuple[int, ...]) -> GPParams:
    """Return the prior medians; coordinate i has length-scale `groups[i]`.

    >>> prior_params((0, 0, 1)).log_length.shape
    (2,)
    """
    length = math.log(_LENGTH * math.sqrt(len(groups)))
    return GPParams(
        log_length=jnp.full((max(groups) + 1,), length, float),
        log_signal=jnp.full((), math.log(_SIGNAL), float),
        log_noise=jnp.full((), math.log(_NOISE), float),
        mean=jnp.zeros(()),
    )


def log_prior(params: GPParams, groups: tuple[int, ...]) -> jax.Array:
    """Log-density of the parameters, but a constant: log-normal scales, c ~ N(0, 1)."""
    center = prior_params(groups)
    width = GPParams(
        jnp.asarray(_LENGTH_WIDTH),
        jnp.asarray(_SIGNAL_WIDTH),
        jnp.asarray(_NOISE_WIDTH),
        jnp.asarray(1.0),
    )
    terms = jax.tree.map(
        lambda p, c, s: jnp.sum(jnp.square((p - c) / s)), params, center, width
    )
    return -0.5 * jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def covariance(
    params: GPParams, a: jax.Array, b: jax.Array, groups: tuple[int, ...]
) -> jax.Array:
    """K_ij = s² (1 + √5 r + 5r²/3) exp(−√5 r), r² = Σ_k (a_ik − b_jk)² / ℓ_k².

    `a` [n, d] and `b` [m, d] give [n, m]. The squared distance is expanded into one
    matrix product: what cancels about the cube's centre is of order one, as ℓ ~ √d.
    """
    inverse_length = jnp.exp(-params.log_length)[jnp.asarray(groups)]
    a = (a - 0.5) * inverse_length[None]
    b = (b - 0.5) * inverse_length[None]
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    square = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None] - 2.0 * product
    r = jnp.sqrt(5.0 * jnp.maximum(square, 1e-12))  # the floor keeps √'s slope finite
    return jnp.exp(params.log_signal) * (1.0 + r + r * r / 3.0) * jnp.exp(-r)


def condition(
    params: GPParams,
    inputs: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    groups: tuple[int, ...],
    jitter: float,
) -> Posterior:
    """Condition on `targets` [n] at `inputs` [n, d] where `mask` [n] is true.

    The diagonal gains σ² + jitter · s². A factorisation that fails gives NaN.
    """
    both = mask[:, None] & mask[None, :]
    kernel = jnp.where(both, covariance(params, inputs, inputs, groups), 0.0)
    nugget = jnp.exp(params.log_noise) + jitter * jnp.exp(params.log_signal)
    factor = jnp.linalg.cholesky(kernel + jnp.diag(jnp.where(mask, nugget, 1.0)))
    residual = jnp.where(mask, targets - params.mean, 0.0)
    return Posterior(params, inputs, mask, factor, cho_solve((factor, True), residual))


def log_evidence(posterior: Posterior, targets: jax.Array) -> jax.Array:
    """Evidence log p(y) = −½ (y − c)ᵀα − Σ log L_ii − ½ n log 2π, in the mask."""
    mask = posterior.mask
    residual = jnp.where(mask, targets - posterior.params.mean, 0.0)
    return (
        -0.5 * residual @ posterior.weights
        - jnp.sum(jnp.log(jnp.diag(posterior.factor)))
        - 0.5 * math.log(2.0 * math.pi) * jnp.sum(mask)
    )


def predict(
    posterior: Posterior, points: jax.Array, groups: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """μ = c + kᵀα and σ = √(s² − kᵀ(K + σ²I)⁻¹k) of the noise-free value, each [m]."""
    params = posterior.params
    cross = covariance(params, posterior.inputs, points, groups)
    cross = jnp.where(posterior.mask[:, None], cross, 0.0)
    mean = params.mean + jnp.matmul(
        posterior.weights, cross, precision=jax.lax.Precision.HIGHEST
    )
    half = solve_triangular(posterior.factor, cross, lower=True)
    signal = jnp.exp(params.log_signal)
    # Rounding may leave a negative variance at an observed point.
    variance = jnp.maximum(signal - jnp.sum(half * half, 0), 1e-9 * signal)
    return mean, jnp.sqrt(variance)


def fit(
    starts: GPParams,
    inputs: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    groups: tuple[int, ...],
    jitter: float,
    num_steps: int,
) -> GPParams:
    """Maximise log p(y) + log p(params) by Adam from each of the stacked `starts`.

    The number of steps is fixed, so the cost is too. Returns the best of the ends, or
    the first start where none is finite.
    """

    def loss(params: GPParams) -> jax.Array:
        posterior = condition(params, inputs, targets, mask, groups, jitter)
        return -log_evidence(posterior, targets) - log_prior(params, groups)

    return minimise(loss, starts, num_steps)


def minimise(
    loss: Callable[[Params], jax.Array], starts: Params, num_steps: int
) -> Params:
    """The best of the ends of Adam from each of the stacked `starts`.

    The first start where no end is finite.
    """
    optimizer = optax.adam(0.1)

    def climb(params: Any) -> tuple[Any, jax.Array]:
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (jax.tree.map(jnp.add, params, updates), state), None

        carry = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, carry, length=num_steps)
        return params, loss(params)

    ends, losses = jax.vmap(climb)(starts)
    best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    found = jnp.any(jnp.isfinite(losses))
    return jax.tree.map(lambda e, s: jnp.where(found, e[best], s[0]), ends, starts)


def log_expected_improvement(
    mean: jax.Array, deviation: jax.Array, best: jax.Array
) -> jax.Array:
    """Log E[max(best − Y, 0)] = log σ + log(φ(z) + z Φ(z)), z = (best − μ)/σ.

    Y ~ N(μ, σ²). Where z is far below zero the sum cancels; there it is φ(z) t/(x + t)
    with x = −z and Laplace's continued fraction t = 1/(x + 2/(x + 3/(x + ...))).

    Reference: Ament et al., Unexpected Improvements to Expected Improvement for
    Bayesian Optimization (2023): far away EI itself underflows, its logarithm does not.

    >>> mean, deviation, best = jnp.array([0.0, 1.0, 0.0])
    >>> f"{jnp.exp(log_expected_improvement(mean, deviation, best)):.4f}"
    '0.3989'
    """
    z = (best - mean) / deviation
    log_pdf = -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)

    near = jnp.maximum(z, _TAIL)
    pdf = jnp.exp(-0.5 * near * near - 0.5 * math.log(2.0 * math.pi))
    direct = jnp.log(pdf + near * ndtr(near))

    x = jnp.maximum(-z, -_TAIL)
    t = jnp.zeros_like(x)
    for k in range(_DEPTH, 0, -1):
        t = k / (x + t)
    tail = log_pdf + jnp.log(t / (x + t))
    return jnp.log(deviation) + jnp.where(z > _TAIL, direct, tail)
