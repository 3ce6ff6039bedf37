"""Fine-tuning: what is pre-trained, on which rows, and what of it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.tasks import transfer
from experiments.tasks.transfer import Pretraining, Transfer

TINY = {"num_steps": 3, "batch_size": 6, "num_train": 12, "num_valid": 8}
TINY |= {"num_test": 10, "pretrain_steps": 4, "pretrain_rows": 30}
TINY |= {"model": {"name": "mlp", "width": 5, "depth": 2}}
DECAYED = TINY | {"tune": ("rate", "layer_rates", "start_decay")}


def test_the_two_sets_share_no_row():
    first, second = Pretraining().data(), Transfer().data()
    assert first.num_outputs == second.num_outputs == 5
    for data in (first, second):
        assert set(data.targets.tolist()) == set(range(5))
    rows = [{image.tobytes() for image in data.inputs} for data in (first, second)]
    assert not rows[0] & rows[1]
    train, valid, test = Transfer().splits(1)
    parts = [{image.tobytes() for image in p.inputs} for p in (train, valid, test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 820
    assert all(part <= rows[1] for part in parts)


def test_training_starts_from_the_data_but_for_a_fresh_head(key):
    task = Transfer(**TINY)
    problem, hparams = task.problem(0), task.space().defaults()
    started = jax.jit(lambda problem, key: problem.start(hparams, key))
    given, start = problem.data.given, started(problem, key)
    assert set(start.weights) == {"head", *given.weights}
    assert "head" not in given.weights
    same = jax.tree.map(
        np.array_equal, {n: start.weights[n] for n in given.weights}, given.weights
    )
    assert all(jax.tree.leaves(same))
    other = started(problem, jax.random.key(7))
    kernels = [s.weights["head"]["kernel"] for s in (start, other)]
    assert not np.array_equal(*kernels)
    doubled = jax.tree.map(lambda w: 2 * w, given)
    changed = problem.replace(data=problem.data._replace(given=doubled))
    began = started(changed, key).weights["layers"]
    assert started._cache_size() == 1
    np.testing.assert_array_equal(
        jax.tree.leaves(began)[0], 2 * jax.tree.leaves(given.weights["layers"])[0]
    )


def test_pretraining_is_done_once_and_knows_no_row_of_the_second_set():
    transfer._pretrain.cache_clear()
    found = Transfer(**TINY).start_from(0)
    again = Transfer(**(DECAYED | {"num_train": 20})).start_from(0)
    assert found is again
    assert transfer._pretrain.cache_info().misses == 1
    assert found is not None
    other = Transfer(**TINY).start_from(1)
    assert other is not None
    same = jax.tree.map(np.array_equal, found.weights, other.weights)
    assert not all(jax.tree.leaves(same))


@pytest.mark.slow
def test_reverse_is_forward_and_start_decay_pulls_to_the_start(key):
    task = Transfer(**DECAYED)
    problem, hparams = task.problem(0), task.space().defaults()
    reverse, _ = hg.estimate(problem, hg.Reverse(), hparams, (), key)
    forward = hg.hypergrad(problem, hg.Forward())(hparams, key)
    value, found = reverse.value, reverse.hypergrad
    assert np.isfinite(value)
    for name in hparams:
        np.testing.assert_allclose(found[name], forward[name], rtol=1e-6, atol=1e-12)
    scores = jax.jit(task.validation(0))(reverse.info.state, hparams)
    np.testing.assert_allclose(scores["loss"], value, rtol=1e-6)

    @jax.jit
    def loss(decay, state):
        return problem.inner_loss(hparams | {"start_decay": decay}, state, key)

    state = problem.start(hparams, key)
    moved = state._replace(weights=jax.tree.map(lambda w: w + 0.5, state.weights))
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.data.given.weights))
    penalty = loss(0.3, moved) - loss(0.0, moved)
    np.testing.assert_allclose(penalty, 0.5 * 0.3 * 0.25 * size, rtol=1e-5)
    np.testing.assert_allclose(loss(0.3, state), loss(0.0, state), rtol=1e-12)


def test_without_pretraining_there_is_no_start_to_decay_to():
    task = Transfer(**(DECAYED | {"pretrain_steps": 0}))
    with pytest.raises(ValueError, match="start_decay"):
        task.space()
    scratch = Transfer(**(TINY | {"pretrain_steps": 0}))
    assert scratch.problem(0).data.given is None


def test_drawn_rates_name_the_layers():
    task = Transfer(**TINY)
    hparams = task.space().defaults() | {"layer_rates": jnp.array([1.0, 0.1, 0.01])}
    lines = task.schedules(hparams)
    names = ["rate of head", "rate of layers.0.linear", "rate of layers.1.linear"]
    assert list(lines) == names
    rate = float(hparams["rate"])
    np.testing.assert_allclose(lines[names[2]], np.full(3, 0.01 * rate), rtol=1e-12)


@pytest.mark.slow
def test_the_start_helps_and_frozen_layers_stay(key):
    tests, moved = {}, {}
    for steps in (0, 300):
        task = Transfer(num_steps=20, pretrain_steps=steps)
        problem, hparams = task.problem(0), task.space().defaults()
        state = hg.train(problem, hparams, key)
        tests[steps] = float(task.test(0)(state, hparams)["loss"])
    assert tests[300] < tests[0]
    for rate in (1e-3, 1.0):
        rates = hparams | {"layer_rates": jnp.array([1.0, rate, rate])}
        end = hg.train(problem, rates, key).weights
        start = problem.data.given.weights
        steps = jax.tree.map(
            lambda a, b: jnp.sum((a - b) ** 2), end["layers"], start["layers"]
        )
        moved[rate] = float(sum(jax.tree.leaves(steps))) ** 0.5
    assert moved[1e-3] < 0.01 * moved[1.0]


@pytest.mark.slow
def test_mnist_to_fashion(real_data):
    first, second = Pretraining(source="mnist").data(), Transfer(source="mnist").data()
    assert first.inputs.shape == second.inputs.shape == (60000, 28, 28, 1)
    assert not np.array_equal(first.targets, second.targets)
