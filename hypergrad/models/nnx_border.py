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

    Raises:
      ValueError: `build` is no such function; the module holds `nnx.BatchNorm`, which
        cuts the derivative through its running averages; or, at `apply`, variables
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
        if isinstance(part, nnx.BatchNorm):
            raise ValueError(
                f"the module's {'.'.join(map(str, path))} is an nnx.BatchNorm, which "
                "stops the derivative through its running averages, and with it a "
                "part of dF/dλ: use hypergrad.models.BatchNorm"
            )
    return module


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
