"""`verify` must pass what is right and fail what is wrong."""

import dataclasses
import functools
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.agreement import Verdict
from hypergrad.estimators import Estimate
from hypergrad.estimators.one_step import Darts, OneStep
from tests.oracles import Ridge
from tests.problems import cubic, ridge, squared_error


@dataclass(frozen=True)
class Wrong(hg.Reverse):
    """Five per cent off."""

    def estimate(self, problem, hparams, state, key):
        """The hypergradient, scaled."""
        (value, hypergrad, info), state = super().estimate(problem, hparams, state, key)
        scaled = jax.tree.map(lambda x: 1.05 * x, hypergrad)
        return Estimate(value, scaled, info), state


@pytest.mark.parametrize(
    "estimator",
    [hg.Reverse(), pytest.param(hg.Forward(chunk=2), marks=pytest.mark.slow)],
)
def test_right_ones_pass(estimator, key):
    hparams = {"lr": 0.1, "l2": jnp.full(4, 0.1)}
    report = hg.verify(ridge(10, batch_size=5), estimator, hparams, key)
    assert report.ok, str(report)
    assert report.difference_error < 1e-8
    assert report.useful_within >= 1e-3


def test_wrong_ones_fail(key):
    report = hg.verify(ridge(10), Wrong(), {"lr": 0.1, "l2": 0.1}, key)
    assert not report.ok
    assert "DISAGREES" in str(report)
    np.testing.assert_allclose(report.jvp_error, 0.05 / 1.05, rtol=0.6)


def test_float32_problems_are_checked_in_float64(key):
    with jax.enable_x64(False):
        problem = ridge(10)
        report = hg.verify(problem, hg.Reverse(), {"lr": 0.1, "l2": 0.1}, key)
        assert report.ok, str(report)
        assert jnp.ones(()).dtype == jnp.float32


def test_not_a_number_is_not_ok(key):
    report = hg.verify(cubic(2000), hg.Reverse(), 10.0, key)
    assert not report.ok


def test_chaos_shows_in_the_useful_radius(key):
    """The logistic map at r = 3.9: right derivatives, useful nowhere visible."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.full((), 0.3),
        step=lambda hp, s, tick: hp * s * (1 - s),
        outer_at=lambda hp, s, tick: s,
        num_steps=40,
    )
    chaotic = hg.verify(problem, hg.Reverse(), 3.9, key, tolerance=1e-6)
    calm = hg.verify(problem, hg.Reverse(), 2.8, key)
    assert calm.ok
    assert calm.useful_within >= 1e-3
    assert chaotic.jvp_error < 1e-6
    assert chaotic.useful_within < 1e-7


class Zero(hg.Reverse):
    """An estimator that says zero, whatever the problem."""

    def estimate(self, problem, hparams, state, key):
        """Zeros."""
        (value, hypergrad, info), state = super().estimate(problem, hparams, state, key)
        return Estimate(value, jax.tree.map(jnp.zeros_like, hypergrad), info), state


def test_an_estimate_of_zero_fails_however_small_the_objective(key):
    def tiny(weights, hparams, batch):
        return 1e-10 * squared_error(weights, batch)

    report = hg.verify(ridge(5, outer_loss=tiny), Zero(), {"lr": 0.1, "l2": 0.1}, key)
    assert not report.ok


def test_steps_that_leave_the_domain_do_not_fail_what_is_right(key):
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: s * jnp.sqrt(hp),
        outer_at=lambda hp, s, tick: s,
        num_steps=3,
    )
    report = hg.verify(problem, hg.Reverse(), 0.5, key)
    assert report.difference_errors[0] == np.inf
    assert report.ok, str(report)


def test_the_useful_radius_has_no_holes(key):
    """F(h) = h + 5 sin³(π h): right at 0 and, by luck, again at h = 1."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp,
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: s + 5 * jnp.sin(jnp.pi * s) ** 3,
        num_steps=1,
    )
    assert hg.verify(problem, hg.Reverse(), 0.0, key).useful_within <= 0.01


def test_a_state_that_insists_on_float32_is_judged_as_such(key):
    problem = ridge(5, init=lambda key, hp: jnp.zeros(4, jnp.float32))
    report = hg.verify(problem, hg.Reverse(), {"lr": 0.1, "l2": 0.1}, key)
    assert report.dtype == "float32"
    assert report.ok, str(report)


@dataclass(frozen=True)
class Noisy(hg.Reverse):
    """dF/dλ times a factor, plus noise of a given size relative to its norm."""

    noise: float = 0.3
    factor: float = 1.0
    claims: bool = True

    @property
    def exact(self):
        """Not this one."""
        return False

    @property
    def unbiased(self):
        """As it says."""
        return self.claims

    def estimate(self, problem, hparams, state, key):
        """Reverse and noise."""
        (value, hypergrad, info), state = super().estimate(problem, hparams, state, key)
        vector, unravel = jax.flatten_util.ravel_pytree(hypergrad)
        scale = self.noise * jnp.linalg.norm(vector) / jnp.sqrt(vector.size * 1.0)
        noise = scale * jax.random.normal(jax.random.fold_in(key, 7), vector.shape)
        noisy = unravel(self.factor * vector + noise)
        return Estimate(value, noisy, info._replace(doubtful=value > 0)), state

    def doubt(self, info):
        """Doubts all."""
        return "it was made so" if bool(info.doubtful) else None


