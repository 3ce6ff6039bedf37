"""The loop: checkpointing changes memory, never numbers; compile time ignores T."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad.api import _estimate
from hypergrad.flops import count_flops
from hypergrad.gradients import Mixed, Plain
from hypergrad.unroll import CHECKPOINTS, KAry, loop
from tests.problems import cubic, digits, relative, ridge


@pytest.mark.parametrize("checkpoint", [make() for make in CHECKPOINTS.values()])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 7, 16, 30])
def test_loop_counts_every_step_once(checkpoint, num_steps):
    def body(carry, t):
        return carry[0] + 1, carry[1].at[t - 3].add(1)

    counts = jnp.zeros(num_steps + 1, int)
    total, counts = loop(
        body, (jnp.zeros((), int), counts), num_steps, checkpoint=checkpoint, first=3
    )
    assert int(total) == num_steps
    assert counts.tolist() == [1] * num_steps + [0]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 10, 63, 64, 65, 1000, 1001])
@pytest.mark.parametrize(
    "checkpoint",
    [
        hg.Segments(),
        hg.Segments(7),
        hg.Tree(),
        hg.Tree(40),
        hg.Tree(1),
        KAry(),
        KAry(3),
        KAry(10),
        hg.Gradients(),
        hg.Gradients(10),
    ],
)
def test_nested_lengths_cover_the_loop_without_much_waste(checkpoint, num_steps):
    lengths = checkpoint.lengths(num_steps)
    inner = int(np.prod(lengths[1:]))
    assert int(np.prod(lengths)) >= num_steps
    assert (lengths[0] - 1) * inner < num_steps, "the last segment is not empty"


@pytest.mark.parametrize("arity", [2, 3, 4, 10])
def test_a_k_ary_tree_keeps_k_states_on_each_of_log_k_levels(arity):
    for num_steps in (1, 2, 3, 99, 100, 101, 1000, 1024, 1025, 1_000_000):
        lengths = KAry(arity).lengths(num_steps)
        assert max(lengths) <= max(arity, 1)
        assert len(lengths) <= max(1, np.ceil(np.log(num_steps) / np.log(arity) + 1e-9))


def test_arity_below_two_is_refused():
    with pytest.raises(ValueError, match="arity must be >= 2, got 1"):
        KAry(1)


@pytest.mark.parametrize(
    ("outer_every", "arity"),
    [
        (None, 3),
        pytest.param(None, 2, marks=pytest.mark.slow),
        pytest.param(3, 2, marks=pytest.mark.slow),
        pytest.param(3, 3, marks=pytest.mark.slow),
    ],
)
def test_the_k_ary_tree_equals_full_reverse(outer_every, arity, key):
    problem = ridge(21, batch_size=5, outer_every=outer_every)
    hparams = {"lr": jnp.linspace(0.05, 0.15, 21), "l2": jnp.linspace(0.1, 0.4, 4)}
    full, got = (
        hg.value_and_hypergrad(problem, hg.Reverse(checkpoint))(hparams, key)
        for checkpoint in (hg.NoCheckpoint(), KAry(arity))
    )
    assert relative(got, full) < 1e-12


@pytest.mark.parametrize("stretch", [None, 6])
@pytest.mark.parametrize("gradient", [Mixed(), Plain()])
def test_kept_gradients_equal_full_reverse(stretch, gradient, key):
    problem = ridge(21, batch_size=5, outer_every=3)
    hparams = {"lr": jnp.linspace(0.05, 0.15, 21), "l2": jnp.linspace(0.1, 0.4, 4)}
    full, got = (
        hg.value_and_hypergrad(problem, hg.Reverse(checkpoint, gradient=gradient))
        for checkpoint in (hg.NoCheckpoint(), hg.Gradients(stretch))
    )
    assert relative(got(hparams, key), full(hparams, key)) < 1e-12


def test_kept_gradients_are_not_computed_again():
    """A step has two products with X: every step again, or, where they are kept, once.

    Beside that the derivative has six of them, and the validation loss its own.
    """

    def flops(estimator):
        hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(0.1)}
        args = (estimator, ridge(20), hparams, (), jax.random.key(0))
        return count_flops(jax.make_jaxpr(_estimate, static_argnums=0)(*args))

    kept, again, all_kept = (
        flops(hg.Reverse(checkpoint))
        for checkpoint in (hg.Gradients(), hg.Segments(), hg.NoCheckpoint())
    )
    training = flops(hg.Value())
    assert again - all_kept > 0.8 * training
    assert kept - all_kept < 0.3 * training


def test_the_length_of_stretches_is_checked():
    with pytest.raises(ValueError, match="Gradients.stretch"):
        hg.Gradients(0)


@pytest.mark.slow
def test_memory_of_the_k_ary_tree_grows_with_the_logarithm_of_the_steps():
    """XLA's own figures, in states: k · log_k T and a few to work with."""
    width = 4096

    def states(checkpoint, num_steps):
        problem = hg.Problem.from_step(
            start=lambda hp, tick: jnp.full(width, hp),
            step=lambda hp, s, tick: jnp.tanh(hp * s),
            outer_at=lambda hp, s, tick: s.sum(),
            num_steps=num_steps,
        )
        args = (
            hg.Reverse(checkpoint),
            problem,
            jnp.asarray(1.1),
            (),
            jax.random.key(0),
        )
        memory = _estimate.lower(*args).compile().memory_analysis()
        return memory.temp_size_in_bytes / (8 * width)

    for arity, depth in ((4, 3), (4, 6), (10, 4)):
        num_steps = arity**depth
        assert states(KAry(arity), num_steps) <= arity * depth + 7
        assert states(hg.EveryStep(), num_steps) >= num_steps
    assert states(KAry(4), 4**6) < states(hg.Tree(), 4**6) < states(hg.Segments(), 4**6)


