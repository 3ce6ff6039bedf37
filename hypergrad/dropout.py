"""Dropout whose rate is a hyperparameter: the mask is a smooth function of the rate.

    y = x · m(rate, noise)       noise drawn first, so dm/drate exists along each path

Dropout with a hard mask has no derivative in its rate: a unit is there or is not. The
two below have one; with the key fixed, central differences agree with it.
"""

import jax
import jax.numpy as jnp
from jax import Array

from hypergrad.augment import floats
from hypergrad.guard import guard
from hypergrad.typing import Key


def dropout(
    key: Key, x: Array, rate: float | Array, *, temperature: float | Array = 0.1
) -> Array:
    """X · k / (1 − p) with keep k = σ((L − log p + log(1 − p)) / τ), L logistic noise.

    As the temperature τ falls to 0, k becomes 1 with probability 1 − p, otherwise 0:
    dropout with inverted scaling. For τ > 0 the mean of k is 1 − p to order τ².

    p = 0 is the identity exactly. There the derivative along a path is that of the
    scaling alone, x: no unit is about to be dropped, and near p = 0 that happens along
    few paths, with a slope of order 1/p. So begin a search at a positive rate. p = 1
    drops everything, with derivative 0.

    Source: Gal, Hron and Kendall, Concrete dropout (2017).

    Args:
        key: draws the noise.
        x: array of floats of any shape; every entry has its own mask.
        rate: p in [0, 1], a scalar; taken in the type of x.
        temperature: τ in (0, 1), a scalar.

    Raises:
        ValueError: x holds no floats.

    >>> import numpy as np
    >>> x = jnp.ones(6)
    >>> print(np.asarray(dropout(jax.random.key(3), x, 0.2) * 0.8).round(2))
    [0.   1.   1.   1.   0.99 1.  ]
    >>> print(dropout(jax.random.key(3), x, 0.0))
    [1. 1. 1. 1. 1. 1.]
    """
    x, rate = floats("x", x), jnp.asarray(rate, jnp.result_type(x))
    noise = jax.random.logistic(key, x.shape, x.dtype)
    inside = (rate > 0) & (rate < 1)
    # At both ends the slope of k along a path is 0, which 0 · ∞ would not say.
    p = jnp.where(inside, rate, 0.5)
    logit = jnp.log(p) - jnp.log1p(-p)
    keep = jax.nn.sigmoid((noise - logit) / jnp.asarray(temperature, x.dtype))
    keep = jnp.where(inside, keep, (rate <= 0).astype(x.dtype))
    return x * keep / jnp.where(rate < 1, 1 - rate, 1)


def gaussian_dropout(key: Key, x: Array, rate: float | Array) -> Array:
    """X · (1 + √(p / (1 − p)) ε), ε standard normal: dropout's mean and variance.

    p = 0 is the identity exactly. There the slope of the root is infinite, though its
    mean over ε is not; it counts as 0 (see `hypergrad.guard`), and near p = 0 the
    derivative varies with the key as 1/√p. The standard deviation α has no such end:
    let it be the hyperparameter and pass rate = α² / (1 + α²).

    Source: Srivastava et al., Dropout (2014), section 10; Kingma, Salimans and Welling,
    Variational dropout and the local reparameterization trick (2015).

    Args:
        key: draws ε.
        x: array of floats of any shape; every entry has its own ε.
        rate: p in [0, 1), a scalar; taken in the type of x.

    Raises:
        ValueError: x holds no floats.

    >>> print(gaussian_dropout(jax.random.key(0), jnp.ones(3), 0.2).round(2))
    [1.81 2.01 0.78]
    """
    x, rate = floats("x", x), jnp.asarray(rate, jnp.result_type(x))
    noise = jax.random.normal(key, x.shape, x.dtype)
    return x * (1 + guard(jnp.sqrt)(rate / (1 - rate)) * noise)
