"""Long-tailed classes and a small network that weighs examples (Choe et al. 2023).

    ℓ(w, θ) = mean over a batch of V(ℓ_i(w); θ) ℓ_i(w),   V = sigmoid(perceptron(ℓ_i))

Class c keeps μ^{−c/(C−1)} of the rows of class 0, and θ moves by the loss of a few rows
of all classes alike, a step before each one of w. V is not differentiated by w, so that
one step of descent from w to w' has

    d outer(w') / dθ = −ξ/n Σ_i (g_i · ∇outer(w')) ∂V(ℓ_i; θ)/∂θ,   g_i = ∇ℓ_i(w):

an example gains weight where its gradient points as that of the outer loss does. The
network of weights is that of Shu et al. (2019).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.alternating import Alternated, alternate
from experiments.papers.images import every_image
from experiments.papers.programs import distance
from experiments.supervised.networks import AnyNetwork, Perceptron, Shapes
from hypergrad.models import Model, stateless
from hypergrad.tree import ravel
from hypergrad.typing import Key, PyTree

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Batch = tuple[jax.Array, jax.Array]
CHECKED = 64  # rows on which a hypergradient is held against its closed form


class Rows(NamedTuple):
    """(inputs, labels): long-tailed ones, and balanced ones for θ and to test on."""

    train: Batch
    valid: Batch
    test: Batch


@paper("choe2023_longtailed")
class LongTailed(Paper):
    """Options.

    Attributes:
        source: of the images.
        imbalance: μ, rows of the first class for each of the last.
        num_first: rows of the first class.
        num_valid: rows of each class for θ.
        num_test: rows of each class to test on.
        model: of the images, without state.
        units: of the hidden layer of V.
        learned: or θ stays as it begins, where all weights are 1/2.
        batch_size: rows a step.
        rate: of the weights' descent, by half a cosine down to 0.
        momentum: of the descent.
        decay: δ, in δ/2 ‖w‖² added to the inner loss.
        outer: the optimiser of θ.
        num_steps: of the training.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Rows of all classes", ("valid_loss",), "step", "outer loss", log="y"),
        Panel("Weight of a class", ("weights",), "class, by rows", "mean of V"),
        Panel("Test", ("class_accuracy",), "class, by rows", "accuracy, %"),
    )

    source: ImageSet = "cifar10"
    imbalance: Annotated[float, Field(ge=1)] = 100.0
    num_first: Count = 5_000
    num_valid: Count = 10
    num_test: Count = 1_000
    model: AnyNetwork = Perceptron(depth=1, width=32, activation="tanh")
    units: Count = 100
    learned: bool = True
    batch_size: Count = 100
    rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    decay: Annotated[float, Field(ge=0)] = 5e-4
    outer: hg.Outer = hg.Outer("adam", learning_rate=1e-3, clip=float("inf"))
    num_steps: Count = 10_000

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """accuracy: of test rows, in percent; accuracy_tail: of the rarer half.

        class_accuracy and weights: of each class, the first has most rows; weight_head,
        weight_tail: means over its halves. valid_loss: over steps. gap: ‖h − c‖ / ‖c‖
        of one step of a few rows at the end, h differentiated and c the closed form.
        """
        rows, key = self.rows(seed), jax.random.key(seed)
        functions = self.functions(rows)
        found = alternate(
            self.problem(functions, rows, self.num_steps),
            estimator if self.learned else None,
            functions.first(key),
            self.outer.transformation(),
            key,
            report,
        )
        weights, classes = found.state.weights, np.asarray(rows.test[1])
        right = 100.0 * np.asarray(functions.right(weights, rows.test))
        losses = functions.losses(weights, rows.train)
        each = np.asarray(weighed(found.hparams, losses))
        accuracy = [right[classes == c].mean() for c in np.unique(classes)]
        labels = np.asarray(rows.train[1])
        mean = [each[labels == c].mean() for c in np.unique(labels)]
        half = len(mean) // 2
        return Measured(
            numbers=numbers(
                accuracy=right.mean(),
                accuracy_tail=np.mean(accuracy[half:]),
                weight_head=np.mean(mean[:half]),
                weight_tail=np.mean(mean[half:]),
                gap=self.gap(functions, rows, found, key),
            ),
            curves={
                "valid_loss": curve(found.values),
                "weights": curve(mean),
                "class_accuracy": curve(accuracy),
            },
        )

    def rows(self, seed: int) -> Rows:
        """Drawn by the seed.

        Raises:
            ValueError: a class has too few rows.
        """
        (inputs, labels), rng = every_image(self.source), np.random.default_rng(seed)
        sizes = kept(self.num_first, self.imbalance, int(labels.max()) + 1)
        parts: list[list[np.ndarray]] = [[], [], []]
        for c, size in enumerate(sizes):
            own = rng.permutation(np.flatnonzero(labels == c))
            ends = np.cumsum([size, self.num_valid, self.num_test])
            if len(own) < ends[-1]:
                raise ValueError(
                    f"num_first, num_valid and num_test ask for {ends[-1]} rows of "
                    f"class {c} of {self.source!r}, which has {len(own)}"
                )
            for part, found in zip(
                parts, np.split(own[: ends[-1]], ends), strict=False
            ):
                part.append(found)
        chosen = [rng.permutation(np.concatenate(part)) for part in parts]
        return Rows(*((jnp.asarray(inputs[r]), jnp.asarray(labels[r])) for r in chosen))

    def functions(self, rows: Rows) -> "Functions":
        """The network for the rows' shapes."""
        row = self.model.arrange(rows.train[0][:1], False).shape[1:]
        outputs = int(jnp.max(rows.train[1])) + 1
        model = self.model.build(Shapes(row, 0, outputs, every=False))
        return Functions(self, stateless(model))

    def problem(self, functions: "Functions", rows: Rows, num_steps: int) -> hg.Problem:
        """The training, of which θ is the hyperparameter."""
        schedule = hg.Cosine(self.rate, 0.0, num_steps)
        return hg.Problem(
            init=lambda key, theta: functions.model.init(key),
            inner_loss=functions.inner_loss,
            outer_loss=functions.outer_loss,
            optimizer=lambda theta: optax.sgd(schedule, self.momentum),
            train=rows.train,
            valid=rows.valid,
            num_steps=num_steps,
            batch_size=self.batch_size,
        )

    def gap(
        self, functions: "Functions", rows: Rows, found: Alternated, key: Key
    ) -> float:
        """Of one step of plain descent on a few rows, from where training has ended."""
        few = jax.tree.map(lambda x: x[:CHECKED], rows.train)
        theta, weights = found.hparams, found.state.weights
        step = hg.Problem(
            init=lambda key, theta: weights,
            inner_loss=functions.inner_loss,
            outer_loss=functions.outer_loss,
            optimizer=lambda theta: optax.sgd(self.rate),
            train=few,
            valid=rows.valid,
            num_steps=1,
        )
        slope = jax.jit(hg.hypergrad(step, hg.OneStep()))(theta, key)
        closed = jax.jit(functions.closed_form)(theta, weights, few, rows.valid)
        return distance(slope, closed)


