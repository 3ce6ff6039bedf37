"""Overfitting a small validation set, Lorraine, Vicol and Duvenaud (2020).

Every weight has an L2 coefficient, and training never starts again:

    ℓ(w, λ) = mean CE + Σ_i e^λ_i w_i²,   K steps of Adam on ℓ from the last w,
    λ ← λ − RMSprop(dF/dλ),   dF/dλ_i = −2 e^λ_i w_i v_i,   H v = ∇F,   F = valid CE

with v from a few terms of a Neumann series, v = α Σ_{j<=J} (I − α H)^j ∇F. With as many
hyperparameters as weights 50 validation images are learned by heart. How near the
series is to H⁻¹ ∇F is looked at on its own, where a training has ended.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet, load
from experiments.paper import Curve, Measured, Panel, Paper, Steps, curve, paper
from experiments.papers.descent import descend
from experiments.papers.images import images
from experiments.supervised.networks import Convolutional, Perceptron, Shapes
from hypergrad import tree
from hypergrad.models import Model, stateless
from hypergrad.training import InnerState, Training

NUM_CLASSES = 10

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclasses.dataclass(frozen=True)
class Resumed(Training):
    """A training that starts from the state `given` in its data, optimiser and all."""

    def start(self, hparams, tick) -> InnerState:
        """s_0 = given."""
        del hparams
        return tick.data.given


@paper("lorraine2020_overfit")
class LorraineOverfit(Paper):
    """Options.

    Attributes:
        source: the images; training, validation and test rows follow each other.
        num_train, num_valid, num_test: how many.
        mean, deviation: of pixels, which are standardised by them.
        model: "mlp" of a depth, 0 for softmax regression, or "cnn".
        rate: of Adam, on all training rows at each step.
        num_steps: K, between two outer steps.
        start: λ before the first.
        tune: move λ; otherwise it stays, and training goes on all the same.
        outer_rate: of RMSprop, whose second moment decays by 0.99 and whose ε of 1e-8
            is added to the root; the first step is as large as any.
        num_outer_steps: its steps.
        terms: numbers of products J after which a series and conjugate gradients are
            compared with H⁻¹ ∇F.
        settled: steps of Adam before that.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation images", ("valid_error",), "outer step", "% wrong"),
        Panel("Test images", ("test_error",), "outer step", "% wrong"),
        Panel(
            "Approximate H⁻¹ ∇F",
            ("neumann", "conjugate_gradients"),
            "products with H",
            "cosine to the exact one",
            log="x",
        ),
    )

    source: ImageSet = "mnist"
    num_train: Count = 50
    num_valid: Count = 50
    num_test: Count = 1_000
    mean: float = 0.1307
    deviation: Positive = 0.3081
    model: Annotated[Perceptron | Convolutional, Field(discriminator="name")] = (
        Perceptron(depth=0)
    )
    rate: Positive = 1e-4
    num_steps: Count = 5
    start: float = -4.0
    tune: bool = True
    outer_rate: Positive = 0.1
    num_outer_steps: Annotated[int, Field(ge=0)] = 500
    terms: Annotated[tuple[Count, ...], Field(min_length=2)] | None = None
    settled: Count = 2_000

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Errors at each outer step; perfect: the first without one on validation rows.

        neumann, conjugate_gradients: cosine of v and H⁻¹ ∇F after so many products;
        least_rise: of the first, from one of `terms` to the next.
        """
        problem, test, model = self.problem()
        hg.value_and_hypergrad(problem, estimator)  # refuses what does not apply
        key = jax.random.key(seed)
        hparams = self.start_of(model, key)
        numbers, curves = {}, {}
        if self.num_outer_steps:
            numbers, curves = self._tuned(
                problem, test, model, hparams, estimator, key, report
            )
        if self.terms:
            found = self.cosines(problem, hparams, key, self.terms)
            curves |= found
            numbers["least_rise"] = float(np.min(np.diff(found["neumann"].y)))
        return Measured(numbers=numbers, curves=curves)

    def start_of(self, model: Model, key) -> Any:
        """λ, a tree like the weights."""
        return jax.tree.map(lambda w: jnp.full_like(w, self.start), model.init(key))

    def _tuned(self, problem, test, model, hparams, estimator, key, report):
        state = problem.start(hparams, key)
        resumed = Resumed(**vars(problem.dynamics))
        rows = {"train": problem.data.train, "valid": problem.data.valid, "test": test}
        errors = {name: [] for name in rows}

        @jax.jit
        def wrong(weights, rows):
            inputs, labels = rows
            return 100.0 * jnp.mean(
                jnp.argmax(model.apply(weights, inputs), axis=-1) != labels
            )

        def objective(hparams, step):
            nonlocal state
            del step
            data = problem.data._replace(given=state)
            at = problem.replace(dynamics=resumed, data=data)
            found, _ = hg.estimate(at, estimator, hparams, (), key)
            state = found.info.state
            for name, part in rows.items():
                errors[name].append(float(wrong(state.weights, part)))
            return found.value, found.hypergrad

        descent = descend(
            objective,
            hparams,
            optax.rmsprop(
                self.outer_rate,
                decay=0.99,
                eps=1e-8,
                eps_in_sqrt=False,
                bias_correction=True,
            ),
            self.num_outer_steps,
            report,
            project=lambda moved: moved if self.tune else hparams,
        )
        perfect = np.flatnonzero(np.array(errors["valid"]) == 0)
        numbers = {f"{name}_accuracy": 100.0 - e[-1] for name, e in errors.items()}
        numbers["perfect"] = float(perfect[0]) if perfect.size else float("inf")
        curves = {f"{name}_error": curve(e) for name, e in errors.items()}
        return numbers, curves | {"loss": curve(descent.values)}

    def cosines(
        self, problem: hg.Problem, hparams, key, terms: tuple[int, ...]
    ) -> dict[str, Curve]:
        """cos(v, H⁻¹ ∇F) after each number of products, where a training has ended."""
        long = problem.replace(num_steps=self.settled)
        state = hg.train(long, hparams, key)

        def slope(w):
            return jax.grad(
                lambda w: problem.inner_loss(
                    hparams, problem.replace_weights(state, w), key
                )
            )(w)

        def product(v):
            return jax.jvp(slope, (state.weights,), (v,))[1]

        b = jax.grad(
            lambda w: problem.outer(
                hparams, problem.replace_weights(state, w), self.settled, key
            )
        )(state.weights)
        exact = hg.CG(max_iterations=10_000).solve(product, b).x
        solvers = {
            "neumann": lambda j: hg.Neumann(max_iterations=j + 1, tolerance=0.0),
            "conjugate_gradients": lambda j: hg.CG(max_iterations=j, tolerance=0.0),
        }
        found = {}
        for name, solver in solvers.items():
            approximate = [solver(j).solve(product, b, key=key).x for j in terms]
            found[name] = curve([cosine(v, exact) for v in approximate], terms)
        return found

    def problem(self) -> tuple[hg.Problem, tuple, Model]:
        """K steps from a new start, test rows, and the model."""
        shape = load(self.source).train.inputs.shape[1:]
        rows, ends = images(self.source), np.cumsum([self.num_train, self.num_valid])

        def batch(part):
            inputs = (part.inputs.reshape(-1, *shape) - self.mean) / self.deviation
            inputs = jnp.asarray(inputs, jnp.result_type(float))
            return self.model.arrange(inputs, False), jnp.asarray(part.labels)

        train = batch(rows.rows(0, ends[0]))
        valid = batch(rows.rows(ends[0], ends[1]))
        test = batch(rows.rows(ends[1], ends[1] + self.num_test))
        shapes = Shapes(
            train[0].shape[1:], vocabulary=0, num_outputs=NUM_CLASSES, every=False
        )
        model = stateless(self.model.build(shapes))

        def loss(w, batch):
            inputs, labels = batch
            return jnp.mean(hg.cross_entropy(model.apply(w, inputs), labels))

        def inner_loss(w, hp, batch):
            return loss(w, batch) + hg.l2(w, jax.tree.map(lambda x: 2 * jnp.exp(x), hp))

        problem = hg.Problem(
            init=lambda key, hp: model.init(key),
            inner_loss=inner_loss,
            outer_loss=lambda w, hp, batch: loss(w, batch),
            # For estimators that unroll: a dead unit's weights have no gradient.
            optimizer=lambda hp: hg.differentiable(optax.adam(self.rate)),
            train=train,
            valid=valid,
            num_steps=self.num_steps,
        )
        return problem, test, model


def cosine(a, b) -> float:
    """⟨a, b⟩ / (‖a‖ ‖b‖)."""
    return float(tree.vdot(a, b) / (tree.norm(a) * tree.norm(b)))
