"""Is this hypergradient right, and how far from λ is it useful?

Exact estimators meet forward mode and central differences at one key; all others meet
the exact ones, or a closed form, in the mean over keys (`hypergrad.agreement`).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.agreement import (
    Agreement,
    Reference,
    Verdict,
    agreement,
    flat,
    reference_at,
)
from hypergrad.api import value_and_hypergrad
from hypergrad.estimators.base import Estimator, Target, objective_of_floats
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key
from hypergrad.unroll import unroll


@dataclass(frozen=True)
class Verification:
    """What `verify` found about an exact estimator, per direction and together.

    Attributes:
      estimator: the estimator that was asked.
      value: F(λ).
      norm: ‖dF/dλ‖₂.
      slopes: ⟨estimate, u⟩ along each unit direction u.
      jvp_error: largest |⟨estimate, u⟩ − jvp of F along u| relative to `norm`.
      steps: the step sizes h, relative to ‖λ‖ + 1, decreasing.
      difference_errors: for each h the largest |⟨estimate, u⟩ − central difference|
        relative to `norm`.
      dtype: the coarsest floating type of the inner state: float64, unless `start`
        insists on another.
      tolerance: what counts as agreement; at least 1000 ε of `dtype`.
      useful_within: the largest h up to which, without a gap, the slope predicts
        F(λ + hu) − F(λ − hu) to 10%; 0 if nowhere.
      reference_error: ‖estimate − reference‖ relative to ‖reference‖; None without.
    """

    estimator: str
    value: float
    norm: float
    slopes: tuple[float, ...]
    jvp_error: float
    steps: tuple[float, ...]
    difference_errors: tuple[float, ...]
    dtype: str
    tolerance: float
    useful_within: float
    reference_error: float | None = None

    @property
    def difference_error(self) -> float:
        """The error at the best step size of the sweep."""
        return min(self.difference_errors)

    @property
    def ok(self) -> bool:
        """Whether jvp, central differences and the reference all agree."""
        # 1e-6 in float64, and wider by the cube root of ε in a coarser type.
        coarser = float(jnp.finfo(self.dtype).eps / jnp.finfo("float64").eps)
        return (
            self.jvp_error <= self.tolerance
            and self.difference_error <= max(self.tolerance, 1e-6 * coarser ** (1 / 3))
            and (self.reference_error or 0.0) <= self.tolerance
        )

    @property
    def verdict(self) -> Verdict:
        """`ok` in the words of `Agreement.verdict`."""
        return Verdict.AGREES if self.ok else Verdict.DISAGREES

    def __str__(self) -> str:
        """A short report."""
        lines = [
            f"{self.estimator} {self.verdict} forward mode and differences "
            f"in {self.dtype}",
            f"  F(λ) = {self.value:.10g}, ‖dF/dλ‖ = {self.norm:.6g}",
            f"  against jvp: relative error {self.jvp_error:.2e}",
            f"  against differences: {self.difference_error:.2e} at the best step",
            f"  useful within a relative step of {self.useful_within:.1e}",
        ]
        if self.reference_error is not None:
            lines.append(f"  against the reference: {self.reference_error:.2e}")
        lines.append("  step       error")
        pairs = zip(self.steps, self.difference_errors, strict=True)
        return "\n".join(lines + [f"  {h:.1e}   {error:.2e}" for h, error in pairs])


def verify(
    problem: Problem,
    estimator: Estimator,
    hparams: HParams,
    key: Key,
    *,
    reference: Reference | None = None,
    num_keys: int = 16,
    num_directions: int = 3,
    tolerance: float = 1e-8,
    precision: float = 0.05,
) -> Verification | Agreement:
    """Compare an estimate with derivatives that are known to be right.

    An exact estimator meets, at the run's key and along random unit directions u in λ,
    jvp and (F(λ + hu) − F(λ − hu)) / 2h over many h. Any other meets at `num_keys` keys
    what it aims at: dF/dλ of the exact ones, the derivative through its window, or the
    reference, without which there is none for a smoothed objective or an update.

    All is computed in float64 whatever the session's default (so that random numbers
    drawn in the default type make it another run).

    Args:
      problem: the problem; its floating data are cast to float64.
      estimator: the estimator to check.
      hparams: λ.
      key: the run's key, or what the keys are split from; also draws the directions.
      reference: `(hparams, key) -> hypergrad`, a closed form of what the estimate, or
        its mean, ought to be.
      num_keys: how many keys an estimator that is not exact is asked at.
      num_directions: how many u.
      tolerance: relative error allowed against jvp (differences: at least 1e-6), and
        the bias that counts as none.
      precision: the relative standard error of the mean at which to say that there is
        no bias.

    Returns:
      A `Verification` for an exact estimator, otherwise an `Agreement`; print it, or
      test `.ok`, or read `.verdict`.

    Raises:
      ValueError: the estimator gives no hypergradient.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=5)
      >>> hg.verify(problem, hg.Reverse(), 1.1, jax.random.key(0)).ok
      True
    """
    if estimator.target is Target.NOTHING:
        raise ValueError(
            f"{estimator} estimates the value alone: there is nothing to verify; use "
            "an estimator of dF/dλ, such as Reverse()"
        )
    if num_directions < 1:
        raise ValueError(f"num_directions must be >= 1, got {num_directions}")
    with jax.enable_x64(True):
        problem = tree.cast_floats(problem, jnp.float64)
        hparams = tree.cast_floats(tree.as_arrays(hparams), jnp.float64)
        if estimator.exact:
            return _verification(
                problem, estimator, hparams, key, reference, num_directions, tolerance
            )
        return agreement(
            problem,
            estimator,
            hparams,
            key,
            reference=reference,
            num_keys=num_keys,
            tolerance=tolerance,
            precision=precision,
        )


def _verification(
    problem, estimator, hparams, key, reference, num_directions, tolerance
) -> Verification:
    value, estimate = value_and_hypergrad(problem, estimator)(hparams, key)

    run, floats, _ = objective_of_floats(
        lambda hparams: unroll(problem, hparams, key)[0], hparams
    )
    vector, unravel = tree.ravel(floats)
    gradient = flat(estimate)
    f = jax.jit(lambda v: run(unravel(v)))
    pushforward = jax.jit(lambda u: jax.jvp(f, (vector,), (u,))[1])

    directions = jax.random.normal(
        jax.random.fold_in(key, 0), (num_directions, vector.size), jnp.float64
    )
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    size = float(jnp.linalg.norm(vector)) + 1.0
    slopes = [float(gradient @ u) for u in directions]
    tangents = [float(pushforward(u)) for u in directions]

    def differences(h):
        return [
            float(f(vector + h * size * u) - f(vector - h * size * u)) / (2 * h * size)
            for u in directions
        ]

    steps = tuple(10.0**-i for i in range(10))
    sweep = [differences(h) for h in steps]
    norm = float(jnp.linalg.norm(gradient))
    dtype = _coarsest(problem, hparams, key)
    reference_error = None
    if reference is not None:
        right = reference_at(reference, hparams, key)
        gap = float(jnp.linalg.norm(gradient - right))
        reference_error = gap / (float(jnp.linalg.norm(right)) or norm or 1.0)

    # Relative to the larger of the two, or an estimate of zero would always pass.
    scale = max(norm, *map(abs, tangents)) or 1.0
    errors = [_largest_gap(slopes, found) / scale for found in sweep]
    return Verification(
        estimator=str(estimator),
        value=float(value),
        norm=norm,
        slopes=tuple(slopes),
        jvp_error=_largest_gap(slopes, tangents) / scale,
        steps=steps,
        difference_errors=tuple(errors),
        dtype=dtype,
        tolerance=max(tolerance, 1e3 * float(jnp.finfo(dtype).eps)),
        useful_within=useful_within(
            steps, [_predicts(slopes, found) for found in sweep]
        ),
        reference_error=reference_error,
    )


def _largest_gap(slopes, others) -> float:
    """Max |a − b|, infinite where one is not finite: NaN has no place in an order."""
    gaps = [abs(a - b) for a, b in zip(slopes, others, strict=True)]
    return max(gap if math.isfinite(gap) else math.inf for gap in gaps)


def useful_within(steps, predicts) -> float:
    """From small steps upwards, the last before the slope fails to predict; or 0.

    The smallest steps of all may fail by rounding; they are passed over.

    Args:
      steps: step sizes, decreasing.
      predicts: for each, whether the slope predicts F there.
    """
    useful = 0.0
    for h, does in reversed(list(zip(steps, predicts, strict=True))):
        if does:
            useful = h
        elif useful:
            break
    return useful


def _predicts(slopes, found) -> bool:
    """Whether all slopes are those found, to 10%."""
    pairs = zip(slopes, found, strict=True)
    return all(abs(a - b) <= 0.1 * abs(b) < math.inf for a, b in pairs)


def _coarsest(problem, hparams, key) -> str:
    """The name of the floating type of least precision in the inner state."""
    state = jax.eval_shape(lambda h: problem.start(h, key), hparams)
    dtypes = [x.dtype for x in jax.tree.leaves(state) if tree.is_inexact(x)]
    coarsest = max([jnp.dtype(jnp.float64), *dtypes], key=lambda d: jnp.finfo(d).eps)
    return coarsest.name
