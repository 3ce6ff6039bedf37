"""Both forms of a problem, batches, contexts and folds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from tests.oracles import Ridge
from tests.problems import cubic, relative, ridge, squared_error


def test_everyday_form_equals_the_same_thing_written_with_from_step(key):
    problem = ridge(7)
    x, y = problem.data.train
    xv, yv = problem.data.valid

    def step(hp, w, tick):
        gradient = jax.grad(lambda w: squared_error(w, (x, y)) + hg.l2(w, hp["l2"]))(w)
        return w - hp["lr"] * gradient

    by_hand = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(4),
        step=step,
        outer_at=lambda hp, w, tick: squared_error(w, (xv, yv)),
        num_steps=7,
    )
    hparams = {"lr": 0.1, "l2": jnp.full(4, 0.2)}
    a = hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)
    b = hg.value_and_hypergrad(by_hand, hg.Reverse())(hparams, key)
    assert relative(a, b) < 1e-12


def test_initial_weights_may_depend_on_hparams(key):
    """MAML's hypergradient: w_0 = λ, one step on ½ w², F = ½ w_1²."""
    problem = hg.Problem(
        init=lambda key, hp: hp["start"],
        inner_loss=lambda w, hp, batch: 0.5 * jnp.sum(w**2) + 0 * batch.sum(),
        outer_loss=lambda w, hp, batch: 0.5 * jnp.sum(w**2),
        optimizer=lambda hp: optax.sgd(0.5),
        train=jnp.ones(2),
        valid=jnp.ones(2),
        num_steps=1,
    )
    gradient = hg.hypergrad(problem, hg.Reverse())(
        {"start": jnp.array([2.0, 4.0])}, key
    )
    np.testing.assert_allclose(gradient["start"], [0.5, 1.0])


def rows_seen(batches, num_steps, n=10):
    """Which rows each step of a run saw, recorded in the state."""
    size = getattr(batches, "size", None) or 4

    def gather(data, t, key):
        return batches.gather(data, t, key)

    key = jax.random.key(3)
    steps = [gather(jnp.arange(n), jnp.asarray(t), key) for t in range(num_steps)]
    return np.stack(steps) if len({s.shape for s in steps}) == 1 else size


def test_epochs_are_permutations():
    seen = rows_seen(hg.Epochs(3), 9)  # 3 steps an epoch, one row sits out
    epochs = seen.reshape(3, 9)
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_with_replacement_draws_every_row_alike():
    seen = rows_seen(hg.WithReplacement(5), 400)
    counts = np.bincount(seen.ravel(), minlength=10)
    # Binomial(2000, 1/10): five standard deviations.
    assert np.all(abs(counts - 200) < 5 * np.sqrt(2000 * 0.09))
    assert any(len(set(row)) < 5 for row in seen)


def test_float64_does_not_change_which_rows_are_drawn(key):
    def rows():
        batches = (hg.WithReplacement(5), hg.Epochs(5))
        return [b.gather(jnp.arange(20), jnp.asarray(3), key).tolist() for b in batches]

    with jax.enable_x64(False):
        narrow = rows()
    assert rows() == narrow


def test_table_of_indices_replays_a_papers_draws():
    table = jnp.array([[0, 1], [9, 9], [4, 2]])
    seen = rows_seen(hg.IndexTable(table), 5)
    assert seen.tolist() == [[0, 1], [9, 9], [4, 2], [0, 1], [9, 9]]


def test_replaying_a_step_is_exact(key):
    problem = ridge(6, batches=hg.Epochs(7))
    hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(0.1)}
    state = problem.start(hparams, key)
    for t in range(6):
        state = problem.step(hparams, state, t, key)
    end = hg.train(problem, hparams, key)
    assert relative(state.weights, end.weights) < 1e-12


def test_batch_is_the_gathered_pytree(key):
    """Who needs example indices adds them to `train` as a leaf."""
    seen = []

    def inner(w, hp, batch):
        seen.append({name: leaf.shape for name, leaf in batch.items()})
        return jnp.sum(w * hp["weight"][batch["row"]] * batch["x"])

    problem = hg.Problem(
        init=lambda key, hp: jnp.ones(()),
        inner_loss=inner,
        outer_loss=lambda w, hp, batch: w,
        optimizer=lambda hp: optax.sgd(1.0),
        train={"x": jnp.ones(8), "row": jnp.arange(8)},
        valid=(),
        num_steps=1,
        batches=hg.IndexTable(jnp.array([[1, 1, 5]])),
    )
    gradient = hg.hypergrad(problem, hg.Reverse())({"weight": jnp.ones(8)}, key)
    assert gradient["weight"].tolist() == [0, -2, 0, 0, 0, -1, 0, 0]
    assert seen[0] == {"x": (3,), "row": (3,)}


