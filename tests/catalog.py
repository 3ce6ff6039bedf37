"""The problems, each with what is known about it, and the estimators tried on them.

Training sets of quadratics are [A, b] themselves: ℓ = ½ wᵀ(A + λI)w − bᵀw, so that
the spectrum of the inner Hessian is the one asked for, and so are w* and dw*/dλ.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hypergrad as hg
from experiments.papers.metz import START, lorenz
from tests.problems import digits, ridge


class Case(NamedTuple):
    """A problem, a λ, and whether training has converged to its minimum there."""

    problem: hg.Problem
    hparams: Any
    converged: bool = False


def quadratic(spectrum, num_steps, shape=None) -> hg.Problem:
    """Gradient descent on a quadratic of known spectrum; b is A times a vector of 1.5.

    In each eigenmode of curvature μ, w_T = (1 − (1 − α(μ + λ))^T) / (μ + λ) · b.
    """
    mu = np.asarray(spectrum, float)
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(mu.size, mu.size)))
    matrix = q @ np.diag(mu) @ q.T
    return hg.Problem(
        **_quadratic((mu.size,) if shape is None else shape),
        train=(matrix, matrix @ np.full(mu.size, 1.5)),
        valid=np.ones(mu.size),
        num_steps=num_steps,
    )


@functools.cache
def _quadratic(shape):
    def inner(weights, hparams, batch):
        matrix, b = batch
        w = jnp.ravel(weights)
        return 0.5 * w @ matrix @ w - b @ w + hg.l2(w, hparams["l2"])

    return {
        "init": lambda key, hp: jnp.zeros(shape),
        "inner_loss": inner,
        "outer_loss": lambda w, hp, ones: 0.5 * jnp.sum((jnp.ravel(w) - ones) ** 2),
        "optimizer": lambda hp: optax.sgd(hp["lr"]),
    }


@functools.cache
def logistic_regression(num_steps) -> hg.Problem:
    """Two classes in four dimensions, full batch."""
    rng = np.random.default_rng(3)
    x, xv = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
    w = rng.normal(size=4)
    y, yv = (
        (rows @ w + 0.5 * rng.normal(size=40) > 0).astype(float) for rows in (x, xv)
    )

    def loss(weights, batch):
        x, y = batch
        return optax.sigmoid_binary_cross_entropy(x @ weights, y).mean()

    return hg.Problem(
        init=lambda key, hp: jnp.zeros(4),
        inner_loss=lambda w, hp, batch: loss(w, batch) + hg.l2(w, hp["l2"]),
        outer_loss=lambda w, hp, batch: loss(w, batch),
        optimizer=lambda hp: optax.sgd(hp["lr"]),
        train=(x, y),
        valid=(xv, yv),
        num_steps=num_steps,
    )


@functools.cache
def noisy_quadratic(num_steps, h=(0.3, 1.0), noise=(0.5, 1.0)) -> hg.Problem:
    """A' = (1 − αh)² A + (αh)² s², loss ½ Σ h A: Wu et al. 2018, in expectation."""
    h, noise = jnp.asarray(h), jnp.asarray(noise)

    def step(hp, a, tick):
        rate = hp["lr"][tick.t]
        return (1 - rate * h) ** 2 * a + (rate * h * noise) ** 2

    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.full(h.shape, 4.0),
        step=step,
        outer_at=lambda hp, a, tick: 0.5 * jnp.sum(h * a),
        num_steps=num_steps,
    )


