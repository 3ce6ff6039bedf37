"""What the papers share in which hyperparameters move while one training runs.

    w_{t+1} = w_t − α_t u_t,        u_t = direction(g_0, ..., g_t),   g_t = ∇ℓ_t(w_t)
    α_{t+1} = α_t − β h_{t+1},      h_{t+1} = g_{t+1} · ∂w_{t+1}/∂α_t = −g_{t+1} · u_t

ℓ_t is the loss of batch t, weight decay included. That is `HypergradientDescent` driven
by `hg.tune`; any other online estimator can stand in its place.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hypergrad as hg
from experiments.paper import Curve, curve
from experiments.papers.torch_draws import TorchDraws
from hypergrad import Problem, tree
from hypergrad.typing import HParams, Key, PyTree, Tick

Network = Callable[[PyTree, hg.Context, jax.Array], tuple[jax.Array, PyTree]]
"""(weights, context, inputs) -> (logits, model state)."""
Change = Callable[[Key, jax.Array], jax.Array]
"""(key, inputs of a batch) -> inputs, a random change of training images."""
SHOWN = 500  # points of the curve of a hyperparameter


class Rows(NamedTuple):
    """Data, and the rows of each batch; −1 fills up one that is short."""

    inputs: jax.Array
    labels: jax.Array
    table: jax.Array


class Data(NamedTuple):
    """All that a training is given.

    Attributes:
        train: what steps are made on.
        judges: what judges λ; the training batch to come if None.
        weights: w_0.
        model_state: of the network before the first step.
    """

    train: Rows
    judges: Rows | None
    weights: PyTree
    model_state: PyTree = ()


class Linear(NamedTuple):
    """X ↦ x kernel + bias, in the order in which PyTorch counts these tensors."""

    kernel: jax.Array
    bias: jax.Array


class Epoch(NamedTuple):
    """What one epoch has done.

    Attributes:
        values: [S], the judge's losses before each step.
        path: like λ with a leading axis S, the λ of each step.
        state: the training's after the epoch.
    """

    values: np.ndarray
    path: dict[str, np.ndarray]
    state: hg.InnerState


def rows(
    inputs: np.ndarray,
    labels: np.ndarray,
    size: int,
    orders: list[np.ndarray],
    *,
    short: bool = True,
) -> Rows:
    """Rows in batches, in one order after another.

    Args:
        inputs: [n, ...].
        labels: [n].
        size: of a batch.
        orders: a permutation of the rows for each epoch.
        short: keep the last batch of an epoch, filled up with −1; or leave it out.

    Raises:
        ValueError: a batch has more rows than there are.
    """
    n = len(labels)
    if not 1 <= size <= n:
        raise ValueError(f"batch_size must lie in 1..{n} (rows), got {size}")
    steps = -(-n // size) if short else n // size
    table = np.full((len(orders), steps * size), -1, np.int32)
    for line, order in zip(table, orders, strict=True):
        line[:n] = order[: line.size]
    dtype = jnp.result_type(float)
    table = jnp.asarray(table.reshape(-1, size))
    return Rows(jnp.asarray(inputs, dtype), jnp.asarray(labels), table)


def linear_layers(draws: TorchDraws, sizes: tuple[int, ...]) -> tuple[Linear, ...]:
    """Kernels and biases U(±1/√fan_in), as PyTorch draws them.

    Args:
        draws: advanced by them.
        sizes: widths from input to output.
    """
    layers = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        kernel = draws.uniform(fan_in**-0.5, (fan_out, fan_in)).T
        bias = draws.uniform(fan_in**-0.5, (fan_out,))
        dtype = jnp.result_type(float)
        layers.append(Linear(jnp.asarray(kernel, dtype), jnp.asarray(bias, dtype)))
    return tuple(layers)


@functools.cache  # Equal functions share one compilation.
def perceptron(activation: Callable, last: Callable | None = None) -> Network:
    """Linear layers with an activation between, and one after the last."""

    def apply(weights, context, x):
        for index, (kernel, bias) in enumerate(weights):
            x = activation(x) if index else x
            x = x @ kernel
            x = x + jnp.broadcast_to(bias, x.shape)
        return (last(x) if last else x), context.model_state

    return apply


@dataclass(frozen=True, eq=False)
class Training:
    """The functions of a problem.

    Attributes:
        network: inputs to logits.
        optimizer: λ to an optax transformation.
        decay: δ; g_t = ∇(cross-entropy of batch t + δ/2 ‖w‖²).
        change: of the inputs, drawn once a step.
    """

    network: Network
    optimizer: Callable[[HParams], optax.GradientTransformation]
    decay: float = 0.0
    change: Change | None = None

    def start(self, hparams: HParams, tick: Tick) -> hg.InnerState:
        """w_0 and an optimiser at rest."""
        _, _, weights, model_state = tick.data
        at_rest = self.optimizer(hparams).init(weights)
        return hg.InnerState(weights, at_rest, model_state)

    def step(self, hparams: HParams, state: hg.InnerState, tick: Tick) -> hg.InnerState:
        """w_{t+1}."""
        slope = jax.grad(self._decayed, has_aux=True)
        grads, model_state = slope(state.weights, state.model_state, tick)
        updates, opt_state = self.optimizer(hparams).update(
            grads, state.opt_state, state.weights
        )
        weights = optax.apply_updates(state.weights, updates)
        return hg.InnerState(weights, opt_state, model_state)

    def loss(self, hparams: HParams, state: hg.InnerState, tick: Tick) -> jax.Array:
        """ℓ_t."""
        return self._decayed(state.weights, state.model_state, tick)[0]

    def judge(self, hparams: HParams, state: hg.InnerState, tick: Tick) -> jax.Array:
        """The cross-entropy of the judge's batch t, in train mode."""
        train, judges, _, _ = tick.data
        part = train if judges is None else judges
        change = self.change if judges is None else None
        return self._entropy(part, state.weights, state.model_state, tick, change)[0]

    def _decayed(self, weights, model_state, tick):
        value, model_state = self._entropy(
            tick.data.train, weights, model_state, tick, self.change
        )
        penalty = 0.5 * self.decay * tree.vdot(weights, weights)
        return value + penalty, model_state

    def _entropy(self, part, weights, model_state, tick, change):
        inputs, labels, table = part
        batch = table[tick.t % len(table)]  # λ is judged once more after the last step
        there, batch = (batch >= 0).astype(inputs.dtype), jnp.maximum(batch, 0)
        inputs, key = inputs[batch], tick.step_key
        if change is not None:
            inputs = change(jax.random.fold_in(key, 1), inputs)
        context = hg.Context(key, model_state, train=True)
        logits, model_state = self.network(weights, context, inputs)
        losses = hg.cross_entropy(logits, labels[batch])
        return jnp.sum(there * losses) / jnp.sum(there), model_state


