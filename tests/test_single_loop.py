"""SOBA, SABA and stocBiO against the closed form, with λ held and with λ moving."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators.single_loop import SABA, SOBA
from hypergrad.estimators.stochastic_bilevel import StocBiO
from tests.bilevel import DATA, LAMBDA, held, moving, over_keys, quadratic
from tests.problems import relative

# Four batches of three rows: their mean loss is that of all rows.
PARTITION = hg.IndexTable(jnp.arange(12, dtype=jnp.int32).reshape(4, 3))


def sgd(rate):
    return lambda hparams: optax.sgd(rate)


@pytest.mark.parametrize(
    ("estimator", "num_steps"),
    [
        (SOBA(0.5), 100),
        (SABA(0.3, 0.3, num_batches=1), 200),
        (StocBiO(10, 70, 0.5), 80),
    ],
    ids=str,
)
def test_with_hparams_held_the_direction_is_the_implicit_hypergradient(
    estimator, num_steps, key
):
    result = held(estimator, quadratic(num_steps), key)
    assert relative(result.hypergrad["shift"], DATA.hypergrad(LAMBDA)) < 1e-8
    np.testing.assert_allclose(result.value, DATA.value(LAMBDA), rtol=1e-8)
    assert result.info.residual < 1e-8
    assert not result.info.doubtful


@pytest.mark.parametrize("terms", [1, 10])
def test_stocbio_is_its_truncated_series(terms, key):
    estimator = StocBiO(inner_steps=20, neumann_terms=terms, neumann_rate=0.5)
    result = held(estimator, quadratic(200), key)
    expected = DATA.neumann(LAMBDA, 0.5, terms)
    assert relative(result.hypergrad["shift"], expected) < 1e-12
    # The named bias: (1 − ημ)^Q of the indirect part, at most.
    error = np.linalg.norm(expected - DATA.hypergrad(LAMBDA))
    gap = DATA.solution(LAMBDA) - DATA.goal
    bound = 0.75**terms * np.linalg.norm(DATA.response, 2) * np.linalg.norm(gap)
    assert 1e-3 * bound < error <= bound


@pytest.mark.parametrize(
    ("estimator", "rate", "calls", "tolerance"),
    [
        (SOBA(0.5), 0.1, 300, 1e-6),
        (SABA(0.3, 0.3, num_batches=1), 0.1, 300, 1e-4),
        (StocBiO(2, 40, 0.5), 0.1, 300, 1e-4),
    ],
    ids=str,
)
def test_with_hparams_moving_the_optimum_is_reached(
    estimator, rate, calls, tolerance, key
):
    """All three levels in the same loop; the start is 0.87 away."""
    end = moving(estimator, quadratic(calls * estimator.steps(None)), rate, calls, key)
    np.testing.assert_allclose(end, DATA.optimum, atol=tolerance)


def test_saba_with_batches_converges(key):
    result = held(SABA(0.1, 0.1, num_batches=4), quadratic(300, batches=PARTITION), key)
    assert relative(result.hypergrad["shift"], DATA.hypergrad(LAMBDA)) < 1e-3


@pytest.mark.slow
def test_saba_has_no_noise_floor_where_soba_has_one(key):
    exact = DATA.hypergrad(LAMBDA)

    def error(estimator, num_steps, **changes):
        found = over_keys(estimator, quadratic(num_steps, **changes), 16, key)
        return np.sqrt(np.mean(np.sum((found - exact) ** 2, axis=1)))

    saba = SABA(0.1, 0.1, num_batches=4)
    early, late = (error(saba, t, batches=PARTITION) for t in (150, 300))
    # Linear convergence: another 150 calls are worth about the same factor again.
    assert early < 1e-2
    assert late < 1e-2 * early
    noisy = {"batch_size": 3, "optimizer": sgd(0.1)}
    assert error(SOBA(0.1), 300, **noisy) > 0.3


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (SOBA(0.2), DATA.hypergrad(LAMBDA)),
        pytest.param(
            *(StocBiO(10, 6, 0.3), DATA.neumann(LAMBDA, 0.3, 6)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["SOBA", "StocBiO"],
)
def test_mean_over_batches_is_the_full_batch_direction(estimator, expected, key):
    """On a quadratic all recursions are linear and the batches independent."""
    problem = quadratic(60, batch_size=6, optimizer=sgd(0.2))
    found = over_keys(estimator, problem, 2000, key)
    mean, error = found.mean(0), found.std(0) / np.sqrt(len(found))
    assert np.all(error < 0.05 * np.linalg.norm(expected))
    assert np.all(np.abs(mean - expected) < 4 * error)


@pytest.mark.slow
def test_the_training_is_that_of_every_other_estimator_with_this_key(key):
    problem = quadratic(20, batch_size=3)
    weights = hg.train(problem, {"shift": jnp.asarray(LAMBDA)}, key).weights
    result = held(SOBA(0.1), problem, key)
    np.testing.assert_allclose(result.info.state.weights, weights, rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "remedy"),
    [
        (SOBA(adjoint_rate=3.0), "Lower adjoint_rate"),
        (StocBiO(10, 20, neumann_rate=3.0), "Lower neumann_rate"),
    ],
    ids=str,
)
def test_diverging_adjoints_warn(estimator, remedy, key):
    with pytest.warns(hg.HypergradWarning, match=remedy):
        held(estimator, quadratic(30), key)


def test_an_adjoint_that_is_no_number_is_doubtful(key):
    """A start that depends on λ, too, given as a Python number."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp * jnp.ones((), jnp.float32),
        step=lambda hp, w, tick: w - 0.5 * (w - hp),
        outer_at=lambda hp, w, tick: 0.5 * w**2,
        inner_loss_at=lambda hp, w, tick: 0.5 * (w - hp) ** 2,
        num_steps=2,
    )
    soba, stocbio = SOBA(0.5), StocBiO(2, 2, neumann_rate=1e200)
    state = soba.init(problem, 3.0, key)._replace(adjoint=jnp.asarray(jnp.nan))
    for estimator, start in ((soba, state), (stocbio, ())):
        with pytest.warns(hg.HypergradWarning) as record:
            result, _ = hg.estimate(problem, estimator, 3.0, start, key)
        assert not np.isfinite(result.hypergrad)
        assert any("Lower" in str(warning.message) for warning in record)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SOBA(adjoint_rate=0.0), r"SOBA.adjoint_rate must be > 0, got 0\.0"),
        (lambda: SABA(inner_rate=-1.0), "SABA.inner_rate must be > 0"),
        (lambda: SABA(num_batches=0), "SABA.num_batches must be a Python int >= 1"),
        (lambda: StocBiO(inner_steps=0), "StocBiO.inner_steps must be"),
        (lambda: StocBiO(neumann_rate=float("nan")), "neumann_rate must be > 0"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
