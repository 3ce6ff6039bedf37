"""MAML's hypergradient against one written by hand, episodes, and iMAML."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.supervised.episodes import NewClasses, Sinusoids
from experiments.tasks.few_shot import FewShot
from tests.problems import relative

TINY = {"batch": 3, "num_eval": 4, "shots": 4, "queries": 5, "num_steps": 2}
TINY |= {"model": {"name": "mlp", "depth": 1, "width": 6, "activation": "relu"}}


def outputs(weights, x):
    """A perceptron with one hidden layer."""
    hidden, head = weights["layers"][0]["linear"], weights["head"]
    h = jax.nn.relu(x @ hidden["kernel"] + hidden["bias"][None])
    return h @ head["kernel"] + head["bias"][None]


def error(weights, rows):
    x, y = rows
    return jnp.mean((outputs(weights, x) - y) ** 2)


def test_hypergradient_is_that_of_maml_written_by_hand(key):
    task = FewShot(**TINY, rate=0.02)
    problem, hparams = task.problem(0), task.space().defaults()
    start = jax.jit(problem.start)(hparams, key)
    keys = jax.random.split(jax.random.key(start.model_state), 3)
    draw = jax.jit(task.episodes().draw)
    episodes = [draw(k, problem.data.given) for k in keys]
    first = jax.tree.map(lambda w: w[0], start.weights)
    flat, unravel = jax.flatten_util.ravel_pytree(first)
    np.testing.assert_array_equal(flat, hparams["weights"])
    assert hg.layer_names(first) == ("head", "layers.0.linear")

    def maml(hparams):
        head, hidden = hparams["rates"]
        total = 0.0
        for episode in episodes:
            w = unravel(hparams["weights"])
            for _ in range(2):
                g = jax.grad(error)(w, episode.support)
                w = {
                    "head": jax.tree.map(
                        lambda a, b: a - head * b, w["head"], g["head"]
                    ),
                    "layers": jax.tree.map(
                        lambda a, b: a - hidden * b, w["layers"], g["layers"]
                    ),
                }
            total += error(w, episode.query) / 3
        return total

    value, expected = jax.jit(jax.value_and_grad(maml))(hparams)
    got_value, got = hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)
    np.testing.assert_allclose(got_value, value, rtol=1e-10)
    for name in hparams:
        assert relative(got[name], expected[name]) < 1e-10
    assert set(jax.eval_shape(task.test(0), start, hparams)) == {"loss"}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["sinusoids", "digits"])
def test_reverse_is_forward_and_metrics_are_compiled(source, key):
    task = FewShot(**TINY, source=source, tune=["rates"], rate=0.01)
    problem, hparams = task.problem(0), task.space().defaults()
    found = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert relative(found, hg.hypergrad(problem, hg.Forward())(hparams, key)) < 1e-6
    valid, test = (
        jax.jit(m)(None, hparams) for m in (task.validation(0), task.test(0))
    )
    assert np.isfinite(valid["loss"])
    assert valid["loss"] != test["loss"]
    assert ("accuracy" in test) == (source == "digits")


def test_tasks_are_drawn_by_the_key_and_stay(key):
    task = FewShot(**TINY)
    problem, hparams = task.problem(0), task.space().defaults()
    start = jax.jit(problem.start)
    numbers = [start(hparams, jax.random.key(k)).model_state for k in range(3)]
    assert len(set(map(int, numbers))) == 3
    end = jax.jit(hg.train)(problem, hparams, jax.random.key(2))
    assert end.model_state == numbers[2]


def test_sinusoids_are_as_they_should_be(key):
    kind = Sinusoids(shots=30, queries=50)
    for k in jax.random.split(key, 3):
        (x, y), query = jax.jit(kind.draw)(k, kind.pools(0).train)
        assert x.shape == y.shape == (30, 1)
        assert query[0].shape == (50, 1)
        assert jnp.abs(x).max() <= 5
        # y = a sin x + b cos x with a² + b² = A²: two numbers fit all.
        basis = np.concatenate([np.sin(x), np.cos(x)], axis=1)
        (a, b), residual, *_ = np.linalg.lstsq(basis, np.asarray(y)[:, 0])
        assert residual < 1e-20
        assert 0.1 <= np.hypot(a, b) <= 5
        assert b <= 0


def test_classes_of_training_validation_and_test_are_disjoint():
    kind = NewClasses("digits", ways=3, shots=1, queries=2, turns=1)
    pools = kind.pools(5)
    assert [len(pool) for pool in pools] == [4, 3, 3]
    found = [{image.tobytes() for image in pool.reshape(-1, 64)} for pool in pools]
    assert len(set.union(*found)) == sum(map(len, found))
    with pytest.raises(ValueError, match="ways = 4"):
        NewClasses("digits", ways=4, shots=1, queries=2, turns=1).pools(5)


@pytest.mark.parametrize("turns", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_episodes_have_ways_shots_and_no_image_twice(turns, key):
    kind = NewClasses("digits", ways=3, shots=2, queries=4, turns=turns)
    pool = kind.pools(5).train
    support, query = jax.jit(kind.draw)(key, jnp.asarray(pool))
    assert support[0].shape == (6, 8, 8, 1)
    assert query[0].shape == (12, 8, 8, 1)
    np.testing.assert_array_equal(support[1], [0, 0, 1, 1, 2, 2])
    images = np.concatenate([support[0], query[0]])
    assert len({image.tobytes() for image in images}) == 18
    turned = [np.rot90(pool, k, axes=(2, 3)) for k in range(turns)]
    known = {
        i.tobytes(): (k, c)
        for k, t in enumerate(turned)
        for c in range(4)
        for i in t[c]
    }
    of_class = [known[np.asarray(i, pool.dtype).tobytes()] for i in images]
    for label in range(3):
        rows = np.concatenate([support[1], query[1]]) == label
        assert len({of_class[i] for i in np.flatnonzero(rows)}) == 1


@pytest.mark.slow
def test_implicit_is_imaml(key):
    """With a proximal term trained to the end, unrolling and the solve agree."""
    model = {"name": "mlp", "depth": 0}
    task = FewShot(batch=2, model=model, tune=["weights"], rate=0.05, proximity=2.0)
    task = task.model_copy(update={"num_steps": 300})
    problem, hparams = task.problem(0), {"weights": jnp.array([0.3, -0.5])}
    unrolled = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    implicit = hg.hypergrad(problem, hg.Implicit())(hparams, key)
    assert relative(implicit, unrolled) < 1e-8


@pytest.mark.slow
def test_alphabets_of_omniglot_are_disjoint(real_data):
    kind = NewClasses("omniglot", ways=5, shots=1, queries=5, turns=1)
    train, valid, test = kind.pools(0)
    assert (len(test), len(train) + len(valid)) == (659, 964)
    assert len(valid) > 50
    other = kind.pools(1)
    np.testing.assert_array_equal(other.test, test)
    assert len(other.valid) != len(valid) or not np.array_equal(other.valid, valid)


@pytest.mark.slow
def test_learned_initial_weights_learn_faster(key):
    task = FewShot()
    problem, space = task.problem(0), task.space()
    found = hg.search(
        problem,
        space,
        hg.GradientSearch(hg.Outer(learning_rate=0.003), starts=1),
        estimator=hg.Reverse(),
        num_trials=1000,
        key=key,
        training_keys=hg.FreshKeys(),
    )
    test = jax.jit(task.test(0))
    before = test(None, space.defaults())["loss"]
    assert test(None, found.best_hparams)["loss"] < 0.5 * before