HPARAMS = {"lr": 0.1, "l2": jnp.full(4, 0.1)}


def test_unbiased_noise_agrees_and_its_variance_is_known(key):
    report = hg.verify(ridge(10), Noisy(), HPARAMS, key, num_keys=256)
    assert report.verdict is Verdict.AGREES, str(report)
    assert report.ok
    np.testing.assert_allclose(report.variance, 0.3**2, rtol=0.2)  # trace, n = 256
    np.testing.assert_allclose(report.own_variance, report.variance, rtol=1e-9)
    np.testing.assert_allclose(report.standard_error, 0.3 / 16, rtol=0.1)
    # A single key: 1 / √(1 + 0.09 · 4/5) in the mean.
    np.testing.assert_allclose(report.median_cosine, 0.966, atol=0.01)
    assert report.cosine > 0.999
    assert report.bias < 3 * report.standard_error
    assert report.doubtful == 1.0
    assert "it was made so" in str(report)


@pytest.mark.slow
def test_the_training_is_not_the_estimators_variance(key):
    report = hg.verify(ridge(10, batch_size=2), Noisy(noise=0), HPARAMS, key)
    assert report.ok
    assert report.bias < 1e-12
    assert report.own_variance < 1e-24 < 1e-3 < report.variance


def test_too_much_noise_is_undecided_and_says_how_many_keys_would_do(key):
    report = hg.verify(ridge(10), Noisy(noise=1.0), HPARAMS, key, num_keys=16)
    assert report.verdict is Verdict.UNDECIDED
    assert not report.ok
    np.testing.assert_allclose(report.keys_needed, (1 / 0.05) ** 2, rtol=0.5)
    assert f"about {report.keys_needed} keys would decide" in str(report)


@pytest.mark.parametrize(
    ("claims", "verdict"), [(True, Verdict.DISAGREES), (False, Verdict.BIASED)]
)
def test_a_wrong_factor_is_found(claims, verdict, key):
    wrong = Noisy(factor=0.5, claims=claims)
    report = hg.verify(cubic(3), wrong, 2.0, key, num_keys=64)
    assert report.verdict is verdict, str(report)
    assert not report.ok
    np.testing.assert_allclose(report.bias, 0.5, atol=0.15)
    np.testing.assert_allclose(report.norm_ratio, 0.5, atol=0.15)
    assert abs(report.deviations[0]) > 5  # along the truth itself
    assert ("is biased by" in str(report)) is not claims


@pytest.mark.slow
def test_what_is_right_rarely_fails():
    """Student's t and Bonferroni at few keys: of 15 right ones none fails."""
    problem, noisy = ridge(3), Noisy(noise=0.1)
    for seed in range(15):
        report = hg.verify(problem, noisy, HPARAMS, jax.random.key(seed), num_keys=8)
        assert report.verdict is Verdict.AGREES, str(report)


@pytest.mark.slow
def test_a_window_is_held_against_the_windowed_derivative(key):
    cut = hg.Reverse(window=4, checkpoint=hg.NoCheckpoint())
    report = hg.verify(ridge(10, batch_size=5), cut, HPARAMS, key, num_keys=2)
    assert report.ok, str(report)
    assert "through the last 4 steps" in str(report)
    assert report.bias < 1e-12
    assert report.norm_ratio < 0.9  # what the window cuts off dF/dλ


def test_a_wrong_window_is_found(key):
    """s_T = λ^T: of three equal terms the window of 2 keeps 2, the wrong one 1."""
    report = hg.verify(cubic(3), WrongWindow(window=2), 2.0, key, num_keys=2)
    assert report.verdict is Verdict.DISAGREES
    np.testing.assert_allclose(report.bias, 0.5)
    right = hg.verify(cubic(3), hg.Reverse(window=2), 2.0, key, num_keys=2)
    assert right.ok
    np.testing.assert_allclose(right.norm_ratio, 2 / 3)


@pytest.mark.slow
def test_one_step_and_its_approximations(key):
    """DARTS with the rate of training equals one step; without, it loses all of it."""
    problem = ridge(4, optimizer=lambda hp: optax.sgd(0.1))
    hparams = {"l2": jnp.full(4, 0.1)}

    def verdict(estimator):
        report = hg.verify(problem, estimator, hparams, key, num_keys=2)
        assert "the last 1 steps" in str(report)
        return report.verdict, report.bias

    assert verdict(OneStep())[0] is Verdict.AGREES
    assert verdict(Darts(rate=0.1))[0] is Verdict.AGREES
    first_order = verdict(Darts(rate=0.0))
    assert first_order[0] is Verdict.BIASED
    np.testing.assert_allclose(first_order[1], 1.0)


class WrongWindow(hg.Reverse):
    """A step too few."""

    def estimate(self, problem, hparams, state, key):
        """With a window of K − 1."""
        fewer = hg.Reverse(window=self.window - 1)
        return fewer.estimate(problem, hparams, state, key)


