"""A model's outputs, marked inside of a loss, and the loss cut in two at the mark.

ℓ(w) = L(w, z(w)): the Gauss-Newton operator needs the model z and the loss L apart,
where a user writes them as one function. `outputs` is the identity, with a name; the
cut is made in the loss's jaxpr.
"""

from collections.abc import Callable

import jax
import jax.extend.core as jex
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core.primitives import jit_p, name_p

from hypergrad.typing import PyTree, Scalar, Weights

_NAME = "hypergrad.outputs"


def outputs(z: PyTree) -> PyTree:
    """The identity z ↦ z, which marks z as a model's outputs.

    Args:
      z: pytree of arrays: what the loss compares with its targets (logits, say).

    Example:
      >>> import jax.numpy as jnp, hypergrad as hg
      >>> def inner_loss(weights, hparams, batch):
      ...     x, y = batch
      ...     z = hg.outputs(x @ weights)
      ...     return jnp.mean((z - y) ** 2) + hg.l2(weights, hparams["l2"])
    """
    return checkpoint_name(z, _NAME)


def cut_at_outputs(
    loss: Callable[[Weights], Scalar], weights: Weights
) -> tuple[Callable[[Weights], list[Array]], Callable[[Weights, list[Array]], Scalar]]:
    """The two functions z(w) and L(w, z) with ℓ(w) = L(w, z(w)).

    Args:
      loss: ℓ, which marks its model's outputs with `outputs`.
      weights: w, where ℓ is traced.

    Raises:
      ValueError: ℓ marks nothing, or something where the cut cannot be made (in a
        scan, in a jax.checkpoint).
    """
    closed = jax.make_jaxpr(loss)(weights)
    reached, marked = _marks(closed.jaxpr), _marks(closed.jaxpr, everywhere=True)
    if not reached or reached < marked:
        where = "inside of a loop, a jax.checkpoint or a custom rule"
        raise ValueError(
            "the Gauss-Newton operator needs to know the model's outputs, and the "
            f"inner loss marks them {where if marked else 'nowhere'}: in it, write "
            "z = hypergrad.outputs(model(weights, x)) and compute the loss from z"
        )

    def model(w):
        found = []

        def keep(z):
            found.append(z)
            return z

        _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(w), keep)
        return found

    def loss_of_outputs(w, z):
        given = iter(z)
        leaves = jax.tree.leaves(w)
        return _evaluate(closed.jaxpr, closed.consts, leaves, lambda _: next(given))[0]

    return model, loss_of_outputs


def _is_mark(eqn):
    return eqn.primitive is name_p and eqn.params["name"] == _NAME


def _marks(jaxpr, everywhere=False):
    """How many marks `_evaluate` would meet, or how many there are."""
    count = 0
    for eqn in jaxpr.eqns:
        count += _is_mark(eqn)
        if everywhere or eqn.primitive is jit_p:
            count += sum(_marks(sub, everywhere) for sub in _subjaxprs(eqn))
    return count


def _subjaxprs(eqn):
    leaves = jax.tree.leaves(
        list(eqn.params.values()),
        is_leaf=lambda x: isinstance(x, (jex.Jaxpr, jex.ClosedJaxpr)),
    )
    for leaf in leaves:
        if isinstance(leaf, jex.ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, jex.Jaxpr):
            yield leaf


def _evaluate(jaxpr, consts, args, at_mark):
    """The jaxpr's outputs, `at_mark(z)` standing for each mark's."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if _is_mark(eqn):
            results = [at_mark(*inputs)]
        elif eqn.primitive is jit_p and _marks(eqn.params["jaxpr"].jaxpr):
            inner = eqn.params["jaxpr"]
            results = _evaluate(inner.jaxpr, inner.consts, inputs, at_mark)
        else:
            params = eqn.primitive.get_bind_params(eqn.params)
            with eqn.ctx.manager:
                results = eqn.primitive.bind(*inputs, **params)
            results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
