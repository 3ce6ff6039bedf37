"""Response networks: w*(λ) near the current λ as a linear map that training learns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.estimators.base import Estimate, Info
from hypergrad.estimators.bilevel import (
    BilevelEstimator,
    Losses,
    check_count,
    check_positive,
)
from hypergrad.estimators.online_base import begin
from hypergrad.typing import Key, PyTree, Weights
from hypergrad.unroll import loop


class ResponseMap(ABC):
    """Θ: a map, linear in its argument, from d coordinates of λ to weights."""

    @abstractmethod
    def init(self, weights: Weights, size: int) -> PyTree:
        """The numbers of a map from `size` coordinates that gives zero."""

    @abstractmethod
    def __call__(self, theta: PyTree, coordinates: jax.Array, /) -> Weights:
        """Θ z, like the weights, for z of shape (d,)."""


@dataclass(frozen=True)
class LinearResponse(ResponseMap):
    """(Θz)_k = Σ_j Θ_jk z_j for every single weight: d times the weights.

    Can hold any dw*/dλ, so that nothing but training limits its accuracy.
    """

    def init(self, weights, size):
        """Zeros of shape (d, *leaf) for each leaf."""
        return jax.tree.map(lambda w: jnp.zeros((size, *w.shape), w.dtype), weights)

    def __call__(self, theta, coordinates, /):
        """One contraction a leaf."""
        return jax.tree.map(lambda leaf: _Vector(leaf).shift(coordinates), theta)


@dataclass(frozen=True)
class LayerwiseResponse(ResponseMap):
    """(Θz)_io = R_io (Vz)_o: each unit's incoming weights R, rescaled by λ together.

    Self-tuning networks' structure (MacKay et al. 2019) for leaves of two or more axes,
    whose last is the units'; R starts at the weights (at 1 for a unit whose weights are
    all zero) and is trained with V. Vectors and scalars get a full linear map. About
    twice the weights. What it cannot hold it gets wrong: on a small MLP the cosine to
    dF/dλ went from 0.999 down to −0.5 with the regime, where `LinearResponse` in
    `DeltaSTN` gave 0.9999 throughout.
    """

    def init(self, weights, size):
        """R = w (1 for units of zeros) and V = 0; vectors as in `LinearResponse`."""

        def leaf(w):
            if w.ndim < 2:
                return _Vector(jnp.zeros((size, *w.shape), w.dtype))
            # A unit of zeros would stay without a response: R = V = 0 is a saddle.
            alive = jnp.any(w != 0, axis=tuple(range(w.ndim - 1)), keepdims=True)
            return _Layer(
                jnp.where(alive, w, 1), jnp.zeros((size, w.shape[-1]), w.dtype)
            )

        return jax.tree.map(leaf, weights)

    def __call__(self, theta, coordinates, /):
        """One small contraction a leaf."""
        return jax.tree.map(
            lambda node: node.shift(coordinates), theta, is_leaf=_is_node
        )


class _Vector(NamedTuple):
    linear: jax.Array

    def shift(self, z):
        return jnp.tensordot(z.astype(self.linear.dtype), self.linear, 1)


class _Layer(NamedTuple):
    basis: jax.Array
    scale: jax.Array

    def shift(self, z):
        units = z.astype(self.scale.dtype) @ self.scale
        return self.basis * jnp.broadcast_to(units, self.basis.shape)


def _is_node(node) -> bool:
    return isinstance(node, _Vector | _Layer)


class ResponseState(NamedTuple):
    """An inner state, whose weights the response is added to, and the response."""

    t: jax.Array
    key: Key
    inner: PyTree
    theta: PyTree


class _ResponseNetwork(BilevelEstimator):
    """K steps of weights and response a call, then the outer loss through both."""

    response: ResponseMap
    inner_steps: int

    def steps(self, problem):
        """K."""
        return self.inner_steps

    def init(self, problem, hparams, key):
        """The start of training, and no response yet."""
        progress = begin(problem, hparams, key)
        size = tree.size(tree.partition(hparams)[0])
        theta = self.response.init(problem.weights(progress.inner), size)
        return ResponseState(*progress, theta=theta)


@dataclass(frozen=True)
class DeltaSTN(_ResponseNetwork):
    """d = ∇_λ f + Θᵀ ∇_w f,   w*(λ + ε) ≈ w + Θε,   Θ ← Θ − β (H Θu + (∂²ℓ/∂w∂λ) u) uᵀ.

    A centred, linearised response (Bae & Grosse 2020): w is trained at λ itself, by the
    problem's own steps, and Θ, on the same batches, to make the inner gradient stay
    zero as λ moves: along a random unit direction u, which its fixed point
    Θ = −H⁻¹ ∂²ℓ/∂w∂λ = dw*/dλ does at once for all u.

    From the paper: centring, the separate training of w and Θ, structure by layer.
    Not from it: the paper linearises the network's outputs and takes a finite Gaussian
    perturbation of λ, whose size it learns; a loss in (w, λ) does not show its network,
    so here it is the inner gradient that is linearised, by one Hessian product, which
    makes the size of the perturbation immaterial and its learning needless.

    Computes: a direction for λ which, with λ held, converges to dF/dλ at w*(λ) if the
              response map can hold dw*/dλ (`LinearResponse` always can).
    Bias:     w and Θ lag behind λ; the structure of the response map; with batches the
              correlation of w and Θ, in proportion to the rates.
    Variance: that of batches; that of u goes to zero as Θ converges.
    Memory:   one inner state, one response.
    Time:     about 5 K inner steps and two outer losses a call.

    Attributes:
      response: the form of Θ.
      response_rate: β, below 2 / (largest curvature of ℓ) for `LinearResponse`.
      inner_steps: K.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=60)
      >>> stn = hg.DeltaSTN(response_rate=0.5)  # w* = λ, so dF/dλ = λ − 1
      >>> estimate, _ = hg.estimate(problem, stn, 3.0, (), jax.random.key(0))
      >>> print(f"{estimate.hypergrad:.4f}")
      2.0000
    """

    response: ResponseMap = LinearResponse()
    response_rate: float = 0.1
    inner_steps: int = 5

    def __post_init__(self):
        check_positive(self, "response_rate")
        check_count(self, "inner_steps")

    def advance(self, problem, hparams, state, key):
        """K steps of w and Θ, each from where both were before."""
        t, run_key, inner, theta = state
        end = t + self.inner_steps
        vector, unravel = tree.ravel(tree.partition(hparams)[0])

        def learn(carry, t):
            inner, theta = carry
            losses = Losses.at(problem, hparams, inner, run_key)
            u = jax.random.normal(jax.random.fold_in(key, t), vector.shape)
            u = (u / jnp.linalg.norm(u)).astype(vector.dtype)

            def slope(weights, vector):
                return jax.grad(losses.inner)(weights, unravel(vector), t)

            shift, pull = jax.vjp(lambda theta: self.response(theta, u), theta)
            at = (problem.weights(inner), vector)
            _, change = jax.jvp(slope, at, (shift, u))
            theta = tree.axpy(-self.response_rate, pull(change)[0], theta)
            return problem.step(hparams, inner, t, run_key), theta

        inner, theta = loop(learn, (inner, theta), self.inner_steps, first=t)
        losses = Losses.at(problem, hparams, inner, run_key)
        w = problem.weights(inner)

        def outer(x):
            shift = self.response(theta, tree.ravel(x)[0] - vector)  # zero at λ
            return losses.outer(tree.axpy(1.0, shift, w), x, end)

        value, hypergrad = jax.value_and_grad(outer)(losses.floats)
        state = ResponseState(end, run_key, inner, theta)
        return Estimate(value, losses.restore(hypergrad), Info(inner)), state


@dataclass(frozen=True)
class SelfTuning(_ResponseNetwork):
    """d = d/dλ f(ŵ(λ), λ),   ŵ(λ) = w + Θλ,   min over w, Θ of E_ε ℓ(ŵ(λ + ε), λ + ε).

    A self-tuning network (MacKay et al. 2019): weights and response are trained
    together, by plain gradient steps on the loss of a perturbed λ; first order only.
    The perturbation is additive, so pass λ in unconstrained coordinates (log decay, …)
    of comparable size. The problem's optimiser is not asked.

    From the paper: the uncentred response, the joint training, structure by layer.
    Not from it: the outer loss is taken at λ rather than at perturbed λ, and the size σ
    of the perturbation is a field rather than learnt with an entropy term.

    Computes: a direction for λ which, with λ held, converges to that of the best linear
              response around λ at scale σ.
    Bias:     smoothing, O(σ²), none where w*(λ) is linear and ℓ quadratic; the
              structure of the response map; lag behind λ, long where ‖λ‖ ≫ σ, since
              w and Θλ are then hard to tell apart (the reason for `DeltaSTN`).
    Variance: that of batches, and of ε.
    Memory:   one inner state, one response.
    Time:     about K inner steps and two outer losses a call.

    Attributes:
      response: the form of Θ.
      inner_rate: rate of w.
      response_rate: rate of Θ, below 2 / (L (‖λ‖² + σ²(d + 2))) at curvature L.
      sigma: σ, the standard deviation of ε, in units of λ.
      inner_steps: K.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.zeros(()),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - hp * batch) ** 2),
      ...     outer_loss=lambda w, hp, batch: 0.5 * jnp.mean((w - batch) ** 2),
      ...     optimizer=lambda hp: optax.sgd(0.5),
      ...     train=jnp.ones(4), valid=jnp.ones(2), num_steps=500)
      >>> stn = hg.SelfTuning(response_rate=0.1, sigma=1.0)  # w* = λ, dF/dλ = λ − 1
      >>> estimate, _ = hg.estimate(problem, stn, 2.0, (), jax.random.key(0))
      >>> print(f"{estimate.hypergrad:.3f}")
      1.000
    """

    response: ResponseMap = LinearResponse()
    inner_rate: float = 0.1
    response_rate: float = 0.1
    sigma: float = 0.5
    inner_steps: int = 5

    def __post_init__(self):
        check_positive(self, "inner_rate", "response_rate", "sigma")
        check_count(self, "inner_steps")

    def advance(self, problem, hparams, state, key):
        """K steps of w and Θ on perturbed λ."""
        t, run_key, inner, theta = state
        end = t + self.inner_steps
        losses = Losses.at(problem, hparams, inner, run_key)
        vector, unravel = tree.ravel(losses.floats)

        def tuned(w, theta, vector):
            return tree.axpy(1.0, self.response(theta, vector), w)

        def learn(carry, t):
            epsilon = jax.random.normal(jax.random.fold_in(key, t), vector.shape)
            near = vector + (self.sigma * epsilon).astype(vector.dtype)

            def loss(w, theta):
                return losses.inner(tuned(w, theta, near), unravel(near), t)

            w, theta = carry
            down_w, down_theta = jax.grad(loss, (0, 1))(w, theta)
            return (
                tree.axpy(-self.inner_rate, down_w, w),
                tree.axpy(-self.response_rate, down_theta, theta),
            )

        start = (problem.weights(inner), theta)
        w, theta = loop(learn, start, self.inner_steps, first=t)

        def outer(x):
            return losses.outer(tuned(w, theta, tree.ravel(x)[0]), x, end)

        value, hypergrad = jax.value_and_grad(outer)(losses.floats)
        at_hparams = problem.replace_weights(inner, tuned(w, theta, vector))
        inner = problem.replace_weights(inner, w)
        state = ResponseState(end, run_key, inner, theta)
        return Estimate(value, losses.restore(hypergrad), Info(at_hparams)), state
