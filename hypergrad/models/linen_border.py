"""A flax Linen module as pure functions of weights and context."""

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from hypergrad import tree
from hypergrad.models.pair import StatefulModel
from hypergrad.training import Context
from hypergrad.typing import Key, PyTree, Weights

# How modules ask for the mode, and what the argument is in train mode.
_MODES = {"train": True, "training": True, "deterministic": False}
_MODES["use_running_average"] = False


def from_linen(module: linen.Module, *example_inputs: jax.Array) -> StatefulModel:
    """The pure functions of a Linen module.

    The collection `params` is the weights; `batch_stats` and all other collections are
    the model state, as a dict by collection, which may change in train mode only.
    Floating leaves are in the default float dtype. `context.key` seeds every random
    stream (`dropout` by name, others by flax's fall-back). The module is told the mode
    through whichever argument its `__call__` has of `train`, `training`,
    `deterministic` and `use_running_average`.

    Args:
      module: the module; hashable, as modules with plain fields are.
      example_inputs: arrays of the shapes and dtypes of the inputs.

    Returns:
      A `StatefulModel`, equal for equal modules and shapes.

    Raises:
      ValueError: `module` is a class or no Linen module.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen
      >>> from hypergrad.training import Context
      >>> model = from_linen(linen.Dense(2), jnp.ones((1, 3)))
      >>> weights, model_state = model.init(jax.random.key(0))
      >>> context = Context(jax.random.key(1), model_state, train=True)
      >>> model.apply(weights, context, jnp.ones((5, 3)))[0].shape
      (5, 2)
    """
    if not isinstance(module, linen.Module):
        raise ValueError(
            f"module must be an instance of flax.linen.Module, got {module!r}: for an "
            "NNX module use from_nnx"
        )
    inputs = tuple(
        jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in example_inputs
    )
    return StatefulModel(_Init(module, inputs), _Apply(module))


@dataclass(frozen=True)
class _Init:
    module: linen.Module
    inputs: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, key: Key) -> tuple[Weights, PyTree]:
        variables = self.module.lazy_init(
            _streams(key), *self.inputs, **_mode(self.module, train=False)
        )
        variables = tree.cast_floats(dict(variables), jnp.result_type(float))
        return variables.pop("params", {}), variables


@dataclass(frozen=True)
class _Apply:
    module: linen.Module

    def __call__(self, weights: Weights, context: Context, *inputs: Any):
        before = context.model_state
        outputs, after = self.module.apply(
            {"params": weights, **before},
            *inputs,
            rngs=_streams(context.key),
            mutable=list(before) if context.train else [],
            **_mode(self.module, context.train),
        )
        new = {**before, **after}
        as_before = lambda old, new: jnp.asarray(new, jnp.result_type(old))
        return outputs, jax.tree.map(as_before, before, new)


def _streams(key: Key) -> dict[str, Key]:
    params, dropout = jax.random.split(key)
    return {"params": params, "dropout": dropout}


def _mode(module: linen.Module, train: bool) -> dict[str, Any]:
    """The argument, if any, that tells the module the mode."""
    arguments = inspect.signature(type(module).__call__).parameters
    return {
        name: train == when_training
        for name, when_training in _MODES.items()
        if name in arguments
    }
