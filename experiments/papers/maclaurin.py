"""What the experiments of Maclaurin, Duvenaud and Adams (2015) share, quirks included.

Training is v ← γ v − (1 − γ) g, w ← w + α v. Their reversible arithmetic multiplies v
by n/65536, n = ⌊65536 γ + 1⌋, and everything else by γ itself; without that rounding
losses differ by 5e-5. Their way back takes γ for n/65536, which puts hypergradients off
by 1e-4 to 5e-4 and, with it, all that is learned by them.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hypergrad as hg
from experiments.data.sources import ImageSet, load
from experiments.papers.images import Images, images
from hypergrad import Problem
from hypergrad.typing import HParams, Key, Scalar, Weights

_DENOMINATOR = 65536.0
_LEVELS = 255.0

Arithmetic = Literal["published", "rounded", "real"]
"""What multiplies a velocity, and what stands for its derivative.

| value       | v' = γ v is | its derivative is     |
|-------------|-------------|-----------------------|
| "published" | n/65536 v   | γ dv + v dγ, as theirs |
| "rounded"   | n/65536 v   | n/65536 dv + v dγ     |
| "real"      | γ v         | γ dv + v dγ           |
"""

Factor = Callable[[jax.Array], jax.Array | optax.Updates]
"""step -> a number, or one a leaf of the weights."""


class MomentumState(NamedTuple):
    """Steps done and velocity."""

    step: jax.Array
    velocity: optax.Updates


def momentum(
    alpha: Factor, gamma: Factor, arithmetic: Arithmetic = "published"
) -> optax.GradientTransformation:
    """The optimiser v ← γ_t v − (1 − γ_t) g,  w ← w + α_t v, of the new velocity.

    Args:
        alpha: α_t.
        gamma: γ_t.
        arithmetic: of γ_t v.
    """

    def init(params):
        still = jax.tree.map(jnp.zeros_like, params)
        return MomentumState(jnp.zeros((), jnp.int32), still)

    def update(updates, state, params=None):
        del params
        decay, rate = (_each(fn(state.step), updates) for fn in (gamma, alpha))

        def accelerate(g, v, slope):
            return _decayed(g, v, arithmetic) - (1.0 - g) * slope

        velocity = jax.tree.map(accelerate, decay, state.velocity, updates)
        moves = jax.tree.map(jnp.multiply, rate, velocity)
        return moves, MomentumState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


def _each(factor, grads):
    """One factor a leaf."""
    leaves, structure = jax.tree.flatten(grads)
    if jax.tree.structure(factor) == structure:
        return factor
    return jax.tree.unflatten(structure, [factor] * len(leaves))


def _decayed(gamma, v, arithmetic: Arithmetic):
    """γ v in an arithmetic."""
    fraction = jnp.floor(_DENOMINATOR * gamma + 1.0) / _DENOMINATOR
    if arithmetic == "published":
        return _valued(fraction * v, gamma * v)
    return (_valued(fraction, gamma) if arithmetic == "rounded" else gamma) * v


def _valued(value, like):
    """A value, with the derivative of another."""
    return like + jax.lax.stop_gradient(value - like)


class OddAdamState(NamedTuple):
    """Steps done and the two moments."""

    step: jax.Array
    first: optax.Updates
    second: optax.Updates


def odd_adam(
    learning_rate: float,
    b1: float = 0.1,
    b2: float = 0.01,
    eps: float = 1e-4,
    fading: float = 1e-4,
) -> optax.GradientTransformation:
    """Their Adam, in which b is the share of the new and momentum fades at once.

        b_i = 1 − (1 − b1) fading^i
        m ← b_i g + (1 − b_i) m,              v ← b2 g² + (1 − b2) v
        x ← x − η m̂ / (√v̂ + eps),             v̂ = v / (1 − (1 − b2)^(i+1))
                                              m̂ = m / (1 − (1 − b1)^(i+1))

    With fading = 1e-4, m is g from i = 1 on, yet it is still divided as if it had been
    averaged: the second step is five times too long, the tenth 1.5 times. fading = 1 is
    Adam as everyone knows it.

    Args:
        learning_rate: η.
        b1: share of g in m.
        b2: share of g² in v.
        eps: added to √v̂.
        fading: of what is kept of m.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return OddAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        del params
        i = state.step
        new = 1.0 - (1.0 - b1) * fading**i

        def move(m, v):
            m, v = (x / (1.0 - (1.0 - b) ** (i + 1)) for x, b in ((m, b1), (v, b2)))
            return -learning_rate * m / (jnp.sqrt(v) + eps)

        first = jax.tree.map(
            lambda m, g: new * g + (1.0 - new) * m, state.first, updates
        )
        second = jax.tree.map(
            lambda v, g: b2 * g**2 + (1.0 - b2) * v, state.second, updates
        )
        return jax.tree.map(move, first, second), OddAdamState(i + 1, first, second)

    return optax.GradientTransformation(init, update)


