"""A bilevel problem whose inner solution, hypergradient and optimum have closed forms.

Least squares whose targets move with λ, over rows (x_i, y_i, c_i),
    ℓ(w, λ) = mean_i ½ (x_i·w − y_i − c_i·λ)²,    H = XᵀX/n,  b = Xᵀy/n,  C = XᵀC/n,
    f(w, λ) = ½ ‖w − goal‖² + ½ ρ ‖λ‖²,
so that w*(λ) = H⁻¹ (b + Cλ) is linear in λ and F is a quadratic.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hypergrad as hg

RHO = 0.1


@dataclass
class Quadratic:
    """Rows, goal and everything that follows from them, in numpy alone."""

    x: np.ndarray
    y: np.ndarray
    c: np.ndarray
    goal: np.ndarray

    @classmethod
    def make(cls, n=12, d=3, h=2, seed=0):
        rng = np.random.default_rng(seed)
        x, _ = np.linalg.qr(rng.normal(size=(n, d)))
        x = x * np.sqrt(n * np.linspace(0.5, 1.5, d))  # curvatures from 0.5 to 1.5
        y, c = rng.normal(size=n), rng.normal(size=(n, h))
        return cls(x, y, c + x[:, :h], rng.normal(size=d))

    @property
    def hessian(self):
        return self.x.T @ self.x / len(self.y)

    @property
    def cross(self):
        return self.x.T @ self.c / len(self.y)

    def solution(self, lam):
        """w*(λ)."""
        b = self.x.T @ self.y / len(self.y)
        return np.linalg.solve(self.hessian, b + self.cross @ lam)

    @property
    def response(self):
        """dw*/dλ, (weights, hyperparameters)."""
        return np.linalg.solve(self.hessian, self.cross)

    def value(self, lam):
        """F(λ)."""
        gap = self.solution(lam) - self.goal
        return 0.5 * gap @ gap + 0.5 * RHO * lam @ lam

    def hypergrad(self, lam):
        """dF/dλ."""
        return self.response.T @ (self.solution(lam) - self.goal) + RHO * lam

    @property
    def optimum(self):
        """Argmin F."""
        z = self.response
        at_zero = self.solution(np.zeros(z.shape[1]))
        return np.linalg.solve(
            z.T @ z + RHO * np.eye(z.shape[1]), z.T @ (self.goal - at_zero)
        )

    def neumann(self, lam, rate, terms):
        """The direction at w*(λ) with the adjoint cut after so many terms."""
        gap = self.solution(lam) - self.goal
        power = np.linalg.matrix_power(np.eye(len(gap)) - rate * self.hessian, terms)
        v = np.linalg.solve(self.hessian, gap - power @ gap)
        return self.cross.T @ v + RHO * lam

    def penalised(self, lam, sigma):
        """dL_σ/dλ, L_σ(λ) = min_w f + σ (ℓ − min ℓ)."""
        w, eye = self.solution(lam), np.eye(len(self.goal))
        pulled = np.linalg.solve(
            self.hessian + eye / sigma, self.hessian @ w + self.goal / sigma
        )
        return sigma * self.cross.T @ (w - pulled) + RHO * lam


def _inner(weights, hparams, batch):
    x, y, c = batch
    return 0.5 * jnp.mean((x @ weights - y - c @ hparams["shift"]) ** 2)


def _outer(weights, hparams, goal):
    gap, shift = weights - goal, hparams["shift"]
    return 0.5 * jnp.sum(gap**2) + 0.5 * RHO * jnp.sum(shift**2)


def _sgd(hparams):
    return optax.sgd(0.5)


def _start(key, hparams):
    return jnp.zeros(3)


DATA = Quadratic.make()
LAMBDA = np.array([1.0, -0.5])


def quadratic(num_steps: int, dtype=jnp.float64, **changes) -> hg.Problem:
    """The problem; λ = {"shift": [2]}."""
    rows = (DATA.x, DATA.y, DATA.c)
    arguments = {
        "init": _start,
        "inner_loss": _inner,
        "outer_loss": _outer,
        "optimizer": _sgd,
        "train": tuple(jnp.asarray(a, dtype) for a in rows),
        "valid": jnp.asarray(DATA.goal, dtype),
        "num_steps": num_steps,
    }
    return hg.Problem(**(arguments | changes))


def folds(num_steps: int, num_folds: int) -> hg.Problem:
    """The same losses cross-validated, the validation rows being left alone."""
    return hg.Problem.from_folds(
        init=_start,
        inner_loss=_inner,
        outer_loss=lambda w, hp, batch: _outer(w, hp, jnp.asarray(DATA.goal)),
        optimizer=_sgd,
        data=(jnp.asarray(DATA.x), jnp.asarray(DATA.y), jnp.asarray(DATA.c)),
        num_folds=num_folds,
        num_steps=num_steps,
    )


def held(estimator, problem, key):
    """The estimate of one whole training at LAMBDA."""
    hparams = {"shift": jnp.asarray(LAMBDA)}
    return hg.estimate(problem, estimator, hparams, (), key)[0]


def over_keys(estimator, problem, num_keys, key):
    """The hypergradients of `held` for many keys, [keys, 2]."""
    hparams = {"shift": jnp.asarray(LAMBDA)}

    @jax.jit
    @jax.vmap
    def run(key):
        return estimator.estimate(problem, hparams, (), key)[0].hypergrad["shift"]

    return np.asarray(run(jax.random.split(key, num_keys)))


def moving(estimator, problem, rate, calls, key):
    """λ after so many calls, each followed by λ ← λ − rate · hypergrad."""

    def call(carry, i):
        hparams, state = carry
        own = jax.random.fold_in(key, i)
        estimate, state = estimator.estimate(problem, hparams, state, own)
        hparams = jax.tree.map(lambda x, d: x - rate * d, hparams, estimate.hypergrad)
        return (hparams, state), None

    @jax.jit
    def run(hparams):
        carry = hparams, estimator.init(problem, hparams, key)
        return jax.lax.scan(call, carry, jnp.arange(calls))[0][0]["shift"]

    return np.asarray(run({"shift": jnp.asarray(LAMBDA)}))
