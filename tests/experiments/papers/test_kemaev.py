"""Mixed mode: the same hypergradient from less memory, and what it is compared with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from experiments.papers.kemaev import MixedMode, reverse_over_reverse
from experiments.papers.programs import Program, distance, training_flops

SMALL = MixedMode(
    precision="float64",
    width=4,
    depth=1,
    batch_size=128,
    lengths=(6,),
    depths=(),
    repeats=0,
)


def quiet(done, total):
    del done, total


def test_the_same_hypergradient_from_less_memory():
    found = SMALL.measure(hg.Reverse(hg.NoCheckpoint()), 0, quiet)
    assert found.curves["distance"].y[0] < 1e-12
    assert found.curves["ratio"].y[0] > 2
    assert set(found.numbers) == {"flops"}  # Nothing was timed.


@pytest.mark.slow
def test_a_transformer_and_a_sweep_over_depth():
    fields = {"model": "transformer", "length": 4, "lengths": (2,), "depths": (1,)}
    options = SMALL.model_copy(update=fields | {"batch_size": 8, "repeats": 1})
    found = options.measure(hg.Reverse(), 0, quiet)
    assert found.curves["distance"].y[0] < 1e-11
    assert len(found.curves["ratio_of_depth"].y) == 1
    assert found.numbers["seconds"] > 0


def test_what_is_compared_differs_in_the_inner_gradient_alone():
    segments = hg.Reverse(hg.Segments(3), window=5)
    plain = reverse_over_reverse(segments)
    assert plain == hg.Reverse(hg.Segments(3), window=5, gradient=hg.gradients.Plain())
    assert reverse_over_reverse(hg.Forward()).checkpoint == hg.NoCheckpoint()


def problem(num_steps):
    return hg.Problem(
        init=lambda key, hp: jnp.ones(3),
        inner_loss=lambda w, hp, batch: 0.5 * jnp.sum((w - batch) ** 2),
        outer_loss=lambda w, hp, batch: jnp.sum(w),
        optimizer=lambda hp: optax.sgd(hp),
        train=jnp.zeros(1),
        valid=jnp.zeros(1),
        num_steps=num_steps,
    )


def test_a_program_is_its_estimate_and_counts_itself():
    key = jax.random.key(0)
    program = Program(hg.Reverse(), problem(4), 0.5, key)
    estimate = program()
    np.testing.assert_allclose(estimate.value, 3 * 0.5**4)
    np.testing.assert_allclose(estimate.hypergrad, -3 * 4 * 0.5**3)
    assert program.num_bytes > 0
    assert program.flops > training_flops(problem(4), 0.5, key)
    double, once = (training_flops(problem(n), 0.5, key) for n in (8, 4))
    assert 1.8 < double / once <= 2.0
    with pytest.raises(ValueError, match="for a hypergradient"):
        Program(hg.Value(), problem(4), 0.5, key)


def test_a_distance_is_relative_and_in_float64():
    one = {"a": jnp.ones(2, jnp.float32), "b": jnp.full((), 2.0, jnp.float32)}
    other = {"a": jnp.ones(2, jnp.float32), "b": jnp.full((), 2.5, jnp.float32)}
    assert distance(one, one) == 0.0
    np.testing.assert_allclose(distance(other, one), 0.5 / np.sqrt(6), rtol=1e-14)
