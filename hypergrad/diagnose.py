"""Is the hypergradient useful here, and which estimator suits?

A hypergradient may be right (`hypergrad.verify`) and yet useless: where the Jacobians
of training grow, ‖∂s_T/∂s_0‖ ~ e^(γT), it explodes and predicts F over no step that an
outer optimiser would take; where it differs from seed to seed it is noise. And the
cheaper estimators lean on what need not hold: converged training, an easy linear solve.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad import tree
from hypergrad.advice import USEFUL_STEP, Diagnosis
from hypergrad.agreement import flat
from hypergrad.curvature import Hessian, Point
from hypergrad.estimators.base import objective_of_floats
from hypergrad.estimators.bilevel import relative_norm
from hypergrad.estimators.reverse import Reverse
from hypergrad.growth import grow
from hypergrad.linear_solvers import CG
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, Scalar
from hypergrad.unroll import Segments, unroll
from hypergrad.verify import useful_within

_STEP_SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_DIRECTIONS = 4
_SMALLEST = 1e-2  # steps are relative to |λ_j|, but not below this size
_CURVE = 16  # points of the growth curve that are kept


def diagnose(
    problem: Problem, hparams: HParams, keys: Key, *, solve_iterations: int = 20
) -> Diagnosis:
    """Measure γ of ‖∂s_t/∂s_0‖ ~ e^(γt), and how far and how surely dF/dλ predicts F.

    It costs, in trainings, about 12 for each key and 40 for the smoothness; all in
    float64, as `verify`. One compiled program serves all keys and horizons.

    Args:
      problem: the problem; its floating data are cast to float64.
      hparams: λ.
      keys: n run keys, `jax.random.split(key, n)`: 4 for a first look, more for the
        signal-to-noise ratio.
      solve_iterations: of conjugate gradients, to see how hard the inner system is.

    Returns:
      A `Diagnosis`: print it for the numbers and the advice.

    Raises:
      ValueError: `keys` is a single key.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=8)
      >>> found = hg.diagnose(problem, 0.5, jax.random.split(jax.random.key(0), 2))
      >>> round(found.exponent, 4), found.horizons  # log 0.5
      (-0.6931, (1, 2, 4, 8))
    """
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if keys.ndim != (1 if typed else 2) or not len(keys):
        raise ValueError(
            f"keys must be a vector of run keys, got shape {keys.shape}: write "
            "jax.random.split(key, 4)"
        )
    end = problem.num_steps
    horizons = sorted({max(1, end >> i) for i in range(4)})
    with jax.enable_x64(True):
        problem = tree.cast_floats(problem, jnp.float64)
        hparams = tree.cast_floats(tree.as_arrays(hparams), jnp.float64)
        solver, stops = CG(solve_iterations), jnp.asarray(horizons)
        measured = _measure(solver, problem, hparams, keys, stops)
        last = measured.value, measured.hypergrads[:, -1]
        predictions = _predict(problem, hparams, keys, *last)
        runs: _Run = jax.tree.map(np.asarray, measured)
        predicted, actual = map(np.asarray, predictions)
    with np.errstate(all="ignore"):  # what is not finite is data
        return _summary(problem, horizons, runs, predicted, actual, solve_iterations)


def _summary(problem, horizons, runs, predicted, actual, iterations) -> Diagnosis:
    """The numbers of all keys together."""
    end, gradients = problem.num_steps, runs.hypergrads[:, -1]
    ran = np.isfinite(runs.value)
    finite = ran & np.isfinite(gradients).all(axis=1)
    curves = runs.growth[finite] if finite.any() else runs.growth
    growth, slopes = curves.mean(axis=0), [_late_slope(curve) for curve in curves]
    shown = np.unique(np.linspace(1, end, min(end, _CURVE)).round().astype(int))
    norms = np.linalg.norm(runs.hypergrads, axis=2)
    errors, correlations = _prediction(predicted, actual)
    return Diagnosis(
        num_steps=end,
        num_hparams=gradients.shape[1],
        num_keys=len(gradients),
        value=float(runs.value[ran].mean()) if ran.any() else float("nan"),
        diverged=float((~ran).mean()),
        undifferentiable=float((ran & ~finite).mean()),
        steps=tuple(shown.tolist()),
        growth=tuple(growth[shown - 1].tolist()),
        exponent=float(np.mean(slopes)),
        exponent_error=_standard_error(slopes),
        chaotic_from=_chaotic_from(growth, float(np.mean(slopes))),
        horizons=tuple(horizons),
        hypergrad_norms=tuple(np.median(norms, axis=0).tolist()),
        signal_to_noise=_signal_to_noise(gradients[finite]),
        step_sizes=_STEP_SIZES,
        prediction_errors=errors,
        correlations=correlations,
        useful_within=useful_within(_STEP_SIZES, [error <= 0.1 for error in errors]),
        stationarity=_mean(runs.stationarity),
        solve_residual=_worst(runs.residual, max),
        curvature=_worst(runs.curvature, min),
        solve_iterations=iterations,
    )


class _Run(NamedTuple):
    """One key's measurements; the last three None without an inner loss."""

    value: Scalar
    growth: jax.Array  # [T]
    hypergrads: jax.Array  # [horizons, d]
    stationarity: Scalar | None
    residual: Scalar | None
    curvature: Scalar | None


