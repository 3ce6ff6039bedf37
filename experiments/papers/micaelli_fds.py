"""Forward differentiation with sharing, Micaelli and Storkey (2021): 7 + 1 + 1 numbers.

    v ← m v + clip(∇ℓ) + δ w,   w ← w − α_t v,   α_t one of seven rates, T/7 steps each

The rates, m and δ start at 0, where nothing is learned. Each outer step trains new
weights on a new split, and moves λ by the sign of dF/dλ alone, F being the validation
loss at the end: λ_i ← λ_i − s_i sign_i, with s_i halved where sign_i has changed. The
slope of a rate is the mean over its window: `ForwardSharing` takes it itself, any other
estimator's is averaged here.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet, load
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.descent import descend
from experiments.papers.images import Images, images
from experiments.supervised.networks import Convolutional, Perceptron, Residual, Shapes
from hypergrad import tree
from hypergrad.models import StatefulModel
from hypergrad.typing import HParams

NUM_CLASSES = 10

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Model = Annotated[Perceptron | Convolutional | Residual, Field(discriminator="name")]


class Halving(NamedTuple):
    """Steps and the signs that they were last taken by."""

    steps: jax.Array
    signs: jax.Array


def halving(steps: jax.Array) -> optax.GradientTransformation:
    """λ ← λ − s sign(h); s is halved first where the sign is another than before."""

    def update(updates, state, params=None):
        del params
        signs = jnp.sign(updates)
        steps = jnp.where(signs * state.signs < 0, 0.5 * state.steps, state.steps)
        return -steps * signs, Halving(steps, signs)

    return optax.GradientTransformation(
        lambda params: Halving(steps, jnp.zeros_like(steps)), update
    )


@paper("micaelli2021_fds")
class SharedSchedules(Paper):
    """Options.

    Attributes:
        source: of the images.
        num_rows: for training and validation, from the first row on.
        num_test: those that follow.
        valid_share: of the rows, drawn anew for each outer step.
        model: "mlp", "cnn" or "residual_cnn"; the paper's is a WRN-16-1.
        batch_size: rows a step.
        num_rates: windows, T/7 steps each; what is left of the epochs is left out.
        first_epochs: of the first training.
        epochs: of the others.
        num_outer_steps: trainings.
        steps: s of rates, momentum and weight decay to begin with.
        clip: the largest entry of ∇ℓ.
        retrain_epochs: of a last training on all rows, by the schedule learned.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss after training", ("loss",), "outer step", "F"),
        Panel("Validation images", ("valid_error",), "outer step", "% wrong"),
        Panel("Learned rates", ("rates",), "window", "α"),
    )

    source: ImageSet = "digits"
    num_rows: Count = 1497
    num_test: Count = 300
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    model: Model = Perceptron(depth=1, activation="relu")
    batch_size: Count = 64
    num_rates: Count = 7
    first_epochs: Count = 1
    epochs: Count = 10
    num_outer_steps: Count = 10
    steps: tuple[Positive, Positive, Positive] = (0.1, 0.1, 3e-4)
    clip: Positive = 3.0
    retrain_epochs: Count = 50

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """F and errors at each outer step, what is learned, and test_accuracy by it.

        sharing_gap: of a training more, the relative difference of dF/dλ from that of
        reverse mode, averaged over windows.
        """
        rows, test = self._rows()
        network, key = self._network(rows), jax.random.key(seed)
        whole = self._problem(network, rows, test)
        problems = [
            whole.replace(num_steps=self._num_steps(epochs))
            for epochs in (self.first_epochs, self.epochs)
        ]
        wrong: list[float] = []

        def estimate(estimator, hparams, step):
            at = jax.random.fold_in(key, step)
            train, valid = self._split(rows, at)
            problem = problems[min(step, 1)]
            data = problem.data._replace(train=train.batch(), valid=valid.batch())
            problem = problem.replace(data=data)
            return self._estimate(problem, estimator, hparams, at), valid

        def objective(hparams, step):
            (value, slopes, state), valid = estimate(estimator, hparams, step)
            wrong.append(_error(network, state, valid))
            return value, slopes

        rate, momentum, decay = (jnp.asarray(step) for step in self.steps)
        steps = {"rate": jnp.broadcast_to(rate, self.num_rates)}
        steps |= {"momentum": momentum, "decay": decay}
        found = descend(
            objective,
            jax.tree.map(jnp.zeros_like, steps),
            halving(tree.ravel(steps)[0]),
            self.num_outer_steps,
            report,
        )
        learned = found.hparams
        ours, reverse = (
            tree.ravel(estimate(each, learned, self.num_outer_steps)[0][1])[0]
            for each in (estimator, hg.Reverse())
        )
        state = hg.train(whole, self._table(whole, learned), key)
        rates = np.asarray(learned["rate"])
        return Measured(
            numbers=numbers(
                first_loss=found.values[0],
                last_loss=found.values[-1],
                largest_rate=np.max(rates),
                last_rate=rates[-1],
                momentum=learned["momentum"],
                decay=learned["decay"],
                test_accuracy=100.0 - _error(network, state, test),
                sharing_gap=tree.norm(ours - reverse) / tree.norm(reverse),
            ),
            curves={
                "loss": curve(found.values),
                "valid_error": curve(wrong),
                "rates": curve(rates, range(1, self.num_rates + 1)),
            },
        )

    def _estimate(self, problem, estimator, hparams, key):
        """F, dF/dλ with the window means of the rates, and the last state."""
        if isinstance(estimator, hg.ForwardSharing):
            window = problem.num_steps // self.num_rates
            estimator = dataclasses.replace(estimator, window=window, tables=("rate",))
        hparams = self._table(problem, hparams)
        result, _ = hg.estimate(problem, estimator, hparams, (), key)
        slopes = dict(result.hypergrad)
        slopes["rate"] = slopes["rate"].reshape(self.num_rates, -1).mean(axis=1)
        return result.value, slopes, result.info.state

    def _table(self, problem: hg.Problem, hparams: HParams) -> HParams:
        """λ with a rate for each of the T steps."""
        window = problem.num_steps // self.num_rates
        return {**hparams, "rate": jnp.repeat(hparams["rate"], window)}

    def _rows(self) -> tuple[Images, Images]:
        """For training and validation; for the test."""
        every = images(self.source)
        shape = load(self.source).train.inputs.shape[1:]
        inputs = jnp.asarray(every.inputs.reshape(-1, *shape), jnp.result_type(float))
        every = Images(np.asarray(self.model.arrange(inputs, False)), every.labels)
        end = self.num_rows + self.num_test
        return every.rows(0, self.num_rows), every.rows(self.num_rows, end)

    def _network(self, rows: Images) -> StatefulModel:
        shape = rows.inputs.shape[1:]
        return self.model.build(Shapes(shape, 0, NUM_CLASSES, every=False))

    @property
    def num_valid(self) -> int:
        """Rows that validate."""
        return max(1, round(self.valid_share * self.num_rows))

    def _num_steps(self, epochs: int) -> int:
        """T, of trainings on what is no validation row."""
        steps = epochs * ((self.num_rows - self.num_valid) // self.batch_size)
        if steps < self.num_rates:
            raise ValueError(
                f"{epochs} epochs of {self.num_rows - self.num_valid} rows are {steps} "
                f"batches of {self.batch_size}, fewer than num_rates ({self.num_rates})"
            )
        return steps - steps % self.num_rates

    def _split(self, rows: Images, key: jax.Array) -> tuple[Images, Images]:
        order = np.asarray(jax.random.permutation(key, len(rows.labels)))
        mixed = Images(rows.inputs[order], rows.labels[order])
        cut = self.num_valid
        return mixed.rows(cut, len(order)), mixed.rows(0, cut)

    def _problem(
        self, network: StatefulModel, train: Images, valid: Images
    ) -> hg.Problem:
        """The last training."""

        def loss(weights, hparams, batch, context):
            inputs, labels = batch
            logits, state = network.apply(weights, context, inputs)
            return jnp.mean(hg.cross_entropy(logits, labels)), state

        def optimizer(hparams):
            return optax.chain(
                optax.clip(self.clip),
                optax.add_decayed_weights(hparams["decay"]),
                optax.trace(hparams["momentum"]),
                optax.scale_by_schedule(lambda t: -hparams["rate"][t]),
            )

        return hg.Problem.with_context(
            init=lambda key, hparams: network.init(key),
            inner_loss=loss,
            outer_loss=loss,
            optimizer=optimizer,
            train=train.batch(),
            valid=valid.batch(),
            num_steps=self._num_steps(self.retrain_epochs),
            batches=hg.Epochs(self.batch_size),
        )


def _error(network: StatefulModel, state: hg.InnerState, rows: Images) -> float:
    """Percent wrong, in eval mode."""
    context = hg.Context(jax.random.key(0), state.model_state, train=False)
    logits, _ = network.apply(state.weights, context, jnp.asarray(rows.inputs))
    return float(100.0 * np.mean(np.argmax(logits, axis=-1) != rows.labels))
