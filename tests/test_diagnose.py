"""`diagnose` against dynamics whose exponents, noise and slopes are known."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad.advice import Diagnosis
from hypergrad.diagnose import diagnose
from tests.oracles import Ridge
from tests.problems import cubic, ridge

RATE, DECAY = 0.1, 0.1
HPARAMS = {"lr": RATE, "l2": DECAY}


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.cache
def logistic(num_steps):
    """The map s ↦ r s (1 − s): chaotic at 4 (exponent ln 2), calm at 2.8."""
    return hg.Problem.from_step(
        start=lambda hp, tick: jax.random.uniform(tick.key),
        step=lambda hp, s, tick: hp * s * (1 - s),
        outer_at=lambda hp, s, tick: s,
        num_steps=num_steps,
    )


@pytest.mark.parametrize("num_steps", [1, 9])
def test_a_linear_map_has_its_own_logarithm(num_steps):
    """Whatever else the state holds: counts and keys have no derivative."""

    def step(hp, s, tick):
        return {"x": hp * s["x"], "n": s["n"] + 1, "key": s["key"]}

    problem = hg.Problem.from_step(
        start=lambda hp, tick: {"x": jnp.ones(3), "n": 0, "key": tick.key},
        step=step,
        outer_at=lambda hp, s, tick: jnp.sum(s["x"]) + s["n"],
        num_steps=num_steps,
    )
    found = diagnose(problem, 0.7, keys(1))
    np.testing.assert_allclose(found.exponent, math.log(0.7), rtol=1e-12)
    assert found.steps == tuple(range(1, num_steps + 1))
    np.testing.assert_allclose(
        found.growth, np.log(0.7) * np.arange(1, num_steps + 1), rtol=1e-12
    )
    np.testing.assert_allclose(found.value, 3 * 0.7**num_steps + num_steps, rtol=1e-12)
    assert (found.signal_to_noise, found.stationarity) == (None, None)
    assert found.exponent_error == 0


def test_a_state_that_is_forgotten_at_once():
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: hp + 0 * s,
        outer_at=lambda hp, s, tick: s**2,
        num_steps=4,
    )
    found = diagnose(problem, 2.0, keys(2))
    assert found.exponent == -math.inf
    assert found.smooth
    assert str(found)


@pytest.fixture(scope="module")
def converged():
    """(diagnosis, data) of ridge regression by gradient descent, T = 300."""
    with jax.enable_x64(False):  # in which users live: all is computed in float64
        return diagnose(ridge(300), HPARAMS, keys(2)), Ridge.make()


def test_gradient_descent_contracts_by_its_smallest_curvature(converged):
    found, data = converged
    mu = np.linalg.eigvalsh(data.quadratic(DECAY)[0])
    expected = np.log(np.abs(1 - RATE * mu).max())
    np.testing.assert_allclose(found.exponent, expected, rtol=1e-5)
    assert found.chaotic_from is None
    assert found.signal_to_noise == math.inf


@pytest.mark.slow
def test_stationarity_has_a_closed_form():
    """∇ℓ(w_T) = (I − αH)^T ∇ℓ(w_0), and w_0 = 0."""
    h, b = Ridge.make().quadratic(DECAY)
    end = np.linalg.matrix_power(np.eye(4) - RATE * h, 6) @ b
    found = diagnose(ridge(6), HPARAMS, keys(1), solve_iterations=1)
    expected = np.linalg.norm(end) / np.linalg.norm(b)
    np.testing.assert_allclose(found.stationarity, expected, rtol=1e-9)
    assert found.converged is False
    text = f"‖∇ℓ‖ fell to {expected:.0%} of start): implicit estimators will be biased"
    assert text in str(found)

    # One step of CG: v = (bᵀb / bᵀHb) b, with b the outer gradient at w_T.
    w = np.linalg.solve(h, b - end)
    _, slope = Ridge.make().outer(w)
    curvature = slope @ h @ slope / (slope @ slope)
    residual = np.linalg.norm(slope - h @ slope / curvature) / np.linalg.norm(slope)
    np.testing.assert_allclose(found.solve_residual, residual, rtol=1e-9)
    np.testing.assert_allclose(found.curvature, curvature, rtol=1e-9)


def test_advice_for_a_calm_problem(converged):
    found, _ = converged
    assert found.converged
    assert found.smooth
    assert found.solve_residual < 1e-8
    text = str(found)
    assert "converged and smooth: Implicit(solver=CG()) is cheapest" in text
    assert "few hyperparameters (d=2): Forward costs 5 trainings" in text
    assert f"Reverse(window={math.ceil(math.log(0.01) / found.exponent)})" in text
    assert "chaotic" not in text
    assert "keys" not in " ".join(found.advice)


@pytest.mark.slow
def test_momentum_contracts_by_its_spectral_radius():
    """The state (w, v) moves by one 2 × 2 matrix for each eigenvalue of H."""
    momentum = 0.3
    found = diagnose(ridge(400), HPARAMS | {"momentum": momentum}, keys(1))
    radii = [
        np.abs(
            np.linalg.eigvals([[1 - RATE * m, -RATE * momentum], [m, momentum]])
        ).max()
        for m in np.linalg.eigvalsh(Ridge.make().quadratic(DECAY)[0])
    ]
    np.testing.assert_allclose(found.exponent, np.log(max(radii)), rtol=1e-4)
    # What is perturbed, and what is measured, are the weights alone: ‖(I − αH) u‖.
    u = jax.random.normal(jax.random.fold_in(keys(1)[0], 1), (4,))
    h, _ = Ridge.make().quadratic(DECAY)
    first = np.linalg.norm(u - RATE * h @ u) / np.linalg.norm(u)
    np.testing.assert_allclose(found.growth[0], np.log(first), rtol=1e-12)


def test_the_logistic_map_doubles_what_it_is_given():
    found = diagnose(logistic(200), 4.0, keys(32))
    assert abs(found.exponent - math.log(2)) < 4 * found.exponent_error < 0.03
    assert found.chaotic
    # 1% has grown to 100% after log₂ 100 = 6.6 steps, in the mean of the logarithms.
    assert 5 <= found.chaotic_from <= 10
    assert found.advice[0].startswith(f"chaotic beyond T≈{found.chaotic_from} ")
    assert f"truncate (Reverse(window={found.chaotic_from}))" in found.advice[0]
    assert found.signal_to_noise < 1
    assert "no average helps" in found.advice[1]


def test_below_its_bifurcation_the_logistic_map_is_calm():
    """At the fixed point 1 − 1/r the derivative is 2 − r."""
    found = diagnose(logistic(200), 2.8, keys(32))
    np.testing.assert_allclose(found.exponent, math.log(0.8), rtol=1e-6)
    assert not found.chaotic
    assert found.useful_within >= 0.01
    # dF/dr = 1 / r² wherever training stops.
    np.testing.assert_allclose(found.hypergrad_norms[1:], 1 / 2.8**2, rtol=1e-3)
    np.testing.assert_allclose(found.hypergrad_norms[0], 1 / 2.8**2, rtol=0.05)


def test_lorenz():
    """Largest exponent 0.906 per unit of time (Sprott 2003); Euler steps of 0.005."""

    def step(hp, s, tick):
        x, y, z = s
        a, r = jnp.exp(hp["log_a"]), jnp.exp(hp["log_r"])
        return s + 0.005 * jnp.stack([a * (y - x), x * (r - z) - y, x * y - 8 / 3 * z])

    problem = hg.Problem.from_step(
        start=lambda hp, tick: (
            jnp.array([1.2, 1.3, 1.6]) + jax.random.normal(tick.key, (3,))
        ),
        step=step,
        outer_at=lambda hp, s, tick: s[2] / 1000,
        num_steps=2000,
        outer_every=1,
    )
    hparams = {"log_a": math.log(10), "log_r": math.log(28)}
    found = diagnose(problem, hparams, keys(12))
    assert abs(found.exponent / 0.005 - 0.906) < 0.25
    assert found.exponent_error / 0.005 < 0.1
    assert found.hypergrad_norms[-1] > 10 * found.hypergrad_norms[0]
    assert found.chaotic
    assert 500 < found.chaotic_from < 2000


@pytest.mark.parametrize("every", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_norms_are_those_of_shorter_trainings(every):
    """s_t = λ_0 ··· λ_(t−1): λ has an entry for each step, the later ones no effect."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: hp[tick.t] * s,
        outer_at=lambda hp, s, tick: tick.t * s,
        num_steps=8,
        outer_every=every,
    )
    rates = np.linspace(0.5, 1.5, 8)
    found = diagnose(problem, jnp.asarray(rates), keys(1))
    assert found.horizons == (1, 2, 4, 8)
    for horizon, norm in zip(found.horizons, found.hypergrad_norms, strict=True):
        slope = np.zeros(8)
        for t in [horizon] if every is None else range(every, horizon + 1, every):
            slope[:t] += t * np.prod(rates[:t]) / rates[:t]
        np.testing.assert_allclose(norm, np.linalg.norm(slope), rtol=1e-12)


