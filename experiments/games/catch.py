"""Catch: a ball falls down a board; the paddle at the bottom should be under it.

The small game on which agents are tried first (Mnih et al. 2014, Osband et al. 2020).
It is small enough to be solved: the expected return of any policy is a sum over all
states, exact and differentiable, so that no return needs to be estimated by playing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

ACTIONS = ("left", "stay", "right")

Policy = Callable[[Array], Array]
"""Boards [n, rows, columns] -> probabilities of the actions [n, 3]."""


class State(NamedTuple):
    """Where ball and paddle are: integers, of any one shape."""

    row: Array
    ball: Array
    paddle: Array


@dataclass(frozen=True)
class Catch:
    """The ball appears in a random column of the top row and falls a row a move.

    Attributes:
        rows, columns: of the board; an episode has rows - 1 moves.
        move_cost: what a move to the left or right costs.
    """

    rows: int = 10
    columns: int = 5
    move_cost: float = 0.0

    @property
    def length(self) -> int:
        """Moves in an episode."""
        return self.rows - 1

    def start(self, key: Array, count: int) -> State:
        """The first states of `count` episodes: the paddle is in the middle."""
        ball = jax.random.randint(key, (count,), 0, self.columns)
        return State(jnp.zeros_like(ball), ball, jnp.full_like(ball, self.columns // 2))

    def move(self, state: State, action: Array) -> tuple[State, Array]:
        """The next state and the reward: ±1 when the ball is down, less the costs.

        Args:
            state: of shape [...].
            action: 0, 1 or 2 for left, stay and right, [...]; walls stop the paddle.
        """
        paddle = self._moved(state.paddle, action)
        new = State(state.row + 1, state.ball, paddle)
        down = new.row == self.rows - 1
        caught = jnp.where(new.ball == paddle, 1.0, -1.0)
        return new, jnp.where(down, caught, 0.0) - self._cost(action)

    def board(self, state: State) -> Array:
        """What the player sees: ones at ball and paddle, [..., rows, columns]."""
        bottom = jnp.full_like(state.row, self.rows - 1)
        ball = self._pixel(state.row, state.ball)
        return jnp.maximum(ball, self._pixel(bottom, state.paddle))

    def expected_return(self, policy: Policy) -> Array:
        """J(π) = E[sum of rewards], exactly: V_t(s) = Σ_a π(a | s) (r + V_{t+1}(s')).

        Backwards over the rows, for every ball and paddle at once; smooth in π. Who
        stays in the middle of three columns catches one ball in three:

        >>> stay = lambda boards: jnp.array([[0.0, 1.0, 0.0]] * len(boards))
        >>> print(Catch(rows=3, columns=3).expected_return(stay).round(4))
        -0.3333
        """
        shape = self.length, self.columns, self.columns
        states = State(*(i.ravel() for i in jnp.indices(shape)))
        chances = policy(self.board(states)).reshape(*shape, len(ACTIONS))
        column = jnp.arange(self.columns)
        last = jnp.where(column[:, None] == column[None], 1.0, -1.0)  # [ball, paddle]
        actions = jnp.arange(len(ACTIONS))
        moved = self._moved(column[:, None], actions[None])  # [paddle, 3]

        def before(value, chances):
            after = value[:, moved] - self._cost(actions)[None, None]
            return jnp.sum(chances * after, axis=-1), None

        value, _ = jax.lax.scan(before, last, chances, reverse=True)
        return jnp.mean(value[:, self.columns // 2])

    def _moved(self, paddle: Array, action: Array) -> Array:
        return jnp.clip(paddle + action - 1, 0, self.columns - 1)

    def _cost(self, action: Array) -> Array:
        return self.move_cost * jnp.abs(action - 1).astype(float)

    def _pixel(self, row: Array, column: Array) -> Array:
        rows = jax.nn.one_hot(row, self.rows)[..., :, None]
        return rows * jax.nn.one_hot(column, self.columns)[..., None, :]