def stacked(source: ImageSet, centred: bool) -> Images:
    """Their rows: bytes over 255 in double precision, training rows before test rows.

    Args:
        source: the image set.
        centred: subtract the mean image of the publisher's training rows.
    """
    rows = images(source)
    levels = np.rint(_LEVELS * rows.inputs.astype(float))
    inputs = levels / _LEVELS
    if not np.allclose(inputs, rows.inputs, atol=1e-6):  # These were no bytes.
        inputs = rows.inputs.astype(float)
    if centred:
        inputs -= inputs[: len(load(source).train)].mean(axis=0)
    return Images(inputs, rows.labels)


def random_state(*numbers: int) -> np.random.RandomState:
    """Their generator: seeded by the first 32 bits of the MD5 of "(a, b, ...)"."""
    text = hashlib.md5(str(numbers).encode(), usedforsecurity=False).hexdigest()
    return np.random.RandomState(int(text[:8], base=16))  # noqa: NPY002


def drawn_start(seed: int, count: int) -> jax.Array:
    """Normal numbers: their generator's second draw, the first being velocities × 0."""
    random = np.random.RandomState(seed)  # noqa: NPY002
    return jnp.asarray(random.randn(2, count)[1])


def num_weights(sizes: Sequence[int]) -> int:
    """Weights and biases of a perceptron of these widths."""
    return sum((m + 1) * n for m, n in zip(sizes[:-1], sizes[1:], strict=True))


def as_weights(vector: jax.Array, sizes: Sequence[int]) -> Weights:
    """Their vector, W_1, b_1, W_2, b_2, ..., as the weights of `hg.models.mlp`."""
    layers, start = [], 0
    for m, n in zip(sizes[:-1], sizes[1:], strict=True):
        kernel, bias = jnp.split(vector[start : start + (m + 1) * n], [m * n])
        layers.append({"kernel": kernel.reshape(m, n), "bias": bias})
        start += (m + 1) * n
    return tuple(layers)


def per_group(values: jax.Array) -> Weights:
    """One number for each of W_1, b_1, W_2, b_2, ... as a tree like the weights."""
    pairs = values.reshape(-1, 2)
    return tuple({"kernel": kernel, "bias": bias} for kernel, bias in pairs)


def mean_nll(apply, weights: Weights, batch) -> Scalar:
    """−(1/n) Σ_i log p(class_i | x_i)."""
    inputs, labels = batch
    return jnp.mean(hg.cross_entropy(apply(weights, inputs), labels))


def error_rate(apply, weights: Weights, batch) -> Scalar:
    """Share of rows whose likeliest class is another."""
    inputs, labels = batch
    wrong = jnp.argmax(apply(weights, inputs), axis=-1) != labels
    return jnp.mean(wrong.astype(inputs.dtype))


def judge(apply):
    """Weights, rows -> mean NLL and share of errors, compiled."""

    @jax.jit
    def losses(weights: Weights, rows) -> tuple[Scalar, Scalar]:
        return mean_nll(apply, weights, rows), error_rate(apply, weights, rows)

    return losses


def run_backwards(problem: Problem, hparams: HParams, key: Key) -> tuple[int, HParams]:
    """Their way of differentiation: bits by which it misses the start, and dF/dλ."""
    bits = 64 if jnp.zeros(()).dtype == jnp.float64 else 32
    way_back = hg.Reversible(bits=bits, integer_bits=8, smallest_momentum=0.1)
    both = hg.value_and_hypergrad(problem, way_back, has_aux=True)
    (_, info), slope = both(hparams, key)
    return int(info.wrong_bits), slope
