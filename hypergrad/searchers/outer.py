"""The optimiser that moves hyperparameters along their hypergradient."""

import difflib
import math
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import optax

_NAMES = ("sgd", "momentum", "nesterov", "adam", "rmsprop")


@final
@dataclass(frozen=True)
class Outer:
    """z ← z − η_k · direction(clip(dF/dz)): an optax optimiser as a hashable value.

    Args:
        name: "sgd", "momentum", "nesterov", "adam" or "rmsprop".
        learning_rate: η, in coordinates: 0.1 moves a log-scaled λ by about 10%.
        b1: decay of the first moment of adam.
        b2: decay of the second moment of adam and rmsprop.
        momentum: decay of the velocity of momentum and nesterov.
        clip: largest norm of dF/dz. Hypergradients of long trainings explode near the
            edge of stability, and one such would stay in a second moment for ever.
        final: η of the last step over that of the first, by a half cosine; 1 keeps η.

    >>> Outer("sgd", learning_rate=0.5)
    Outer(name='sgd', learning_rate=0.5, b1=0.9, b2=0.999, momentum=0.9, clip=10.0, \
final=1.0)
    """

    name: str = "adam"
    learning_rate: float = 0.1
    b1: float = 0.9
    b2: float = 0.999
    momentum: float = 0.9
    clip: float = 10.0
    final: float = 1.0

    def __post_init__(self):
        if self.name not in _NAMES:
            close = difflib.get_close_matches(self.name, _NAMES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"name must be one of {_NAMES}; got {self.name!r}{hint}")
        for field in ("learning_rate", "clip"):
            value = getattr(self, field)
            if not value > 0:
                raise ValueError(f"{field} must be positive; got {value}")
        if math.isinf(self.learning_rate):
            raise ValueError("learning_rate must be finite; got inf")
        for field in ("b1", "b2", "momentum"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise ValueError(f"{field} must be in [0, 1); got {value}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be in [0, 1]; got {self.final}")

    def transformation(self) -> optax.GradientTransformation:
        """The clipped optimiser, at the learning rate of the first step."""
        rate = self.learning_rate
        optimizers = {
            "sgd": lambda: optax.sgd(rate),
            "momentum": lambda: optax.sgd(rate, momentum=self.momentum),
            "nesterov": lambda: optax.sgd(rate, momentum=self.momentum, nesterov=True),
            "adam": lambda: optax.adam(rate, b1=self.b1, b2=self.b2),
            "rmsprop": lambda: optax.rmsprop(rate, decay=self.b2),
        }
        return optax.chain(_clip(self.clip), optimizers[self.name]())

    def decay(self, progress: jax.Array) -> jax.Array:
        """η_k / η_0 at `progress` from 0 to 1: final + (1 − final)(1 + cos π p)/2.

        >>> print(Outer(final=0.2).decay(jnp.array(0.5)).round(3))
        0.6
        """
        cosine = 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0)))
        return self.final + (1.0 - self.final) * cosine


def _clip(limit: float) -> optax.GradientTransformation:
    """Scale a vector g by min(1, limit / ‖g‖), for a ‖g‖ up to the largest float."""

    def clip(grads, _):
        # For any unit u > 0 the same; this one overflows neither in g/u nor in 1/u.
        tiny = jnp.finfo(grads.dtype).tiny
        unit = jnp.clip(jnp.max(jnp.abs(grads)), tiny, 0.25 / tiny)
        direction = grads / unit
        return direction * jnp.minimum(unit, limit / jnp.linalg.norm(direction))

    return optax.stateless(clip)
