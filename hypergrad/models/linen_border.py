"""A flax Linen module as pure functions of weights and context."""

import inspect
from collections.abc import Mapping
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
_MODES = {"train": True, "training": True, "is_training": True}
_MODES |= {"deterministic": False, "use_running_average": False}

Mode = tuple[tuple[str, bool], ...]
"""The arguments that tell a module the mode, with their values in train mode."""


def from_linen(
    module: linen.Module,
    *example_inputs: jax.Array,
    when_training: Mapping[str, bool] | None = None,
) -> StatefulModel:
    """The pure functions of a Linen module.

    The collection `params` is the weights; `batch_stats` and all other collections are
    the model state, as a dict by collection, which may change in train mode only.
    Floating leaves are in the default float dtype. `context.key` seeds every random
    stream (`dropout` by name, others by flax's fall-back).

    Args:
      module: the module; hashable, as modules with plain fields are.
      example_inputs: arrays of the shapes and dtypes of the inputs.
      when_training: the arguments of the module's `__call__` that tell it the mode,
        with their values in train mode, as {"eval_mode": False}; in eval mode they are
        negated. {} for a module that is the same in both modes. None for whichever it
        has of `train`, `training`, `is_training`, `deterministic` and
        `use_running_average`.

    Returns:
      A `StatefulModel`, equal for equal modules and shapes.

    Raises:
      ValueError: `module` is a class or no Linen module, or its `__call__` has no
        argument that `when_training` names; at `init`, the module has `batch_stats` or
        dropout, and no argument is known that tells it the mode.

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
    mode = _known(module) if when_training is None else _told(module, when_training)
    return StatefulModel(_Init(module, inputs, mode), _Apply(module, mode))


@dataclass(frozen=True)
class _Init:
    module: linen.Module
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    mode: Mode | None

    def __call__(self, key: Key) -> tuple[Weights, PyTree]:
        dropping = []

        def watch(call, args, kwargs, context):
            if _drops(context.module):
                dropping.append(type(context.module).__name__)
            return call(*args, **kwargs)

        with linen.intercept_methods(watch):
            variables = self.module.lazy_init(
                _streams(key), *self.inputs, **_arguments(self.mode, train=False)
            )
        if self.mode is None and (dropping or "batch_stats" in variables):
            raise ValueError(
                f"{type(self.module).__name__} has {(*dropping, 'batch_stats')[0]}, "
                "and its __call__ no argument that is known to tell it the mode "
                f"({', '.join(_MODES)}), so that it would be the same in training and "
                "in evaluation: name the argument and its value in train mode, as in "
                'from_linen(..., when_training={"eval_mode": False}), or give {} if '
                "that is meant"
            )
        variables = tree.cast_floats(dict(variables), jnp.result_type(float))
        return variables.pop("params", {}), variables


@dataclass(frozen=True)
class _Apply:
    module: linen.Module
    mode: Mode | None

    def __call__(self, weights: Weights, context: Context, *inputs: Any):
        before = context.model_state
        outputs, after = self.module.apply(
            {"params": weights, **before},
            *inputs,
            rngs=_streams(context.key),
            mutable=list(before) if context.train else [],
            **_arguments(self.mode, context.train),
        )
        new = {**before, **after}
        as_before = lambda old, new: jnp.asarray(new, jnp.result_type(old))
        return outputs, jax.tree.map(as_before, before, new)


def _streams(key: Key) -> dict[str, Key]:
    params, dropout = jax.random.split(key)
    return {"params": params, "dropout": dropout}


def _known(module: linen.Module) -> Mode | None:
    """The mode's arguments by their usual names; None if there are none."""
    arguments = inspect.signature(type(module).__call__).parameters
    return tuple((name, on) for name, on in _MODES.items() if name in arguments) or None


def _told(module: linen.Module, when_training: Mapping[str, bool]) -> Mode:
    """The mode's arguments as given, checked."""
    arguments = inspect.signature(type(module).__call__).parameters
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        arguments = when_training
    for name, on in when_training.items():
        if name not in arguments or not isinstance(on, bool):
            raise ValueError(
                "when_training must give True or False for arguments of the __call__ "
                f"of {type(module).__name__}, which has {list(arguments)}; got "
                f"{name!r}: {on!r}"
            )
    return tuple(sorted(when_training.items()))


def _arguments(mode: Mode | None, train: bool) -> dict[str, Any]:
    return {name: train == when_training for name, when_training in mode or ()}


def _drops(module: linen.Module) -> bool:
    match module:
        case linen.Dropout(rate=rate):
            return rate > 0
        case linen.MultiHeadDotProductAttention(dropout_rate=rate):
            return rate > 0
    return False
