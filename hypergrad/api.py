"""The door: a problem and an estimator become an ordinary JAX function.

Compiled programs are shared: the problem enters them as an argument (its data are never
constants of a jaxpr), and equal estimators on problems of equal functions and shapes
use one compilation.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.core import Tracer

from hypergrad import tree
from hypergrad.estimators.base import Estimate, Estimator, Target
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar
from hypergrad.unroll import unroll


class HypergradWarning(UserWarning):
    """A hypergradient that should not be trusted as it stands."""


def estimate(
    problem: Problem, estimator: Estimator, hparams: HParams, state: PyTree, key: Key
) -> tuple[Estimate, PyTree]:
    """One estimate, compiled: `estimator.estimate(problem, hparams, state, key)`.

    The only door to online estimators, whose state goes from call to call.

    Args:
      problem: the problem.
      estimator: any estimator.
      hparams: λ, any pytree of numbers and arrays.
      state: what `estimator.init` or the last call returned.
      key: the run's key.

    Returns:
      `(Estimate(value, hypergrad, info), state)`. Called outside of jit it warns
      (`HypergradWarning`) as `value_and_hypergrad` does.

    Raises:
      ValueError: the estimator does not apply to the problem, with the reason.
    """
    check(problem, estimator)
    hparams = tree.as_arrays(hparams)
    result, state = _estimate(estimator, problem, hparams, state, key)
    if result.hypergrad is not None:
        _warn(result, estimator)
    return result, state


def value_and_hypergrad(
    problem: Problem, estimator: Estimator, *, has_aux: bool = False
) -> Callable[[HParams, Key], Any]:
    """The function (λ, key) -> (F(λ), dF/dλ), as estimated by `estimator`.

    Args:
      problem: the problem.
      estimator: an estimator of dF/dλ (or of a windowed or smoothed relative of it).
      has_aux: also return the estimate's `info`.

    Returns:
      A compiled function `(hparams, key) -> (value, hypergrad)`, or
      `((value, info), hypergrad)`; `hypergrad` is shaped like `hparams`. Called outside
      of jit it warns (`HypergradWarning`) where F is finite and the hypergradient is
      not, and where the estimator itself finds its estimate doubtful.

    Raises:
      ValueError: the estimator has no hypergradient, or does not apply to the problem.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=2)
      >>> hg.value_and_hypergrad(problem, hg.Reverse())(3.0, jax.random.key(0))
      (Array(9., dtype=float32), Array(6., dtype=float32))
    """
    check(problem, estimator, needs_hypergrad=True)

    def fn(hparams: HParams, key: Key):
        hparams = tree.as_arrays(hparams)
        result = Estimate(*_differentiable_estimate(estimator, problem, hparams, key))
        _warn(result, estimator)
        value = (result.value, result.info) if has_aux else result.value
        return value, result.hypergrad

    return fn


def hypergrad(
    problem: Problem, estimator: Estimator
) -> Callable[[HParams, Key], HParams]:
    """The function (λ, key) -> dF/dλ: `value_and_hypergrad` without the value."""
    fn = value_and_hypergrad(problem, estimator)
    return lambda hparams, key: fn(hparams, key)[1]


def objective(
    problem: Problem, estimator: Estimator, *, has_aux: bool = False
) -> Callable[[HParams, Key], Any]:
    """F as an ordinary scalar JAX function whose gradient *is* the estimate.

    One `custom_jvp` with the rule dF = ⟨estimate, dλ⟩: linear in the tangent, so jvp,
    grad, vmap, jit and any reparametrisation compose with every estimator.
    Undifferentiated it costs one training, or one estimate with `has_aux`. Integer
    leaves and keys of λ carry no tangent. Differentiated outside of jit it warns as
    `value_and_hypergrad` does.

    Args:
      problem: the problem.
      estimator: an estimator of dF/dλ (or of a windowed or smoothed relative of it).
      has_aux: return `(value, info)`, as `jax.grad(..., has_aux=True)` expects. Info is
        treated as a constant.

    Returns:
      `(hparams, key) -> value`.

    Raises:
      ValueError: the estimator has no hypergradient, or does not apply to the problem.
      TypeError: when a second derivative of an inexact estimator is asked for.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=2)
      >>> F = hg.objective(problem, hg.Reverse())
      >>> slope = jax.grad(lambda x: F(jnp.exp(x), jax.random.key(0)))  # of e^(2x)
      >>> print(slope(0.0))
      2.0
    """
    check(problem, estimator, needs_hypergrad=True)

    @jax.custom_jvp
    def fn(hparams: HParams, key: Key):
        if not has_aux:
            return _value(problem, hparams, key), ()
        result, _ = _estimate(estimator, problem, hparams, (), key)
        return result.value, result.info

    @fn.defjvp
    def _(primals, tangents):
        hparams, key = primals
        value, gradient, info = _differentiable_estimate(
            estimator, problem, hparams, key
        )
        _warn(Estimate(value, gradient, info), estimator)
        aux = info if has_aux else ()
        slope = tree.vdot(gradient, tangents[0]).astype(value.dtype)
        return (value, aux), (slope, jax.tree.map(_zero_tangent, aux))

    def outer(hparams: HParams, key: Key):
        try:
            value, info = fn(tree.as_arrays(hparams), key)
        except jax.errors.UnexpectedTracerError as error:
            raise TypeError(
                "an objective is differentiated with respect to its hparams only, and "
                "here its problem depends on what is being differentiated: pass that "
                "through hparams (training data, too, may be a hyperparameter)"
            ) from error
        return (value, info) if has_aux else value

    return outer


def _differentiable_estimate(estimator, problem, hparams, key):
    """(value, hypergrad, info) whose own derivative is right, or refused."""

    @jax.custom_jvp
    def first(hparams):
        result, _ = _estimate(estimator, problem, hparams, (), key)
        return tuple(result)

    @first.defjvp
    def _(primals, tangents):
        second = estimator.twice_differentiable()
        if second is None:
            raise TypeError(
                f"second derivatives of {estimator} are refused: its estimate is "
                "not an exact derivative, so differentiating it again would be "
                "silently wrong. Use Reverse() or Forward()."
            )

        def again(hparams):
            result, _ = _estimate(second, problem, hparams, (), key)
            return tuple(result)

        return jax.jvp(again, primals, tangents)

    return first(hparams)


@functools.partial(jax.jit, static_argnums=0)
def _estimate(estimator, problem, hparams, state, key):
    result, state = estimator.estimate(problem, hparams, state, key)
    chex.assert_shape(result.value, ())
    if result.hypergrad is not None:
        chex.assert_trees_all_equal_structs(result.hypergrad, hparams)
        chex.assert_trees_all_equal_shapes(result.hypergrad, hparams)
    return result, state


@jax.jit
def _value(problem, hparams, key):
    return unroll(problem, hparams, key)[0]


def _zero_tangent(x):
    return jnp.zeros_like(x) if tree.is_inexact(x) else tree.without_tangent(x)


def check(problem: Any, estimator: Any, needs_hypergrad: bool = False) -> None:
    """Raise a `ValueError` if the estimator does not serve the problem, with why."""
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be a hypergrad.Problem, got {type(problem)}")
    if isinstance(estimator, type):
        raise ValueError(
            f"estimator must be a value, got the class {estimator.__name__}: write "
            f"{estimator.__name__}()"
        )
    if (reason := estimator.applies(problem)) is not None:
        raise ValueError(f"{estimator} does not apply to this problem: {reason}")
    if needs_hypergrad and estimator.target is Target.NOTHING:
        raise ValueError(
            f"{estimator} estimates the value alone; for a hypergradient use "
            "Reverse() or Forward()"
        )
    if needs_hypergrad and estimator.target is Target.UPDATE:
        raise ValueError(
            f"{estimator} is online: it has no dF/dλ to return. Carry its state "
            "yourself: state = estimator.init(problem, hparams, key), then "
            "hypergrad.estimate(problem, estimator, hparams, state, key) at each step"
        )


def _warn(result: Estimate, estimator) -> None:
    """Outside of jit: say what is not finite, or doubtful by the estimator's word."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(result)):
        return
    value: Scalar = result.value
    if jnp.isfinite(value) and not tree.all_finite(result.hypergrad):
        warnings.warn(
            f"{estimator}: F(λ) = {float(value):.6g} is finite but its hypergradient "
            "is not. Either the optimiser has no finite derivative where a gradient is "
            "zero (see hypergrad.safe_optax.check), or training is chaotic at this λ "
            "(lower the rate, or truncate with Reverse(window=K)).",
            HypergradWarning,
            stacklevel=3,
        )
    if (doubt := estimator.doubt(result.info)) is not None:
        warnings.warn(doubt, HypergradWarning, stacklevel=3)
