"""Models as pure functions: a plain pair, and one with state and two modes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypergrad.training import Context
from hypergrad.typing import Key, PyTree, Weights


class Model(NamedTuple):
    """`init(key) -> weights` and `apply(weights, x) -> y`."""

    init: Callable[[Key], Weights]
    apply: Callable[[Weights, jax.Array], jax.Array]


class StatefulModel(NamedTuple):
    """A model that may keep statistics, draw random numbers and tell train from eval.

    Attributes:
      init: `key -> (weights, model_state)`.
      apply: `(weights, context, *inputs) -> (outputs, model_state)`, the context being
        that of the losses of `Problem.with_context`.
    """

    init: Callable[[Key], tuple[Weights, PyTree]]
    apply: Callable[..., tuple[Any, PyTree]]


def stateful(model: Model) -> StatefulModel:
    """The same model, which hands the context's model state on as it is.

    Args:
      model: a plain pair.

    Returns:
      A `StatefulModel`, equal for equal models; its model state is `()`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from hypergrad.training import Context
      >>> model = stateful(mlp([3, 2]))
      >>> weights, model_state = model.init(jax.random.key(0))
      >>> context = Context(jax.random.key(1), model_state, train=True)
      >>> y, model_state = model.apply(weights, context, jnp.ones((5, 3)))
      >>> y.shape, model_state
      ((5, 2), ())
    """
    return StatefulModel(_WithState(model), _PassingState(model))


def stateless(model: StatefulModel) -> Model:
    """The plain pair x ↦ y of a model that keeps no state, in eval mode.

    Args:
      model: a model whose `init` gives a model state without arrays.

    Returns:
      A `Model`, equal for equal models.

    Raises:
      ValueError: at `init` and `apply`, if the model keeps state.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = stateless(stateful(mlp([3, 2])))
      >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3))).shape
      (5, 2)
    """
    return Model(_WithoutState(model), _InEvalMode(model))


@dataclass(frozen=True)
class _WithState:
    model: Model

    def __call__(self, key: Key):
        return self.model.init(key), ()


@dataclass(frozen=True)
class _PassingState:
    model: Model

    def __call__(self, weights: Weights, context: Context, *inputs):
        return self.model.apply(weights, *inputs), context.model_state


@dataclass(frozen=True)
class _WithoutState:
    model: StatefulModel

    def __call__(self, key: Key) -> Weights:
        weights, model_state = self.model.init(key)
        _refuse_state(model_state)
        return weights


@dataclass(frozen=True)
class _InEvalMode:
    model: StatefulModel

    def __call__(self, weights: Weights, x: jax.Array):
        key = jax.random.key(0)  # of no effect in eval mode
        _, empty = jax.eval_shape(self.model.init, key)
        _refuse_state(empty)
        return self.model.apply(weights, Context(key, empty, train=False), x)[0]


def _refuse_state(model_state: PyTree) -> None:
    if leaves := jax.tree_util.tree_leaves_with_path(model_state):
        raise ValueError(
            f"a plain Model keeps no state, and this one has model_state"
            f"{jax.tree_util.keystr(leaves[0][0])}: use it as a StatefulModel in "
            "Problem.with_context, or build it without batch normalisation"
        )


def mlp(
    sizes: Sequence[int], activation: Callable[[jax.Array], jax.Array] = jnp.tanh
) -> Model:
    """X ↦ W_L a(W_{L-1} ... a(W_1 x + b_1) ... ) + b_L, a multilayer perceptron.

    Args:
      sizes: widths from input to output, at least two.
      activation: elementwise a.

    Returns:
      A `Model`; weights are a tuple of `{"kernel": [in, out], "bias": [out]}`, kernels
      normal with variance 1 / in, biases zero; `apply` maps [..., in] to [..., out].

    Raises:
      ValueError: fewer than two sizes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = mlp([3, 8, 2])
      >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3))).shape
      (5, 2)
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must name input and output widths, got {list(sizes)}")

    def init(key: Key) -> Weights:
        keys = jax.random.split(key, len(sizes) - 1)
        return tuple(
            {
                "kernel": jax.random.normal(k, (fan_in, fan_out)) * fan_in**-0.5,
                "bias": jnp.zeros(fan_out),
            }
            for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
        )

    def apply(weights: Weights, x: jax.Array) -> jax.Array:
        *hidden, last = weights
        for layer in hidden:
            x = activation(_dense(layer, x))
        return _dense(last, x)

    return Model(init, apply)


def _dense(layer, x: jax.Array) -> jax.Array:
    y = x @ layer["kernel"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)
