"""Metagradients from few states: the tree's counts, its bits, and what poison does."""

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import hypergrad as hg
from experiments.papers.engstrom import Replay, bits, replayed
from experiments.papers.engstrom_poisoning import Poisoning

SMALL = {"num_train": 12, "num_valid": 20, "hidden": 3, "batch_size": 4}
TREE = Replay(precision="float64", arity=2, lengths=(4,), **SMALL)
POISON = Poisoning(
    precision="float64",
    num_poisons=2,
    num_steps=3,
    num_outer_steps=6,
    fresh_keys=False,
    num_retrainings=1,
    **SMALL,
)


def quiet(done, total):
    del done, total


def test_the_tree_on_disk_keeps_one_branch_and_every_bit(key):
    given = TREE.problem(4)[0], jnp.ones(12), key
    (tree, states), (whole, every) = (replayed(given, arity) for arity in (2, None))
    assert (states, every) == (3, 4)  # 1 + log_2 T, and T
    np.testing.assert_array_equal(bits(tree), bits(whole))


@pytest.mark.slow
def test_the_tree_in_one_program():
    found = TREE.measure(hg.Reverse(hg.KAry(2)), 0, quiet).curves
    assert found["bits"].y == [0]
    for name in ("distance", "disk_distance"):
        assert max(found[name].y) < 1e-12
    np.testing.assert_allclose(found["passes"].y, [3], rtol=0.05)
    for name in ("memory", "less"):
        assert min(found[name].y) > 0


def losses(inputs, labels):
    """Any that depend on both."""
    return jnp.sum(inputs, axis=1) + labels


def test_rows_are_weighted_and_poisoned_by_their_number():
    inputs, labels = jnp.arange(8.0).reshape(4, 2), jnp.array([1, 0, 2, 1])
    batch = inputs, labels, jnp.array([5, 1, 0, 7])
    weighted = TREE.batch_loss(losses, jnp.arange(12.0), batch)
    np.testing.assert_allclose(weighted, (5 * 2 + 1 * 5 + 0 * 11 + 7 * 14) / 4)
    poison = jnp.array([[0.5, 0.0], [0.0, 0.25]])
    poisoned = POISON.batch_loss(losses, poison, batch)
    np.testing.assert_allclose(poisoned, (2 + 0.25 + 2.5 + 14) / 4)


def test_bits_tell_what_equality_does_not():
    zeros, numbers = np.array([0.0, -0.0]), np.array([1.0, np.nextafter(1.0, 2.0)])
    assert len(set(bits(zeros))) == len(set(bits(numbers))) == 2
    assert bits(np.float32([1.0])).dtype == np.int32


def test_lengths_fill_the_tree():
    with pytest.raises(ValidationError, match="powers of arity 4: 32"):
        Replay(arity=4, lengths=(16, 32))
    assert Replay(arity=4, lengths=(4**9,)).levels(4**9) == 9


def test_the_attack_climbs_by_steps_of_signs_and_stays_in_the_box():
    found = POISON.measure(hg.Reverse(), 0, quiet)
    clean, poisoned = (np.array(found.pictures[x]) for x in ("clean", "poisoned"))
    assert poisoned.shape == (2, 8, 8)
    assert 0 <= poisoned.min() <= poisoned.max() <= 1
    assert np.abs(poisoned - clean).max() <= 6 * POISON.pixel_step + 1e-12
    assert np.all(np.diff(found.curves["loss"].y) > 0)
    assert len(found.curves["accuracy"].y) == 7
    assert set(found.numbers) == {"test_clean", "test_noise", "test_poisoned"}


def test_more_poison_than_images():
    many = POISON.model_copy(update={"num_poisons": 13})
    with pytest.raises(ValueError, match="exceeds num_train"):
        many.measure(hg.Reverse(), 0, quiet)
