"""Tuning while training: an estimate, an update of λ, and on with the same training."""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from hypergrad import api, tree
from hypergrad.api import HypergradWarning
from hypergrad.estimators.base import Estimator, Target
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree


class TuningState(NamedTuple):
    """What goes on from call to call beside λ.

    Attributes:
      num_calls: how many have been done.
      outer: the outer optimiser's state.
      estimator: the estimator's state; for the estimators of this library `inner` in it
        is the state of the training.
    """

    num_calls: jax.Array
    outer: optax.OptState
    estimator: PyTree


class Tuning(NamedTuple):
    """A run of `tune`: n calls and where they led.

    Attributes:
      hparams: λ after the last call.
      state: give it back to `tune`, with `hparams`, to go on.
      trajectory: like λ with a leading axis n: the λ that each call was made with.
      values: [n], each call's value.
      skipped: [n], whether the call's hypergradient was not finite and λ stayed.
      doubtful: [n], whether the estimator doubted its own estimate.
    """

    hparams: HParams
    state: TuningState
    trajectory: HParams
    values: jax.Array
    skipped: jax.Array
    doubtful: jax.Array


def tune(
    problem: Problem,
    estimator: Estimator,
    hparams: HParams,
    outer: optax.GradientTransformation,
    *,
    num_calls: int,
    key: Key,
    project: Callable[[HParams], HParams] | None = None,
    state: TuningState | None = None,
) -> Tuning:
    """λ_{i+1} = project(λ_i + outer(hypergrad_i)), i = 0, ..., n − 1, as one program.

    An online estimator moves λ within one training and starts the next training after
    T steps; an episodic one trains from the start at each call. A call whose
    hypergradient is not finite is recorded and leaves λ and the optimiser as they were;
    a training that has diverged stays so until it ends.

    Args:
      problem: the problem.
      estimator: any estimator with a hypergradient.
      hparams: λ_0, or where the last `tune` ended.
      outer: an optax optimiser of λ. Functions hash by identity: build `outer` and
        `project` once, and equal calls share one compilation.
      num_calls: n, static. The trajectory keeps n copies of λ; go on from `state` to
        look at a long run in pieces.
      key: the run's key: the first training's, from which all else is derived.
      project: maps λ back to where it may be, after each update.
      state: None to begin, or the state of the last `tune` to go on, which with the
        same key gives the same numbers as one longer run.

    Returns:
      A `Tuning`. Outside of jit it warns (`HypergradWarning`) if calls were skipped.

    Raises:
      ValueError: the estimator does not apply to the problem or has no hypergradient.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.ones(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * w**2,
      ...     outer_loss=lambda w, hp, batch: 0.5 * w**2,
      ...     optimizer=lambda hp: optax.sgd(hp["lr"]),
      ...     train=jnp.ones(1), valid=jnp.ones(1), num_steps=4)
      >>> run = hg.tune(
      ...     problem, hg.HypergradientDescent(), {"lr": 0.0}, optax.sgd(0.5),
      ...     num_calls=4, key=jax.random.key(0))
      >>> print(run.trajectory["lr"])
      [0.      0.5     0.75    0.78125]
    """
    if not isinstance(num_calls, int) or num_calls < 1:
        raise ValueError(f"num_calls must be a Python int >= 1, got {num_calls!r}")
    if not isinstance(outer, optax.GradientTransformation):
        raise ValueError(
            f"outer must be an optax.GradientTransformation, got {outer!r}: write, for "
            "example, optax.adam(1e-3)"
        )
    if not isinstance(estimator, Estimator):
        raise ValueError(f"estimator must be a value like RTHO(), got {estimator!r}")
    if estimator.target is Target.NOTHING:
        raise ValueError(f"{estimator} has no hypergradient; use Reverse() or RTHO()")

    hparams = tree.as_arrays(hparams)
    if state is None:
        state = _begin(estimator, outer, problem, hparams, key)
    result = _run(estimator, outer, project, num_calls, problem, hparams, state, key)
    if not isinstance(result.skipped, Tracer) and jnp.any(result.skipped):
        warnings.warn(
            f"{estimator}: in {int(result.skipped.sum())} of {num_calls} calls (first "
            f"in call {int(jnp.argmax(result.skipped))}) the hypergradient was not "
            "finite and λ stayed. The training has diverged: lower the outer rate, or "
            "keep λ where training converges by project=",
            HypergradWarning,
            stacklevel=2,
        )
    return result


def _projected(project, hparams):
    """The floating leaves of project(λ), refused where they are not those of λ."""
    floats = [tree.partition(h)[0] for h in (hparams, project(hparams))]
    expected, got = (jax.tree.map(jnp.shape, h) for h in floats)
    if expected != got:
        raise ValueError(
            f"project must return λ in the form it was given: expected {expected}, got "
            f"{got}"
        )
    return floats[1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(estimator, outer, problem, hparams, key):
    floats, _ = tree.partition(hparams)
    begun = (outer.init(floats), estimator.init(problem, hparams, key))
    return TuningState(jnp.zeros((), jnp.int32), *tree.as_arrays(begun))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run(estimator, outer, project, num_calls, problem, hparams, state, key):
    calls_key = jax.random.fold_in(key, 0xCA11)  # apart from the training's own
    start, others = tree.partition(hparams)

    def call(carry, i):
        floats, (_, outer_state, estimator_state) = carry
        hparams = tree.combine(floats, others)
        own = jax.random.fold_in(calls_key, i)
        result, estimator_state = api.estimate(
            problem, estimator, hparams, estimator_state, own
        )
        gradient, _ = tree.partition_tangent(result.hypergrad)
        updates, updated = outer.update(gradient, outer_state, floats)
        moved = optax.apply_updates(floats, updates)
        if project is not None:
            moved = _projected(project, tree.combine(moved, others))

        finite = tree.all_finite(gradient)
        new, old = (moved, updated), (floats, outer_state)
        floats, outer_state = jax.tree.map(
            lambda a, b: jnp.where(finite, a, b).astype(b.dtype), new, old
        )
        doubtful = jnp.asarray(result.info.doubtful)
        record = (hparams, result.value, ~finite, doubtful)
        return (floats, TuningState(i + 1, outer_state, estimator_state)), record

    calls = state.num_calls + jnp.arange(num_calls, dtype=jnp.int32)
    (floats, state), records = jax.lax.scan(call, (start, state), calls)
    return Tuning(tree.combine(floats, others), state, *records)
