"""One table: every estimator on every problem, under jit, vmap over λ and keys, grad.

By default each estimator meets one problem and each problem several estimators; the
whole table is marked slow.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad import tree
from hypergrad.agreement import Verdict, agreement
from hypergrad.estimators import ESTIMATORS
from tests.catalog import CASES, EXACT, IMPLICIT, ROWS, UNBIASED, WINDOWED, scaled
from tests.problems import relative

# These train by gradient steps of their own, whatever the problem's optimiser.
OWN_STEPS = (hg.SABA, hg.F2SA, hg.BOME, hg.SelfTuning)

# What each estimator is asked by default; the problems are dealt out in turn, but for
# the dearest: `test_engine` has the hypergradients of that one.
CHEAP = [case for case in CASES if case != "digits MLP"]
DEFAULT = [(name, CHEAP[(3 * i) % len(CHEAP)]) for i, name in enumerate(ROWS)]
TABLE = [(name, case) for name in ROWS for case in CASES]
SLOW = [pair for pair in TABLE if pair not in DEFAULT]

pytestmark = pytest.mark.filterwarnings("ignore::hypergrad.HypergradWarning")


def test_the_table_has_every_estimator():
    assert {type(make(4)) for make in ROWS.values()} == set(ESTIMATORS.values())


@pytest.mark.parametrize(("name", "case"), DEFAULT)
def test_default(name, case, key):
    check(name, case, key)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), SLOW)
def test_table(name, case, key):
    check(name, case, key)


@functools.cache
def exact(case):
    """dF/dλ by forward mode, at a fixed key."""
    problem, hparams, _ = CASES[case]()
    return hg.hypergrad(problem, hg.Forward())(hparams, jax.random.key(0))


def check(name, case, key):
    """The pair serves or refuses, is the same under transformations, and is right."""
    problem, hparams, converged = CASES[case]()
    hparams = tree.as_arrays(hparams)
    estimator = ROWS[name](problem.num_steps)
    if (reason := estimator.applies(problem)) is not None:
        with pytest.raises(ValueError, match="does not apply") as refused:
            hg.estimate(problem, estimator, hparams, (), key)
        assert reason in str(refused.value)
        return
    try:
        value, gradient, info = transformed(problem, estimator, hparams, key)
    except ValueError as error:
        if "use reverse()" in str(error).lower() or "use Forward()" in str(error):
            return  # Refused by what only λ or the optimiser's state can tell.
        raise
    if not isinstance(estimator, OWN_STEPS):
        expected = hg.unroll(problem, hparams, key)[0]
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    if gradient is None:
        return
    assert bool(tree.all_finite(gradient))
    if name in EXACT:
        assert relative(gradient, exact(case)) < 1e-8
    elif name == "Reversible":
        assert not bool(info.doubtful), estimator.doubt(info)
        assert relative(gradient, exact(case)) < 1e-6
    elif name == "FiniteDifference":
        assert relative(gradient, exact(case)) < 1e-6
    elif name in IMPLICIT and converged:
        assert not bool(info.doubtful), estimator.doubt(info)
        assert relative(gradient, exact(case)) < 1e-6
    elif name in IMPLICIT:
        assert bool(info.doubtful)
        assert "residual" in estimator.doubt(info)
    elif name in UNBIASED:
        assert_agrees(problem, estimator, hparams, key, num_keys=256)
    elif name in WINDOWED:
        assert_agrees(problem, estimator, hparams, key, num_keys=2)


def transformed(problem, estimator, hparams, key):
    """The estimate, the same under jit, vmap over λ, vmap over keys, and grad."""

    @jax.jit
    def everything(hparams, key):
        def one(hparams, key):
            result, _ = estimator.estimate(problem, hparams, (), key)
            return result

        keys = jnp.stack([key, jax.random.key(7)])
        results = {
            "jit": one(hparams, key),
            "vmap over λ": row(
                jax.vmap(one, (0, None))(scaled(hparams, (0.9, 1.0)), key), 1
            ),
            "vmap over keys": row(jax.vmap(one, (None, 0))(hparams, keys), 0),
        }
        if estimator.target not in (hg.Target.UPDATE, hg.Target.NOTHING):
            slope = jax.grad(hg.objective(problem, estimator))(hparams, key)
            results["grad"] = results["jit"]._replace(hypergrad=slope)
        return results

    results = everything(hparams, key)
    expected = results.pop("jit")
    # What has not converged shows every rounding, and says that it is doubtful.
    tolerance = 1e-2 if bool(expected.info.doubtful) else 1e-7
    size = max(1e-12, float(tree.norm(expected.hypergrad)))
    for transformation, got in results.items():
        np.testing.assert_allclose(
            got.value, expected.value, rtol=1e-8, err_msg=transformation
        )
        gap = tree.axpy(-1, expected.hypergrad, got.hypergrad)
        assert tree.norm(gap) <= tolerance * size, transformation
    return expected


def row(rows, i):
    return jax.tree.map(lambda leaf: leaf[i], rows)


def assert_agrees(problem, estimator, hparams, key, num_keys):
    """Unbiased in at most 8 directions, from as many keys as 5% of precision need."""
    for _ in range(3):
        found = agreement(
            problem,
            estimator,
            hparams,
            key,
            reference=None,
            num_keys=num_keys,
            tolerance=1e-8,
            precision=0.05,
        )
        if found.verdict is not Verdict.UNDECIDED:
            break
        num_keys = 8 * round(1.3 * found.keys_needed / 8)
    assert found.ok, str(found)


def test_warnings_are_given_where_the_eager_door_is_used(key):
    problem, hparams, _ = CASES["ridge"]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hg.hypergrad(problem, hg.Implicit())(hparams, key)
    assert any("residual" in str(w.message) for w in caught)
