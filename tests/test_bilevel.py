"""What all estimators of bilevel problems have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.estimators.penalty import BOME, F2SA
from hypergrad.estimators.response import DeltaSTN, LinearResponse, SelfTuning
from hypergrad.estimators.single_loop import SABA, SOBA
from hypergrad.estimators.stochastic_bilevel import StocBiO
from tests.bilevel import DATA, LAMBDA, Quadratic, folds, held, quadratic
from tests.problems import cubic, digits, relative
from tests.test_export import lowers

ALL = [
    SOBA(),
    SABA(num_batches=2),
    StocBiO(inner_steps=5, neumann_terms=3),
    F2SA(),
    BOME(inner_steps=5),
    DeltaSTN(LinearResponse()),
    SelfTuning(LinearResponse()),
]
each = pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)


def some(*kinds):
    """All of them, but only these by default: the rest take long to compile."""
    chosen = [
        e if isinstance(e, kinds) else pytest.param(e, marks=pytest.mark.slow)
        for e in ALL
    ]
    return pytest.mark.parametrize("estimator", chosen, ids=lambda e: type(e).__name__)


@pytest.mark.slow
@each
def test_transformations_agree_with_the_plain_call(estimator, key):
    """One compiled program, vmapped over λ and over keys at once."""
    problem = quadratic(10, batch_size=5)
    scales, keys = jnp.asarray([1.0, 2.0]), jax.random.split(key, 2)

    def run(scale, key):
        hparams = {"shift": scale * jnp.asarray(LAMBDA)}
        return estimator.estimate(problem, hparams, (), key)[0].hypergrad["shift"]

    table = jax.jit(jax.vmap(jax.vmap(run, (0, None)), (None, 0)))(scales, keys)
    for k in range(2):
        plain = held(estimator, problem, keys[k]).hypergrad["shift"]
        assert relative(table[k, 0], plain) < 1e-12
    assert not np.allclose(table[0, 0], table[1, 0]), "keys change the batches"
    assert not np.allclose(table[0, 0], table[0, 1])


@some(StocBiO)
def test_calls_carry_the_state_and_a_new_training_follows_the_last_step(estimator, key):
    problem, hparams = quadratic(10, batch_size=5), {"shift": jnp.asarray(LAMBDA)}
    start = estimator.init(problem, hparams, key)
    calls = 10 // estimator.steps(problem)
    state, first = start, None
    for _ in range(calls):
        result, state = hg.estimate(problem, estimator, hparams, state, key)
        first = first or result
    assert int(state.t) == 10
    again, state = hg.estimate(problem, estimator, hparams, state, key)
    assert int(state.t) == estimator.steps(problem)
    assert relative(again.hypergrad, first.hypergrad) < 1e-12
    if calls > 1:
        assert relative(again.hypergrad, result.hypergrad) > 1e-3
    assert jax.tree.structure(state) == jax.tree.structure(start)


@each
def test_integers_carry_no_tangent_and_dtypes_are_those_of_hparams(estimator, key):
    with jax.enable_x64(False):
        problem = quadratic(10, jnp.float32)
        hparams = {"shift": jnp.asarray(LAMBDA, jnp.float32), "n": 3}
        gradients = []

        def fn(shift):
            result = estimator.estimate(problem, hparams | shift, (), key)[0]
            gradients.append(result.hypergrad["n"])  # static: float0 is no JAX type
            return result.hypergrad["shift"]

        shape = jax.eval_shape(fn, {"shift": hparams["shift"]})
        assert shape.dtype == jnp.float32
        assert not shape.weak_type
        assert gradients[0].dtype == jax.dtypes.float0


@pytest.mark.slow
@each
def test_lowers_for_all_platforms_in_float32(estimator, key):
    with jax.enable_x64(False):
        problem, hparams = digits(10, (64, 4, 10), dtype=jnp.float32)

        def fn(problem, hparams, key):
            return estimator.estimate(problem, hparams, (), key)[0]

        lowers(fn, problem, hparams, key)


@each
def test_refusals(estimator, key):
    def refuse(problem, match, shift=1.0):
        with pytest.raises(ValueError, match=match):
            hg.estimate(problem, estimator, {"shift": shift}, (), key)

    refuse(cubic(10), "no inner loss to be minimised")
    refuse(quadratic(10, outer_every=5), "outer_every is 5")
    refuse(quadratic(10), "float16, in which", jnp.zeros(2, jnp.float16))
    coarse = {"init": lambda key, hp: jnp.zeros(3, jnp.bfloat16)}
    refuse(quadratic(10, jnp.bfloat16, **coarse), "weights is bfloat16", jnp.zeros(2))
    counting = hg.Problem.from_step(
        start=lambda hp, tick: {"w": jnp.zeros(()), "n": 0},
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: s["w"],
        inner_loss_at=lambda hp, s, tick: s["w"] ** 2,
        num_steps=10,
    )
    refuse(counting, r"leaf \['n'\] is int")
    if estimator.steps(None) > 1:
        refuse(quadratic(11), "must divide num_steps")
    with pytest.raises(ValueError, match="is online"):
        hg.value_and_hypergrad(quadratic(10), estimator)


def test_from_step_with_a_scalar_variable(key):
    """ℓ = ½ a (w − λ)² and f = ½ w² give dF/dλ = λ."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, w, tick: w - 0.5 * (w - hp),
        outer_at=lambda hp, w, tick: 0.5 * w**2,
        inner_loss_at=lambda hp, w, tick: 0.5 * (w - hp) ** 2,
        num_steps=60,
    )
    estimate, _ = hg.estimate(problem, SOBA(0.5), 3.0, (), key)
    np.testing.assert_allclose(estimate.hypergrad, 3.0, rtol=1e-9)


def test_cross_validation_is_the_mean_over_folds(key):
    kept = [np.arange(12) % 3 != k for k in range(3)]
    parts = [Quadratic(DATA.x[i], DATA.y[i], DATA.c[i], DATA.goal) for i in kept]
    expected = np.mean([part.hypergrad(LAMBDA) for part in parts], axis=0)
    found = held(SOBA(0.3), folds(400, 3), key).hypergrad["shift"]
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("start", [jnp.zeros, jnp.ones])
def test_a_penalty_in_the_optimiser_is_not_silently_left_out(start, key):
    """Its minimum is not that of the inner loss, and dF/d decay would be 0."""

    def problem(optimizer):
        return hg.Problem(
            init=lambda key, hp: start(3),
            inner_loss=lambda w, hp, batch: 0.5 * jnp.sum((w - batch) ** 2),
            outer_loss=lambda w, hp, batch: 0.5 * jnp.sum(w**2),
            optimizer=optimizer,
            train=jnp.ones(3),
            valid=jnp.ones(3),
            num_steps=10,
        )

    hidden = problem(
        lambda hp: optax.chain(optax.add_decayed_weights(hp["l2"]), optax.sgd(0.1))
    )
    plain = problem(lambda hp: optax.sgd(0.1, momentum=0.9))
    with pytest.warns(hg.HypergradWarning, match="put that into inner_loss"):
        hg.estimate(hidden, hg.SOBA(), {"l2": 0.5}, (), key)
    for estimator in (hg.SOBA(), hg.DeltaSTN()):
        result, _ = hg.estimate(plain, estimator, {"l2": 0.5}, (), key)
        assert not bool(result.info.doubtful)
