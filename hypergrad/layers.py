"""One number for each layer of a model: learning rates, decays, scales.

A layer is what holds arrays directly: in {"a": {"kernel", "bias"}, "b": {"kernel"}} the
layers are "a" and "b". Weights that are a bare array, or hold arrays at their top, have
a layer "weights". Layers are numbered in the order of the tree's leaves, which for
dictionaries is that of the sorted keys and not that of depth: entry 0 may be the head.
`layer_names` tells the order; a mapping from names needs none.

    l2(weights, per_layer(decays, weights))             a decay for each layer
    optax.chain(optax.sgd(1.0), scale_layers(rates))    a learning rate for each layer
    scale_layers({"": 1.0, "head": 0.1})                one for the head, one for others
"""

import difflib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hypergrad.typing import PyTree, Weights

LayerValues = Array | Mapping[str, float | Array]
"""A vector [L] in the order of `layer_names`, or scalars by name.

A name is that of a layer or a dotted prefix of some ("blocks", "blocks.0"), and ""
is all of them; a layer has the value of the longest that it begins with.
"""


def layer_names(weights: Weights) -> tuple[str, ...]:
    """The paths of the parents of arrays, in tree order, such as "blocks.0.conv".

    Args:
        weights: pytree of arrays.

    >>> dense = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> layer_names({"head": dense, "blocks": [dense, {"conv": dense}]})
    ('blocks.0', 'blocks.1.conv', 'head')
    >>> layer_names(jnp.ones(3))
    ('weights',)
    """
    return tuple(
        jax.tree_util.keystr(parent, simple=True, separator=".") or "weights"
        for parent in dict.fromkeys(_parents(weights))
    )


def per_layer(values: LayerValues, weights: Weights) -> PyTree:
    """A tree like the weights in which every leaf is its layer's scalar.

    Args:
        values: one for each of the L layers, [L] or {name or dotted prefix: scalar}.
        weights: pytree of arrays; only its structure counts.

    Raises:
        ValueError: not one value for each layer, or a name that is no layer's.

    >>> layers = ({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, {"kernel": 1.0})
    >>> tree = per_layer(jnp.array([0.5, 2.0]), layers)
    >>> print(tree[0]["bias"], tree[1]["kernel"])
    0.5 2.0
    >>> print(per_layer({"": 0.5, "1": 2.0}, layers)[1]["kernel"])
    2.0
    """
    return _spread("values", values, weights)


def scale_layers(
    rates: LayerValues | Callable[[Array], LayerValues],
) -> optax.GradientTransformation:
    """Updates of layer l times r_l, where r may depend on the step.

    It goes where a learning rate goes, after the transformation that it scales:
    `optax.chain(optax.adam(1.0), scale_layers(rates))`. A rate of 0 freezes a layer.

    Args:
        rates: r, one for each of the L layers, [L] or {name or dotted prefix: scalar};
            or a function of the step count that returns them, such as
            `lambda t: table[t]` for a table [T, L].

    Raises:
        ValueError: not one rate for each layer, or a name that is no layer's.

    >>> tx = scale_layers(jnp.array([1.0, 0.0]))
    >>> w = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> updates, _ = tx.update(w, tx.init(w))
    >>> print(updates["body"]["bias"], updates["head"]["bias"])
    [1. 1.] [0. 0.]
    """

    def scaled(updates, values):
        scales = _spread("rates", values, updates)
        return jax.tree.map(lambda u, r: u * r.astype(u.dtype), updates, scales)

    if not callable(rates):
        return optax.stateless(lambda updates, _: scaled(updates, rates))
    schedule = rates

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        count = jnp.asarray(optax.safe_increment(state.count))
        new_state = optax.ScaleByScheduleState(count)
        return scaled(updates, schedule(state.count)), new_state

    return optax.GradientTransformation(init, update)


def _parents(weights: Weights) -> list[tuple]:
    """For each leaf the path of what holds it."""
    return [path[:-1] for path, _ in jax.tree.leaves_with_path(weights)]


def _spread(name: str, values: LayerValues, weights: Weights) -> PyTree:
    parents = _parents(weights)
    index = {parent: i for i, parent in enumerate(dict.fromkeys(parents))}
    if isinstance(values, Mapping):
        values = jnp.asarray(_by_name(name, values, layer_names(weights)))
    values = jnp.asarray(values)
    if values.shape != (len(index),):
        got = len(values) if values.ndim == 1 else f"shape {values.shape}"
        raise ValueError(
            f"{name} must have {len(index)} entries, one for each layer "
            f"({', '.join(layer_names(weights))}); got {got}"
        )
    leaves = [values[index[parent]] for parent in parents]
    return jax.tree.unflatten(jax.tree.structure(weights), leaves)


def _by_name(
    name: str, values: Mapping[str, float | Array], layers: tuple[str, ...]
) -> list[float | Array]:
    """Of each layer the value of its longest prefix among the names: [L]."""
    prefixes = {layer: _prefixes(layer) for layer in layers}
    known = {prefix for each in prefixes.values() for prefix in each} | {""}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f"{name} has an unknown name {key!r}; expected layers of "
                f"({', '.join(layers)}) or dotted prefixes of them"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
        if jnp.shape(value):
            raise ValueError(
                f"{name}[{key!r}] must be a scalar; got shape {jnp.shape(value)}"
            )
    for layer in layers:
        if not any(prefix in values for prefix in prefixes[layer]):
            raise ValueError(
                f"{name} must have a value for each layer; got none for {layer!r}; "
                f'name it, or give the default of all as ""'
            )
    longest = [next(p for p in prefixes[layer] if p in values) for layer in layers]
    return [values[key] for key in longest]


def _prefixes(layer: str) -> list[str]:
    """The dotted prefixes of a layer's name, longest first; the last is ""."""
    parts = layer.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), -1, -1)]