def with_running_mean(num_steps=5):
    """A running mean of the batch, as batch norm keeps one, and noise from the key."""

    def inner(w, hp, batch, context):
        assert context.train
        noise = hp["noise"] * jax.random.normal(context.key)
        mean = 0.9 * context.model_state["mean"] + 0.1 * (w + batch.mean())
        model_state = {"mean": mean, "count": context.model_state["count"] + 1}
        loss = 0.5 * (w - batch.mean() + noise) ** 2 + 0.1 * hp["tie"] * w * mean
        return loss, model_state

    def outer(w, hp, batch, context):
        assert not context.train
        return (w - context.model_state["mean"]) ** 2, context.model_state

    start = {"mean": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}
    return hg.Problem.with_context(
        init=lambda key, hp: (jnp.zeros(()), start),
        inner_loss=inner,
        outer_loss=outer,
        optimizer=lambda hp: optax.sgd(hp["lr"]),
        train=jnp.arange(6.0),
        valid=jnp.ones(3),
        num_steps=num_steps,
        batch_size=2,
    )


def test_context_carries_model_state_and_keys(key):
    problem = with_running_mean()
    hparams = {"lr": 0.3, "noise": 0.2, "tie": 0.7}
    assert int(hg.train(problem, hparams, key).model_state["count"]) == 5
    for estimator in (hg.Reverse(), hg.Reverse(hg.Segments(2)), hg.Forward()):
        report = hg.verify(problem, estimator, hparams, key)
        assert report.ok, str(report)
    gradient = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert all(abs(leaf) > 1e-6 for leaf in gradient.values())


def test_what_is_given_is_data_that_init_and_losses_see(key):
    # w_1 = g - lr (c (g - g) + (g - 1)): the decay to the given g has no force yet.
    def inner(w, hp, batch, context):
        pull = 0.5 * hp["decay"] * (w - context.given) ** 2
        return 0.5 * (w - batch.mean()) ** 2 + pull, ()

    problem = hg.Problem.with_context(
        init=lambda key, hp, given: (given, ()),
        inner_loss=inner,
        outer_loss=lambda w, hp, batch, context: (w * context.given, ()),
        optimizer=lambda hp: optax.sgd(hp["lr"]),
        train=jnp.ones(4),
        valid=jnp.ones(3),
        num_steps=2,
        given=jnp.asarray(3.0),
    )
    hparams = {"lr": 0.1, "decay": 0.5}
    traced = jax.jit(lambda problem: hg.objective(problem, hg.Reverse())(hparams, key))
    for given in (3.0, 5.0):
        data = problem.data._replace(given=jnp.asarray(given))
        first = given - 0.1 * (given - 1)
        second = first - 0.1 * (first - 1 + 0.5 * (first - given))
        value = traced(problem.replace(data=data))
        np.testing.assert_allclose(value, second * given, rtol=1e-12)
    assert traced._cache_size() == 1
    for estimator in (hg.Reverse(), hg.Forward()):
        report = hg.verify(problem, estimator, hparams, key)
        assert report.ok, str(report)


def fold_problem(num_folds):
    data = ridge(5).data.train
    return hg.Problem.from_folds(
        init=lambda key, hp: jnp.zeros(4),
        inner_loss=lambda w, hp, batch: squared_error(w, batch) + hg.l2(w, hp["l2"]),
        outer_loss=lambda w, hp, batch: squared_error(w, batch),
        optimizer=lambda hp: optax.sgd(hp["lr"]),
        data=data,
        num_folds=num_folds,
        num_steps=5,
    )


def test_folds_average_separate_trainings(key):
    hparams = {"lr": 0.1, "l2": 0.2}
    x, y = (np.asarray(leaf) for leaf in ridge(5).data.train)
    results = []
    for k in range(4):
        inside = np.arange(len(y)) % 4 != k
        problem = ridge(5, train=(x[inside], y[inside]), valid=(x[~inside], y[~inside]))
        results.append(hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key))
    mean = jax.tree.map(lambda *leaves: np.mean(leaves), *results)
    for estimator in (hg.Reverse(hg.Segments()), hg.Forward()):
        got = hg.value_and_hypergrad(fold_problem(4), estimator)(hparams, key)
        assert relative(got, mean) < 1e-12


def test_schedule_pytrees_may_be_hyperparameters(key):
    problem = ridge(6, optimizer=lambda hp: optax.sgd(hp["schedule"]))
    hparams = {"schedule": hg.Exponential(0.1, 0.9), "l2": 0.1}
    report = hg.verify(problem, hg.Reverse(), hparams, key)
    assert report.ok, str(report)
    gradient = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    assert isinstance(gradient["schedule"], hg.Exponential)