def test_signal_to_noise_of_a_known_noise():
    """F = λ (0.3 + ε) with ε of the key: the ratio is 0.3."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp * (0.3 + jax.random.normal(tick.key)),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: s,
        num_steps=1,
    )
    found = diagnose(problem, 1.0, keys(2000))
    np.testing.assert_allclose(found.signal_to_noise, 0.3, atol=0.08)
    np.testing.assert_allclose(found.keys_needed, (2 / 0.3) ** 2, rtol=0.5)
    assert f"average at least {found.keys_needed} keys" in str(found)


@pytest.mark.slow
def test_pure_noise_is_no_signal():
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp * jax.random.rademacher(tick.key, (), jnp.float64),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: s,
        num_steps=1,
    )
    # Two of each sign: ‖mean‖² is below what noise alone would give.
    signs = [int(jax.random.rademacher(k, (), jnp.float64)) for k in keys(20)]
    plus, minus = (
        [k for k, s in zip(keys(20), signs, strict=True) if s == sign][:2]
        for sign in (1, -1)
    )
    found = diagnose(problem, 1.0, jnp.stack(plus + minus))
    assert found.signal_to_noise == 0
    assert "no signal among 4 keys" in str(found)


def test_the_slope_of_a_square_and_of_a_wave():
    """At λ = 1, (λ + h)² − λ² = 2h + h²: 10% off at h = 0.2."""

    def static(fn):
        return hg.Problem.from_step(
            start=lambda hp, tick: hp,
            step=lambda hp, s, tick: s,
            outer_at=lambda hp, s, tick: fn(s),
            num_steps=1,
        )

    square = diagnose(static(jnp.square), 1.0, keys(1))
    assert square.step_sizes[:2] == (0.1, 0.01)
    # Over both signs: ΔF = ±2h + h², so the error is h² / √(4h² + h⁴).
    h = np.array(square.step_sizes)
    np.testing.assert_allclose(
        square.prediction_errors, h**2 / np.sqrt(4 * h**2 + h**4), rtol=1e-4
    )
    assert square.useful_within == 0.1
    wave = diagnose(static(lambda s: jnp.sin(1000 * s)), 1.0, keys(1))
    assert wave.useful_within == 1e-4
    assert not wave.chaotic
    assert "only within relative steps of 1e-04" in str(wave)


def test_a_diverged_run_is_data():
    found = diagnose(cubic(2000), 10.0, keys(2))
    assert found.diverged == 1.0
    assert math.isnan(found.value)
    assert "training diverges at 100% of the keys" in found.advice[0]


def test_a_slope_that_is_not_finite_is_told_from_divergence():
    """The square root at 0: F = 0, dF/dλ = ∞."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp,
        step=lambda hp, s, tick: jnp.sqrt(s),
        outer_at=lambda hp, s, tick: s,
        num_steps=1,
    )
    found = diagnose(problem, 0.0, keys(2))
    assert (found.value, found.diverged, found.undifferentiable) == (0.0, 0.0, 1.0)
    assert "hypergrad.differentiable cures" in found.advice[0]


