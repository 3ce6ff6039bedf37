"""Differentiable regularisers, with one coefficient in all, per layer, or per weight.

A coefficient is a *prefix* of the weights: a number for the whole tree, a number for a
subtree, or an array for a leaf, of the leaf's own shape or a scalar. So

    weights = {"layer0": {"kernel": ..., "bias": ...}, "layer1": {...}}

may take 1e-3, {"layer0": 1e-3, "layer1": 1e-2}, or a tree like the weights themselves.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from hypergrad.typing import PyTree, Scalar, Weights


def l2(weights: Weights, coefficient: PyTree) -> Scalar:
    """½ Σ λ w², whose gradient λ w is weight decay.

    Args:
        weights: pytree of arrays w.
        coefficient: λ, a prefix of the weights.

    Raises:
        ValueError: where the coefficient is no prefix of the weights.

    >>> weights = {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array(3.0)}
    >>> print(l2(weights, 2.0), l2(weights, {"kernel": 2.0, "bias": 0.0}))
    14.0 5.0
    >>> print(l2(weights, {"kernel": jnp.array([1.0, 0.0]), "bias": 0.0}))
    0.5
    """
    return _penalty(lambda w: 0.5 * jnp.square(w), weights, coefficient)


def l1(weights: Weights, coefficient: PyTree) -> Scalar:
    """Σ λ |w|, with derivative 0 at w = 0; see `smooth_l1` for one without the kink.

    Args:
        weights: pytree of arrays w.
        coefficient: λ, a prefix of the weights.

    Raises:
        ValueError: where the coefficient is no prefix of the weights.

    >>> print(l1({"kernel": jnp.array([1.0, -2.0])}, 0.5))
    1.5
    """
    return _penalty(jnp.abs, weights, coefficient)


def elastic_net(weights: Weights, l1_coefficient: PyTree, l2_coefficient: PyTree):
    """Σ α |w| + ½ Σ β w².

    Source: Zou and Hastie, Regularization and variable selection via the elastic net
    (2005).

    Args:
        weights: pytree of arrays w.
        l1_coefficient: α, a prefix of the weights.
        l2_coefficient: β, a prefix of the weights.

    Raises:
        ValueError: where a coefficient is no prefix of the weights.

    >>> print(elastic_net(jnp.array([1.0, -2.0]), 0.5, 2.0))
    6.5
    """
    return l1(weights, l1_coefficient) + l2(weights, l2_coefficient)


def smooth_l1(weights: Weights, coefficient: PyTree, width: float | Array) -> Scalar:
    """Σ λ (√(w² + width²) - width): |w| with its kink rounded off over the width.

    Twice differentiable, as the derivative of training with respect to λ needs; the
    difference to Σ λ |w| is at most λ width for each weight.

    Args:
        weights: pytree of arrays w.
        coefficient: λ, a prefix of the weights.
        width: positive scalar, in units of the weights.

    Raises:
        ValueError: where the coefficient is no prefix of the weights.

    >>> print(smooth_l1(jnp.array([4.0, 0.0]), 0.5, 3.0))
    1.0
    """
    return _penalty(
        lambda w: jnp.sqrt(jnp.square(w) + jnp.square(width)) - width,
        weights,
        coefficient,
    )


def _penalty(
    term: Callable[[Array], Array], weights: Weights, coefficient: PyTree
) -> Scalar:
    """Σ over the prefix: λ Σ term(w) for a scalar λ, Σ λ term(w) for an array λ."""

    def subtree(path, scale, below) -> Array:
        scale = jnp.asarray(scale)
        for inner, w in jax.tree.leaves_with_path(below):
            if scale.shape not in ((), jnp.shape(w)):
                raise ValueError(
                    f"coefficient{jax.tree_util.keystr(path)} must be a scalar or have "
                    f"the shape {jnp.shape(w)} of weights"
                    f"{jax.tree_util.keystr((*path, *inner))}; got {scale.shape}"
                )
        sums = [jnp.sum(scale * term(jnp.asarray(w))) for w in jax.tree.leaves(below)]
        return sum(sums, jnp.zeros(()))

    try:
        parts = jax.tree_util.tree_map_with_path(subtree, coefficient, weights)
    except ValueError as error:
        if str(error).startswith("coefficient"):
            raise
        raise ValueError(
            f"coefficient must be a scalar, a prefix of the weights (say, one number a "
            f"layer) or a tree like them; got {jax.tree.structure(coefficient)} for "
            f"weights {jax.tree.structure(weights)}"
        ) from error
    return sum(jax.tree.leaves(parts), jnp.zeros(()))
