"""The quadratic bilevel problem of benchmark_bilevel (Dagréou et al. 2022).

    ℓ(w, λ) = mean_i  ½ (x_i·w)² + ½ (y_i·λ)² + (a_i·λ)(b_i·w) + p_i·w + q_i·λ

is what training minimises over w, and f, of other draws, what F looks at. So w*(λ),
h(λ) = f(w*(λ), λ), its slope and its minimum are closed forms. Below: the draw, the
closed forms, a task for ordinary configs, and a protocol in which λ moves at each step.
"""

import functools
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import BaseModel, Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.registry import Task, register, remembered

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Rows(NamedTuple):
    """The vectors of n losses, each [n, dim]."""

    x: Any
    y: Any
    a: Any
    b: Any
    p: Any
    q: Any


class Draw(BaseModel):
    """What is drawn; the defaults are those of the benchmark.

    Attributes:
        num_samples: losses, inner and outer.
        dim: of w and of λ.
        mu: smallest eigenvalue of E x xᵀ and E y yᵀ, whose largest is 1; y has a 0 too.
        cross: largest singular value of E a bᵀ.
        draw_seed: of all rows.
    """

    num_samples: Count = 1024
    dim: Annotated[int, Field(ge=2)] = 100
    mu: Positive = 0.1
    cross: Positive = 0.1
    draw_seed: int = 2442

    def rows(self) -> tuple[Rows, Rows]:
        """Inner and outer losses."""
        inner, outer = jax.random.split(jax.random.PRNGKey(self.draw_seed), 2)
        return self._rows(inner), self._rows(outer)

    def _rows(self, key) -> Rows:
        n, d, keys = self.num_samples, self.dim, jax.random.split(key, 10)

        def normal(i: int, *shape: int) -> np.ndarray:
            # Of 32 bits whatever the default: others would be another problem.
            return np.asarray(jax.random.normal(keys[i], shape, jnp.float32), float)

        def with_spectrum(i: int, eigenvalues: np.ndarray) -> np.ndarray:
            basis = np.linalg.svd(normal(i, d, 1))[0]
            root = (basis * np.sqrt(eigenvalues)) @ basis.T
            return normal(i + 1, n, 1, d)[:, 0] @ root

        left, _, right = np.linalg.svd(normal(4, d, d))
        z = normal(5, n, 1, d)[:, 0]
        return Rows(
            x=with_spectrum(0, np.geomspace(self.mu, 1.0, d)),
            y=with_spectrum(2, np.r_[0.0, np.geomspace(self.mu, 1.0, d - 1)]),
            a=z * np.geomspace(self.mu, self.cross, d) @ left.T,
            b=z @ right.T,
            p=normal(6, n, d),
            q=normal(7, n, d),
        )

    def descent(self, rate: float, num_steps: int, batch_size: int) -> hg.Problem:
        """Gradient descent on ℓ from w = 0, in epochs of batches; 0: of all rows."""

        def rows(of: Rows) -> Rows:
            return Rows(*(jnp.asarray(part, float) for part in of))

        inner, outer = map(rows, self.rows())
        return hg.Problem(
            init=lambda key, hp: jnp.zeros(self.dim),
            inner_loss=mean_loss,
            outer_loss=mean_loss,
            optimizer=lambda hp: optax.sgd(rate),
            train=inner,
            valid=outer,
            num_steps=num_steps,
            batches=hg.Epochs(batch_size) if batch_size else hg.FullBatch(),
        )


def mean_loss(weights, hparams, batch: Rows):
    """ℓ of a batch, or f of all rows."""
    hp, (x, y, a, b, p, q) = hparams["x"], batch
    bent = 0.5 * (x @ weights) ** 2 + 0.5 * (y @ hp) ** 2 + (a @ hp) * (b @ weights)
    return jnp.mean(bent + p @ weights + q @ hp)


class Closed(NamedTuple):
    """h(λ) = h(0) + g·λ + ½ λᵀHλ, and where it is least."""

    at_zero: float
    g: np.ndarray
    H: np.ndarray
    best: np.ndarray

    @property
    def least(self) -> float:
        """Min h."""
        return float(self.at_zero + 0.5 * self.g @ self.best)

    def metrics(self, state, hparams) -> dict[str, jax.Array]:
        """Distance ‖λ − λ*‖ / ‖λ*‖, gap h(λ) − min h, and slope ‖∇h(λ)‖."""
        off = hparams["x"] - jnp.asarray(self.best, float)
        slope = jnp.asarray(self.H, float) @ off
        return {
            "distance": jnp.linalg.norm(off) / np.linalg.norm(self.best),
            "gap": 0.5 * off @ slope,
            "slope": jnp.linalg.norm(slope),
        }