@functools.partial(jax.jit, static_argnums=0)
def _measure(solver, problem, hparams, keys, horizons) -> _Run:
    """All that is measured at each key."""

    def at(key):
        start, end, growth = grow(problem, hparams, key)

        def stopped(horizon):
            shorter = _stopped_after(problem, horizon)
            result, _ = Reverse(Segments()).estimate(shorter, hparams, (), key)
            return result.value, flat(result.hypergrad)

        values, hypergrads = jax.lax.map(stopped, horizons)
        inner = (None, None, None)
        if problem.has_inner_loss:
            inner = _inner(solver, problem, hparams, start, end, key)
        return _Run(values[-1], growth, hypergrads, *inner)

    return jax.lax.map(at, keys)


def _stopped_after(problem: Problem, horizon) -> Problem:
    """The problem whose training ends at a step that may be traced.

    After the horizon nothing moves: one program serves every horizon, and a λ with an
    entry for each step keeps its shape.
    """
    every = problem.outer_every

    def step(hparams, state, tick):
        return jax.lax.cond(
            tick.t < horizon,
            lambda: problem.step(hparams, state, tick.t, tick.key),
            lambda: state,
        )

    def outer_at(hparams, state, tick):
        if every is None:
            return problem.outer(hparams, state, horizon, tick.key)
        value = problem.outer(hparams, state, tick.t, tick.key)
        return jnp.where(tick.t <= horizon, value, 0)

    return Problem.from_step(
        lambda hparams, tick: problem.start(hparams, tick.key),
        step,
        outer_at,
        num_steps=problem.num_steps,
        outer_every=every,
    )


def _inner(solver, problem, hparams, start, end, key):
    """(‖∇ℓ(w_T)‖ / ‖∇ℓ(w_0)‖, residual, curvature) of (∇²ℓ) v = ∇outer at w_T."""
    whole, floats, _ = objective_of_floats(lambda hparams: hparams, hparams)
    hessian = Hessian()

    def equation(x, rebuild):
        return hessian.linearise(problem, Point(floats, whole, x, rebuild, None, key))

    weights, rebuild = hessian.unknowns(problem, end)
    before, after = (
        equation(*hessian.unknowns(problem, start)),
        equation(weights, rebuild),
    )

    def outer(weights):
        return problem.outer(hparams, rebuild(weights), problem.num_steps, key)

    solution = solver.solve(lambda v: after.pull(v)[0], jax.grad(outer)(weights))
    ratio = relative_norm(after.residual, before.residual)
    return ratio, solution.residual, solution.curvature


@jax.jit
def _predict(problem, hparams, keys, values, gradients):
    """⟨dF/dλ, δ⟩ and F(λ + δ) − F(λ) for δ_j = ± h |λ_j|, [h, direction, sign]."""
    whole, floats, _ = objective_of_floats(lambda hparams: hparams, hparams)
    vector, unravel = tree.ravel(floats)
    scale = jnp.maximum(jnp.abs(vector), _SMALLEST)
    shape = (_DIRECTIONS, vector.size)
    signs = jax.random.rademacher(jax.random.key(0), shape, vector.dtype)

    sizes = jnp.asarray(_STEP_SIZES)

    def along(i):
        at = i % len(keys)

        def change(h):
            delta = h * scale * signs[i]
            moved, _ = unroll(problem, whole(unravel(vector + delta)), keys[at])
            return gradients[at] @ delta, moved - values[at]

        return jax.lax.map(change, jnp.concatenate([sizes, -sizes]))

    found = jax.lax.map(along, jnp.arange(_DIRECTIONS))
    rows = len(_STEP_SIZES)
    return jax.tree.map(lambda x: x.reshape(-1, rows).T, found)


def _prediction(predicted, actual):
    """(rms error relative to ΔF, correlation), for each step size."""
    errors, correlations = [], []
    for p, a in zip(predicted, actual, strict=True):
        size, gap = np.linalg.norm(a), np.linalg.norm(p - a)
        scale = np.linalg.norm(p) * size
        finite = np.isfinite(gap)
        errors.append(float(gap / size if size else gap > 0) if finite else np.inf)
        correlations.append(float(p @ a / scale) if finite and scale else 0.0)
    return tuple(errors), tuple(correlations)


def _late_slope(curve) -> float:
    """Growth a step over the second half, where the start is forgotten."""
    if curve[-1] == -np.inf:
        return -np.inf
    half = len(curve) // 2
    before = curve[half - 1] if half else 0.0
    return float((curve[-1] - before) / (len(curve) - half))


def _chaotic_from(growth, exponent) -> int | None:
    """The step from which a useful change of λ has grown to the size of the state."""
    size, last = -np.log(USEFUL_STEP), len(growth) - 1
    calm = np.flatnonzero(~(growth > size))
    # A large first step alone, as that of Adam from a small gradient, is no chaos.
    if not exponent * len(growth) > size or (calm.size and calm[-1] == last):
        return None
    return int(calm[-1]) + 2 if calm.size else 1  # entry i is that of step i + 1


def _signal_to_noise(gradients) -> float | None:
    """‖mean‖ / std, the share of the noise in ‖mean‖² being taken out."""
    n = len(gradients)
    if n < 2:
        return None
    noise = np.var(gradients, axis=0, ddof=1).sum()
    signal = (gradients.mean(axis=0) ** 2).sum()
    if noise <= 1e-20 * signal:
        return float("inf") if signal else 0.0
    return float(np.sqrt(max(signal - noise / n, 0.0) / noise))


def _standard_error(xs) -> float:
    return float(np.std(xs, ddof=1) / np.sqrt(len(xs))) if len(xs) > 1 else 0.0


def _mean(xs) -> float | None:
    return None if xs is None else float(xs.mean())


def _worst(xs, pick) -> float | None:
    return None if xs is None else float(pick(xs))