def compiled(estimator, num_steps, **changes):
    problem, hparams = digits(num_steps, dtype=jnp.float32, **changes)
    return _estimate.lower(estimator, problem, hparams, (), jax.random.key(0)).compile()


def temp_bytes(estimator, num_steps, **changes):
    return (
        compiled(estimator, num_steps, **changes).memory_analysis().temp_size_in_bytes
    )


@pytest.mark.slow
def test_memory_of_the_digits_mlp_at_a_thousand_steps():
    """XLA's own figures: segments at most 1/15 of none, tree less still."""
    with jax.enable_x64(False):
        large = {"sizes": (64, 128, 128, 10), "batch_size": 100}
        none, every, segments, tree = (
            temp_bytes(hg.Reverse(checkpoint), 1000, **large)
            for checkpoint in (
                hg.NoCheckpoint(),
                hg.EveryStep(),
                hg.Segments(),
                hg.Tree(),
            )
        )
        forward = temp_bytes(hg.Value(), 1000, **large)
        kept = temp_bytes(hg.Reverse(hg.Gradients()), 1000, **large)
    assert none > every > segments > tree > forward
    assert segments <= none / 15, (none, segments)
    assert tree < segments
    history = 1000 * 4 * (64 * 128 + 128 * 128 + 128 * 10 + 128 + 128 + 10)
    assert kept <= 1.25 * history, (kept, history)


@pytest.mark.parametrize(
    "estimator", [hg.Reverse(), hg.Reverse(hg.Segments()), hg.Reverse(hg.Tree())]
)
def test_the_program_does_not_grow_with_the_number_of_steps(estimator, key):
    """Compile time follows program size, which is exact where a clock is not."""

    def lines(num_steps):
        problem = ridge(num_steps, batch_size=5)
        hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(0.1)}
        lowered = _estimate.lower(estimator, problem, hparams, (), key)
        return len(lowered.as_text().splitlines())

    # None is a product of its arities, so that all mask the steps past the end.
    assert lines(9_999) <= 1.02 * lines(99)
    assert lines(9_999) <= 1.05 * lines(11)


def test_train_returns_the_last_state(key):
    assert float(hg.train(cubic(3), 2.0, key)) == 8.0
    value, state = hg.unroll(cubic(3, outer_every=1), 2.0, key)
    assert (float(value), float(state)) == (2.0 + 4.0 + 8.0, 8.0)
    value, _ = hg.unroll(cubic(5, outer_every=2), 2.0, key)
    assert float(value) == 4.0 + 16.0


def from_step(start=None, step=None, outer=None):
    return hg.Problem.from_step(
        start or (lambda hp, tick: jnp.zeros(3)),
        step or (lambda hp, s, tick: s),
        outer or (lambda hp, s, tick: s.sum()),
        num_steps=2,
    )


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (from_step(step=lambda hp, s, tick: s[:2]), r"start gave float64\[3\]"),
        (
            from_step(step=lambda hp, s, tick: (s, s)),
            "of the structure that start gave",
        ),
        (from_step(outer=lambda hp, s, tick: s), r"got shape \(3,\)"),
        (from_step(outer=lambda hp, s, tick: 1), "real scalar"),
        (
            from_step(step=lambda hp, s, tick: s.astype(jnp.float32)),
            "step returned float32",
        ),
    ],
)
def test_wrong_functions_are_named(problem, message, key):
    with pytest.raises(ValueError, match=message):
        hg.value_and_hypergrad(problem, hg.Reverse())(1.0, key)


@pytest.mark.parametrize("estimator", [hg.EvolutionStrategies(), hg.UORO()])
def test_a_step_that_changes_the_state_is_named(estimator, key):
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(2),
        step=lambda hp, s, tick: (hp * s)[:1],
        outer_at=lambda hp, s, tick: jnp.sum(s),
        num_steps=2,
    )
    with pytest.raises(ValueError, match="step changes the state's leaf"):
        hg.estimate(problem, estimator, 2.0, (), key)
