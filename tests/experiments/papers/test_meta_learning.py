"""Meta-training against loops by hand: what is drawn, differentiated and stepped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import hypergrad as hg
from experiments.papers.meta_learning import FinnSinusoid, adapted, meta_train
from experiments.supervised.networks import Perceptron
from experiments.tasks.few_shot import FewShot
from hypergrad.tree import ravel

# One network is built for all who ask for the same task.
TASK = FewShot(
    tune=("weights",),
    turns=1,
    batch=1,
    num_eval=4,
    rate=0.05,
    num_steps=2,
    shots=4,
    queries=5,
    model=Perceptron(depth=1, width=8, activation="tanh"),
)
TINY = FinnSinusoid(
    precision="float64", task=TASK, deviation=0.5, num_outer_steps=4, adapt_steps=3
)


def quiet(done, total):
    del done, total


def test_the_start_is_cut_off_and_has_no_biases():
    starts = [TINY.start(seed)["weights"] for seed in range(30)]
    first = TINY.problem(0).start({"weights": jnp.zeros(25)}, jax.random.key(0)).weights
    unravel = ravel(jax.tree.map(lambda w: w[0], first))[1]
    leaves = [leaf for start in starts for leaf in jax.tree.leaves(unravel(start))]
    assert all(not leaf.any() for leaf in leaves if leaf.ndim == 1)
    kernels = np.concatenate([np.ravel(leaf) for leaf in leaves if leaf.ndim > 1])
    assert kernels.size == 30 * (8 + 8)
    # A normal of deviation .5 that is cut off at two of it has .88 of its deviation.
    assert 0.95 < np.max(np.abs(kernels)) <= 1.0
    np.testing.assert_allclose(np.std(kernels), 0.88 * 0.5, rtol=0.1)


def test_reverse_is_central_differences(key):
    problem, hparams = TINY.problem(0), TINY.start(0)
    slope = jax.jit(hg.hypergrad(problem, hg.Reverse()))(hparams, key)["weights"]
    objective = jax.jit(hg.objective(problem, hg.Reverse()))
    for direction in np.random.default_rng(0).normal(size=(3, slope.size)):
        low, high = (
            objective({"weights": hparams["weights"] + e * direction}, key)
            for e in (-1e-5, 1e-5)
        )
        np.testing.assert_allclose((high - low) / 2e-5, slope @ direction, rtol=1e-7)


def test_adapted_passes_through_f(key):
    problem = TASK.problem(0)
    hparams, keys = TINY.start(0), jax.random.split(key, 4)
    losses = adapted(TASK, problem, hparams, keys, 5)["loss"]
    assert losses.shape == (4, 6)
    objective = hg.objective(problem, hg.Reverse())
    expected = jax.jit(jax.vmap(objective, (None, 0)))(hparams, keys)
    np.testing.assert_allclose(losses[:, 2], expected, rtol=1e-12)


def test_first_order_is_the_slope_at_the_last_weights(key):
    """What the config's header gives for it: v = ∂F/∂w_T / ρ, and −∂G/∂λ = ρ."""
    paper = TINY.model_copy(update={"task": TASK.model_copy(update={"proximity": 2.0})})
    problem, hparams = paper.problem(0), paper.start(0)
    estimator = hg.Implicit(solver=hg.IdentityInverse(0.5), tolerance=float("inf"))
    found = jax.jit(hg.hypergrad(problem, estimator))(hparams, key)["weights"]
    end = jax.jit(hg.train)(problem, hparams, key)

    def outer(weights):
        return problem.outer(hparams, problem.replace_weights(end, weights), 2, key)

    expected = ravel(jax.jit(jax.grad(outer))(end.weights))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def loss(weights, rows):
    """Of a perceptron with one hidden layer."""
    inputs, targets = rows
    hidden, head = weights["layers"][0]["linear"], weights["head"]
    units = jnp.tanh(inputs @ hidden["kernel"] + hidden["bias"][None])
    return jnp.mean((units @ head["kernel"] + head["bias"][None] - targets) ** 2)


def test_the_first_step_of_meta_training_by_hand(key):
    problem, start, outer = TINY.problem(0), TINY.start(0), optax.sgd(0.1)
    found, losses = meta_train(
        problem, hg.Reverse(), start, outer, num_steps=1, batch=3, key=key, report=quiet
    )
    pool = jnp.asarray(TASK.episodes().pools(0).train)

    def drawn(task_key):
        """The episode of a task, and the weights before its first step."""
        state = problem.start(start, task_key)
        (own,) = jax.random.split(jax.random.key(state.model_state), 1)
        return TASK.episodes().draw(own, pool), state.weights

    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    episodes, weights = jax.jit(jax.vmap(drawn))(keys)
    point, unravel = ravel_pytree(jax.tree.map(lambda w: w[0, 0], weights))
    np.testing.assert_array_equal(point, start["weights"])

    def query(point, episode):
        weights = unravel(point)
        for _ in range(TASK.num_steps):
            slope = jax.grad(loss)(weights, episode.support)
            weights = jax.tree.map(lambda w, g: w - TASK.rate * g, weights, slope)
        return loss(weights, episode.query)

    both = jax.vmap(jax.value_and_grad(query), (None, 0))
    values, slopes = jax.jit(both)(point, episodes)
    np.testing.assert_allclose(losses, [[values.mean()]], rtol=1e-10)
    expected = point - 0.1 * slopes.mean(axis=0)
    np.testing.assert_allclose(found["weights"], expected, rtol=1e-10)


def test_what_is_measured():
    found = TINY.measure(hg.Reverse(), 0, quiet)
    line = found.curves["adapted"].y
    assert len(line) == 4
    assert found.curves["loss"].x == [1, 2, 3, 4]
    ends = [found.numbers[name] for name in ("before", "one_step", "last_step")]
    assert ends == [line[0], line[1], line[3]]
