"""An L2 coefficient for each of 130,107 words of 20 newsgroups, Grazzi et al. (2020).

    ℓ(W, λ) = mean_i CE(x_i W, y_i) + ½ mean_jc e^λ_j W_jc²,   F = mean_valid CE

T steps of heavy ball from the last W (its velocity from rest), K conjugate gradients on
the inner Hessian from v = 0 (AID-CG), and λ ← λ − 100 dF/dλ.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, paper
from experiments.papers import pedregosa_rows as sets
from experiments.papers.descent import descend


@paper("grazzi2020_20news")
class Grazzi20News(Paper):
    """Options.

    Attributes:
        source: the rows; half of the training part validates, classes in equal shares.
        unit_rows: divide each row by its length.
        rate, momentum: of the heavy ball.
        num_steps: T.
        start: where every λ starts.
        warm: start each training from the last W; otherwise from 0.
        tune: move λ; otherwise it stays, and W is trained on all the same.
        outer: the outer optimiser.
        num_outer_steps: hypergradients; the authors' script takes 500.
        products: K at which the first hypergradient is computed again without JAX.
        solves: K at which its length is drawn.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss", ("loss",), "outer step", "F"),
        Panel("Accuracy", ("valid_accuracy", "test_accuracy"), "outer step", ""),
        Panel("First hypergradient", ("length",), "products", "‖dF/dλ‖", log="xy"),
    )

    source: sets.RowSource = "news20"
    unit_rows: bool = True
    rate: float = 100.0
    momentum: float = 0.9
    num_steps: int = 10
    start: float = 0.0
    warm: bool = True
    tune: bool = True
    outer: hg.Outer = hg.Outer("sgd", learning_rate=100.0, clip=float("inf"))
    num_outer_steps: int = 100
    products: int = 10
    solves: tuple[int, ...] = (1, 2, 5, 10, 20, 50)

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """loss: F at each outer step; scipy_gap: the same hypergradient without JAX."""
        train, valid, test = self._split(seed)
        problem = self._problem(train, valid)
        hg.value_and_hypergrad(problem, estimator)  # refuses what does not apply
        key, accuracies = jax.random.key(seed), {"valid": [], "test": []}
        weights = first = problem.data.given

        def objective(hparams, step):
            nonlocal weights, first
            given = weights if self.warm else jnp.zeros_like(weights)
            at = problem.replace(data=problem.data._replace(given=given))
            found, _ = hg.estimate(at, estimator, hparams, (), key)
            weights = found.info.state.weights
            first = weights if step == 0 else first
            for name, part in (("valid", valid), ("test", test)):
                accuracies[name].append(float(accuracy(weights, part)))
            return found.value, found.hypergrad

        hparams = jnp.full(problem.data.given.shape[0], self.start)
        found = descend(
            objective,
            hparams,
            self.outer.transformation(),
            self.num_outer_steps,
            report,
            project=lambda moved: moved if self.tune else hparams,
        )
        values = np.array(found.values)
        drawn = {}
        if self.solves:
            drawn = {"length": lengths(problem, hparams, first, self.solves, key)}
        return Measured(
            numbers={
                "largest_rise": float(np.max(np.diff(values), initial=-np.inf)),
                "final_loss": float(values[-1]),
                "valid_accuracy_end": accuracies["valid"][-1],
                "test_accuracy_end": accuracies["test"][-1],
                "scipy_gap": scipy_gap(problem, hparams, first, self.products, key),
            },
            curves={
                "loss": curve(values),
                "valid_accuracy": curve(accuracies["valid"]),
                "test_accuracy": curve(accuracies["test"]),
            }
            | drawn,
        )

    def _split(self, seed: int):
        """(matrix, classes) to train on, to validate on, and to test on."""
        given, test, _ = sets.parts(self.source)
        state = np.random.RandomState(seed)
        first, second = sets.halves(given, state, stratify=True)

        def batch(part):
            return sets.matrix(part.inputs, self.unit_rows), jnp.asarray(part.labels)

        return batch(first), batch(second), batch(test)

    def _problem(self, train, valid) -> hg.Problem:
        """Training from `data.given`."""
        classes = int(jnp.max(train[1])) + 1
        return hg.Problem.with_context(
            init=_given,
            inner_loss=_inner,
            outer_loss=_outer,
            optimizer=_heavy_ball(self.rate, self.momentum),
            train=train,
            valid=valid,
            num_steps=self.num_steps,
            given=jnp.zeros((train[0].shape[1], classes)),
        )


