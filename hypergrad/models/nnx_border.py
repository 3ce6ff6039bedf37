"""A flax NNX module crosses once into pure functions of weights and context.

`nnx.split` at init, `nnx.merge` inside apply, and plain JAX transformations around: the
module is an object for the length of one call only.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hypergrad import tree
from hypergrad.models.pair import StatefulModel
from hypergrad.training import Context
from hypergrad.typing import Key, PyTree, Weights

Build = Callable[[nnx.Rngs], nnx.Module]


def from_nnx(build: Build) -> StatefulModel:
    """The pure functions of the module that `build(rngs)` makes.

    `nnx.Param` variables are the weights, random streams are seeded anew from
    `context.key` at every call (one key, one draw), and all other variables are the
    model state. Weights and state are nested dicts by attribute name, with floating
    leaves in the default float dtype; a list's items are named 0, 1, 2, ... The parent
    dict of arrays, such as {"kernel", "bias"}, is a layer. `context.train` chooses the
    module's `train()` or `eval()` mode. What is sown as `nnx.Intermediate` is dropped.

    Args:
      build: `rngs -> module`, creating all variables in the constructor.

    Returns:
      A `StatefulModel`; `apply(weights, context, *inputs)` calls the module with the
      inputs. Models of one and the same `build` are equal, so that a problem with
      either is traced once.

    Under x64 the module must compute in float64. `nnx.RNN` starts from a carry in its
    cell's `param_dtype`, which is then to be float64; `nnx.MultiHeadAttention` without
    dropout has its softmax in float32 by `jax.nn`, where `Transformer` has not.

    Raises:
      ValueError: `build` is no such function; the module holds `nnx.BatchNorm` or
        `nnx.SpectralNorm`, which cut the derivative through their state, or under x64
        one that computes in float32 (`nnx.Embed` by default); or, at `apply`, variables
        change their number or shapes in a call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from hypergrad.models import MLP
      >>> from hypergrad.training import Context
      >>> model = from_nnx(lambda rngs: MLP(3, 8, 1, 2, norm="batch", rngs=rngs))
      >>> weights, model_state = model.init(jax.random.key(0))
      >>> weights["layers"][0]["linear"]["kernel"].shape
      (3, 8)
      >>> context = Context(jax.random.key(1), model_state, train=True)
      >>> y, model_state = model.apply(weights, context, jnp.ones((5, 3)))
      >>> y.shape
      (5, 2)
    """
    if isinstance(build, nnx.Module) or not callable(build):
        raise ValueError(
            f"build must be a function rngs -> nnx.Module, got {type(build).__name__}: "
            "write from_nnx(lambda rngs: MLP(..., rngs=rngs))"
        )
    return StatefulModel(_Init(build), _Apply(build))


@dataclass(frozen=True)
class _Init:
    build: Build

    def __call__(self, key: Key) -> tuple[Weights, PyTree]:
        _, weights, model_state, _ = _split(_built(self.build, key))
        cast = functools.partial(tree.cast_floats, dtype=jnp.result_type(float))
        return cast(weights), cast(model_state)


@dataclass(frozen=True)
class _Apply:
    build: Build

    def __call__(self, weights: Weights, context: Context, *inputs: Any):
        graphdef, streams = _skeleton(self.build)
        rngs = _seeded(streams, context.key)
        module = nnx.merge(graphdef, weights, context.model_state, rngs)
        if context.train:
            module.train()
        else:
            module.eval()
        outputs = module(*inputs)
        _, new_weights, model_state, _ = _split(module)
        _check_same("weights", weights, new_weights)
        _check_same("model_state", context.model_state, model_state)
        as_before = lambda old, new: jnp.asarray(new, jnp.result_type(old))
        return outputs, jax.tree.map(as_before, context.model_state, model_state)


class _Skeleton(NamedTuple):
    """What of a module is no array, and the shapes of its random streams."""

    graphdef: nnx.GraphDef
    streams: PyTree


@functools.lru_cache(maxsize=128)
def _skeleton(build: Build) -> _Skeleton:
    static = []

    def streams(key):
        graphdef, _, _, streams = _split(_built(build, key))
        static.append(graphdef)
        return streams

    shapes = jax.eval_shape(streams, jax.random.key(0))
    return _Skeleton(static[0], shapes)


def _built(build: Build, key: Key) -> nnx.Module:
    module = build(nnx.Rngs(key))
    if not isinstance(module, nnx.Module):
        raise ValueError(
            f"build(rngs) must return an nnx.Module, got {type(module).__name__}"
        )
    for path, part in nnx.iter_modules(module):
        if (reason := _refusal(part)) is not None:
            name = ".".join(map(str, path)) or "root"
            raise ValueError(
                f"the module's {name} is an nnx.{type(part).__name__}, which {reason}"
            )
    return module


def _refusal(part: nnx.Module) -> str | None:
    """Why a module's derivative would be wrong or rounded; None if it would not."""
    match part:
        case nnx.BatchNorm():
            return (
                "stops the derivative through its running averages, and with it a "
                "part of dF/dλ: use hypergrad.models.BatchNorm"
            )
        case nnx.SpectralNorm():
            return (
                "stops the derivative through its singular vectors, and with it a "
                "part of dF/dλ: penalise or rescale the weights in the loss instead"
            )
    double = jnp.result_type(float) == jnp.float64
    if double and vars(part).get("dtype") in (jnp.float32, np.dtype("float32")):
        return (
            "computes in float32 while the default float is float64, so that the loss "
            "would be rounded: give it dtype=jnp.float64 (and param_dtype=jnp.float64, "
            "if it has a carry)"
        )
    return None


def _split(module: nnx.Module):
    """(graphdef, weights, model state, random streams)."""
    kinds = (nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    graphdef, weights, streams, _, rest = nnx.split(module, *kinds)
    return graphdef, *map(_plain, (weights, rest, streams))


def _plain(state) -> PyTree:
    """Nested dicts of arrays."""
    if isinstance(state, Mapping):
        return {name: _plain(child) for name, child in state.items()}
    return nnx.as_pure(state)


def _seeded(streams: PyTree, key: Key) -> PyTree:
    """Stream number i starts from `fold_in(key, i)`, nothing drawn yet."""
    leaves, treedef = jax.tree.flatten(streams)

    def seed(i, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own = jax.random.fold_in(key, i)
            return jax.random.split(own, leaf.shape) if leaf.shape else own
        return jnp.zeros(leaf.shape, leaf.dtype)

    return treedef.unflatten([seed(i, leaf) for i, leaf in enumerate(leaves)])


def _check_same(name: str, before: PyTree, after: PyTree) -> None:
    """One structure and the same shapes, or a `ValueError`."""
    shapes = [
        {
            jax.tree_util.keystr(path): jnp.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(part)
        }
        for part in (before, after)
    ]
    if shapes[0] != shapes[1]:
        changed = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise ValueError(
            f"the module's {name} changed in a call, in {changed}: create every "
            "nnx.Variable in the constructor and keep its shape"
        )
