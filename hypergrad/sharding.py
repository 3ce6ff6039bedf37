"""One run on many devices: its trainings, or the rows of its data, laid over a mesh.

The trainings of a population need nothing of each other, so every device takes its
share of them (`Shard`). The loss of one training is a mean over rows, so every device
takes its share of the rows and the compiler adds up (`shard_rows`). Both work across
hosts, once `jax.distributed.initialize` has made their devices one list.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hypergrad.batches import Batches, FullBatch, num_rows
from hypergrad.execution import Execution, Loop
from hypergrad.problem import Problem
from hypergrad.sparse import SparseMatrix
from hypergrad.training import TrainingData
from hypergrad.typing import PyTree

_AXIS = "rows"


def device_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """The devices in a line: a mesh of one axis, whose sharding the compiler completes.

    Args:
      devices: None for all devices of all processes.

    Example:
      >>> import jax, hypergrad as hg
      >>> device_mesh().size == jax.device_count()
      True
    """
    devices = jax.devices() if devices is None else devices
    # Explicit axes, the default, would ask of every user's function to name them.
    auto = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), (_AXIS,), auto, devices=devices)


@dataclass(frozen=True)
class Shard(Execution):
    """n trainings over the m devices of all processes, ⌈n/m⌉ on each.

    Every device runs its share as `each` says, and waits for no other before all are
    done; then all hold all results. Data and λ that the trainings share are on every
    device. Where m does not divide n, some rows run twice. On one device this is
    `each`.

    Attributes:
      each: how the trainings of one device share it; `Vmap()` or `Chunk(k)` where one
        training leaves a device idle.

    Example:
      >>> import jax.numpy as jnp
      >>> print(Shard(each=Loop()).map(lambda x: x**2, jnp.arange(5)))
      [ 0  1  4  9 16]
    """

    each: Execution = Loop()

    def map(self, fn, xs):
        """`each.map` of a share of the rows on every device."""
        mesh = device_mesh()
        if mesh.size == 1:
            return self.each.map(fn, xs)
        n = len(jax.tree.leaves(xs)[0])
        filled = np.resize(np.arange(n), -(-n // mesh.size) * mesh.size)
        shares = jax.shard_map(
            lambda share: self.each.map(fn, share),
            mesh=mesh,
            in_specs=PartitionSpec(_AXIS),
            out_specs=PartitionSpec(_AXIS),
            check_vma=False,  # else every scan of `fn` had to say that its carry varies
        )
        results = shares(jax.tree.map(lambda x: x[filled], xs))
        # On every device, so that every process can read them.
        results = jax.lax.with_sharding_constraint(results, _replicated(mesh))
        return jax.tree.map(lambda x: x[:n], results)

    def width(self, num_rows):
        """What `each` has side by side on a device, times the devices."""
        num_devices = jax.device_count()
        share = -(-num_rows // num_devices)
        return min(num_devices * self.each.width(share), num_rows)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LaidBatches(Batches):
    """The batches of another value, their rows laid over a mesh.

    Left to itself the compiler copies a gathered batch to all devices, and each of them
    computes the loss of all of it.

    Attributes:
      batches: draws the rows.
      mesh: static; its size divides the batch.
    """

    batches: Batches
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def gather(self, data, t, key):
        """The same rows in the same order, each device with its share."""
        batch = self.batches.gather(data, t, key)
        _check_rows("batch", batch, self.mesh)
        # Within `Shard` a device is alone with its trainings, and has all rows.
        if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
            return batch
        return jax.lax.with_sharding_constraint(batch, _by_rows(self.mesh))


def shard_rows(
    problem: Problem,
    mesh: Mesh | None = None,
    *,
    parts: Sequence[str] = ("train", "valid"),
) -> Problem:
    """The same problem, its rows laid over devices: F and dF/dλ are computed by all.

    m devices hold n/m rows each and compute their terms of every loss, its gradients
    and their derivatives; sums over rows become sums over devices. Weights, λ and all
    that is made of them are on every device. No function of the problem changes, and
    every estimator serves; values agree up to the order of summation.

    Across processes each must either hold all rows, equal ones, or give `Problem` the
    global arrays that `jax.make_array_from_process_local_data` makes of its own.

    Args:
      problem: of the everyday form, by `Problem(...)` or `Problem.with_context`.
      mesh: with Auto axes; None for `device_mesh()`.
      parts: what to lay over the mesh, of "train" and "valid"; all else is copied to
        every device. Batches are shared whether train is or not: rows that every
        device has need not be sent at each step, if they fit.

    Returns:
      A problem with the same functions.

    Raises:
      ValueError: the rows of a part or of a batch cannot be shared evenly, are sparse,
        or the problem or the mesh is of another kind.

    Example:
      >>> import jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(hp["lr"]),
      ...     train=jnp.ones(16), valid=jnp.ones(8), num_steps=3)
      >>> F = hg.objective(shard_rows(problem), hg.Reverse())
      >>> print(F({"lr": 0.5}, jax.random.key(0)))
      0.0078125
    """
    mesh = device_mesh() if mesh is None else mesh
    data = problem.data
    if not isinstance(data, TrainingData):
        raise ValueError(
            "shard_rows needs a problem that knows its rows, from Problem(...) or "
            f"Problem.with_context; got data of {type(data).__name__}: lay them out "
            "yourself, problem.replace(data=jax.device_put(problem.data, shardings)), "
            "or run many trainings with execution=Shard()"
        )
    if unknown := set(parts) - {"train", "valid"}:
        raise ValueError(f"parts must be of 'train' and 'valid', got {unknown}")
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            f"mesh must have Auto axes, got {mesh.axis_types}: use device_mesh(), or "
            "pass axis_types= to jax.make_mesh"
        )
    rows = {name: getattr(data, name) for name in parts}
    for name, part in rows.items():
        _check_rows(name, part, mesh)
    batches = data.batches
    if isinstance(batches, LaidBatches):
        batches = batches.batches
    if not (isinstance(batches, FullBatch) and "train" in parts):
        batches = LaidBatches(batches, mesh)
        # Refuse what cannot be shared here rather than in the midst of training.
        jax.eval_shape(batches.gather, data.train, 0, jax.random.key(0))
    rest = data._replace(batches=batches, **dict.fromkeys(parts))
    rest = jax.device_put(rest, _replicated(mesh))
    return problem.replace(data=rest._replace(**jax.device_put(rows, _by_rows(mesh))))


def _replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def _check_rows(name: str, part: PyTree, mesh: Mesh) -> None:
    """Raise a `ValueError` unless the mesh's devices can share the rows evenly."""
    for leaf in jax.tree.leaves(part, is_leaf=_is_sparse):
        if _is_sparse(leaf):
            raise ValueError(
                f"{name} holds a SparseMatrix of shape {leaf.shape}, whose entries are "
                "not in rows and cannot be shared: pass dense rows, or run many "
                "trainings with execution=Shard()"
            )
    try:
        n, m = num_rows(part), mesh.size
    except ValueError as error:
        raise ValueError(
            f"{name} has no rows to share: {error}; leave it out of parts"
        ) from error
    if n % m:
        fewer = max(k for k in range(1, m) if n % k == 0)
        raise ValueError(
            f"{name} has {n} rows, which {m} devices cannot share evenly, and rows "
            f"that fill up would change the loss: pass a multiple of {m}, or "
            f"mesh=device_mesh(jax.devices()[:{fewer}])"
        )


def _is_sparse(leaf: Any) -> bool:
    return isinstance(leaf, SparseMatrix)
