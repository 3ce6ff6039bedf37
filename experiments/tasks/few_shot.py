"""Few-shot learning: initial weights from which a few steps learn a new task (MAML).

    F(λ) = mean over tasks of the query loss after T steps on its support set,
    w_0 = λ["weights"],   w ← w − λ["rates"] ∇ support loss(w)   (a rate for each layer)

The trainings of a batch of tasks run side by side as one inner problem, the sum of
their losses. The tasks are drawn by the key; so that every step and the outer loss see
the same ones, the model state carries the number that they are drawn from. With
`proximity` ρ > 0 the inner loss gains ρ/2 |w − w_0|², and `Implicit()` is iMAML.

Source: Finn, Abbeel and Levine, Model-agnostic meta-learning for fast adaptation of
deep networks (2017); Rajeswaran et al., Meta-learning with implicit gradients (2019).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.registry import Task, register, remembered
from experiments.supervised.episodes import Episodes, NewClasses, Sinusoids
from experiments.supervised.networks import AnyNetwork, Perceptron, Shapes
from hypergrad.models import Model, stateless
from hypergrad.tree import ravel
from hypergrad.typing import PyTree

Count = Annotated[int, Field(ge=1)]
Judged = dict[str, jax.Array]
VALID, TEST = 1, 2  # what the keys of evaluation are folded with


@register("few_shot")
class FewShot(Task):
    """Options of the task.

    Attributes:
        source: "sinusoids" to regress on, or images of new classes.
        ways: classes of a task, where there are classes.
        turns: 4 turns the images of training by quarters, and so has four classes of
            each; tasks of validation and test are as they are.
        shots, queries: rows (of each class) to train on, and to be tested on.
        batch: tasks in F.
        num_eval: tasks in the metrics of validation, and of test.
        model: a network without state.
        tune: "weights" are the initial ones, as one vector; "rates" one for each layer.
        rate: of the steps, where it is not tuned, and the default where it is.
        momentum: of the steps.
        proximity: ρ.
        num_steps: T, on each task.
    """

    question: ClassVar[frozenset[str]] = Task.question | {
        "ways",
        "turns",
        "shots",
        "queries",
        "num_eval",
    }
    metric = "loss"
    higher_is_better = False

    source: Literal["sinusoids", "digits", "omniglot"] = "sinusoids"
    ways: Annotated[int, Field(ge=2)] = 3
    turns: Literal[1, 4] = 4
    shots: Count = 10
    queries: Count = 10
    batch: Count = 16
    num_eval: Count = 200
    model: AnyNetwork = Perceptron(depth=2, width=40, activation="relu")
    tune: Annotated[tuple[Literal["weights", "rates"], ...], Field(min_length=1)] = (
        "weights",
        "rates",
    )
    rate: Annotated[float, Field(ge=1e-4, le=10)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    proximity: Annotated[float, Field(ge=0)] = 0.0
    num_steps: Count = 1

    @model_validator(mode="after")
    def _tune_names_things_once(self):
        if len(set(self.tune)) < len(self.tune):
            raise ValueError(f"tune names something twice: {list(self.tune)}")
        return self

    def episodes(self) -> Episodes:
        """The distribution of tasks."""
        if self.source == "sinusoids":
            return Sinusoids(self.shots, self.queries)
        sizes = self.ways, self.shots, self.queries, self.turns
        return NewClasses(self.source, *sizes)

    def space(self) -> hg.Space:
        """`weights`, which begin at the model's own, and `rates`."""
        learner = _learner(self)
        start = tuple(np.asarray(learner.first, float).tolist())
        reach = 2.0 * max(1.0, *map(abs, start))
        names = hg.layer_names(learner.unravel(learner.first))
        entries = {
            "weights": hg.Linear(-reach, reach, default=start, shape=(len(start),)),
            "rates": hg.Log(1e-4, 10.0, default=self.rate, shape=(len(names),)),
        }
        return hg.Space({name: entries[name] for name in self.tune})

    def problem(self, seed: int) -> hg.Problem:
        """F over a batch of the tasks of training."""
        return _problem(_learner(self), self.episodes().pools(seed).train)

    def validation(self, seed: int):
        """The query loss (and accuracy) on tasks of the validation classes."""
        return self._metrics(seed, self.episodes().pools(seed).valid, VALID)

    def test(self, seed: int):
        """The query loss (and accuracy) on tasks of the test classes."""
        return self._metrics(seed, self.episodes().pools(seed).test, TEST)

    def _metrics(self, seed: int, pool, part: int):
        """λ tried on tasks of its own: of the training behind F nothing is left."""
        trial = self.model_copy(update={"batch": self.num_eval, "turns": 1})
        problem = _problem(_learner(trial), pool)
        key = jax.random.fold_in(jax.random.key(seed), part)

        def metrics(state, hparams):
            del state
            return trial.judged(problem, hg.train(problem, hparams, key))

        return metrics

    def judged(self, problem: hg.Problem, state: hg.InnerState) -> Judged:
        """The query loss (and accuracy) of a state of training: means over its tasks.

        Args:
            problem: one of `self`, whatever its pool.
            state: of its training.
        """
        outputs, targets = _learner(self).tested(state, problem.data.given)
        found = {"loss": jnp.mean(self.episodes().losses(outputs, targets))}
        if self.source != "sinusoids":
            correct = jnp.argmax(outputs, axis=-1) == targets
            found["accuracy"] = jnp.mean(correct.astype(outputs.dtype))
        return found