def test_rounding_of_the_smallest_steps_is_no_lack_of_smoothness():
    """Weights that insist on float32: F(λ + 1e-5 λ) − F(λ) is lost in rounding."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.full(3, 1e3, jnp.float32),
        step=lambda hp, s, tick: (s + hp).astype(jnp.float32),
        outer_at=lambda hp, s, tick: jnp.sum(s),
        num_steps=4,
    )
    found = diagnose(problem, 0.7, keys(1))
    assert max(found.prediction_errors) > 0.1
    assert found.useful_within == 0.1


def test_a_slope_of_zero_is_no_matter_of_noise():
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: 0.5 * s,
        outer_at=lambda hp, s, tick: s,
        num_steps=2,
    )
    found = diagnose(problem, 0.7, keys(2))
    assert "the hypergradient is zero" in found.advice[0]
    assert "no signal" not in str(found)


def test_no_estimator_is_advised_for_training_that_always_diverges(converged):
    found, _ = converged
    chaotic = {"chaotic_from": 4, "useful_within": 0.0, "exponent": 1.0}
    assert "truncate" in str(dataclasses.replace(found, **chaotic, diverged=0.5))
    assert "truncate" not in str(dataclasses.replace(found, **chaotic, diverged=1.0))


def test_a_diagnosis_is_data(converged):
    found, _ = converged
    record = json.loads(json.dumps(dataclasses.asdict(found)))
    again = Diagnosis(**record)
    assert again.advice == found.advice
    assert str(again) == str(found)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"stationarity": 0.12}, "‖∇ℓ‖ fell to 12% of start"),
        ({"stationarity": 3.0}, "‖∇ℓ‖ rose to 300% of start"),
        ({"curvature": -0.1}, "CG does not apply"),
        ({"solve_residual": 0.3}, "20 CG iterations leave a residual of 0.3"),
        (
            {"signal_to_noise": 0.3},
            "signal-to-noise 0.3 over seeds: average at least 45",
        ),
        ({"num_hparams": 1000}, "many hyperparameters (d=1000): Reverse costs 3 to 5"),
        ({"diverged": 0.25}, "training diverges at 25% of the keys"),
    ],
)
def test_each_rule_speaks(converged, changes, line):
    found, _ = converged
    assert line not in str(found)
    assert line in "\n".join(dataclasses.replace(found, **changes).advice)


def test_one_key_alone_is_refused(key):
    with pytest.raises(ValueError, match="keys must be a vector of run keys"):
        diagnose(cubic(), 2.0, key)
    old = jax.random.PRNGKey(0)
    with pytest.raises(ValueError, match="got shape"):
        diagnose(cubic(), 2.0, old)