@dataclass(frozen=True)
class Smoothed(hg.Estimator):
    """Antithetic evolution strategies, one pair a key."""

    sigma: float = 0.5

    @property
    def target(self):
        """Not dF/dλ."""
        return hg.Target.SMOOTHED

    @property
    def unbiased(self):
        """For what it aims at."""
        return True

    def estimate(self, problem, hparams, state, key):
        """(F(λ + σε) − F(λ − σε)) ε / 2σ."""
        step = self.sigma * jax.random.normal(jax.random.fold_in(key, 3))
        plus, end = hg.unroll(problem, hparams + step, key)
        minus, _ = hg.unroll(problem, hparams - step, key)
        slope = (plus - minus) * step / (2 * self.sigma**2)
        return Estimate(plus, slope, hg.Info(end)), state


@pytest.mark.slow
def test_a_smoothed_objective_needs_a_reference(key):
    """F = λ³, so that E F(λ + σε) has the derivative 3 λ² + 3 σ²."""
    report = hg.verify(cubic(3), Smoothed(), 2.0, key, num_keys=64)
    assert report.verdict is Verdict.NO_REFERENCE
    assert not report.ok
    assert "aims elsewhere" in str(report)

    def smoothed(hparams, key):
        return 3 * hparams**2 + 3 * 0.5**2

    report = hg.verify(
        cubic(3), Smoothed(), 2.0, key, num_keys=1024, reference=smoothed
    )
    assert report.ok, str(report)
    assert report.norm_ratio > 1.0  # 12.75 / 12
    assert report.standard_error < 0.05

    def twice(hparams, key):
        return 2 * smoothed(hparams, key)

    report = hg.verify(cubic(3), Smoothed(), 2.0, key, num_keys=64, reference=twice)
    assert report.verdict is Verdict.DISAGREES, str(report)


def test_a_closed_form_for_an_exact_one(key):
    data = Ridge.make()
    value, slope = data.rate(0.1, 0.2, 10)

    def right(hparams, key):
        return {"lr": slope}

    def fixed_decay(hp):
        return optax.sgd(hp["lr"])

    problem = ridge(
        10,
        optimizer=fixed_decay,
        inner_loss=lambda w, hp, batch: squared_error(w, batch) + hg.l2(w, 0.2),
    )
    report = hg.verify(problem, hg.Forward(), {"lr": 0.1}, key, reference=right)
    assert report.ok
    assert report.verdict is Verdict.AGREES
    assert report.reference_error < 1e-9
    np.testing.assert_allclose(report.value, value)
    wrong = hg.verify(
        problem,
        hg.Forward(),
        {"lr": 0.1},
        key,
        reference=lambda hp, key: {"lr": 1.01 * slope},
    )
    assert not wrong.ok


def test_differences_are_as_good_as_they_are(key):
    coarse = hg.FiniteDifference(step=1e-2)
    report = hg.verify(ridge(10), coarse, HPARAMS, key, num_keys=2)
    assert report.verdict is Verdict.BIASED
    assert 1e-8 < report.bias < 1e-3
    loose = hg.verify(ridge(10), coarse, HPARAMS, key, num_keys=2, tolerance=1e-3)
    assert loose.ok


def test_what_cannot_be_verified_is_refused(key):
    with pytest.raises(ValueError, match="the value alone"):
        hg.verify(cubic(), hg.Value(), 2.0, key)
    with pytest.raises(ValueError, match="num_keys must be >= 2"):
        hg.verify(cubic(), hg.Reverse(window=2), 2.0, key, num_keys=1)
    with pytest.raises(ValueError, match="num_directions must be >= 1"):
        hg.verify(cubic(), hg.Reverse(), 2.0, key, num_directions=0)


@pytest.mark.parametrize("estimator", [hg.Reverse(), hg.RandomDirections()])
def test_a_reference_of_another_form_is_refused(estimator, key):
    """Of equal entries one would stand for all, and wrong names for wrong order."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp["a"],
        step=lambda hp, s, tick: hp["a"] * s,
        outer_at=lambda hp, s, tick: jnp.sum(s),
        num_steps=1,
    )
    hparams = {"a": jnp.full(2, 0.5)}
    for wrong in ({"a": jnp.ones(1)}, {"b": jnp.ones(2)}, jnp.ones(2)):
        given = functools.partial(lambda wrong, hparams, key: wrong, wrong)
        with pytest.raises(ValueError, match="reference must return a hypergradient"):
            hg.verify(problem, estimator, hparams, key, reference=given)


def test_noise_that_is_not_finite_is_data(key):
    """And no warning of numpy's, which are errors here."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: hp * s / 0.0,
        outer_at=lambda hp, s, tick: s,
        num_steps=2,
    )
    report = hg.verify(problem, hg.RandomDirections(), 0.5, key, num_keys=4)
    assert report.verdict is Verdict.DISAGREES


def test_a_report_is_data(key):
    report = hg.verify(ridge(10), Noisy(), HPARAMS, key, num_keys=256)
    assert json.loads(json.dumps(dataclasses.asdict(report)))["num_keys"] == 256
