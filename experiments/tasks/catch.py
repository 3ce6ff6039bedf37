"""A game: what an actor-critic that learns Catch is set to, by meta-gradients.

λ is the learning rate over the updates, the discount γ, the trace decay λ, the weights
of entropy and of the critic's loss. F is minus the expected return of the policy after
T updates, over all balls and exactly (`Catch.expected_return`): nothing is sampled in
validation or test, and there is nothing to overfit but the keys of the search, so that
both show the same number, of keys that no search has seen. `experiments.games` says why
F is smooth in λ at each key, and its mean derivative the derivative of its mean.

An update is not the gradient of a loss: it takes as given its ratios, advantages and
targets, through which the hypergradient has to go all the same. Hence the problem is
made of steps, and estimators that need a loss to minimise say that there is none.
"""

import functools
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

import hypergrad as hg
from experiments.games import actor_critic
from experiments.games.catch import ACTIONS, Catch
from experiments.registry import Task, register, remembered
from hypergrad.models import mlp


@register("catch")
class CatchTask(Task):
    """Options of the task.

    Attributes:
        rows, columns: of the board.
        move_cost: what a step to the side costs.
        hidden: widths of the network's hidden layers; policy and value share them.
        optimizer: of the weights.
        num_steps: T, updates.
        num_episodes: an explorer's, new at each update.
        knots: of the learning rate, piecewise linear over the updates.
    """

    question: ClassVar[frozenset[str]] = Task.question | {
        "rows",
        "columns",
        "move_cost",
    }
    metric: ClassVar[str] = "return"

    rows: Annotated[int, Field(ge=2)] = 10
    columns: Annotated[int, Field(ge=2)] = 5
    move_cost: Annotated[float, Field(ge=0)] = 0.02
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (32,)
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    num_steps: Annotated[int, Field(ge=1)] = 100
    num_episodes: Annotated[int, Field(ge=1)] = 32
    knots: Annotated[int, Field(ge=2)] = 4

    @property
    def game(self) -> Catch:
        """The board and its rules."""
        return Catch(self.rows, self.columns, self.move_cost)

    def space(self) -> hg.Space:
        """What is learned about learning."""
        rate = {"sgd": 0.1}.get(self.optimizer, 0.01)
        return hg.Space(
            {
                "rate": hg.Log(1e-4, 1.0, default=rate, shape=(self.knots,)),
                "discount": hg.Logit(0.5, 0.9999, default=0.99),
                "trace": hg.Logit(0.01, 0.9999, default=0.95),
                "entropy": hg.Log(1e-5, 1.0, default=0.01),
                "value_weight": hg.Log(1e-2, 10.0, default=0.5),
            }
        )

    def problem(self, seed: int) -> hg.Problem:
        """Minus the expected return after T updates; all seeds play one game."""
        del seed
        return _problem(self)

    def validation(self, seed: int):
        """The expected return, and the share of balls that are caught."""
        del seed
        return _metrics(self)

    test = validation

    def schedules(self, hparams):
        """The learning rate over the updates."""
        schedule = hg.PiecewiseLinear(hparams["rate"], self.num_steps)
        return {"learning rate": schedule(jnp.arange(self.num_steps))}


@remembered
def _problem(task: CatchTask) -> hg.Problem:
    """One for equal options: functions hash by identity, and so trace once."""
    game, model = task.game, _model(task)

    def optimizer(hparams):
        schedule = hg.PiecewiseLinear(hparams["rate"], task.num_steps)
        match task.optimizer:
            case "sgd":
                return optax.sgd(schedule, momentum=0.9)
            case "rmsprop":
                return hg.differentiable(optax.rmsprop(schedule, decay=0.99))
            case _:
                return hg.differentiable(optax.adam(schedule, b2=0.99))

    def start(hparams, tick):
        weights = model.init(tick.key)
        return hg.InnerState(weights, optimizer(hparams).init(weights), ())

    def step(hparams, state, tick):
        names = actor_critic.Setting._fields
        setting = actor_critic.Setting(**{name: hparams[name] for name in names})
        episodes = actor_critic.explore(game, tick.step_key, task.num_episodes)
        grads = actor_critic.update(
            functools.partial(_look, model), state.weights, setting, episodes
        )
        updates, opt_state = optimizer(hparams).update(
            grads, state.opt_state, state.weights
        )
        weights = optax.apply_updates(state.weights, updates)
        return hg.InnerState(weights, opt_state, ())

    def outer_at(hparams, state, tick):
        del hparams, tick
        return -game.expected_return(_policy(model, state.weights))

    return hg.Problem.from_step(start, step, outer_at, num_steps=task.num_steps)


@remembered
def _metrics(task: CatchTask):
    model, game = _model(task), task.game
    free = Catch(task.rows, task.columns)

    def metrics(state, hparams):
        del hparams
        policy = _policy(model, state.weights)
        caught = 0.5 * (1.0 + free.expected_return(policy))
        return {"return": game.expected_return(policy), "caught": caught}

    return metrics


@remembered
def _model(task: CatchTask):
    return mlp((task.rows * task.columns, *task.hidden, len(ACTIONS) + 1))


def _look(model, weights, boards):
    """Logits [n, 3] and values [n]."""
    outputs = model.apply(weights, boards.reshape(len(boards), -1))
    return outputs[:, :-1], outputs[:, -1]


def _policy(model, weights):
    return lambda boards: jax.nn.softmax(_look(model, weights, boards)[0])
