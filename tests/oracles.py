"""Closed forms, in numpy alone: what the estimators are held against.

Ridge regression by gradient descent from 0,
    ℓ(w) = ½ mean (Xw − y)² + ½ Σ λ_j w_j²,   ∇ℓ = H w − b,   H = XᵀX/n + diag λ,
    F = ½ mean (X_v w_T − y_v)².
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Ridge:
    """Data of a ridge regression and the derivatives of F that have a closed form."""

    x: np.ndarray
    y: np.ndarray
    xv: np.ndarray
    yv: np.ndarray

    @classmethod
    def make(cls, n=20, d=4, seed=0):
        rng = np.random.default_rng(seed)
        w = rng.normal(size=d)
        x, xv = rng.normal(size=(n, d)), rng.normal(size=(n, d))
        noise = 0.3 * rng.normal(size=(2, n))
        return cls(x, x @ w + noise[0], xv, xv @ w + noise[1])

    @property
    def dim(self):
        return self.x.shape[1]

    def quadratic(self, l2):
        n = len(self.y)
        return self.x.T @ self.x / n + np.diag(np.broadcast_to(l2, self.dim)), (
            self.x.T @ self.y / n
        )

    def outer(self, w):
        """F and dF/dw."""
        residual = self.xv @ w - self.yv
        return 0.5 * np.mean(residual**2), self.xv.T @ residual / len(self.yv)

    def rate(self, lr, l2, steps):
        """w_T = H⁻¹(I − (I − αH)^T) b, so dw_T/dα = T (I − αH)^(T−1) b."""
        h, b = self.quadratic(l2)
        mu, q = np.linalg.eigh(h)
        w = q @ ((1 - (1 - lr * mu) ** steps) / mu * (q.T @ b))
        dw = q @ (steps * (1 - lr * mu) ** (steps - 1) * (q.T @ b))
        value, slope = self.outer(w)
        return value, slope @ dw

    def l2(self, lr, l2, steps):
        """dw_T/dλ_j = f'(H)[e_j e_jᵀ] b (Daleckii and Krein), f(μ) = (1−(1−αμ)^T)/μ."""
        h, b = self.quadratic(l2)
        mu, q = np.linalg.eigh(h)
        power = (1 - lr * mu) ** steps
        f = (1 - power) / mu
        derivative = (lr * steps * (1 - lr * mu) ** (steps - 1) - f) / mu
        gap = mu[:, None] - mu[None, :]
        quotient = np.where(
            np.eye(len(mu)) == 1,
            derivative[:, None],
            (f[:, None] - f[None, :]) / np.where(gap == 0, 1, gap),
        )
        value, slope = self.outer(q @ (f * (q.T @ b)))
        jacobian = [
            slope @ q @ (quotient * np.outer(q[j], q[j])) @ (q.T @ b)
            for j in range(self.dim)
        ]
        return value, np.array(jacobian)

    def momentum(self, lr, momentum, l2, steps):
        """Heavy ball in each eigenmode: (w, v) ↦ A (w, v) + c, A 2x2.

        v' = m v + (μ w − β), w' = w − α v'; the derivative of A^k is Σ A^i A'
        A^(k−1−i).
        """
        h, b = self.quadratic(l2)
        mu, q = np.linalg.eigh(h)
        beta = q.T @ b
        w, dw = np.zeros_like(mu), np.zeros_like(mu)
        slope_of_a = np.array([[0.0, -lr], [0.0, 1.0]])
        for i in range(len(mu)):
            a = np.array([[1 - lr * mu[i], -lr * momentum], [mu[i], momentum]])
            c = np.array([lr * beta[i], -beta[i]])
            powers = [np.linalg.matrix_power(a, k) for k in range(steps)]
            w[i] = sum(p @ c for p in powers)[0]
            slopes = [
                sum(powers[j] @ slope_of_a @ powers[k - 1 - j] for j in range(k)) @ c
                for k in range(1, steps)
            ]
            dw[i] = sum(slopes)[0]
        value, slope = self.outer(q @ w)
        return value, slope @ (q @ dw)

    def schedule(self, rates, l2):
        """dw_T/dα_t = −H Π_{s≠t} (I − α_s H) (0 − w*)."""
        h, b = self.quadratic(l2)
        mu, q = np.linalg.eigh(h)
        star = (q.T @ b) / mu
        factors = 1 - np.outer(rates, mu)
        w = q @ (star - np.prod(factors, axis=0) * star)
        value, slope = self.outer(w)
        others = [
            np.prod(np.delete(factors, t, axis=0), axis=0) for t in range(len(rates))
        ]
        return value, np.array([slope @ (q @ (mu * other * star)) for other in others])
