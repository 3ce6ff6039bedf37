"""Catch: the game by hand, its value by play, and the hypergradient of learning it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.games import actor_critic
from experiments.games.catch import Catch, State
from experiments.tasks.catch import CatchTask

TINY = CatchTask(
    rows=4,
    columns=3,
    hidden=(4,),
    optimizer="sgd",
    num_steps=3,
    num_episodes=5,
    knots=2,
)


def test_an_episode_by_hand():
    game = Catch(rows=4, columns=3, move_cost=0.25)
    state = State(jnp.array(0), jnp.array(0), jnp.array(1))
    np.testing.assert_array_equal(
        game.board(state), [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    )
    rewards = []
    for action in (0, 0, 1):  # left, left into the wall, stay
        state, reward = game.move(state, jnp.array(action))
        rewards.append(float(reward))
    assert rewards == [-0.25, -0.25, 1.0]
    np.testing.assert_array_equal(game.board(state)[-1], [1, 0, 0])
    state = State(jnp.array(2), jnp.array(0), jnp.array(1))
    assert float(game.move(state, jnp.array(2))[1]) == -1.25  # missed, and it moved


def policy_of(game, key):
    table = jax.random.normal(key, (game.rows * game.columns, 3))

    def policy(boards):
        flat = boards.reshape(len(boards), -1)
        return jax.nn.softmax(2.0 * flat @ table, axis=-1)

    return policy


def test_the_exact_return_is_that_of_play(key):
    """Against 4,000 episodes of an uneven policy, played move by move."""
    game, n = Catch(rows=5, columns=4, move_cost=0.1), 4000
    table_key, start_key, play_key = jax.random.split(key, 3)
    policy = policy_of(game, table_key)

    def move(state, key):
        chances = policy(game.board(state))
        return game.move(state, jax.random.categorical(key, jnp.log(chances)))

    keys = jax.random.split(play_key, game.length)
    _, rewards = jax.jit(jax.lax.scan, static_argnums=0)(
        move, game.start(start_key, n), keys
    )
    returns = rewards.sum(axis=0)
    error = returns.std() / jnp.sqrt(n)
    exact = jax.jit(game.expected_return, static_argnums=0)(policy)
    assert abs(exact - returns.mean()) < 4 * error
    assert error < 0.02


def test_the_advantage_is_a_decaying_sum_of_errors(key):
    """With c = 1, A_t = δ_t + ρ Σ_{k > 0} (γλ)^k δ_{t+k}, summed in numpy."""
    rewards, values = jax.random.normal(key, (2, 6, 1))
    setting = actor_critic.Setting(0.9, 0.7, 0.0, 0.0)
    ratios = jnp.full((6, 1), 1e3)  # so that c = 1
    _, advantages = actor_critic.corrections(rewards, values, ratios, setting)
    v = np.append(np.asarray(values)[:, 0], 0.0)
    r = np.asarray(rewards)[:, 0]
    deltas = r + 0.9 * v[1:] - v[:-1]
    for t in range(6):
        weights = [1.0, *(1e3 * 0.63**k for k in range(1, 6 - t))]
        expected = sum(w * d for w, d in zip(weights, deltas[t:], strict=True))
        np.testing.assert_allclose(advantages[t, 0], expected, rtol=1e-10)


def test_the_critic_is_corrected_to_the_value_of_its_own_policy(key):
    """E_μ[e_t] = 0 in every state, if V = V^π: the explorer leaves no bias."""
    game = Catch(rows=3, columns=3, move_cost=0.1)
    policy = policy_of(game, key)
    setting = actor_critic.Setting(1.0, 0.8, 0.0, 0.0)
    # All nine ways to move, from the ball's first column.
    actions = jnp.stack(jnp.meshgrid(jnp.arange(3), jnp.arange(3))).reshape(2, 9)

    @jax.jit
    def play(state):
        chances, rewards = [], []
        for action in actions:
            chances.append(policy(game.board(state))[jnp.arange(9), action])
            state, reward = game.move(state, action)
            rewards.append(reward)
        return jnp.stack(chances), jnp.stack(rewards)

    p, r = map(np.asarray, play(State(*(jnp.full(9, i) for i in (0, 0, 1)))))
    first = np.asarray(actions)[0]
    # V^π by enumeration, after the first move and before it.
    later = np.array([np.sum((p[1] * r[1])[first == a]) for a in range(3)])[first]
    start = np.full(9, np.sum(p[0] * p[1] * (r[0] + r[1])))
    values = jnp.asarray(np.stack([start, later]))
    errors, _ = actor_critic.corrections(jnp.asarray(r), values, 3.0 * p, setting)
    np.testing.assert_allclose(np.mean(errors, axis=1), 0.0, atol=1e-12)
    assert np.abs(errors).max() > 0.1


@pytest.fixture(scope="module")
def trained():
    """F and its metrics as one program, and where it was asked for its derivative."""
    problem, metrics = TINY.problem(0), TINY.test(0)

    @jax.jit
    def run(hparams, key):
        result, _ = hg.Value().estimate(problem, hparams, (), key)
        return result.value, metrics(result.info.state, hparams)

    return run, TINY.space().defaults(), jax.random.key(3)


@pytest.mark.slow
def test_the_hypergradient_is_that_of_central_differences(trained):
    """In each of the five, and so through ratios, advantages and targets."""
    run, hparams, key = trained
    grads = jax.jit(hg.hypergrad(TINY.problem(0), hg.Reverse()))(hparams, key)
    for name, grad in grads.items():
        h = 1e-5 * hparams[name]
        up, down = ({**hparams, name: hparams[name] + s * h} for s in (1, -1))
        slope = float(run(up, key)[0] - run(down, key)[0]) / 2
        assert slope == pytest.approx(float(np.sum(grad * h)), rel=1e-6)
        assert np.all(grad != 0)


def test_metrics_are_the_return_and_the_share_caught(trained):
    run, hparams, key = trained
    value, scores = run(hparams, key)
    assert scores["return"] == pytest.approx(-float(value))
    assert 0 < scores["caught"] < 1
    assert scores["return"] < 2 * scores["caught"] - 1  # moves cost


@pytest.mark.slow
def test_reverse_is_forward(trained):
    _, hparams, key = trained
    grads, others = (
        jax.jit(hg.hypergrad(TINY.problem(0), estimator))(hparams, key)
        for estimator in (hg.Reverse(), hg.Forward())
    )
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, others[name], rtol=1e-8)


def test_what_needs_a_loss_says_that_there_is_none():
    problem = TINY.problem(0)
    for estimator in (hg.Implicit(), hg.Reversible()):
        assert estimator.applies(problem)


@pytest.mark.slow
def test_learning_improves_the_return():
    task = CatchTask(rows=6, columns=5)
    problem, hparams = task.problem(0), task.space().defaults()
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def values(problem):
        def value(key):
            return hg.Value().estimate(problem, hparams, (), key)[0].value

        return jax.lax.map(value, keys)

    learned, untrained = values(problem), values(problem.replace(num_steps=1))
    assert np.all(learned < untrained - 0.5)


@pytest.mark.slow
def test_the_default_task_agrees_with_forward_mode_and_differences(key):
    task = CatchTask()
    found = hg.verify(task.problem(0), hg.Reverse(), task.space().defaults(), key)
    assert found.ok, found