@pytest.mark.parametrize("length", [10, 10.0])
def test_numbers_that_optax_branches_on_point_to_our_schedules(length, key):
    def optimizer(hp):
        return optax.sgd(optax.cosine_decay_schedule(0.1, hp["length"]))

    problem = ridge(5, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"hypergrad\.schedules"):
        hg.value_and_hypergrad(problem, hg.Reverse())(
            {"l2": 0.1, "length": length}, key
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ridge(0), "num_steps must be a Python int >= 1"),
        (lambda: ridge(2.0), "num_steps must be a Python int"),
        (lambda: cubic(3, outer_every=4), "must not exceed num_steps"),
        (lambda: ridge(3, batch_size=5, batches=hg.FullBatch()), "not both"),
        (lambda: fold_problem(3), "divide the 20 rows"),
        (lambda: ridge(3).replace(steps=4), "no field"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 21}, "batch size must lie in 1..20"),
        ({"batches": hg.Epochs(0)}, "batch size must lie in 1..20"),
        ({"train": (jnp.ones((3, 4)), jnp.ones(2)), "batch_size": 1}, "leading axis"),
        ({"inner_loss": lambda w, hp, batch: w}, "inner_loss must return a scalar"),
    ],
)
def test_wrong_problems_are_refused_when_traced(changes, message, key):
    with pytest.raises(ValueError, match=message):
        hg.train(ridge(3, **changes), {"lr": 0.1, "l2": 0.1}, key)


def test_context_losses_must_return_pairs(key):
    problem = hg.Problem.with_context(
        init=lambda key, hp: (jnp.ones(2), ()),
        inner_loss=lambda w, hp, batch, context: jnp.sum(w),
        outer_loss=lambda w, hp, batch, context: jnp.sum(w),
        optimizer=lambda hp: optax.sgd(0.1),
        train=jnp.ones(3),
        valid=jnp.ones(3),
        num_steps=1,
    )
    with pytest.raises(ValueError, match=r"inner_loss must return the pair"):
        hg.train(problem, 1.0, key)


def test_the_two_losses_of_the_weights(key):
    """Full-batch: both are the inner loss, and a step follows its gradient."""
    problem, hparams = ridge(5), {"lr": 0.1, "l2": 0.2}
    state = hg.train(problem, hparams, key)
    weights = problem.weights(state)
    x, y = problem.data.train
    expected = 0.5 * jnp.mean((x @ weights - y) ** 2) + 0.1 * jnp.sum(weights**2)
    np.testing.assert_allclose(problem.inner_loss(hparams, state, key), expected)

    def loss(problem, w, t):
        moved = problem.replace_weights(state, w)
        return problem.batch_loss(hparams, moved, t, key)

    for batch_size in (None, 5):
        batched = ridge(5, batch_size=batch_size)
        gradient = jax.grad(loss, 1)(batched, weights, 3)
        after = batched.weights(batched.step(hparams, state, 3, key))
        np.testing.assert_allclose(after, weights - 0.1 * gradient)


def test_folds_have_the_losses_of_all_their_trainings(key):
    data = Ridge.make()
    problem = hg.Problem.from_folds(
        init=lambda key, hp: jnp.zeros(4),
        inner_loss=lambda w, hp, batch: squared_error(w, batch) + hg.l2(w, hp["l2"]),
        outer_loss=lambda w, hp, batch: squared_error(w, batch),
        optimizer=lambda hp: optax.sgd(0.1),
        data=(data.x, data.y),
        num_folds=4,
        num_steps=3,
    )
    hparams = {"l2": 0.1}
    state = problem.start(hparams, key)
    weights = problem.weights(state)
    assert weights.shape == (4, 4)

    def loss(w):
        return problem.inner_loss(hparams, problem.replace_weights(state, w), key)

    after = problem.weights(problem.step(hparams, state, 0, key))
    np.testing.assert_allclose(after, weights - 0.1 * jax.grad(loss)(weights))


def test_an_inner_loss_of_plain_steps_is_given_or_refused(key):
    def step(hp, s, tick):
        return s - 0.1 * hp * s

    plain = hg.Problem.from_step(
        lambda hp, tick: jnp.ones(()), step, lambda hp, s, tick: s, num_steps=2
    )
    assert not plain.has_inner_loss
    with pytest.raises(ValueError, match="inner_loss_at"):
        plain.inner_loss(2.0, 1.0, key)
    given = hg.Problem.from_step(
        lambda hp, tick: jnp.ones(()),
        step,
        lambda hp, s, tick: s,
        num_steps=2,
        inner_loss_at=lambda hp, s, tick: 0.5 * hp * s**2,
    )
    assert given.has_inner_loss
    np.testing.assert_allclose(given.batch_loss(2.0, jnp.asarray(3.0), 0, key), 9.0)
