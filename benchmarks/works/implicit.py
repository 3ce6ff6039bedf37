"""Implicit: logistic regression on digits, converged; λ = 640 log l2 coefficients.

Training is done beforehand, by Newton's method; what is timed is the hypergradient at
the solution, by conjugate gradients to a relative residual of 1e-6. The residual in the
table is nobody's own word: ∂ℓ/∂w∂λ is diagonal here, so that the solution v of H v = b
is read off the hypergradient, and ‖H v − b‖ / ‖b‖ is computed in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.programs import of_estimator
from benchmarks.works.base import Work, floats
from benchmarks.works.classifier import split_arrays
from benchmarks.works.data import Split, digits
from hypergrad.estimators import Estimator, Implicit, Value
from hypergrad.linear_solvers import CG
from hypergrad.problem import Problem

TOLERANCE = 1e-6
LOG_L2 = -5.0
VALUE = "value at the solution"

CONTENDERS: dict[str, Estimator] = {
    "Implicit(CG)": Implicit(
        solver=CG(max_iterations=1000, tolerance=TOLERANCE), tolerance=10 * TOLERANCE
    ),
}


def cross_entropy(weights, batch):
    """The mean of −log p(label) of a linear classifier [64, 10] without bias."""
    inputs, labels = batch
    losses = optax.softmax_cross_entropy_with_integer_labels(inputs @ weights, labels)
    return jnp.mean(losses)


def regularised(weights, log_l2, batch):
    """ℓ(w, λ) = cross-entropy + ½ Σ exp(λ_i) w_i²."""
    penalty = 0.5 * jnp.sum(jnp.exp(log_l2) * weights**2)
    return cross_entropy(weights, batch) + penalty


def solution(log_l2: np.ndarray, train: tuple, iterations: int = 20) -> np.ndarray:
    """W* by Newton's method, the linear systems in float64."""
    slope = jax.jit(jax.grad(regularised))
    weights = np.zeros(log_l2.shape)
    for _ in range(iterations):
        gradient = np.asarray(slope(floats(weights), floats(log_l2), train), float)
        curvature = hessian(weights, log_l2, train[0])
        step = np.linalg.solve(curvature, gradient.ravel())
        weights = weights - step.reshape(weights.shape)
    return weights


def hessian(weights: np.ndarray, log_l2: np.ndarray, inputs) -> np.ndarray:
    """∂²ℓ/∂w∂w in float64: Σ_n x xᵀ ⊗ (diag p − p pᵀ) / n + diag exp λ."""
    inputs = np.asarray(inputs, float)
    p = _probabilities(inputs @ weights)
    classes = np.eye(p.shape[1])[None] * p[:, :, None] - p[:, :, None] * p[:, None, :]
    outer = np.einsum("ni,nj->nij", inputs, inputs).reshape(len(inputs), -1)
    blocks = outer.T @ classes.reshape(len(inputs), -1) / len(inputs)
    rows, columns = weights.shape
    full = blocks.reshape(rows, rows, columns, columns).transpose(0, 2, 1, 3)
    return full.reshape(weights.size, -1) + np.diag(np.exp(log_l2).ravel())


def residual(hypergrad: np.ndarray, weights: np.ndarray, log_l2, split: Split) -> float:
    """‖H v − b‖ / ‖b‖ of the v that a hypergradient −exp(λ) w v was made of."""
    inputs, labels = (np.asarray(part) for part in split.valid)
    inputs = inputs.astype(float)
    wrong = _probabilities(inputs @ weights) - np.eye(weights.shape[1])[labels]
    b = (inputs.T @ wrong / len(inputs)).ravel()
    scale = (np.exp(log_l2) * weights).ravel()
    # A pixel that no training row lights has w = 0, and an equation of its own.
    live = np.abs(scale) > 1e-12 * np.abs(scale).max()
    v = np.where(live, -hypergrad.ravel() / np.where(live, scale, 1.0), 0.0)
    error = (hessian(weights, log_l2, split.train[0]) @ v - b)[live]
    return float(np.linalg.norm(error) / np.linalg.norm(b[live]))


def _probabilities(logits: np.ndarray) -> np.ndarray:
    unscaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return unscaled / unscaled.sum(axis=1, keepdims=True)


def at_solution(split: Split, weights: np.ndarray) -> Problem:
    """One step from 0 to the solution: training is over, and takes no time."""
    data = {"train": split.train, "valid": split.valid, "solution": floats(weights)}
    return Problem.from_step(
        start=lambda hp, tick: jnp.zeros_like(tick.data["solution"]),
        step=lambda hp, w, tick: tick.data["solution"],
        outer_at=lambda hp, w, tick: cross_entropy(w, tick.data["valid"]),
        inner_loss_at=lambda hp, w, tick: regularised(
            w, hp["log_l2"], tick.data["train"]
        ),
        num_steps=1,
        data=data,
    )


def make(steps: int | None = None, smallest: bool = False) -> Work:
    """The work; `smallest` takes few rows. There are no steps to choose."""
    split = digits()
    if smallest:
        split = Split(*(tuple(x[:50] for x in part) for part in split))
    log_l2 = np.full((64, 10), LOG_L2)
    weights = solution(log_l2, split.train)
    # What everyone starts from: the solution in the float type of the run.
    weights = np.asarray(floats(weights))
    problem = at_solution(split, weights)
    hparams, key = {"log_l2": floats(log_l2)}, jax.random.key(0)

    def complete(record, hypergrads):
        for row in record["contenders"]:
            if found := hypergrads.get(row["name"]):
                row["true_residual"] = residual(
                    found["log_l2"], weights.astype(float), log_l2, split
                )
        return record

    return Work(
        "implicit",
        f"digits, logistic regression with 640 l2 coefficients, {len(split.train[1])} "
        f"rows, converged; the hypergradient at the solution, CG to {TOLERANCE:g}",
        {
            label: of_estimator(problem, estimator, hparams, key)
            for label, estimator in {VALUE: Value(), **CONTENDERS}.items()
        },
        reference="Implicit(CG)",
        tolerance=1e-3,
        steps=1,
        base="Implicit(CG)",
        peers={
            "jaxopt root_vjp": "with_jaxopt:implicit",
            "plain torch CG": "implicit_torch:plain",
            "TorchOpt custom_root": "implicit_torch:with_torchopt",
        },
        arrays={
            "weights": weights,
            "log_l2": np.asarray(hparams["log_l2"]),
            **split_arrays(split),
        },
        settings={"tolerance": TOLERANCE, "max_iterations": 1000},
        complete=complete,
    )
