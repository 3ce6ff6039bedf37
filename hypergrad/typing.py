"""Names for the shapes of things that travel through the library."""

from typing import Any, NamedTuple, TypeAlias

import jax

PyTree: TypeAlias = Any
"""Any nest of containers whose leaves are arrays."""

HParams: TypeAlias = PyTree
"""The hyperparameters λ: a pytree; its floating leaves are differentiated."""

Weights: TypeAlias = PyTree
"""The trained quantities w."""

Batch: TypeAlias = PyTree
"""Rows gathered from the training (or validation) pytree."""

Key: TypeAlias = jax.Array
"""A JAX random key, typed (`jax.random.key`) or raw uint32."""

Scalar: TypeAlias = jax.Array
"""A floating array of shape ()."""


class Tick(NamedTuple):
    """Where in the run we are: what `start`, `step` and `outer_at` may depend on.

    Attributes:
      t: number of steps done so far, an int32 scalar (0 for `start` and the first
      step). key: the run's key, the same at every t; `fold_in(key, t)` is a step's own.
      data: the problem's data pytree.
    """

    t: jax.Array
    key: Key
    data: PyTree

    @property
    def step_key(self) -> Key:
        """A key of this step alone."""
        return jax.random.fold_in(self.key, self.t)
