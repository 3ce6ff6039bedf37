"""Initial weights that learn a new task in a few steps: MAML (Finn et al. 2017).

    min over λ of the mean over tasks of F_task(λ),
    F_task: query loss after T steps from w_0 = λ on the task's support set

Each task is a training of its own, so that F_task is an `hg.Problem` and any estimator
gives its hypergradient: `Reverse()` is MAML; `Implicit()` with a proximal term, iMAML;
`Implicit(solver=IdentityInverse(1 / ρ))`, first-order MAML, dF/dλ ≈ ∂F/∂w_T. An outer
step takes the mean over a batch of new tasks.
"""

import functools
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from pydantic import Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.progress import in_stretches
from experiments.tasks.few_shot import FewShot, Judged
from hypergrad.typing import HParams, Key

Count = Annotated[int, Field(ge=1)]
CONFIDENT = 1.96  # standard errors on either side of a mean: 95%
SHOWN = 200  # points of the curve of meta-training
TEST = 1  # what the key of the test tasks is folded with


class MetaLearning(Paper):
    """Options.

    Attributes:
        task: the distribution of tasks, the network and the T steps; `batch` tasks an
            outer step, `num_eval` in the test, where there is no proximal term.
        deviation: of initial kernels, normal and cut off at two of it, with biases of
            zero; None for the network's own start.
        outer: the optimiser of λ.
        num_outer_steps: its steps.
        adapt_steps: of each test task.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Meta-training", ("loss",), "outer step", "query loss", log="y"),
        Panel("New tasks", ("adapted",), "gradient steps", "query loss"),
        Panel("New tasks", ("right", "right_untrained"), "gradient steps", "accuracy"),
    )

    task: FewShot = FewShot(tune=("weights",), batch=25, num_eval=600, rate=0.01)
    deviation: Annotated[float, Field(gt=0)] | None = 0.01
    outer: hg.Outer = hg.Outer("adam", learning_rate=1e-3, clip=float("inf"))
    num_outer_steps: Count = 70_000
    adapt_steps: Count = 10

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Query losses: of the tasks of each outer step, and of test tasks by steps.

        loss: means over stretches of outer steps. adapted: mean over test tasks after
        0, 1, ... gradient steps, of which before, one_step and last_step; interval:
        half the 95% interval after one. start: at the initial weights, after none. Of
        classes: right, the accuracy in percent, and right_untrained from the initial
        weights; accuracy, accuracy_untrained: after the last step.
        """
        key, start = jax.random.key(seed), self.start(seed)
        hparams, losses = meta_train(
            self.problem(seed),
            estimator,
            start,
            self.outer.transformation(),
            self.num_outer_steps,
            self.task.batch,
            key,
            report,
        )
        trials = jax.random.split(jax.random.fold_in(key, TEST), self.task.num_eval)
        before = self.tried(seed, start, trials)
        after = self.tried(seed, hparams, trials)
        means = after["loss"].mean(axis=0)
        error = after["loss"][:, 1].std() / len(trials) ** 0.5
        found = numbers(
            start=before["loss"][:, 0].mean(),
            before=means[0],
            one_step=means[1],
            last_step=means[-1],
            interval=CONFIDENT * error,
        )
        stretches = [stretch.mean() for stretch in losses]
        curves = {
            "loss": curve(stretches, np.cumsum([len(stretch) for stretch in losses])),
            "adapted": curve(means),
        }
        if "accuracy" in after:
            right, untrained = (
                100.0 * each["accuracy"].mean(axis=0) for each in (after, before)
            )
            found |= numbers(accuracy=right[-1], accuracy_untrained=untrained[-1])
            curves |= {"right": curve(right), "right_untrained": curve(untrained)}
        return Measured(numbers=found, curves=curves)

    def problem(self, seed: int) -> hg.Problem:
        """F of one task; the key draws it."""
        return self.task.model_copy(update={"batch": 1}).problem(seed)

    def tried(self, seed: int, hparams: HParams, keys: Key) -> dict[str, np.ndarray]:
        """Loss (and accuracy) on test tasks, one a key, by steps: [tasks, steps]."""
        update = {"batch": 1, "turns": 1, "proximity": 0.0}
        task = self.task.model_copy(update=update)
        problem = task.problem(seed)
        pool = jnp.asarray(task.episodes().pools(seed).test, problem.data.given.dtype)
        problem = problem.replace(data=problem.data._replace(given=pool))
        judged = adapted(task, problem, hparams, keys, self.adapt_steps)
        return {name: np.asarray(values) for name, values in judged.items()}

    def start(self, seed: int) -> HParams:
        """λ before meta-training."""
        hparams, key = self.task.space().defaults(), jax.random.key(seed)
        if self.deviation is None or "weights" not in hparams:
            return hparams
        first = jax.eval_shape(self.problem(seed).start, hparams, key).weights
        shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(first)]
        keys = jax.random.split(key, len(shapes))
        drawn = [
            jax.random.truncated_normal(k, -2.0, 2.0, shape).ravel()
            if len(shape) > 1
            else jnp.zeros(shape)
            for k, shape in zip(keys, shapes, strict=True)
        ]
        return {**hparams, "weights": self.deviation * jnp.concatenate(drawn)}


def meta_train(
    problem: hg.Problem,
    estimator,
    hparams: HParams,
    outer: optax.GradientTransformation,
    num_steps: int,
    batch: int,
    key: Key,
    report: Steps,
) -> tuple[HParams, list[np.ndarray]]:
    """λ ← λ − outer(mean over tasks of dF_task/dλ), with new tasks at each step.

    Args:
        problem: F of one task, drawn by the key.
        estimator: of its hypergradient.
        hparams: λ before the first step.
        outer: the optimiser; it sees λ as one vector.
        num_steps: outer steps.
        batch: tasks a step.
        key: of all tasks.
        report: told about progress.

    Returns:
        λ after the last step, and the mean F of each step, in stretches.
    """
    point, unravel = ravel_pytree(hparams)

    @jax.jit
    def run(problem, carry, steps):
        both = hg.value_and_hypergrad(problem, estimator)

        def step(carry, i):
            point, state = carry
            keys = jax.random.split(jax.random.fold_in(key, i), batch)
            values, slopes = jax.vmap(both, (None, 0))(unravel(point), keys)
            slope = jax.tree.map(lambda each: jnp.mean(each, axis=0), slopes)
            change, state = outer.update(ravel_pytree(slope)[0], state, point)
            return (point + change, state), jnp.mean(values)

        return jax.lax.scan(step, carry, steps)

    carry = point, outer.init(point)
    scan = functools.partial(run, problem)
    reached = list(in_stretches(scan, carry, num_steps, SHOWN, report))
    _, (point, _), _ = reached[-1]
    return unravel(point), [values for _, _, values in reached]


@jax.jit(static_argnums=(0, 4))
def adapted(
    task: FewShot, problem: hg.Problem, hparams: HParams, keys: Key, num_steps: int
) -> Judged:
    """Query loss (and accuracy) after 0, 1, ..., `num_steps` steps, [tasks, steps].

    Args:
        task: of batch 1.
        problem: one of it.
        hparams: λ.
        keys: one a task.
        num_steps: more than T is fine.
    """

    def one(key):
        def step(state, t):
            after = problem.step(hparams, state, t, key)
            return after, task.judged(problem, state)

        first = problem.start(hparams, key)
        return jax.lax.scan(step, first, jnp.arange(num_steps + 1))[1]

    return jax.vmap(one)(keys)


@paper("finn2017_sinusoid")
class FinnSinusoid(MetaLearning):
    """See `MetaLearning`."""
