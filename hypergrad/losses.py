"""Losses per example, and their mean with weights that may be hyperparameters."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from hypergrad.typing import Scalar


def cross_entropy(
    logits: Array, labels: ArrayLike, smoothing: float | Array = 0.0
) -> Array:
    """−Σ_c q_c log softmax(logits)_c with targets q = (1 − s) labels + s / C.

    Label smoothing s moves that share of every target to the uniform distribution over
    the C classes; the loss is linear in s. A class c masked by the logit −∞ costs
    nothing where q_c = 0: with the default s only, for any other asks for it.

    Source: Szegedy et al., Rethinking the Inception architecture for computer vision
    (2016).

    Args:
        logits: [..., C].
        labels: integers [...] in 0 ... C − 1, or probabilities [..., C]. An integer out
            of range makes the loss and the gradient of its example NaN: give padding a
            label in range and the weight 0.
        smoothing: s in [0, 1], a scalar.

    Returns:
        One loss per example, [...].

    Raises:
        ValueError: where the labels fit the logits in neither way.

    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> print(cross_entropy(logits, jnp.array([0])))  # log 2
    [0.6931472]
    >>> print(cross_entropy(logits, jnp.array([[0.0, 0.5, 0.5]])))  # log 4
    [1.3862944]
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    surprise = -jax.nn.log_softmax(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == logits.shape[:-1]:
        known = (labels >= 0) & (labels < logits.shape[-1])
        index = jnp.where(known, labels, 0)[..., None]
        chosen = jnp.take_along_axis(surprise, index, axis=-1)[..., 0]
        chosen = chosen * jnp.where(known, 1.0, jnp.nan)  # the gradient, too
    elif jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == logits.shape:
        nothing = (labels == 0) & jnp.isinf(surprise)  # 0 · ∞ = 0
        chosen = jnp.sum(labels * jnp.where(nothing, 0.0, surprise), axis=-1)
    else:
        raise ValueError(
            f"labels must be integers of shape {logits.shape[:-1]} or probabilities of "
            f"shape {logits.shape}, as the logits ask; got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if isinstance(smoothing, int | float) and smoothing == 0:
        return chosen  # whatever the other classes cost
    return (1 - smoothing) * chosen + smoothing * jnp.mean(surprise, axis=-1)


def weighted_mean(losses: Array, weights: Array) -> Scalar:
    """(1/n) Σ_i w_i ℓ_i: divided by the number of examples, not by Σ w_i.

    So the mean over random batches is the loss of all rows, an example of weight 0 is
    as if its loss were 0, and weights of one give the plain mean. Divided by Σ w_i the
    loss would not change when all weights grow together (a direction of λ with no
    slope), one weight would act on every other example of its batch, and a batch whose
    weights are all zero would be 0/0.

    Weights of classes are looked up: `weighted_mean(losses, class_weights[labels])`.

    Args:
        losses: ℓ, one for each example, [n].
        weights: w, [n].

    Raises:
        ValueError: where the shapes differ.

    >>> losses, labels = jnp.array([1.0, 2.0, 3.0]), jnp.array([0, 1, 1])
    >>> print(weighted_mean(losses, jnp.array([1.0, 0.4])[labels]))
    1.0
    """
    losses, weights = jnp.asarray(losses), jnp.asarray(weights)
    if losses.shape != weights.shape:
        raise ValueError(
            f"weights must have the shape {losses.shape} of losses, one for each "
            f"example; got {weights.shape}"
        )
    return jnp.mean(weights * losses)