sgd = functools.cache(optax.sgd)


@functools.cache
def training(network, optimizer, decay=0.0, change=None) -> Training:
    """One `Training` for equal arguments, so that problems share a compilation."""
    return Training(network, optimizer, decay, change)


def problem_of(functions: Training, data: Data) -> Problem:
    """F is the sum over the steps of the judge's losses."""
    return Problem.from_step(
        functions.start,
        functions.step,
        functions.judge,
        inner_loss_at=functions.loss,
        data=data,
        num_steps=len(data.train.table),
        outer_every=1,
    )


def thinned(path: np.ndarray) -> Curve:
    """A hyperparameter over the steps from 1 on: the first all, then ever fewer."""
    count = len(path)
    late = np.geomspace(1, count, SHOWN).round().astype(int)
    steps = np.union1d(np.arange(1, min(count, SHOWN) + 1), late)
    return curve(path[steps - 1], steps)


def trained(
    problem: Problem,
    estimator: hg.Estimator | None,
    hparams: dict[str, jax.Array],
    outer: optax.GradientTransformation,
    num_epochs: int,
    key: Key,
) -> Iterator[Epoch]:
    """The epochs of one training in which λ moves at each step.

    Args:
        problem: its steps are divided evenly among the epochs.
        estimator: an online one that makes one step a call; None holds λ.
        hparams: λ_0.
        outer: the optimiser of λ.
        num_epochs: how many.
        key: of the training.

    Raises:
        ValueError: the estimator makes no single steps.
    """
    steps = problem.num_steps // num_epochs
    state = problem.start(hparams, key)
    if estimator is None:
        for epoch in range(num_epochs):
            state, values = _walk(problem, hparams, state, key, epoch * steps, steps)
            held = {
                k: np.broadcast_to(v, (steps, *v.shape)) for k, v in hparams.items()
            }
            yield Epoch(np.asarray(values), held, state)
        return
    if not isinstance(estimator, hg.OnlineEstimator) or estimator.steps(problem) != 1:
        raise ValueError(
            "λ moves at every step of one training: estimator must be an online one of "
            "single steps, such as HypergradientDescent, MARTHE, RTHO or Tower; got "
            f"{estimator}"
        )
    ahead, going = problem.outer(hparams, state, 0, key), None
    for _ in range(num_epochs):
        run = hg.tune(
            problem, estimator, hparams, outer, num_calls=steps, key=key, state=going
        )
        hparams, going = run.hparams, run.state
        values = np.append(ahead, run.values)
        ahead = values[-1]
        path = {name: np.asarray(each) for name, each in run.trajectory.items()}
        yield Epoch(values[:-1], path, going.estimator.inner)


@functools.partial(jax.jit, static_argnums=5)
def _walk(problem, hparams, state, key, first, steps):
    def body(state, t):
        value = problem.outer(hparams, state, t, key)
        return problem.step(hparams, state, t, key), value

    return jax.lax.scan(body, state, first + jnp.arange(steps))


def evaluated(
    network: Network, state: hg.InnerState, inputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and share of wrong answers, in eval mode."""
    return _evaluated(network, state.weights, state.model_state, inputs, labels)


@functools.partial(jax.jit, static_argnums=0)
def _evaluated(network, weights, model_state, inputs, labels):
    context = hg.Context(jax.random.key(0), model_state, train=False)

    def one(row):
        logits = network(weights, context, row[0][None])[0][0]
        return hg.cross_entropy(logits, row[1]), jnp.argmax(logits)

    losses, answers = jax.lax.map(one, (inputs, labels), batch_size=1000)
    return jnp.mean(losses), jnp.mean(answers != labels)
