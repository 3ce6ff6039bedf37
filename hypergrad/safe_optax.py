"""Optax made safe to differentiate.

Training differentiated with respect to its hyperparameters runs every update backwards,
which few optimisers were written for. Two things go wrong:

- the derivative is NaN where a gradient is exactly zero (a dead unit, an unused row):
  √v at v = 0, norms of zero, the branch that `where` did not select. `differentiable`
  cures all of these and changes no update;
- the derivative is zero almost everywhere (the sign of the gradient) or does not exist
  (line searches). There is no cure; `check` says so before a search is wasted.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hypergrad import tree
from hypergrad.guard import guard
from hypergrad.typing import PyTree, Scalar, Weights


def differentiable(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The same updates, with a derivative in which 0 · ∞ = 0 (see `hypergrad.guard`).

    For a weight whose gradient is zero and stays so, that is the exact derivative; JAX
    returns NaN, and `eps_root` would change the training.

    Args:
        tx: any transformation; its hyperparameters may be traced.

    >>> def update(tx, g):
    ...     return tx.update(g, tx.init(g))[0]
    >>> adam = optax.adam(0.5)
    >>> print(jax.grad(lambda g: update(adam, g))(0.0))
    nan
    >>> slope = jax.grad(lambda g: update(differentiable(adam), g))(0.0)
    >>> print((slope / 1e7).round(3))  # of -0.5 g / (|g| + 1e-8)
    -5.0
    """
    inner = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        def plain(updates, state, params):
            return inner.update(updates, state, params, **extra_args)

        return guard(plain)(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class UnsafeOptimizerError(ValueError):
    """An optimiser that should not be differentiated, and what to do instead."""


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        finite: no derivative is NaN or infinite.
        smooth: the updates respond to a small change of the gradients.
        reason: what is wrong, empty where nothing is.
        cure: what to do about it, empty where nothing is wrong.
    """

    finite: bool
    smooth: bool
    reason: str = ""
    cure: str = ""

    @property
    def ok(self) -> bool:
        """Whether the hypergradient through this optimiser can be used."""
        return self.finite and self.smooth

    def __str__(self) -> str:
        return "safe to differentiate" if self.ok else f"{self.reason}; {self.cure}"

    def raise_if_unsafe(self) -> None:
        """Raise `UnsafeOptimizerError` with reason and cure unless `ok`."""
        if not self.ok:
            raise UnsafeOptimizerError(str(self))


def require(tx: optax.GradientTransformation, weights: Weights) -> None:
    """Raise `UnsafeOptimizerError` unless `check(tx, weights).ok`."""
    check(tx, weights).raise_if_unsafe()


def check(
    tx: optax.GradientTransformation, weights: Weights, *, num_steps: int = 4
) -> Report:
    """Is ∂ Σ_t ⟨c_t, u_t⟩ / ∂ (gradients, weights) finite, and not zero everywhere?

    The updates u_1 ... u_T are probed in reverse mode from the initial state, with live
    gradients, with some entries dead (zero at every step) and with all of them zero, in
    float32 and, where x64 is on, in float64. Only `value` is passed as an extra
    argument, as training does. An update that is itself NaN is not held against its
    derivative: that is a diverged run.

    Args:
        tx: the transformation, with hyperparameters that are numbers.
        weights: a pytree like the one to be trained; its values count only for
            optimisers that scale with the weights.
        num_steps: T, the length of the probe.

    >>> print(check(optax.sgd(0.1, momentum=0.9), jnp.ones(4)))
    safe to differentiate
    >>> report = check(optax.adam(0.1), jnp.ones(4))
    >>> report.finite, "differentiable" in report.cure
    (False, True)
    """
    dtypes = sorted({jnp.dtype(jnp.float32), jnp.dtype(jnp.result_type(float))})
    try:
        probes = [_probe(tx, weights, dtype, num_steps) for dtype in dtypes]
        bad = [_faults(probe) for probe in probes]
    except (TypeError, ValueError) as error:
        first_line = str(error).strip().split("\n")[0]
        return Report(
            finite=False,
            smooth=False,
            reason=f"it cannot be run and differentiated: {first_line}",
            cure="use another optimiser, or an estimator that needs no derivative of "
            "it (FiniteDifference)",
        )
    if not all(np.any(probe.moves) for probe in probes):
        return Report(
            finite=not any(bad),
            smooth=False,
            reason="the updates are piecewise constant in the gradients, as those of "
            "sign-based optimisers are: their derivative is zero almost everywhere and "
            "misses how weights respond",
            cure="use a smooth optimiser (differentiable(optax.adam(...))), or an "
            "estimator that needs no derivative of it (FiniteDifference)",
        )
    if not any(bad):
        return Report(finite=True, smooth=True)
    where = "; ".join(
        f"{' and '.join(faults)} in {dtype.name}"
        for dtype, faults in zip(dtypes, bad, strict=True)
        if faults
    )
    cured = not any(
        _faults(_probe(differentiable(tx), weights, dtype, num_steps))
        for dtype in dtypes
    )
    return Report(
        finite=False,
        smooth=True,
        reason=f"the derivative is not finite {where}",
        cure="wrap it: hypergrad.differentiable(tx) has the same updates and a finite "
        "derivative (a positive eps_root, where there is one, changes the training)"
        if cured
        else "use another optimiser: hypergrad.differentiable(tx) does not cure it",
    )


_PATTERNS = ("with live gradients", "where some entries are zero", "where all are zero")


@dataclass(frozen=True)
class _Probe:
    """For each pattern of gradients: is the derivative finite, does it ever move?"""

    finite: np.ndarray
    moves: np.ndarray


def _faults(probe: _Probe) -> list[str]:
    return [p for p, ok in zip(_PATTERNS, probe.finite, strict=True) if not ok]


def _probe(tx, weights: Weights, dtype, num_steps: int) -> _Probe:
    tx = optax.with_extra_args_support(tx)
    weights = tree.cast_floats(weights, dtype)
    leaves, structure = jax.tree.flatten(weights)
    rng = np.random.default_rng(0)

    def random() -> PyTree:
        draws = [rng.normal(size=(num_steps, *jnp.shape(w))) for w in leaves]
        return jax.tree.unflatten(structure, [jnp.asarray(d, dtype) for d in draws])

    gradients, cotangents = random(), random()

    def total(moving, alive: PyTree) -> Scalar:
        gradients, weights = moving

        def step(carry, xs):
            weights, state = carry
            g, c = xs
            g = jax.tree.map(lambda g, alive: g * alive, g, alive)
            value = jnp.ones((), dtype)
            updates, new_state = tx.update(g, state, weights, value=value)
            _same_shapes(updates, weights)
            weights = optax.apply_updates(weights, updates)
            new_state = jax.tree.map(_like, new_state, state)
            return (weights, new_state), tree.vdot(c, updates)

        start = (weights, tree.as_arrays(tx.init(weights)))
        return jnp.sum(jax.lax.scan(step, start, (gradients, cotangents))[1])

    def slopes(alive):
        value, slope = jax.value_and_grad(total)((gradients, weights), alive)
        moved = [jnp.any(leaf != 0) for leaf in jax.tree.leaves(slope[0])]
        # Updates that are not finite themselves have no derivative to ask about.
        finite = tree.all_finite(slope) | ~jnp.isfinite(value)
        return finite, jnp.any(jnp.stack(moved))

    # The compiler's optimisations would cost more than they save in one short run.
    probe = jax.jit(
        lambda patterns: jax.lax.map(slopes, patterns),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    finite, moves = probe(jax.tree.map(_alive, weights))
    return _Probe(np.asarray(finite), np.asarray(moves))


def _same_shapes(updates, weights) -> None:
    got, expected = (jax.tree.map(jnp.shape, t) for t in (updates, weights))
    if got != expected:
        raise ValueError(f"updates have shapes {got}, weights {expected}")


def _alive(leaf) -> jax.Array:
    """One mask for each pattern: all ones, zeros in the first half, all zeros."""
    size = np.size(leaf)
    some = (np.arange(size) >= (size + 1) // 2).reshape(np.shape(leaf))
    return jnp.asarray(np.stack([np.ones_like(some), some, np.zeros_like(some)]))


def _like(new, old):
    """The new state in the types of the old: a probe is no place to fail on them."""
    return jnp.asarray(new, old.dtype) if tree.is_inexact(old) else new
