"""Schedules against optax's own, and their derivative in every leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.fft import idct

from hypergrad.schedules import (
    Basis,
    Constant,
    Cosine,
    Exp,
    Exponential,
    PiecewiseLinear,
    Table,
    Warmup,
)

NUM_STEPS = 13
STEPS = jnp.arange(NUM_STEPS + 4)
KNOTS = jnp.array([0.1, 0.5, 0.2, 0.3])

SCHEDULES = {
    "constant": Constant(0.3),
    "exponential": Exponential(0.3, 0.8, 2.5),
    "cosine": Cosine(0.3, 0.05, 10.3),
    "piecewise": PiecewiseLinear(KNOTS, 12.7),
    "table": Table(jnp.linspace(0.1, 1.0, NUM_STEPS)),
    "basis": Basis(KNOTS, 13.2),
    "exp": Exp(Basis(KNOTS, 13.2)),
    "warmup": Warmup(Cosine(0.3, 0.05, 10.3), 3.4),
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(0.3), optax.constant_schedule(0.3)),
        (Exponential(0.3, 0.8, 5), optax.exponential_decay(0.3, 5, 0.8)),
        (Cosine(0.3, 0.06, 10), optax.cosine_decay_schedule(0.3, 10, alpha=0.2)),
        (
            PiecewiseLinear(KNOTS, 13),
            optax.join_schedules(
                [
                    optax.linear_schedule(a, b, 4)
                    for a, b in zip([0.1, 0.5, 0.2], [0.5, 0.2, 0.3], strict=True)
                ],
                [4, 8],
            ),
        ),
        (
            Exp(PiecewiseLinear(jnp.log(jnp.array([1.0, 0.25])), 11)),
            lambda t: jnp.maximum(0.25 ** (t / 10), 0.25),
        ),
        (
            Warmup(Cosine(0.3, 0.0, 9), 3),
            optax.warmup_cosine_decay_schedule(0.0, 0.3, 3, 12),
        ),
        (Warmup(Constant(0.3), 0), optax.constant_schedule(0.3)),
    ],
    ids=lambda case: type(case).__name__,
)
def test_value_is_that_of_optax(ours, theirs):
    expected = jax.jit(jax.vmap(theirs))(STEPS)
    np.testing.assert_allclose(ours(STEPS), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(ours)(STEPS), ours(STEPS), rtol=1e-12)


def test_table_and_single_knot():
    values = jax.random.normal(jax.random.key(0), (NUM_STEPS,))
    expected = jnp.concatenate([values, jnp.full(4, values[-1])])
    np.testing.assert_array_equal(Table(values)(STEPS), expected)
    np.testing.assert_array_equal(PiecewiseLinear(KNOTS[:1], 13)(STEPS), 0.1)
    np.testing.assert_array_equal(PiecewiseLinear(KNOTS, 1)(0), 0.1)


def test_basis_is_the_inverse_cosine_transform():
    padded = np.zeros(NUM_STEPS)
    padded[:4] = KNOTS
    expected = idct(padded * np.r_[2.0, np.ones(NUM_STEPS - 1)], type=2) * NUM_STEPS
    np.testing.assert_allclose(
        Basis(KNOTS, NUM_STEPS)(STEPS[:NUM_STEPS]), expected, rtol=1e-9
    )


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_derivative_in_every_leaf(schedule):
    """Reverse and forward mode against central differences, lengths included."""
    check_grads(jax.jit(lambda s: s(STEPS)), (schedule,), order=1, eps=1e-6, rtol=1e-6)
    leaves = jax.tree.leaves(jax.grad(lambda s: jnp.sum(s(STEPS)))(schedule))
    assert leaves
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in leaves)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_one_trace_and_float32_leaves_stay_float32(schedule):
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), schedule)
    call = jax.jit(lambda s, t: s(t))
    assert call(narrow, jnp.int32(3)).dtype == jnp.float32
    call(jax.tree.map(lambda leaf: 1.01 * leaf, narrow), jnp.int32(4))
    assert call._cache_size() == 1


def test_inside_optax_each_step_has_its_own_derivative():
    """w_T = w_0 - Σ η_t under a gradient of one, so dw_T/dη_t = -1."""

    def train(table):
        tx = optax.sgd(table)
        w, state = jnp.zeros(()), optax.sgd(table).init(jnp.zeros(()))
        for _ in range(3):
            updates, state = tx.update(jnp.ones(()), state)
            w = w + updates
        return w

    grads = jax.grad(train)(Table(jnp.array([0.1, 0.2, 0.3, 0.4])))
    np.testing.assert_allclose(grads.values, [-1, -1, -1, 0])


@pytest.mark.parametrize("bad", [0.1, jnp.ones((2, 2, 2)), jnp.ones(0)])
@pytest.mark.parametrize(
    "make", [lambda x: PiecewiseLinear(x, 10), Table, lambda x: Basis(x, 10)]
)
def test_a_vector_is_asked_for(make, bad):
    with pytest.raises(ValueError, match="must be a non-empty vector"):
        make(bad)(0)
