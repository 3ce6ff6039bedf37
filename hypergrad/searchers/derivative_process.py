"""A Gaussian process that sees slopes: values and directional derivatives of F.

An observation is a linear functional of F at a point x,

    L F = e F(x) + v·∇F(x),

a value where e = 1 and v = 0, a slope along v where e = 0. Derivatives of a Gaussian
process are Gaussian too, jointly with it, and the Matérn-5/2 kernel is smooth enough
for its first ones: the covariance of any two observations is one closed form, which
divides by no distance. All is safe in float32 and of fixed shape, as in
`gaussian_process`, on which this builds.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

import hypergrad.searchers.gaussian_process as gp

# Prior median, and width of the logarithm, of the slopes' noise variance τ².
_SLOPE_NOISE, _SLOPE_NOISE_WIDTH = 1e-3, 2.0
# V[v·∇F] = 5/3 s² |v|², with v in length-scales.
_CURVATURE = 5.0 / 3.0


class Observations(NamedTuple):
    """m functionals L F = e F(x) + v·∇F(x): x [m, d], e [m] and v [m, d]."""

    points: jax.Array
    of_value: jax.Array
    directions: jax.Array


class SlopeParams(NamedTuple):
    """What the evidence chooses: the process's own, and log τ² of the slopes' noise.

    A slope along v has noise variance τ² Σ_k (v_k / ℓ_k)²: τ is in units of the target
    per length-scale, so it needs no new prior where distances grow.
    """

    process: gp.GPParams
    log_slope_noise: jax.Array


class Posterior(NamedTuple):
    """A process conditioned on data: L Lᵀ = K + N and α = (K + N)⁻¹(y − e c)."""

    params: SlopeParams
    observed: Observations
    mask: jax.Array
    factor: jax.Array
    weights: jax.Array


def values_at(points: jax.Array) -> Observations:
    """The values of F at points [m, d]."""
    ones = jnp.ones(len(points), points.dtype)
    return Observations(points, ones, jnp.zeros_like(points))


def slopes_at(points: jax.Array, directions: jax.Array) -> Observations:
    """The slopes at points [n, d] along k directions each, [n, k, d]: n k rows.

    >>> print(slopes_at(jnp.zeros((3, 2)), jnp.ones((3, 1, 2))).of_value)
    [0. 0. 0.]
    """
    count = directions.shape[1]
    rows = jnp.repeat(points, count, axis=0)
    return Observations(
        rows, jnp.zeros(len(rows), points.dtype), directions.reshape(rows.shape)
    )


def join(first: Observations, second: Observations) -> Observations:
    """Both, one after the other."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def prior_params(groups: tuple[int, ...]) -> SlopeParams:
    """Return the prior medians; coordinate i has length-scale `groups[i]`.

    >>> prior_params((0, 0, 1)).process.log_length.shape
    (2,)
    """
    noise = jnp.full((), math.log(_SLOPE_NOISE), float)
    return SlopeParams(gp.prior_params(groups), noise)


def log_prior(params: SlopeParams, groups: tuple[int, ...]) -> jax.Array:
    """Log-density of the parameters, but a constant; τ² is log-normal like σ²."""
    away = (params.log_slope_noise - math.log(_SLOPE_NOISE)) / _SLOPE_NOISE_WIDTH
    return gp.log_prior(params.process, groups) - 0.5 * away * away


def covariance(
    params: SlopeParams, a: Observations, b: Observations, groups: tuple[int, ...]
) -> jax.Array:
    """Cov(L_i F, L_j F) [n, m], with Δ = x_i − x_j in length-scales and ρ = √5 |Δ|.

        K_ij = s² e^−ρ { e_i e_j (1 + ρ + ρ²/3)
                         + 5/3 (1 + ρ)(e_i v_j·Δ − e_j v_i·Δ + v_i·v_j)
                         − 25/3 (v_i·Δ)(v_j·Δ) }

    The first line is Matérn-5/2; the others are its derivatives in x_i, x_j and both.
    """
    inverse_length = jnp.exp(-params.process.log_length)[jnp.asarray(groups)]

    def scaled(rows: jax.Array) -> jax.Array:
        return rows * inverse_length[None]

    def dot(rows: jax.Array, columns: jax.Array) -> jax.Array:
        return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)

    x, y = scaled(a.points - 0.5), scaled(b.points - 0.5)
    v, w = scaled(a.directions), scaled(b.directions)
    square = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None] - 2.0 * dot(x, y)
    rho = jnp.sqrt(5.0 * jnp.maximum(square, 1e-12))  # the floor keeps √'s slope finite
    along_v = jnp.sum(v * x, 1)[:, None] - dot(v, y)
    along_w = dot(x, w) - jnp.sum(w * y, 1)[None]

    e, f = a.of_value[:, None], b.of_value[None]
    both = e * f * (1.0 + rho + rho * rho / 3.0)
    one = _CURVATURE * (1.0 + rho) * (e * along_w - f * along_v + dot(v, w))
    two = 5.0 * _CURVATURE * along_v * along_w
    return jnp.exp(params.process.log_signal - rho) * (both + one - two)


