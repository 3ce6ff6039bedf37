"""Does an estimator's mean over keys equal what it claims to estimate?

With estimates g_i and truths r_i at keys i = 1, ..., n, the errors e_i = g_i − r_i of
an estimator that is right have mean zero: in each of a few directions u the statistic
mean⟨e, u⟩ / (std⟨e, u⟩ / √n) is Student's t. Pairing by key removes what g and r share.
"""

import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad import tree
from hypergrad.api import estimate
from hypergrad.estimators.base import Estimator, Target, objective_of_floats
from hypergrad.estimators.one_step import Darts, OneStep
from hypergrad.estimators.reverse import Reverse
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key
from hypergrad.unroll import Segments, unroll

Reference = Callable[[HParams, Key], HParams]
"""`(hparams, key) -> hypergrad`: what an estimate ought to be, say a closed form."""

_DIRECTIONS = 8
# The chance to fail what is right: that of 4 standard errors in one of 8 directions.
_LEVEL = _DIRECTIONS * math.erfc(4 / math.sqrt(2))
_NOISE_FREE = 1e-20  # a variance relative to the squared norm: rounding in float64


class Verdict(enum.StrEnum):
    """What a comparison of an estimator with its truth has shown."""

    AGREES = "agrees with"
    DISAGREES = "DISAGREES with"
    BIASED = "is biased against"
    UNDECIDED = "is too noisy to compare with"
    NO_REFERENCE = "aims elsewhere, and is set beside"


@dataclass(frozen=True)
class Agreement:
    """What `verify` found about an estimator that is not exact, over keys.

    Attributes:
      estimator: the estimator that was asked.
      verdict: what the numbers say of it, see `Verdict`.
      truth: what it was compared with.
      num_keys: n, the keys.
      norm: ‖mean dF/dλ‖₂ of the exact hypergradient.
      bias: ‖mean error‖ relative to ‖mean truth‖; noise alone gives `standard_error`.
      standard_error: √(trace cov(error) / n) relative to ‖mean truth‖.
      deviations: mean error over its standard error in each of at most 8 directions,
        of which the first is that of the truth.
      p_value: of the largest deviation under Student's t, times the directions.
      cosine: between the mean estimate and the mean exact hypergradient.
      norm_ratio: ‖mean estimate‖ / `norm`.
      median_cosine: median over keys of the cosine of one estimate to that key's dF/dλ.
      variance: trace cov(estimate) over keys, relative to `norm`².
      own_variance: the same of the error: what the estimator adds to the training's.
      doubtful: share of keys at which the estimator itself doubts its estimate.
      doubt: why, at the first of them.
      precision: the standard error at which to say that there is no bias.
    """

    estimator: str
    verdict: Verdict
    truth: str
    num_keys: int
    norm: float
    bias: float
    standard_error: float
    deviations: tuple[float, ...]
    p_value: float
    cosine: float
    norm_ratio: float
    median_cosine: float
    variance: float
    own_variance: float
    doubtful: float
    doubt: str | None
    precision: float

    @property
    def ok(self) -> bool:
        """Whether there is no bias, and noise small enough to say so."""
        return self.verdict is Verdict.AGREES

    @property
    def keys_needed(self) -> int:
        """About how many keys bring the standard error down to `precision`."""
        if not math.isfinite(self.standard_error):
            return self.num_keys
        excess = (self.standard_error / self.precision) ** 2
        return max(self.num_keys, math.ceil(self.num_keys * excess))

    def __str__(self) -> str:
        """A short report."""
        words, bias = str(self.verdict), f"{100 * self.bias:.3g}%"
        if self.verdict is Verdict.BIASED:
            words = words.replace("biased", f"biased by {bias}")
        noise = f"its standard error {100 * self.standard_error:.3g}%, at most "
        noise += f"{max(map(abs, self.deviations)):.1f} of them in one direction"
        if self.own_variance < _NOISE_FREE:
            noise = "without noise"
        lines = [
            f"{self.estimator} {words} {self.truth} ({self.num_keys} keys)",
            f"  bias {bias}, {noise}",
            f"  to dF/dλ, of norm {self.norm:.6g}: cosine {self.cosine:.6f}, "
            f"norm ratio {self.norm_ratio:.4f}; of single keys the median cosine is "
            f"{self.median_cosine:.4f}",
            f"  variance over keys {self.variance:.3g} of the squared norm; of the "
            f"estimator's own {self.own_variance:.3g}",
        ]
        if self.verdict is Verdict.UNDECIDED:
            lines.append(f"  about {self.keys_needed} keys would decide")
        if self.doubt is not None:
            lines.append(f"  doubtful at {self.doubtful:.0%} of the keys: {self.doubt}")
        return "\n".join(lines)


