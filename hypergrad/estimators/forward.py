"""Forward-mode differentiation of the unrolled training, some columns at a time."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Info,
    Target,
    objective_of_floats,
)
from hypergrad.unroll import unroll


@dataclass(frozen=True)
class Forward(Estimator):
    """dF/dλ_j = Σ_t (∂outer_t/∂s_t) Z_t e_j + ∂outer_t/∂λ_j, with Z_t carried.

    The response Z_t = ds_t/dλ obeys Z_{t+1} = (∂s_{t+1}/∂s_t) Z_t + ∂s_{t+1}/∂λ
    (Franceschi et al. 2017); its columns are independent and are computed in chunks.

    Computes: dF/dλ, exactly.
    Bias:     none.
    Variance: none beyond that of F over keys.
    Memory:   chunk + 1 inner states, whatever T.
    Time:     about (1 + 2 · chunk) T inner steps for each of ⌈d / chunk⌉ chunks.

    Attributes:
      chunk: columns of Z carried side by side; None for all d.
    """

    chunk: int | None = None

    def __post_init__(self):
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"Forward.chunk must be >= 1 or None, got {self.chunk}")

    @property
    def target(self) -> Target:
        """dF/dλ."""
        return Target.OBJECTIVE

    @property
    def exact(self) -> bool:
        """Up to rounding."""
        return True

    def twice_differentiable(self):
        """Itself: it is made of plain JAX."""
        return self

    def estimate(self, problem, hparams, state, key):
        """One training for each chunk of columns."""
        run, floats, restore = objective_of_floats(
            lambda hparams: unroll(problem, hparams, key), hparams
        )
        vector, unravel = tree.ravel(floats)

        def column(direction):
            value, slope, end = jax.jvp(
                lambda v: run(unravel(v)), (vector,), (direction,), has_aux=True
            )
            return slope, value, end

        values, slopes, end = map_basis(column, vector, self.chunk)
        return Estimate(values, restore(unravel(slopes)), Info(end)), state


def map_basis(column, vector, chunk: int | None):
    """Columns of a forward-mode derivative, `chunk` side by side.

    Args:
      column: `direction -> (slope, value, end)`, of which only the slope depends on the
        direction.
      vector: any vector of the directions' shape [d] and dtype.
      chunk: columns at a time; None for all d.

    Returns:
      `(value, slopes [d], end)`.
    """
    d = vector.size
    chunk = min(chunk or d, d)
    num_chunks = -(-d // chunk)
    batched = jax.vmap(column, in_axes=1, out_axes=(0, None, None))

    def one_chunk(carry, start):
        del carry
        # Columns past d are zero directions: harmless, and cut off below.
        index = start + jnp.arange(chunk)
        basis = (jnp.arange(d)[:, None] == index[None, :]).astype(vector.dtype)
        slopes, value, end = batched(basis)
        return (value, end), slopes

    (value, end), slopes = jax.lax.scan(
        one_chunk,
        tree.zeros_of(lambda: one_chunk(None, 0)[0]),
        jnp.arange(num_chunks, dtype=jnp.int32) * chunk,
    )
    return value, slopes.reshape(-1)[:d].astype(vector.dtype), end
