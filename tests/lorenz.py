"""Learning two constants of the Lorenz system: the chaotic problem (Metz et al. 2021).

    ẋ = a (y − x),   ẏ = x (r − z) − y,   ż = x y − b z,

Euler steps of 0.005 from (1.2, 1.3, 1.6); λ = (log a, log r), and F is the mean over
the steps of (z − z*)², z* being the run at the truth (Li et al. 2023 for the setting).
"""

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg

TRUTH = (10.0, 28.0, 8 / 3)
START = np.array([3.116, 3.7])
"""Where learning starts, in log a and log r."""


def _move(s, a, r, b=TRUTH[2]):
    x, y, z = s
    return s + 0.005 * jnp.stack([a * (y - x), x * (r - z) - y, x * y - b * z])


def _first():
    return jnp.array([1.2, 1.3, 1.6])


def lorenz(num_steps: int) -> hg.Problem:
    """The problem with λ = array (log a, log r)."""

    def follow(s, _):
        s = _move(s, *TRUTH)
        return s, s[2]

    _, truth = jax.lax.scan(follow, _first(), length=num_steps)
    return hg.Problem.from_step(
        start=lambda hp, tick: _first().astype(hp.dtype),
        step=lambda hp, s, tick: _move(s, *jnp.exp(hp)),
        outer_at=lambda hp, s, tick: (s[2] - tick.data[tick.t - 1]) ** 2 / num_steps,
        data=truth,
        num_steps=num_steps,
        outer_every=1,
    )
