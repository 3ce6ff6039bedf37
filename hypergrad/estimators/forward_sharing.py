"""Forward mode for schedules, with one column of Z for several steps of the table."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad import tree
from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Info,
    Target,
    objective_of_floats,
)
from hypergrad.estimators.forward import map_basis
from hypergrad.unroll import unroll


@dataclass(frozen=True)
class ForwardSharing(Estimator):
    """g_t = 1/W Σ_{τ in the window of t} dF/dλ_τ, for a table λ of one entry a step.

    The steps are cut into windows of W (the last may be shorter). Z is carried for a
    shift that a whole window shares, λ_τ + δ_{window(τ)}, whose derivative is the sum
    over the window; each step of it gets the mean (Micaelli and Storkey 2021, "FDS").
    Of noise of variance σ² in dF/dλ_t, independent from step to step, σ²/W remains; a
    true hypergradient that drifts by ε a step adds ε² (W² − 1)/12 (their theorem 4.1).

    Computes: the window means of dF/dλ for tables; dF/dλ itself for other leaves.
    Bias:     dF/dλ_t minus its window's mean; nothing is clamped.
    Variance: none beyond that of F over keys, of which it averages W steps.
    Memory:   chunk + 1 inner states, whatever T.
    Time:     as `Forward`, with ⌈T/W⌉ columns a table instead of T.

    Attributes:
      window: W >= 1; 1 shares nothing.
      tables: names of the leaves that are tables ("lr", "opt.lr"); None for every
        floating leaf whose leading axis is num_steps.
      chunk: columns of Z carried side by side; None for all.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.zeros(()),
      ...     step=lambda hp, s, tick: s + tick.t * hp[tick.t],
      ...     outer_at=lambda hp, s, tick: s, num_steps=4)
      >>> sharing = hg.ForwardSharing(window=2)
      >>> hg.hypergrad(problem, sharing)(jnp.ones(4), jax.random.key(0))
      Array([0.5, 0.5, 2.5, 2.5], dtype=float32)
    """

    window: int = 10
    tables: tuple[str, ...] | None = None
    chunk: int | None = None

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"ForwardSharing.window must be >= 1, got {self.window}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(
                f"ForwardSharing.chunk must be >= 1 or None, got {self.chunk}"
            )

    @property
    def target(self) -> Target:
        """dF/dλ, averaged over windows of a table."""
        return Target.OBJECTIVE

    @property
    def exact(self) -> bool:
        """With windows of one step."""
        return self.window == 1

    def applies(self, problem):
        """A window is within the training."""
        if self.window > problem.num_steps:
            return f"window ({self.window}) exceeds num_steps ({problem.num_steps})"
        return None

    def estimate(self, problem, hparams, state, key):
        """One training for each chunk of columns."""
        run, floats, restore = objective_of_floats(
            lambda hparams: unroll(problem, hparams, key), hparams
        )
        is_table = self._find_tables(floats, problem.num_steps)
        window_of = np.arange(problem.num_steps) // self.window
        lengths = np.bincount(window_of)

        def spread(shifts):
            """One entry a window -> one a step."""
            return jax.tree.map(
                lambda table, x: x[window_of] if table else x, is_table, shifts
            )

        def start(table, x):
            shape = (len(lengths), *x.shape[1:]) if table else x.shape
            return jnp.zeros(shape, x.dtype)

        def mean(table, x):
            scale = np.reshape(1 / lengths, (-1, *[1] * (x.ndim - 1))) if table else 1.0
            return (x * scale).astype(x.dtype)

        vector, unravel = tree.ravel(jax.tree.map(start, is_table, floats))

        def column(direction):
            def shifted(v):
                return run(tree.axpy(1, spread(unravel(v)), floats))

            value, slope, end = jax.jvp(shifted, (vector,), (direction,), has_aux=True)
            return slope, value, end

        value, sums, end = map_basis(column, vector, self.chunk)
        means = spread(jax.tree.map(mean, is_table, unravel(sums)))
        return Estimate(value, restore(means), Info(end)), state

    def _find_tables(self, floats, num_steps):
        """A tree of bools like `floats`, or a `ValueError` that says what is amiss."""
        paths, structure = jax.tree_util.tree_flatten_with_path(floats)
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in paths
        }
        fits = {name: leaf.shape[:1] == (num_steps,) for name, leaf in leaves.items()}
        wanted = self.tables
        if wanted is None:
            wanted = tuple(name for name in fits if fits[name])
        for name in wanted:
            if name not in fits:
                raise ValueError(
                    f"ForwardSharing.tables: hparams has no floating leaf {name!r}, it "
                    f"has {sorted(fits)}"
                )
            if not fits[name]:
                raise ValueError(
                    f"ForwardSharing.tables: hparams leaf {name!r} has shape "
                    f"{leaves[name].shape}, expected a leading axis of num_steps "
                    f"({num_steps})"
                )
        if not wanted:
            raise ValueError(
                "ForwardSharing shares tables over steps, and no floating leaf of "
                f"hparams has the leading axis num_steps ({num_steps}): use Forward()"
            )
        return structure.unflatten([name in wanted for name in leaves])