@dataclass(frozen=True, eq=False)
class Functions:
    """Losses of a model.

    Attributes:
        paper: the options.
        model: without state.
    """

    paper: LongTailed
    model: Model

    def first(self, key: Key) -> PyTree:
        """θ with random hidden units that do nothing yet."""
        units = self.paper.units
        kernel, bias = jax.random.normal(key, (2, units))
        return {"kernel": kernel, "bias": bias, "head": jnp.zeros(units)}

    def losses(self, weights: PyTree, batch: Batch) -> jax.Array:
        """Cross-entropy of each row."""
        inputs, labels = batch
        return hg.cross_entropy(self._logits(weights, inputs), labels)

    def right(self, weights: PyTree, batch: Batch) -> jax.Array:
        """Whether each row is told by its largest output."""
        inputs, labels = batch
        return jnp.argmax(self._logits(weights, inputs), axis=-1) == labels

    def inner_loss(self, weights, theta, batch):
        """The mean of V ℓ, and the decay."""
        losses = self.losses(weights, batch)
        loss = hg.weighted_mean(losses, weighed(theta, losses))
        return loss + hg.l2(weights, self.paper.decay)

    def outer_loss(self, weights, theta, valid):
        """The mean of ℓ."""
        del theta
        return jnp.mean(self.losses(weights, valid))

    def closed_form(self, theta, weights, batch: Batch, valid: Batch) -> PyTree:
        """−ξ/n Σ_i (g_i · ∇outer(w')) ∂V_i/∂θ, a row at a time."""
        rate, n = self.paper.rate, len(batch[1])
        slope = jax.grad(self.inner_loss)(weights, theta, batch)
        after = jax.tree.map(lambda w, g: w - rate * g, weights, slope)
        toward = ravel(jax.grad(self.outer_loss)(after, theta, valid))[0]

        def alike(row):
            one = jax.tree.map(lambda x: x[None], row)
            own = jax.grad(lambda w: self.losses(w, one)[0])(weights)
            return ravel(own)[0] @ toward

        likeness = jax.lax.map(alike, batch)
        losses = self.losses(weights, batch)
        return jax.grad(lambda t: -rate / n * (likeness @ weighed(t, losses)))(theta)

    def _logits(self, weights, inputs):
        return self.model.apply(weights, self.paper.model.arrange(inputs, False))


def kept(num_first: int, imbalance: float, num_classes: int) -> list[int]:
    """Rows of each class.

    >>> kept(500, 100, 3)
    [500, 50, 5]
    """
    powers = np.arange(num_classes) / (num_classes - 1)
    return [max(1, round(num_first * imbalance**-power)) for power in powers]


def weighed(theta: PyTree, losses: jax.Array) -> jax.Array:
    """V of each loss, which no gradient by w sees."""
    losses = jax.lax.stop_gradient(losses)[:, None]
    units = jax.nn.relu(losses * theta["kernel"][None] + theta["bias"][None])
    return jax.nn.sigmoid(units @ theta["head"])
