"""Every program lowers for cpu, cuda and tpu in float32, on a machine with none."""

import jax
import jax.numpy as jnp
import pytest

import hypergrad as hg
from hypergrad import study
from tests.catalog import ROWS
from tests.problems import digits

PLATFORMS = ("cpu", "cuda", "tpu")
# Cholesky is a custom call of the platforms' own libraries, stable but not listed so.
STABLE = [
    jax.export.DisabledSafetyCheck.custom_call(name)
    for name in (
        "lapack_spotrf_ffi",
        "cusolver_potrf_ffi",
        "lapack_strsm_ffi",
        "Cholesky",
    )
]

# So is LU, which `Dense` uses.
LU = [
    jax.export.DisabledSafetyCheck.custom_call(name)
    for name in (
        "lapack_sgetrf_ffi",
        "cusolver_getrf_ffi",
        "cu_lu_pivots_to_permutation",
        "LuDecomposition",
        "lapack_strsm_ffi",
    )
]


def lowers(fn, *args, allowed=()):
    exported = jax.export.export(
        jax.jit(fn), platforms=PLATFORMS, disabled_checks=list(allowed)
    )(*args)
    assert exported.platforms == PLATFORMS
    text = exported.mlir_module()
    assert "f64" not in text
    assert "callback" not in text


@pytest.fixture(autouse=True)
def _float32():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("name", ROWS)
def test_estimators(name, key):
    """On the problem that asks most of the compiler and that the estimator serves."""
    problem, hparams = digits(6, dtype=jnp.float32)
    estimator = ROWS[name](6)
    if isinstance(estimator, hg.Reversible):
        estimator = hg.Reversible()  # of 32 bits
    assert estimator.applies(problem) is None

    def fn(problem, hparams, key):
        return estimator.estimate(problem, hparams, (), key)[0]

    lowers(fn, problem, hparams, key, allowed=LU if "dense" in name else ())


@pytest.mark.parametrize(
    "searcher",
    [
        hg.RandomSearch(batch=2),
        hg.SobolSearch(),
        hg.GridSearch(),
        hg.BayesianSearch(),
        hg.GradientSearch(starts=2),
    ],
    ids=lambda searcher: type(searcher).__name__,
)
def test_whole_studies(searcher, key):
    problem, hparams = digits(3, dtype=jnp.float32)
    space = hg.Space(
        {
            "lr": hg.Log(1e-3, 1.0, shape=(3,)),
            "momentum": hg.Logit(0.1, 0.99),
            "l2": hg.Log(1e-6, 1.0),
        }
    )
    estimator = hg.Reverse() if searcher.needs_gradient else hg.Value()

    def whole(problem, key):
        state = searcher.init(space, 8, key)
        rounds = 8 // searcher.batch
        return study.advance(problem, space, searcher, estimator, state, key, rounds)

    lowers(whole, problem, key, allowed=STABLE)