@np.errstate(all="ignore")  # what is not finite is data
def agreement(
    problem: Problem,
    estimator: Estimator,
    hparams: HParams,
    key: Key,
    *,
    reference: Reference | None,
    num_keys: int,
    tolerance: float,
    precision: float,
) -> Agreement:
    """Compare the mean of `num_keys` estimates with what the estimator aims at.

    Args:
      problem: the problem, in the types in which to compute.
      estimator: any estimator of a hypergradient.
      hparams: λ.
      key: split into the keys of the runs.
      reference: what the estimate ought to be; None for what `estimator.target` names.
      num_keys: n >= 2.
      tolerance: a relative bias that counts as none.
      precision: the relative standard error at which to say that there is no bias.

    Returns:
      An `Agreement`.
    """
    if num_keys < 2:
        raise ValueError(f"num_keys must be >= 2 to know the noise, got {num_keys}")
    keys = jax.random.split(key, num_keys)
    estimates, exacts, doubtful = _over_keys(_beside, estimator, problem, hparams, keys)
    window = _window(estimator)
    known = estimator.target is Target.OBJECTIVE or window is not None
    if reference is not None:
        truth, known = "the reference", True
        rows = [reference_at(reference, hparams, k) for k in keys]
        truths = np.stack([np.asarray(row) for row in rows])
    elif window is not None:
        truth = f"the derivative through the last {window} steps"
        truths = _over_keys(_windowed, window, problem, hparams, keys)
    else:
        truth, truths = "dF/dλ", exacts

    errors = estimates - truths
    mean, exact, true = estimates.mean(0), exacts.mean(0), truths.mean(0)
    size = _norm(true) or _norm(mean) or 1.0
    scale = _norm(exact) or _norm(mean) or 1.0
    bias = _norm(errors.mean(0)) / size
    standard_error = math.sqrt(_trace(errors) / num_keys) / size
    deviations = _deviations(errors, true)
    chance = _chance(max(map(abs, deviations)), num_keys - 1)
    p_value = min(1.0, chance * len(deviations))  # Bonferroni

    # Nothing in these is random, so that no noise could explain a bias.
    certain = estimator.exact or (window and not isinstance(estimator, Darts))
    if bias <= tolerance:
        verdict = Verdict.AGREES
    elif not known:
        verdict = Verdict.NO_REFERENCE
    elif certain or not math.isfinite(bias):
        verdict = Verdict.DISAGREES
    elif p_value < _LEVEL:
        verdict = Verdict.DISAGREES if estimator.unbiased else Verdict.BIASED
    elif standard_error <= precision:
        verdict = Verdict.AGREES
    else:
        verdict = Verdict.UNDECIDED

    doubt = None
    if doubtful.any():
        first = keys[int(doubtful.argmax())]
        doubt = estimator.doubt(_info(estimator, problem, hparams, first))
    single = [_cosine(a, b) for a, b in zip(estimates, exacts, strict=True)]
    return Agreement(
        estimator=str(estimator),
        verdict=verdict,
        truth=truth,
        num_keys=num_keys,
        norm=_norm(exact),
        bias=bias,
        standard_error=standard_error,
        deviations=deviations,
        p_value=p_value,
        cosine=_cosine(mean, exact),
        norm_ratio=_norm(mean) / scale,
        median_cosine=float(np.median(single)),
        variance=_trace(estimates) / scale**2,
        own_variance=_trace(errors) / scale**2,
        doubtful=float(doubtful.mean()),
        doubt=doubt,
        precision=precision,
    )