def _problem(learner: "_Learner", pool) -> hg.Problem:
    return hg.Problem.with_context(
        init=learner.init,
        inner_loss=learner.inner_loss,
        outer_loss=learner.outer_loss,
        optimizer=learner.optimizer,
        train=jnp.zeros(1),  # rows are those of the tasks
        valid=(),
        given=jnp.asarray(pool, jnp.zeros(()).dtype),
        num_steps=learner.task.num_steps,
    )


@dataclass(frozen=True, eq=False)
class _Learner:
    """What the problem is made of; weights have a leading axis of tasks.

    Attributes:
        task: the options.
        model: its network, without state.
        first: initial weights as one vector, where λ has none.
        unravel: a vector as weights.
    """

    task: FewShot
    model: Model
    first: jax.Array
    unravel: Callable[[jax.Array], PyTree]

    def init(self, key, hparams, pool):
        """The same weights for every task, and the number to draw the tasks from."""
        del pool
        return self._start(hparams), jax.random.bits(key, dtype=jnp.uint32)

    def inner_loss(self, weights, hparams, batch, context):
        """Σ over tasks of the support loss, so that each has its own gradient."""
        del batch
        outputs, targets = self._outputs(weights, context, "support")
        losses = self.task.episodes().losses(hg.outputs(outputs), targets)
        total = jnp.sum(jnp.mean(losses, axis=1))
        if self.task.proximity:
            moved = jax.tree.map(jnp.subtract, weights, self._start(hparams))
            total = total + hg.l2(moved, self.task.proximity)
        return total, context.model_state

    def outer_loss(self, weights, hparams, batch, context):
        """The mean query loss."""
        del hparams, batch
        outputs, targets = self._outputs(weights, context, "query")
        losses = self.task.episodes().losses(outputs, targets)
        return jnp.mean(losses), context.model_state

    def optimizer(self, hparams):
        """Plain steps, or a rate for each layer."""
        momentum = self.task.momentum or None
        if "rates" not in hparams:
            return optax.sgd(self.task.rate, momentum)
        return optax.chain(optax.sgd(1.0, momentum), hg.scale_layers(hparams["rates"]))

    def tested(self, state: hg.InnerState, pool):
        """(outputs, targets) of the queries, [tasks, rows, ...]."""
        context = hg.Context(jax.random.key(0), state.model_state, False, pool)
        return self._outputs(state.weights, context, "query")

    def _start(self, hparams):
        weights, batch = (
            self.unravel(hparams.get("weights", self.first)),
            self.task.batch,
        )
        return jax.tree.map(
            lambda w: jnp.broadcast_to(w[None], (batch, *w.shape)), weights
        )

    def _outputs(self, weights, context, part: Literal["support", "query"]):
        keys = jax.random.split(jax.random.key(context.model_state), self.task.batch)

        def one(weights, key):
            episode = self.task.episodes().draw(key, context.given)
            inputs, targets = getattr(episode, part)
            arranged = self.task.model.arrange(inputs, False)
            return self.model.apply(weights, arranged), targets

        return jax.vmap(one)(weights, keys)


@remembered
def _learner(task: FewShot) -> _Learner:
    """Built for the rows that episodes have."""
    episodes = task.episodes()
    pool = episodes.pools(0).train
    row = jax.eval_shape(episodes.draw, jax.random.key(0), pool).support[0]
    arranged = jax.eval_shape(lambda x: task.model.arrange(x, False), row)
    model = task.model.build(
        Shapes(arranged.shape[1:], 0, episodes.num_outputs, every=False)
    )
    model = stateless(model)
    return _Learner(task, model, *ravel(model.init(jax.random.key(0))))
