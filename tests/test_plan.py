"""Costs before running: exact flops, XLA's own bytes, and the choice between them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.flops import count_flops
from hypergrad.plan import exact_estimators, plan
from hypergrad.unroll import CHECKPOINTS, KAry
from tests.problems import ridge

N, T = 16, 200


def flops(fn, *args):
    return count_flops(jax.make_jaxpr(fn)(*args))


def product(w, x, length=7):
    return jax.lax.scan(lambda x, _: (w @ x, None), x, length=length)[0]


# Flops.


W, X = jnp.ones((5, 5)), jnp.ones((5, 3))
ONE = 2 * 5 * 5 * 3


def test_products_in_loops_are_counted_as_often_as_they_run():
    nested = lambda w, x: jax.lax.fori_loop(0, 4, lambda i, x: product(w, x), x)
    batch = jax.vmap(product, (None, 0))
    assert flops(lambda w, x: w @ x, W, X) == ONE
    assert flops(product, W, X) == 7 * ONE
    assert flops(jax.jit(nested), W, X) == 4 * 7 * ONE
    assert flops(batch, W, jnp.ones((6, 5, 3))) == 6 * 7 * ONE
    assert flops(lambda w, x: jnp.einsum("bij,bjk->bik", w, x), W[None], X[None]) == ONE


def test_what_nobody_uses_is_not_counted():
    assert flops(lambda w, x: (w @ x, product(w, x))[0], W, X) == ONE


def test_the_sweep_back_and_what_it_computes_again():
    """The transpose of w ↦ wx in x: one product a step; checkpointed, one more."""

    def pull(fn):
        return lambda w, x: jax.vjp(lambda x: fn(w, x), x)[1](x)[0]

    def squares(w, x):
        step = jax.checkpoint(lambda x: (w @ x) ** 2)
        return jax.lax.scan(lambda x, _: (step(x), None), x, length=7)[0]

    assert flops(pull(product), W, X) == 7 * ONE
    size = X.size
    # Forwards (w @ x)², again w @ x; backwards 2 (w @ x) · v and the transpose.
    assert flops(pull(squares), W, X) == 7 * (3 * ONE + 3 * size)


def test_the_longest_branch_and_convolutions():
    branch = lambda w, x: jax.lax.cond(x[0, 0] > 0, product, lambda w, x: x, w, x)
    assert flops(branch, W, X) == 7 * ONE
    image, kernel = jnp.ones((2, 3, 8, 8)), jnp.ones((4, 3, 5, 5))
    convolve = lambda a, b: jax.lax.conv(a, b, (1, 1), "VALID")
    assert flops(convolve, image, kernel) == 2 * (2 * 4 * 4 * 4) * (3 * 5 * 5)


def test_arithmetic_counts_a_number_each():
    assert flops(lambda x: jnp.sum(jnp.tanh(x) * 2.0), X) == 3 * X.size
    assert flops(lambda i: i * 2, jnp.arange(3)) == 0


def test_xla_counts_the_body_of_a_loop_once():
    """Why they are counted here. One step alone, both say the same."""
    lowered = [jax.jit(lambda w, x, n=n: product(w, x, n)).lower(W, X) for n in (1, 50)]
    one, many = (program.compile().cost_analysis()["flops"] for program in lowered)
    assert one == flops(lambda w, x: product(w, x, 1), W, X)
    assert many < 2 * one, "XLA multiplies by now: hypergrad.flops may go"


# The plan.


def wide(num_hparams):
    """Weights of N × N, moved by a rate; λ's other numbers are a first state's."""
    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.full((N, N), jnp.mean(hp)),
        step=lambda hp, s, tick: jnp.tanh(tick.data @ s) * hp[0],
        outer_at=lambda hp, s, tick: jnp.sum(s),
        data=jnp.eye(N),
        num_steps=T,
    ), jnp.ones(num_hparams)


@pytest.fixture(scope="module")
def many():
    """Five hundred λ: forward mode is no rival."""
    checkpoints = (hg.NoCheckpoint(), hg.Segments(), hg.Tree())
    return plan(
        *wide(500),
        2**40,
        candidates=[*map(hg.Reverse, checkpoints), hg.Forward(chunk=4)],
    )


def test_the_choice_moves_with_the_budget(many):
    assert many.estimator == hg.Reverse(hg.NoCheckpoint())
    sizes = {row.estimator: row.bytes for row in many.table}
    segments, tree = hg.Reverse(hg.Segments()), hg.Reverse(hg.Tree())
    assert sizes[many.estimator] > sizes[segments] > sizes[tree]
    assert sizes[many.estimator] > T * N * N * 8
    assert many.within(sizes[many.estimator]).estimator == many.estimator
    assert many.within(sizes[many.estimator] - 1).estimator == segments
    assert many.within(sizes[segments]).estimator == segments
    assert many.within(sizes[segments] - 1).estimator == tree
    order = [row.flops for row in many.table]
    assert order == sorted(order)


def test_nothing_fits(many):
    least = min(row.bytes for row in many.table)
    with pytest.raises(ValueError, match=rf"Forward\(chunk=4\), needs {least}"):
        many.within(least - 1)
    for wrong in (0, 1.5, "2GB"):
        with pytest.raises(ValueError, match="budget_bytes must be an int >= 1"):
            many.within(wrong)


def test_the_table_is_printed_with_the_choice_marked(many):
    lines = str(many.within(2**18)).splitlines()
    (chosen,) = [line for line in lines if line.startswith("→")]
    assert "Segments" in chosen
    assert chosen.endswith("yes")
    (largest,) = [line for line in lines if "NoCheckpoint" in line]
    assert largest.endswith("no")
    assert len(lines) == 2 + len(many.table)


def test_few_hparams_and_a_budget_without_room_for_states_choose_forward():
    problem, hparams = wide(1)
    candidates = [hg.Reverse(), hg.Reverse(KAry()), hg.Forward()]
    found = plan(problem, hparams, 12 * N * N * 8, candidates=candidates)
    assert found.estimator == hg.Forward()
    reverse = [row for row in found.table if isinstance(row.estimator, hg.Reverse)]
    assert not any(row.fits for row in reverse)
    products = T * 2 * N**3
    (forward,) = [row for row in found.table if row.fits]
    assert 2 * products < forward.flops < 2.4 * products


def test_the_candidates_are_exact_and_forward_goes_in_chunks():
    for size, chunks in ((1, [None]), (9, [1, 8, None]), (10**6, [1, 8, 64, None])):
        found = exact_estimators({"x": jax.ShapeDtypeStruct((size,), jnp.float32)})
        assert all(estimator.exact for estimator in found)
        assert len(set(found)) == len(found)
        assert [e.chunk for e in found if isinstance(e, hg.Forward)] == chunks
        checkpoints = {e.checkpoint for e in found if isinstance(e, hg.Reverse)}
        assert checkpoints == {make() for make in CHECKPOINTS.values()}


def test_figures_are_those_of_the_program_that_runs(many, key):
    problem, hparams = wide(500)
    for row in many.table[:2]:
        fn = jax.jit(lambda hp, key, e=row.estimator: e.estimate(problem, hp, (), key))
        memory = fn.lower(hparams, key).compile().memory_analysis()
        np.testing.assert_allclose(row.temp_bytes, memory.temp_size_in_bytes, rtol=0.05)
    # A product forwards, one backwards for its second factor; the first is data.
    training = T * (2 * N**3 + 2 * N * N)
    fast = many.table[0]
    np.testing.assert_allclose(fast.flops / fast.relative, training, rtol=0.01)
    assert 2 * T * 2 * N**3 < fast.flops < 2.5 * T * 2 * N**3
    assert many.argument_bytes == N * N * 8 + 500 * 8, "the key is not used"


def test_shapes_are_enough_and_nothing_runs():
    problem, _ = wide(3)
    shapes = jax.ShapeDtypeStruct((3,), jnp.float64)
    found = plan(problem, shapes, 2**30, candidates=[hg.Forward()])
    assert found.estimator == hg.Forward()


def test_candidates_that_do_not_serve_are_named():
    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, v: (v,))
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp,
        step=lambda hp, s, tick: identity(s) * hp,
        outer_at=lambda hp, s, tick: s,
        num_steps=3,
    )
    candidates = [hg.Forward(), hg.Reverse()]
    found = plan(problem, 2.0, 2**20, candidates=candidates)
    assert found.estimator == hg.Reverse()
    ((refused, reason),) = found.refused
    assert refused == hg.Forward()
    assert "forward-mode" in reason
    assert reason in str(found)
    with pytest.raises(ValueError, match="no candidate applies"):
        plan(problem, 2.0, 2**20, candidates=candidates[:1])


def test_another_optimiser_than_a_candidate_needs_is_named():
    problem = ridge(2, optimizer=lambda hp: optax.adam(hp["lr"]))
    candidates = [hg.Reversible(), hg.Reverse()]
    found = plan(problem, {"lr": 0.1, "l2": 0.1}, 2**20, candidates=candidates)
    ((refused, reason),) = found.refused
    assert refused == hg.Reversible()
    assert "one velocity a weight" in reason


def test_a_loop_of_unknown_length_does_not_look_cheap():
    """Counted once it would always win."""
    problem = ridge(400)
    hparams = {"l2": jnp.asarray(0.1), "lr": jnp.asarray(0.1)}
    candidates = [hg.Implicit(hg.Hessian(), hg.CG()), hg.Reverse()]
    found = plan(problem, hparams, 2**20, candidates=candidates)
    assert found.estimator == hg.Reverse()
    least = found.table[-1]
    assert (found.table[0].counted, least.counted) == (True, False)
    assert least.flops < found.table[0].flops
    assert f"≥{least.flops:.2e}" in str(found)
    assert found.within(least.bytes).estimator == least.estimator


@pytest.mark.slow
def test_an_everyday_problem():
    hparams = {"lr": jnp.asarray(0.1), "l2": jnp.full(4, 0.1)}
    candidates = [hg.Reverse(), hg.Reverse(hg.Segments())]
    found = plan(ridge(400, batch_size=5), hparams, 2**20, candidates=candidates)
    assert found.within(2**14).estimator == hg.Reverse(hg.Segments())
    assert all(2 < row.relative < 8 for row in found.table)