def variance(
    params: SlopeParams, observed: Observations, groups: tuple[int, ...]
) -> jax.Array:
    """V[L F] = s² (e² + 5/3 Σ_k (v_k / ℓ_k)²) before any data, [m]."""
    steepness = _squared_directions(params, observed, groups)
    known = observed.of_value**2 + _CURVATURE * steepness
    return jnp.exp(params.process.log_signal) * known


def condition(
    params: SlopeParams,
    observed: Observations,
    targets: jax.Array,
    mask: jax.Array,
    groups: tuple[int, ...],
    jitter: float,
) -> Posterior:
    """Condition on `targets` [m] of the observations where `mask` [m] is true.

    The diagonal gains σ² for a value, τ² |v/ℓ|² for a slope, and `jitter` times each
    one's own prior variance. A factorisation that fails gives NaN.
    """
    both = mask[:, None] & mask[None, :]
    kernel = jnp.where(both, covariance(params, observed, observed, groups), 0.0)
    noise = jnp.exp(params.process.log_noise) * observed.of_value**2
    slope_noise = jnp.exp(params.log_slope_noise)
    noise = noise + slope_noise * _squared_directions(params, observed, groups)
    noise = noise + jitter * variance(params, observed, groups)
    factor = jnp.linalg.cholesky(kernel + jnp.diag(jnp.where(mask, noise, 1.0)))
    residual = _residual(params, observed, targets, mask)
    weights = cho_solve((factor, True), residual)
    return Posterior(params, observed, mask, factor, weights)


def log_evidence(posterior: Posterior, targets: jax.Array) -> jax.Array:
    """Evidence log p(y) = −½ (y − e c)ᵀα − Σ log L_ii − ½ m log 2π, in the mask."""
    mask = posterior.mask
    residual = _residual(posterior.params, posterior.observed, targets, mask)
    return (
        -0.5 * residual @ posterior.weights
        - jnp.sum(jnp.log(jnp.diag(posterior.factor)))
        - 0.5 * math.log(2.0 * math.pi) * jnp.sum(mask)
    )


def predict(
    posterior: Posterior, wanted: Observations, groups: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of noise-free values or slopes, each [m]."""
    params = posterior.params
    cross = covariance(params, posterior.observed, wanted, groups)
    cross = jnp.where(posterior.mask[:, None], cross, 0.0)
    mean = params.process.mean * wanted.of_value + jnp.matmul(
        posterior.weights, cross, precision=jax.lax.Precision.HIGHEST
    )
    half = solve_triangular(posterior.factor, cross, lower=True)
    before = variance(params, wanted, groups)
    # Rounding may leave a negative variance at an observed point.
    after = jnp.maximum(before - jnp.sum(half * half, 0), 1e-9 * before)
    return mean, jnp.sqrt(after)


def fit(
    starts: SlopeParams,
    observed: Observations,
    targets: jax.Array,
    mask: jax.Array,
    groups: tuple[int, ...],
    jitter: float,
    num_steps: int,
) -> SlopeParams:
    """Maximise log p(y) + log p(params) by Adam from each of the stacked `starts`."""

    def loss(params: SlopeParams) -> jax.Array:
        posterior = condition(params, observed, targets, mask, groups, jitter)
        return -log_evidence(posterior, targets) - log_prior(params, groups)

    return gp.minimise(loss, starts, num_steps)


def telling_directions(slopes: jax.Array, count: int) -> jax.Array:
    """Orthonormal directions [n, k, d] in which to observe slopes [n, d]; 0 is unknown.

    All coordinates where count ≥ d. Else the first is the slope's own, along which all
    of it lies; the others, leading right-singular directions of all unit slopes, say
    where it has no part, though other trials do.
    """
    num, dim = slopes.shape
    if count >= dim:
        return jnp.broadcast_to(jnp.eye(dim, dtype=slopes.dtype)[None], (num, dim, dim))
    tiny = jnp.finfo(slopes.dtype).tiny
    units = slopes / jnp.maximum(jnp.max(jnp.abs(slopes), 1, keepdims=True), tiny)
    norms = jnp.linalg.norm(units, axis=1, keepdims=True)
    units = units / jnp.maximum(norms, 0.5)  # of norm 1 or more, or zero
    shared = jnp.zeros((0, dim), slopes.dtype)
    if count > 1:
        _, _, shared = jnp.linalg.svd(units, full_matrices=False)

    def orthonormal(own: jax.Array) -> jax.Array:
        rows = jnp.concatenate([own[None], shared[: count - 1]])
        q, _ = jnp.linalg.qr(rows.T)
        return q.T

    return jax.vmap(orthonormal)(units)


def _squared_directions(
    params: SlopeParams, observed: Observations, groups: tuple[int, ...]
) -> jax.Array:
    inverse_length = jnp.exp(-params.process.log_length)[jnp.asarray(groups)]
    return jnp.sum(jnp.square(observed.directions * inverse_length[None]), 1)


def _residual(params, observed: Observations, targets: jax.Array, mask: jax.Array):
    expected = params.process.mean * observed.of_value
    return jnp.where(mask, targets - expected, 0.0)