CASES: dict[str, Callable[[], Case]] = {
    "ridge": lambda: Case(ridge(12), {"lr": 0.1, "l2": jnp.linspace(0.1, 0.4, 4)}),
    "converged ridge": lambda: Case(
        ridge(600), {"lr": 0.3, "l2": jnp.linspace(0.1, 0.4, 4)}, converged=True
    ),
    "known spectrum": lambda: Case(
        quadratic((0.2, 0.5, 1.0, 1.5), 240),
        {"lr": 0.5, "l2": 0.1},
        converged=True,
    ),
    "a scalar weight": lambda: Case(
        quadratic((0.8,), 60, shape=()), {"lr": 0.5, "l2": 0.2}, converged=True
    ),
    "Hessian a multiple of I": lambda: Case(
        quadratic((0.7,) * 3, 120), {"lr": 0.5, "l2": 0.1}, converged=True
    ),
    "ill-conditioned": lambda: Case(
        quadratic(np.logspace(-4, 0, 5), 24), {"lr": 0.9, "l2": 1e-6}
    ),
    "logistic regression": lambda: Case(
        logistic_regression(600), {"lr": 2.0, "l2": jnp.full(4, 0.05)}, converged=True
    ),
    "digits MLP": lambda: Case(*digits(6, sizes=(64, 8, 10))),
    "noisy quadratic": lambda: Case(
        noisy_quadratic(12), {"lr": jnp.linspace(0.6, 0.1, 12)}
    ),
    "Lorenz": lambda: Case(lorenz(120), np.array(START)),
}


# Estimators for a problem of T steps, by name; T is even.
EXACT = {
    "Reverse": lambda T: hg.Reverse(hg.Segments()),
    "Reverse, k-ary": lambda T: hg.Reverse(hg.KAry(2)),
    "Reverse, gradients": lambda T: hg.Reverse(hg.Gradients()),
    "Forward": lambda T: hg.Forward(chunk=2),
}
IMPLICIT = {
    "Implicit": lambda T: hg.Implicit(),
    "Implicit, dense": lambda T: hg.Implicit(solver=hg.Dense()),
    "Implicit, fixed point": lambda T: hg.Implicit(operator=hg.FixedPoint()),
}
UNBIASED = {
    "RandomlyTruncated": lambda T: hg.RandomlyTruncated(window=max(1, T // 4)),
    "RandomDirections": lambda T: hg.RandomDirections(8),
    "UORO": lambda T: hg.UORO(),
}
WINDOWED = {
    "Reverse, window": lambda T: hg.Reverse(window=T // 2),
    "OneStep": lambda T: hg.OneStep(),
}
OTHERS = {
    "Value": lambda T: hg.Value(),
    "FiniteDifference": lambda T: hg.FiniteDifference(order=4),
    "Reversible": lambda T: hg.Reversible(bits=64),
    "ForwardSharing": lambda T: hg.ForwardSharing(window=T // 2),
    "Implicit, Neumann": lambda T: hg.Implicit(solver=hg.Neumann()),
    "Implicit, Nystrom": lambda T: hg.Implicit(solver=hg.Nystrom()),
    "Implicit, normal CG": lambda T: hg.Implicit(solver=hg.NormalCG()),
    "Darts": lambda T: hg.Darts(),
    "HypergradientDescent": lambda T: hg.HypergradientDescent(),
    "RTHO": lambda T: hg.RTHO(),
    "MARTHE": lambda T: hg.MARTHE(0.9),
    "OnlineReverse": lambda T: hg.OnlineReverse(window=T // 2),
    "Tower": lambda T: hg.Tower(),
    "EvolutionStrategies": lambda T: hg.EvolutionStrategies(1e-3, 8),
    "PersistentES": lambda T: hg.PersistentES(1e-3, 8, T // 2),
    "NoiseReuseES": lambda T: hg.NoiseReuseES(1e-3, 8, T // 2),
    "SOBA": lambda T: hg.SOBA(),
    "SABA": lambda T: hg.SABA(),
    "StocBiO": lambda T: hg.StocBiO(inner_steps=T // 2),
    "F2SA": lambda T: hg.F2SA(),
    "BOME": lambda T: hg.BOME(inner_steps=T // 2),
    "SelfTuning": lambda T: hg.SelfTuning(inner_steps=2),
    "DeltaSTN": lambda T: hg.DeltaSTN(inner_steps=2),
}
ROWS = EXACT | IMPLICIT | UNBIASED | WINDOWED | OTHERS


def scaled(hparams, factors):
    """λ times each of the factors, stacked: what vmap over λ maps over."""
    return jax.tree.map(
        lambda x: jnp.multiply.outer(jnp.asarray(factors), jnp.asarray(x)), hparams
    )