def closed(draw: Draw) -> Closed:
    """w*(λ) = w0 + Jλ put into f = ½ wᵀAw + ½ λᵀBλ + λᵀCw + p·w + q·λ."""

    def means(of: Rows):
        n = len(of.x)
        squares = of.x.T @ of.x / n, of.y.T @ of.y / n, of.a.T @ of.b / n
        return *squares, of.p.mean(0), of.q.mean(0)

    inner, outer = draw.rows()
    A, _, C, p, _ = means(inner)
    w0, J = -np.linalg.solve(A, p), -np.linalg.solve(A, C.T)
    A, B, C, p, q = means(outer)
    H = J.T @ A @ J + B + C @ J + (C @ J).T
    g = J.T @ (A @ w0 + p) + C @ w0 + q
    at_zero = float(0.5 * w0 @ A @ w0 + p @ w0)
    return Closed(at_zero, g, H, -np.linalg.solve(H, g))


@register("benchmark_bilevel_quadratic")
class Quadratic(Task, Draw):
    """A task: options beside those of the draw.

    Attributes:
        num_steps: T.
        rate: of the training steps.
        batch_size: rows a step; 0 for all.
    """

    metric: ClassVar[str] = "distance"
    higher_is_better: ClassVar[bool] = False
    question: ClassVar[frozenset[str]] = frozenset(Draw.model_fields)

    num_steps: Count = 100
    rate: Positive = 1.5
    batch_size: Annotated[int, Field(ge=0)] = 0

    def space(self) -> hg.Space:
        """λ in [−2, 2]^dim, from 0."""
        return hg.Space({"x": hg.Linear(-2.0, 2.0, shape=(self.dim,), default=0.0)})

    def problem(self, seed: int) -> hg.Problem:
        """One problem for all seeds, which are those of the batches."""
        return _problem(self)

    def validation(self, seed: int):
        """The closed forms."""
        return _closed(self).metrics

    def test(self, seed: int):
        """The same: there is one function."""
        return _closed(self).metrics


@remembered
def _problem(task: Quadratic) -> hg.Problem:
    return task.descent(task.rate, task.num_steps, task.batch_size)


_closed = remembered(closed)


@paper("benchmark_bilevel_single_loop")
class SingleLoop(Paper, Draw):
    """λ ← λ − rate · estimate at every call; options beside those of the draw.

    Attributes:
        rate: of training, where an estimator takes its steps.
        outer_rate: of λ.
        num_calls: of the estimator, in one training that does not end.
        num_steps: T of an estimator that trains from the start at each call.
        batch_size: rows a step; F is that of all rows.
        look_every: calls between two points of a curve.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Slope of the value function", ("slope",), "call", "‖∇h(λ)‖", "y"),
        Panel("Distance", ("distance",), "call", "‖λ − λ*‖ / ‖λ*‖", "y"),
    )

    rate: Positive = 0.1
    outer_rate: Positive = 0.1
    num_calls: Count = 2000
    num_steps: Count = 200
    batch_size: Annotated[int, Field(ge=0)] = 64
    look_every: Count = 100

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Curves over the calls, and their ends."""
        one = self.descent(self.rate, self.num_steps, self.batch_size)
        if isinstance(estimator, hg.OnlineEstimator):
            one = one.replace(num_steps=estimator.steps(one) * self.num_calls)
        run = hg.tune(
            one,
            estimator,
            {"x": jnp.zeros(self.dim)},
            optax.sgd(self.outer_rate),
            num_calls=self.num_calls,
            key=jax.random.key(seed),
        )
        form, every = closed(self), self.look_every
        path = jnp.concatenate([run.trajectory["x"], run.hparams["x"][None]])
        metrics = jax.vmap(functools.partial(form.metrics, None))({"x": path})
        calls = range(0, self.num_calls + 1, every)
        return Measured(
            numbers=numbers(
                last_distance=metrics["distance"][-1], gap=metrics["gap"][-1]
            ),
            curves={
                name: curve(metrics[name][::every], calls)
                for name in ("distance", "slope")
            },
        )
