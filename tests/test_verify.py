"""`verify` must pass what is right and fail what is wrong."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg
from hypergrad.estimators import Estimate
from tests.problems import cubic, ridge, squared_error


@dataclass(frozen=True)
class Wrong(hg.Reverse):
    """Five per cent off."""

    def estimate(self, problem, hparams, state, key):
        """The hypergradient, scaled."""
        (value, hypergrad, info), state = super().estimate(problem, hparams, state, key)
        scaled = jax.tree.map(lambda x: 1.05 * x, hypergrad)
        return Estimate(value, scaled, info), state


def test_right_ones_pass(key):
    hparams = {"lr": 0.1, "l2": jnp.full(4, 0.1)}
    for estimator in (hg.Reverse(), hg.Forward(chunk=2)):
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