def flat(hypergrad: HParams) -> jax.Array:
    """The floating leaves of a hypergradient as one vector."""
    return tree.ravel(tree.partition_tangent(hypergrad)[0])[0]


def reference_at(reference: Reference, hparams: HParams, key: Key) -> jax.Array:
    """`flat` of a reference, refused where its floating leaves are not those of λ."""
    right = tree.as_arrays(reference(hparams, key))
    got = _shapes(tree.partition_tangent(right)[0])
    expected = _shapes(tree.partition(hparams)[0])
    if got != expected:
        raise ValueError(
            "reference must return a hypergradient like hparams, with the floating "
            f"leaves {expected}, got {got}"
        )
    return flat(right)


def _shapes(pytree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(pytree)
    return {f"hparams{jax.tree_util.keystr(path)}": x.shape for path, x in leaves}


def _window(estimator) -> int | None:
    """K of an estimator that aims at the derivative through the last K steps."""
    match estimator:
        case Reverse(window=window):
            return window
        case OneStep() | Darts():
            return 1
    return None


def _over_keys(fn, static, problem, hparams, keys):
    return jax.tree.map(np.asarray, _mapped(fn, static, problem, hparams, keys))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mapped(fn, static, problem, hparams, keys):
    chunk = math.gcd(len(keys), 8)
    at = lambda key: fn(static, problem, hparams, key)
    return jax.lax.map(at, keys, batch_size=chunk)


def _beside(estimator, problem, hparams, key):
    """An estimate, dF/dλ and the estimator's own doubt."""
    result, _ = estimate(problem, estimator, hparams, (), key)
    exact, _ = estimate(problem, Reverse(Segments()), hparams, (), key)
    doubtful = jnp.asarray(result.info.doubtful)
    return flat(result.hypergrad), flat(exact.hypergrad), doubtful


def _windowed(window, problem, hparams, key):
    """The derivative that `unroll` cuts, with JAX's own rules for the inner gradient.

    Finite differences cannot see it: the cut changes no value.
    """
    run, floats, _ = objective_of_floats(
        lambda h: unroll(problem, h, key, window=window)[0], hparams
    )
    return tree.ravel(jax.grad(run)(floats))[0]


@functools.partial(jax.jit, static_argnums=0)
def _info(estimator, problem, hparams, key):
    return estimate(problem, estimator, hparams, (), key)[0].info


def _norm(vector) -> float:
    return float(np.linalg.norm(vector))


def _trace(rows) -> float:
    """Trace of the covariance over rows."""
    return float(np.var(rows, axis=0, ddof=1).sum())


def _cosine(a, b) -> float:
    """⟨a, b⟩ / (‖a‖ ‖b‖), 0 where one is zero."""
    scale = _norm(a) * _norm(b)
    return float(a @ b) / scale if scale else 0.0


def _deviations(errors, true) -> tuple[float, ...]:
    """Mean over standard error of ⟨error, u⟩: u the truth's direction, and random."""
    n, d = errors.shape
    directions = np.random.default_rng(0).normal(size=(min(_DIRECTIONS, d), d))
    if true.any():  # an estimate with a wrong factor shows best along the truth
        directions[0] = true
    along = errors @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    error = along.std(0, ddof=1) / math.sqrt(n)
    rounding = np.finfo(errors.dtype)  # below it, what differs is no bias
    return tuple(
        (along.mean(0) / (error + rounding.eps * _norm(true) + rounding.tiny)).tolist()
    )


def _chance(t: float, dof: int) -> float:
    """Chance of a deviation of t or more under Student's t."""
    if not math.isfinite(t):
        return 0.0
    with jax.enable_x64(True):
        return float(jax.scipy.special.betainc(dof / 2, 0.5, dof / (dof + t * t)))
