"""Test functions of known minimum, as trainings of a single step that copies λ.

    s_1 = λ,   F(λ) = f(s_1),   regret = f(s_1) - min f

They ask how well a searcher finds a minimum, and nothing else: no data, no key, no
noise. Validation and test are the same function, so nothing is left to generalise to,
and the seeds are replicates of the searcher alone, from one default.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import hypergrad as hg
from experiments.registry import Task, register, remembered

Name = Literal["branin", "hartmann6", "rosenbrock"]
LEAST = {
    "branin": 0.39788735772973816,
    "hartmann6": -3.3223680114155,
    "rosenbrock": 0.0,
}
# Where the defaults are drawn from: nowhere special.
_DEFAULTS = 1
# Of Hartmann's function (Dixon and Szegő 1978).
_HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_SCALES = np.array(
    [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ]
)
_CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


@register("function")
class Function(Task):
    """Options of the task.

    Attributes:
        function: branin (2-d, three global minima), hartmann6 (6-d, six local minima)
            or rosenbrock (a curved valley).
        dim: of Rosenbrock's function.
    """

    metric: ClassVar[str] = "regret"
    higher_is_better: ClassVar[bool] = False
    question: ClassVar[frozenset[str]] = Task.question | {"function", "dim"}
    function: Name = "branin"
    dim: Annotated[int, Field(ge=2)] = 20

    def space(self) -> hg.Space:
        """`x` in the unit cube, onto which the function's domain is scaled."""
        dim = {"branin": 2, "hartmann6": 6}.get(self.function, self.dim)
        default = np.random.default_rng((_DEFAULTS, dim)).uniform(size=dim).round(3)
        point = tuple(default.tolist())
        return hg.Space({"x": hg.Linear(0.0, 1.0, shape=(dim,), default=point)})

    def problem(self, seed: int) -> hg.Problem:
        """F = f, whatever the seed."""
        del seed
        parts = _parts(self)
        return hg.Problem.from_step(parts.start, parts.step, parts.outer, num_steps=1)

    def validation(self, seed: int):
        """Regret and f."""
        del seed
        return _parts(self).metrics

    def test(self, seed: int):
        """The same: there is but one function."""
        del seed
        return _parts(self).metrics


@dataclass(frozen=True, eq=False)
class _Parts:
    """What the problem is made of."""

    name: Name

    def value(self, point):
        """The function at a point of the unit cube."""
        return {"branin": branin, "hartmann6": hartmann6, "rosenbrock": rosenbrock}[
            self.name
        ](point)

    def start(self, hparams, tick):
        del tick
        return jnp.zeros_like(hparams["x"])

    def step(self, hparams, state, tick):
        del state, tick
        return hparams["x"]

    def outer(self, hparams, state, tick):
        del hparams, tick
        return self.value(state)

    def metrics(self, state, hparams):
        del hparams
        value = self.value(state)
        return {"regret": value - LEAST[self.name], "value": value}


@remembered
def _parts(task: Function) -> _Parts:
    return _Parts(task.function)


def branin(u: jax.Array) -> jax.Array:
    """(y - 5.1 x²/4π² + 5x/π - 6)² + 10 (1 - 1/8π) cos x + 10; x + 5, y are 15 u.

    >>> print(branin(jnp.array([(jnp.pi + 5) / 15, 2.275 / 15])).round(4))
    0.3979
    """
    x, y = 15.0 * u[0] - 5.0, 15.0 * u[1]
    valley = y - 5.1 / (4.0 * math.pi**2) * x**2 + 5.0 / math.pi * x - 6.0
    return valley**2 + 10.0 * (1.0 - 1.0 / (8.0 * math.pi)) * jnp.cos(x) + 10.0


def hartmann6(u: jax.Array) -> jax.Array:
    """-Σ_i c_i exp(-Σ_j a_ij (u_j - p_ij)²), i < 4, j < 6.

    >>> best = jnp.array([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573])
    >>> print(f"{hartmann6(best):.4f}")
    -3.3224
    """
    # As arrays of JAX's own precision, which may change between two calls.
    constants = (_HEIGHTS, _SCALES, _CENTRES)
    heights, scales, centres = (jnp.asarray(x, float) for x in constants)
    squares = jnp.sum(scales * (u[None] - centres) ** 2, axis=1)
    return -jnp.sum(heights * jnp.exp(-squares))


def rosenbrock(u: jax.Array) -> jax.Array:
    """Σ_i 100 (x_{i+1} - x_i²)² + (1 - x_i)², x = 2.048 (2u - 1); 0 at x = 1.

    >>> print(rosenbrock(jnp.full(20, 0.5 + 0.5 / 2.048)).round(4))
    0.0
    """
    x = 2.048 * (2.0 * u - 1.0)
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
