"""Differentiable architecture search: DARTS (Liu, Simonyan and Yang 2019).

Every edge of a cell is a mixture of operations, x ↦ Σ_o softmax(α)_o o(x), and λ = α of
all edges. While the weights w are trained on one half of the rows, each of their steps
is preceded by one of the mixtures on the other half,

    α ← α − outer(h),   h ≈ d/dα outer_loss(w − ξ ∇_w ℓ(w, α), α).

The cell keeps the strongest operation on the two strongest edges into each node. It and
cells drawn at random are then trained alike, from the start, on both halves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.data.splits import draw_stratified
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.alternating import Alternated, alternate
from experiments.papers.darts_cells import (
    OPERATIONS,
    MixedNetwork,
    drawn,
    edges_into,
    strongest,
)
from experiments.papers.dynamics import begun_at
from experiments.papers.images import every_image
from experiments.papers.programs import distance
from hypergrad.models import StatefulModel, from_nnx
from hypergrad.typing import Key

Count = Annotated[int, Field(ge=1)]
Batch = tuple[jax.Array, jax.Array]


class Rows(NamedTuple):
    """(inputs, labels) for the weights, for the mixtures, and to test on."""

    train: Batch
    valid: Batch
    test: Batch


@paper("liu2019_darts")
class Darts(Paper):
    """Options.

    Attributes:
        source: of the images.
        num_search: rows of the search, half of them for the mixtures.
        num_test: rows to test on.
        channels: of every edge.
        cells: of one mixture, each with the two before it as inputs.
        nodes: of a cell.
        batch_size: rows a step, of either half.
        rate: of the weights' descent, by half a cosine down to `final_rate`.
        final_rate: of its last step.
        momentum: of the descent.
        decay: δ, in δ/2 ‖w‖² added to the inner loss.
        outer: the optimiser of α.
        outer_decay: as δ, of α in the outer loss.
        num_steps: of the search.
        retrain_steps: of a cell that is found or drawn.
        num_random: cells drawn.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Search", ("valid_loss",), "step", "outer loss"),
        Panel("Mixtures", OPERATIONS, "step", "weight, mean over edges"),
    )

    source: ImageSet = "cifar10"
    num_search: Annotated[int, Field(ge=2)] = 50_000
    num_test: Count = 10_000
    channels: Count = 16
    cells: Count = 8
    nodes: Count = 4
    batch_size: Count = 64
    rate: Annotated[float, Field(gt=0)] = 0.025
    final_rate: Annotated[float, Field(ge=0)] = 0.001
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    decay: Annotated[float, Field(ge=0)] = 3e-4
    outer: hg.Outer = hg.Outer("adam", learning_rate=3e-4, b1=0.5)
    outer_decay: Annotated[float, Field(ge=0)] = 1e-3
    num_steps: Count = 19_550
    retrain_steps: Count = 19_550
    num_random: Count = 8

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """error: of the cell that was found, in percent of the test rows.

        random_error: mean of the cells drawn; random_best: the least of them. gap,
        gap_paper: ‖h − g‖ / ‖g‖ at the end of the search, h by differences (of weights
        1e-5 apart, and .01 as in the paper) and g the derivative of one step of
        descent; gap_first: likewise without a step. none, skip, ...: weights of the
        mixtures over the search, valid_loss: of a batch at each step.
        """
        rows, key = self.rows(seed), jax.random.key(seed)
        functions = _Functions(self, self.network(rows), jax.nn.softmax)
        problem = self.problem(functions, rows.train, rows.valid, self.num_steps)
        mixtures, at = [], []

        def look(step, alphas, state):
            mixtures.append(np.asarray(jax.nn.softmax(alphas)))
            at.append(step)

        edges = edges_into(self.nodes)[-1].stop
        found = alternate(
            problem,
            estimator,
            1e-3 * jax.random.normal(key, (edges, len(OPERATIONS))),
            self.outer.transformation(),
            key,
            report,
            look=look,
        )
        rng = np.random.default_rng(seed)
        cells = [drawn(rng, self.nodes) for _ in range(self.num_random)]
        cells = np.stack([strongest(mixtures[-1], self.nodes), *cells])
        error, *others = self.errors(rows, jnp.asarray(cells), key)
        lines = zip(OPERATIONS, np.mean(mixtures, axis=1).T, strict=True)
        return Measured(
            numbers=numbers(
                error=error,
                random_error=np.mean(others),
                random_best=np.min(others),
                **self.gaps(functions, rows, found, key),
            ),
            curves={
                "valid_loss": curve(found.values),
                **{name: curve(line, at) for name, line in lines},
            },
        )

    def rows(self, seed: int) -> Rows:
        """Drawn by the seed, the classes in proportion."""
        half = self.num_search // 2
        sizes = half, self.num_search - half, self.num_test
        inputs, labels = every_image(self.source)
        parts = draw_stratified(labels, sizes, seed)
        return Rows(*((jnp.asarray(inputs[r]), jnp.asarray(labels[r])) for r in parts))

    def network(self, rows: Rows) -> StatefulModel:
        """All operations at once; applied to images and a mixture."""
        inputs, labels = rows.train
        sizes = self.channels, self.cells, self.nodes
        shapes = inputs.shape[-1], int(jnp.max(labels)) + 1
        return from_nnx(lambda rngs: MixedNetwork(*sizes, *shapes, rngs=rngs))

    def problem(
        self, functions: "_Functions", train: Batch, valid: Batch, num_steps: int
    ) -> hg.Problem:
        """A training of `num_steps`, whose rate ends low."""
        schedule = hg.Cosine(self.rate, self.final_rate, num_steps)
        return self._problem(
            functions,
            train,
            valid,
            num_steps,
            lambda hp: optax.sgd(schedule, momentum=self.momentum),
        )

    def errors(self, rows: Rows, cells: jax.Array, key: Key) -> np.ndarray:
        """Percent of test rows that are wrong after training each of the cells."""
        both = jax.tree.map(lambda *x: jnp.concatenate(x), rows.train, rows.valid)
        functions = _Functions(self, self.network(rows), lambda cell: cell)
        problem = self.problem(functions, both, rows.test, self.retrain_steps)
        inputs, labels = rows.test

        @jax.jit
        def error(cell):
            state = hg.train(problem, cell, key)
            context = hg.Context(key, state.model_state, train=False)
            logits, _ = functions.network.apply(state.weights, context, inputs, cell)
            return 100.0 * jnp.mean(jnp.argmax(logits, axis=-1) != labels)

        return np.array([error(cell) for cell in cells])

    def gaps(
        self, functions: "_Functions", rows: Rows, found: Alternated, key: Key
    ) -> dict[str, float]:
        """How far differences are from the derivative through a step of descent."""

        def apart(rate, epsilon):
            step = self._problem(
                functions, rows.train, rows.valid, 1, lambda hp: optax.sgd(rate)
            )
            at_rest = step.start(found.hparams, key)
            begun = begun_at(step, at_rest._replace(weights=found.state.weights))
            differences, derivative = (
                jax.jit(hg.hypergrad(begun, each))(found.hparams, key)
                for each in (hg.Darts(rate, epsilon), hg.OneStep())
            )
            return distance(differences, derivative)

        return numbers(
            gap=apart(self.rate, 1e-5),
            gap_paper=apart(self.rate, 0.01),
            gap_first=apart(0.0, 0.01),
        )

    def _problem(self, functions, train, valid, num_steps, optimizer) -> hg.Problem:
        return hg.Problem.with_context(
            init=functions.init,
            inner_loss=functions.inner_loss,
            outer_loss=functions.outer_loss,
            optimizer=optimizer,
            train=train,
            valid=valid,
            num_steps=num_steps,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, eq=False)
class _Functions:
    """Of a problem whose λ is `mixing`'s argument.

    Attributes:
        paper: the options.
        network: without state.
        mixing: λ to a mixture.
    """

    paper: Darts
    network: StatefulModel
    mixing: Callable[[jax.Array], jax.Array]

    def init(self, key, alphas):
        return self.network.init(key)

    def inner_loss(self, weights, alphas, batch, context):
        penalty = hg.l2(weights, self.paper.decay)
        return self._loss(
            weights, alphas, batch, context
        ) + penalty, context.model_state

    def outer_loss(self, weights, alphas, valid, context):
        """On a batch of the step's own."""
        n, size = len(valid[1]), self.paper.batch_size
        chosen = jax.random.randint(context.key, (size,), 0, n)
        batch = jax.tree.map(lambda x: x[chosen], valid)
        penalty = hg.l2(alphas, self.paper.outer_decay)
        return self._loss(
            weights, alphas, batch, context
        ) + penalty, context.model_state

    def _loss(self, weights, alphas, batch, context):
        inputs, labels = batch
        mix = self.mixing(alphas)
        logits, _ = self.network.apply(weights, context, inputs, mix)
        return jnp.mean(hg.cross_entropy(logits, labels))
