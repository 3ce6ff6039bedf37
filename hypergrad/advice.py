"""What a diagnosis says in words: clear rules from its numbers to plain advice."""

import math
from dataclasses import dataclass

USEFUL_STEP = 0.01
"""The relative change of λ that an outer step should be able to make."""

_CONVERGED = 0.01  # ‖∇ℓ(w_T)‖ / ‖∇ℓ(w_0)‖ at which the end counts as a minimum
_SOLVED = 0.01  # residual of a few CG iterations at which the solve counts as easy
_CLEAR = 2.0  # the signal-to-noise ratio at which a mean gradient is worth following
_FEW = 10  # hyperparameters up to which forward mode is no dearer than a few reverses


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` measured: plain numbers, so that `dataclasses.asdict` records it.

    Attributes:
      num_steps: T.
      num_hparams: d, the floating numbers in λ.
      num_keys: n.
      value: mean F(λ) over the keys at which it is finite; NaN if there is none.
      diverged: share of keys at which F is not finite.
      undifferentiable: share of keys at which F is finite and dF/dλ is not.
      steps: t of `growth`.
      growth: mean over keys of log ‖∂w_t/∂w_0 u‖ for a random u of length 1.
      exponent: the slope of that over the second half of training, per step: the
        finite-time Lyapunov exponent; -∞ where perturbations die altogether.
      exponent_error: its standard error over keys; 0 for a single key.
      chaotic_from: the step from which a change of 1% has grown to 100%, on average and
        for good; None if there is none.
      horizons: t of `hypergrad_norms`.
      hypergrad_norms: median over keys of ‖dF_t/dλ‖ when training stops at t.
      signal_to_noise: ‖mean‖ / std of dF/dλ over keys (seeds and minibatches), with the
        noise of the mean taken out; ∞ without noise, None for a single key.
      step_sizes: relative changes h of every λ_j, decreasing.
      prediction_errors: for each h, over random signs, |⟨dF/dλ, δ⟩ − ΔF| / |ΔF| (rms).
      correlations: for each h, the correlation of ⟨dF/dλ, δ⟩ with ΔF.
      useful_within: the largest h up to which the slope predicts ΔF to 10%; 0: nowhere.
      stationarity: mean ‖∇_w ℓ(w_T)‖ / ‖∇_w ℓ(w_0)‖; None without an inner loss.
      solve_residual: worst residual ‖b − A v‖ / ‖b‖ after a few CG iterations on the
        inner Hessian A, b the outer loss's gradient; None without an inner loss.
      curvature: smallest pᵀA p / pᵀp met in them: not above 0 away from a minimum.
      solve_iterations: how many a few are.
    """

    num_steps: int
    num_hparams: int
    num_keys: int
    value: float
    diverged: float
    undifferentiable: float
    steps: tuple[int, ...]
    growth: tuple[float, ...]
    exponent: float
    exponent_error: float
    chaotic_from: int | None
    horizons: tuple[int, ...]
    hypergrad_norms: tuple[float, ...]
    signal_to_noise: float | None
    step_sizes: tuple[float, ...]
    prediction_errors: tuple[float, ...]
    correlations: tuple[float, ...]
    useful_within: float
    stationarity: float | None
    solve_residual: float | None
    curvature: float | None
    solve_iterations: int

    @property
    def finite(self) -> bool:
        """Whether F and dF/dλ are, at all keys."""
        return not self.diverged and not self.undifferentiable

    @property
    def no_slope(self) -> bool:
        """Whether dF/dλ is zero, and not merely on average."""
        return (
            self.finite and self.hypergrad_norms[-1] == 0 and not self.signal_to_noise
        )

    @property
    def smooth(self) -> bool:
        """Whether the slope predicts F over a useful step."""
        return self.useful_within >= USEFUL_STEP

    @property
    def chaotic(self) -> bool:
        """Whether perturbations outgrow the state, and the slope predicts nothing."""
        return self.chaotic_from is not None and not self.smooth

    @property
    def converged(self) -> bool | None:
        """Whether training ends near a minimum of its loss; None where it has none."""
        return None if self.stationarity is None else self.stationarity <= _CONVERGED

    @property
    def keys_needed(self) -> int | None:
        """How many keys to average for a clear signal; None where that is unknown."""
        snr = self.signal_to_noise
        if snr is None or not snr > 0:
            return None
        return max(1, math.ceil((_CLEAR / snr) ** 2))

    @property
    def advice(self) -> tuple[str, ...]:
        """One line for each rule that applies, the most pressing first."""
        rules = (_finite, _zero, _chaos, _smoothness, _noise, _implicit, _window, _mode)
        return tuple(line for rule in rules for line in rule(self))

    def __str__(self) -> str:
        """The numbers, and then the advice."""
        lines = [
            f"T = {self.num_steps} steps, d = {self.num_hparams} hyperparameters, "
            f"{self.num_keys} keys: F(λ) = {self.value:.6g}",
            f"  exponent {self.exponent:+.4g} ± {self.exponent_error:.1g} a step; "
            f"perturbations grow {_row(map(_exp, self.growth))}",
            f"    by step {_row(self.steps)}",
            f"  hypergradient norm {_row(self.hypergrad_norms)}",
            f"    at horizon {_row(self.horizons)}",
            f"  signal to noise {_or_none(self.signal_to_noise)}",
            f"  slope predicts F to 10% within {_radius(self)}; correlation "
            f"{_row(self.correlations)} at steps {_row(self.step_sizes)}",
            f"  inner gradient at the end {_or_none(self.stationarity)} of the start; "
            f"CG residual {_or_none(self.solve_residual)} after "
            f"{self.solve_iterations} iterations, curvature {_or_none(self.curvature)}",
            *(f"* {line}" for line in self.advice),
        ]
        return "\n".join(lines)


def _finite(d: Diagnosis):
    if d.diverged:
        yield (
            f"training diverges at {d.diverged:.0%} of the keys: lower the rate, or "
            "bound it in the space"
        )
    if d.undifferentiable:
        yield (
            f"F is finite and its hypergradient is not at {d.undifferentiable:.0%} of "
            "the keys: make the optimiser differentiable (safe_optax.check finds out, "
            "hypergrad.differentiable cures)"
        )


def _zero(d: Diagnosis):
    if d.no_slope:
        yield (
            "the hypergradient is zero: F does not respond to λ (is it used at all, "
            "and is nothing on the way stopped, rounded or reduced to its sign?)"
        )


def _chaos(d: Diagnosis):
    if d.chaotic and d.diverged < 1:  # F = NaN is no matter of the estimator
        t = d.chaotic_from
        yield (
            f"chaotic beyond T≈{t} (perturbations e-fold every {1 / d.exponent:.3g} "
            f"steps): truncate (Reverse(window={t})), smooth with PersistentES, or "
            "lower the rate"
        )


def _smoothness(d: Diagnosis):
    if not d.smooth and not d.chaotic and d.finite:
        yield (
            f"the slope predicts F to 10% only within relative steps of {_radius(d)}: "
            "take small outer steps, search in log coordinates, or smooth with "
            "EvolutionStrategies"
        )


def _noise(d: Diagnosis):
    snr, needed = d.signal_to_noise, d.keys_needed
    if d.chaotic and snr is not None and snr < _CLEAR:
        yield (
            f"signal-to-noise {snr:.2g} over seeds, from gradients that explode: no "
            "average helps; diagnose again when they no longer do"
        )
    elif snr == 0 and not d.no_slope:
        yield (
            f"no signal among {d.num_keys} keys: diagnose with more, enlarge the "
            "batches, or keep one key for the whole search (SameKey)"
        )
    elif needed is not None and needed > 1:
        yield f"signal-to-noise {snr:.2g} over seeds: average at least {needed} keys"


def _implicit(d: Diagnosis):
    if d.stationarity is None or d.solve_residual is None or not d.finite:
        return
    fell = d.stationarity < 1
    if not d.converged:
        yield (
            f"inner training has not converged (‖∇ℓ‖ {'fell' if fell else 'rose'} to "
            f"{d.stationarity:.0%} of start): implicit estimators will be biased; use "
            f"Reverse{' with a window' if d.chaotic else ''}"
        )
    elif d.curvature is not None and d.curvature <= 0:
        yield (
            "the inner Hessian is not positive definite where training ends: CG does "
            "not apply; Implicit needs GaussNewton() or NormalCG()"
        )
    elif d.solve_residual > _SOLVED:
        yield (
            f"converged, but {d.solve_iterations} CG iterations leave a residual of "
            f"{d.solve_residual:.2g}: give Implicit(solver=CG()) more iterations or "
            "damping, or Nystrom()"
        )
    elif d.smooth:
        yield (
            "converged and smooth: Implicit(solver=CG()) is cheapest for λ in the "
            "inner loss (rates and other λ of the optimiser need Reverse or Forward)"
        )


def _window(d: Diagnosis):
    if d.exponent >= 0 or not math.isfinite(d.exponent) or not d.smooth:
        return
    fades = math.ceil(math.log(0.01) / d.exponent)
    if 2 * fades <= d.num_steps:
        yield (
            f"perturbations fade to 1% in {fades} steps: Reverse(window={fades}) is "
            "enough for λ in the inner loss, though not for rates"
        )


def _mode(d: Diagnosis):
    if d.num_hparams <= _FEW:
        yield (
            f"few hyperparameters (d={d.num_hparams}): Forward costs "
            f"{1 + 2 * d.num_hparams} trainings with memory of {1 + d.num_hparams} "
            "states"
        )
    else:
        kept = 2 * math.ceil(math.sqrt(d.num_steps))
        yield (
            f"many hyperparameters (d={d.num_hparams}): Reverse costs 3 to 5 trainings "
            f"with memory of {d.num_steps} states, or of about {kept} with Segments()"
        )


def _exp(log_growth) -> float:
    return math.exp(min(log_growth, 700.0))


def _radius(d: Diagnosis) -> str:
    smallest = min(d.step_sizes)
    return f"{d.useful_within:.0e}" if d.useful_within else f"less than {smallest:.0e}"


def _row(numbers) -> str:
    return ", ".join(f"{x:.3g}" for x in numbers)


def _or_none(x) -> str:
    return "none" if x is None else f"{x:.3g}"
