"""Advantage actor-critic from another player's episodes, differentiable in all it sets.

An explorer plays uniformly at random; the learner corrects for that by the ratios
ρ_t = π(a_t | s_t) / μ(a_t | s_t) of its own to the explorer's probabilities:

    δ_t = r_t + γ V(s_{t+1}) − V(s_t)
    e_t = ρ_t δ_t + γ λ c_t e_{t+1},   c_t = 1 − exp(−ρ_t)       critic: V(s_t) + e_t
    A_t = δ_t + γ λ e_{t+1}                                       actor:  ρ_t A_t

On the learner's own episodes, with c = ρ = 1, e and A are both the generalised
advantage of Schulman et al. (2016). The traces are a smooth Retrace: c = min(1, ρ) of
Munos et al. (2016) has a kink; what V needs of it, to tend to the value of π, is
0 <= c <= ρ, and ours lie below both ρ and 1.

What this buys: the episodes depend on a key and on no hyperparameter. A learner that
played itself would draw its actions from probabilities that λ moves, F(λ) at a fixed
key would jump wherever an action changes, and the derivative between the jumps, which
meta-gradients through sampled updates are (Xu et al. 2018), is not that of the mean.
Here F is smooth in λ at each key, and the mean of its derivative is the derivative of
its mean. The price is the explorer's: the actor sees the states of μ and not of π, so
that an update is no gradient of the learner's own return (Degris et al. 2012).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.games.catch import ACTIONS, Catch
from hypergrad.typing import PyTree, Scalar, Weights

Network = Callable[[Weights, Array], tuple[Array, Array]]
"""Weights, boards [n, rows, columns] -> logits [n, 3] and values [n]."""


class Episodes(NamedTuple):
    """Whole episodes of L moves, side by side.

    Attributes:
        boards: before each move, [L, n, rows, columns].
        actions: [L, n].
        rewards: [L, n].
    """

    boards: Array
    actions: Array
    rewards: Array


class Setting(NamedTuple):
    """The numbers of an update; each may be traced.

    Attributes:
        discount: γ.
        trace: λ, between one-step targets (0) and the whole return (1).
        entropy: weight of the policy's entropy.
        value_weight: of the critic's loss.
    """

    discount: Scalar
    trace: Scalar
    entropy: Scalar
    value_weight: Scalar


def explore(game: Catch, key: Array, count: int) -> Episodes:
    """Episodes of a player who moves uniformly at random."""
    start_key, action_key = jax.random.split(key)
    shape = game.length, count
    actions = jax.random.randint(action_key, shape, 0, len(ACTIONS))

    def move(state, action):
        new, reward = game.move(state, action)
        return new, (game.board(state), reward)

    _, (boards, rewards) = jax.lax.scan(move, game.start(start_key, count), actions)
    return Episodes(boards, actions, rewards)


def loss(
    network: Network,
    weights: Weights,
    held: Weights,
    setting: Setting,
    episodes: Episodes,
) -> Scalar:
    """Actor, critic and entropy; an update is its gradient in `weights` alone.

    Args:
        network: the model.
        weights: w, of the policy and the values that are improved.
        held: w again, of the ratios, advantages and targets: what an update takes as
            given. It must not be hidden by `stop_gradient`, which would also hide from
            the hypergradient that they depend on λ, by themselves and through w.
        setting: the hyperparameters.
        episodes: of an explorer.
    """
    shape = episodes.actions.shape
    boards = episodes.boards.reshape(-1, *episodes.boards.shape[2:])

    def look(weights) -> tuple[Array, Array]:
        logits, values = network(weights, boards)
        return jax.nn.log_softmax(logits).reshape(*shape, -1), values.reshape(shape)

    def taken(logs):
        return jnp.take_along_axis(logs, episodes.actions[..., None], axis=-1)[..., 0]

    logs, values = look(weights)
    held_logs, held_values = look(held)
    ratios = len(ACTIONS) * jnp.exp(taken(held_logs))
    errors, advantages = corrections(episodes.rewards, held_values, ratios, setting)

    actor = -jnp.mean(ratios * advantages * taken(logs))
    critic = 0.5 * jnp.mean(jnp.square(held_values + errors - values))
    entropy = -jnp.mean(jnp.sum(jnp.exp(logs) * logs, axis=-1))
    return actor + setting.value_weight * critic - setting.entropy * entropy


def corrections(
    rewards: Array, values: Array, ratios: Array, setting: Setting
) -> tuple[Array, Array]:
    """e_t of the critic and A_t of the actor, [L, n] each; both are 0 after the end."""
    after_end = jnp.zeros_like(values[:1])
    next_values = jnp.concatenate([values[1:], after_end])
    deltas = rewards + setting.discount * next_values - values
    traces = -jnp.expm1(-ratios)

    def before(later, step):
        delta, ratio, trace = step
        carried = setting.discount * setting.trace * later
        error = ratio * delta + trace * carried
        return error, (error, delta + carried)

    steps = deltas, ratios, traces
    return jax.lax.scan(before, after_end[0], steps, reverse=True)[1]


def update(
    network: Network, weights: Weights, setting: Setting, episodes: Episodes
) -> PyTree:
    """∂loss/∂weights with what is held equal to the weights: no gradient of anything.

    A derivative of this in λ, or in w, goes through both.
    """
    return jax.grad(loss, argnums=1)(network, weights, weights, setting, episodes)