def penalty(w: jax.Array, hp: jax.Array) -> jax.Array:
    """½ mean_jc e^λ_j W_jc²."""
    return 0.5 * jnp.mean(jnp.exp(hp)[:, None] * jnp.square(w))


def mean_loss(w: jax.Array, batch) -> jax.Array:
    """mean_i CE(x_i W, y_i)."""
    rows, labels = batch
    return jnp.mean(hg.cross_entropy(rows @ w, labels))


@jax.jit
def accuracy(w: jax.Array, batch) -> jax.Array:
    """The share of rows whose class has the largest logit."""
    rows, labels = batch
    return jnp.mean(jnp.argmax(rows @ w, axis=1) == labels)


def lengths(problem, hparams, weights, counts, key):
    """‖dF/dλ‖ by K conjugate gradients, at given weights."""
    found = [_at(problem, hparams, weights, count, key) for count in sorted(counts)]
    return curve([jnp.linalg.norm(x.hypergrad) for x in found], sorted(counts))


def scipy_gap(problem, hparams, weights, count: int, key) -> float:
    """‖g − g′‖ / ‖g′‖ of `Implicit` with K conjugate gradients, g′ of numpy and scipy.

    In float64, with the derivatives of the softmax by hand:
    H V = Xᵀ (P ∘ (Z − Σ_c P Z)) / n + e^λ V / dC with Z = X V.
    """
    import scipy.sparse

    def host(part):
        rows, labels = part
        values = np.asarray(rows.values, np.float64)
        places = (np.asarray(rows.rows), np.asarray(rows.cols))
        return scipy.sparse.csr_matrix((values, places), rows.shape), np.array(labels)

    def softmax(logits):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    (x, _), (x_valid, y_valid) = host(problem.data.train), host(problem.data.valid)
    w, decay = np.asarray(weights, np.float64), np.exp(np.asarray(hparams, np.float64))
    share = decay[:, None] / w.size
    p, error = softmax(x @ w), softmax(x_valid @ w)
    error[np.arange(len(y_valid)), y_valid] -= 1.0

    def product(v):
        z = x @ v
        return x.T @ (p * (z - (p * z).sum(axis=1, keepdims=True))) / len(p) + share * v

    v, r = np.zeros_like(w), x_valid.T @ error / len(y_valid)
    direction, square = r, np.vdot(r, r)
    for _ in range(count):
        image = product(direction)
        step = square / np.vdot(direction, image)
        v, r = v + step * direction, r - step * image
        square, last = np.vdot(r, r), square
        direction = r + (square / last) * direction
    theirs = -(share * w * v).sum(axis=1)
    ours = np.asarray(_at(problem, hparams, weights, count, key).hypergrad)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _at(problem, hparams, weights, count, key):
    """The implicit estimate at given weights, whatever training would do to them."""
    still = problem.replace(
        dynamics=hg.Problem.with_context(
            init=_given,
            inner_loss=_inner,
            outer_loss=_outer,
            optimizer=_still,
            train=(),
            valid=(),
            num_steps=1,
        ).dynamics,
        data=problem.data._replace(given=weights),
        num_steps=1,
    )
    solver = hg.CG(max_iterations=count, tolerance=0.0)
    estimator = hg.Implicit(solver=solver, tolerance=float("inf"))
    return hg.estimate(still, estimator, hparams, (), key)[0]


def _given(key, hp, given):
    return given, ()


def _inner(w, hp, batch, context):
    return mean_loss(w, batch) + penalty(w, hp), context.model_state


def _outer(w, hp, batch, context):
    return mean_loss(w, batch), context.model_state


def _still(hp):
    return optax.set_to_zero()


@functools.cache
def _heavy_ball(rate, momentum):
    return lambda hp: optax.sgd(rate, momentum=momentum)
