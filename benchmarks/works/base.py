"""What a work is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs import Program
from hypergrad import tree
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree

FORWARD = "forward training"
"""The contender every ratio is taken to."""


@dataclass(frozen=True)
class Work:
    """Contenders that answer one question, and what peers need to answer it, too.

    Attributes:
      name: of the command.
      title: what is trained, in a line.
      programs: JAX contenders by name, the one called `base` among them.
      reference: whose hypergradient the others are held against; None where there is
        none.
      tolerance: largest relative difference of a part of λ that does not count as
        wrong.
      steps: T.
      base: the contender to which ratios are taken.
      history_bytes: of one history of inner gradients; None where it means nothing.
      peers: programs in other libraries, `module:function` of `benchmarks.peers`.
      arrays: what is handed over to them.
      settings: numbers and names handed over to them.
      problem: what `plan` is asked about, with `hparams` and `key`.
      hparams: λ.
      key: of the run.
      complete: `(record, hypergradients by contender) -> record` with what is measured
        beside time and memory.
    """

    name: str
    title: str
    programs: Mapping[str, Program]
    reference: str | None
    tolerance: float
    steps: int
    base: str = FORWARD
    history_bytes: int | None = None
    peers: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    hparams: HParams = None
    key: Key | None = None
    complete: Callable[[dict, Mapping], dict] = lambda record, hypergrads: record


def history_bytes(problem: Problem, hparams: HParams, key: Key) -> int:
    """Bytes of T gradients with respect to the weights."""

    def weights(hparams):
        return problem.weights(problem.start(hparams, key))

    shapes = jax.eval_shape(weights, hparams)
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    return each * problem.num_steps


def floats(values) -> jax.Array:
    """An array in JAX's default float type."""
    return jnp.asarray(values, jnp.result_type(float))


def flat_arrays(prefix: str, leaves: PyTree) -> dict[str, np.ndarray]:
    """`{prefix/path: array}` of a pytree, for an .npz file."""
    paths = jax.tree_util.tree_leaves_with_path(leaves)
    return {
        "/".join([prefix, *map(_name, path)]): np.asarray(leaf) for path, leaf in paths
    }


def _name(entry) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def parts(hypergrad: PyTree) -> dict[str, np.ndarray]:
    """dF/dλ by name of its part, in float64."""
    named = flat_arrays("", tree.partition(hypergrad)[0])
    return {
        name.strip("/") or "hyperparameter": array.astype(float)
        for name, array in named.items()
    }
