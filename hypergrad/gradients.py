"""The inner gradient ∇_w ℓ as an operator, and how that operator is differentiated.

Training applies g(w, λ) = ∇_w ℓ(w, λ) at every step; a hypergradient needs the
derivative of g. Reverse mode through g is reverse-over-reverse. Because the Hessian is
symmetric, the same cotangent is also a *directional* derivative,

    (∂g/∂(w, λ))ᵀ v  =  ∇_{(w, λ)} [d/dε ℓ(w + ε v, λ)  at ε = 0],

which mixes the modes and keeps no tape of the tape: less memory, fewer products (Kemaev
et al. 2025, "MixFlow-MG"). `Mixed` does that and serves reverse mode only; `Plain`
leaves everything to JAX and serves every mode.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hypergrad import tree
from hypergrad.typing import HParams, PyTree, Weights

_NAME = "inner gradient"


def named(results: PyTree) -> PyTree:
    """What an inner gradient returned, marked for `only_gradients`."""
    return checkpoint_name(results, _NAME)


only_gradients = jax.checkpoint_policies.save_only_these_names(_NAME)
"""The `jax.checkpoint` policy that keeps what is `named`."""


class LossWithAux(Protocol):
    """`loss(weights, hparams, aux_in, constants) -> (scalar, aux_out)`."""

    def __call__(
        self, weights: Weights, hparams: HParams, aux: PyTree, constants: PyTree, /
    ) -> tuple[jax.Array, PyTree]:
        """The loss and the auxiliary output."""
        ...


class InnerGradient(ABC):
    """`(loss, weights, hparams, aux, constants) -> (∇_w loss, aux_out)`, as a value."""

    @abstractmethod
    def __call__(
        self,
        loss: LossWithAux,
        weights: Weights,
        hparams: HParams,
        aux: PyTree,
        constants: PyTree,
        /,
    ) -> tuple[Weights, PyTree]:
        """The gradient at `weights` and the auxiliary output.

        Args:
          loss: `(weights, hparams, aux, constants) -> (scalar, aux_out)`.
          weights: pytree w; the gradient has its shape.
          hparams: pytree λ.
          aux: what the loss carries from step to step (model state); may be empty.
          constants: batch and keys.
        """


@dataclass(frozen=True)
class Plain(InnerGradient):
    """∇_w ℓ(w, λ), differentiated by JAX's own rules (forward, reverse, any order)."""

    def __call__(self, loss, weights, hparams, aux, constants, /):
        """`jax.grad`."""
        return jax.grad(loss, has_aux=True)(weights, hparams, aux, constants)


@dataclass(frozen=True)
class Given(InnerGradient):
    """Any function of each leaf in the place of the gradient: what does the rest do?

    Attributes:
      fn: from a leaf of the weights to that of the "gradient".
    """

    fn: Callable[[jax.Array], jax.Array]

    def __call__(self, loss, weights, hparams, aux, constants, /):
        """`fn`, leaf by leaf."""
        return jax.tree.map(self.fn, weights), aux


@dataclass(frozen=True)
class Mixed(InnerGradient):
    """∇_w ℓ(w, λ), whose reverse-mode derivative is the gradient of a slope along v.

    Same value as `Plain`. Forward mode through it is refused by JAX.
    """

    def __call__(self, loss, weights, hparams, aux, constants, /):
        """`jax.grad` with a rule of its own."""
        # What nobody differentiates with respect to, the compiler drops again.
        moving, fixed = tree.partition((weights, hparams, aux, constants))
        result: Any = _mixed(loss, moving, fixed)
        return result


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixed(loss, moving, fixed):
    weights, hparams, aux, constants = tree.combine(moving, fixed)
    return Plain()(loss, weights, hparams, aux, constants)


def _mixed_forward(loss, moving, fixed):
    return _mixed(loss, moving, fixed), (moving, fixed)


def _mixed_backward(loss, residuals, cotangents):
    moving, fixed = residuals

    def full_loss(moving):
        return loss(*tree.combine(moving, fixed))

    try:
        return _reverse_over_forward(full_loss, moving, *cotangents), None
    except (TypeError, NotImplementedError):  # a loss with a `jax.custom_vjp`
        return _forward_over_reverse(full_loss, moving, *cotangents), None


def _reverse_over_forward(full_loss, moving, v, u):
    """∇ of [Dℓ · v + ⟨u, aux_out⟩].

    The order for speed: of forward-over-reverse XLA's CPU backend sums products that it
    holds transposed, and reads them column by column.
    """

    def slope_and_aux(weights, *others):
        _, slope, aux = jax.jvp(
            lambda weights: full_loss((weights, *others)),
            (weights,),
            (v,),
            has_aux=True,
        )
        return slope, aux

    (slope, _), pull = jax.vjp(slope_and_aux, *moving)
    return pull((jnp.ones_like(slope), u))


def _forward_over_reverse(full_loss, moving, v, u):
    """D∇ℓ · v, and the aux's own derivative."""
    weights, *others = moving

    def gradient(weights):
        return jax.grad(full_loss, has_aux=True)((weights, *others))[0]

    _, product = jax.jvp(gradient, (weights,), (v,))
    if jax.tree.leaves(u):
        _, pull = jax.vjp(lambda moving: full_loss(moving)[1], tuple(moving))
        product = jax.tree.map(lambda a, b: a + b, product, pull(u)[0])
    return product


_mixed.defvjp(_mixed_forward, _mixed_backward)
