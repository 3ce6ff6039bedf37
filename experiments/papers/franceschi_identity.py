"""Forward, reverse and real-time mode find one hypergradient, Franceschi et al. (2017).

A network is trained on batches by  v ← μ v + ∇ℓ,  w ← w − η v  with

    ℓ = mean CE + Σ_l (ρ1_l |W_l|_1 + ρ2_l |W_l|²),   F = mean CE of validation rows

and λ = (η, μ, ρ1, ρ2), a ρ1 and a ρ2 for each layer, moves by Adam and stays positive.
What the authors' run on MNIST printed is in their repository. Softmax regression starts
from zero there, and batches are consecutive parts of lists that NumPy shuffled: nothing
in it is unknown. Real-time mode makes an outer step each T steps of one long training.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet, load
from experiments.paper import Measured, Panel, Paper, Steps, curve, paper
from experiments.papers.descent import descend
from experiments.papers.images import Images, images
from experiments.supervised.networks import Convolutional, Perceptron, Shapes
from hypergrad.models import Model, stateless
from hypergrad.typing import HParams, Weights

NUM_CLASSES = 10

Count = Annotated[int, Field(ge=1)]
Other = Literal[
    "forward",
    "columns",
    "reverse",
    "kept",
    "segments",
    "tree",
    "kary",
    "online_reverse",
    "real_time",
    "reversible",
    "differences",
]


class Network(NamedTuple):
    """A model and what it reads: rows of `shape`."""

    model: Model
    shape: tuple[int, ...]


@paper("franceschi2017_identity")
class FranceschiIdentity(Paper):
    """Options.

    Attributes:
        source: the images; training and validation rows follow each other.
        skip: rows that the authors' loader puts behind the other training rows.
        num_train, num_valid: how many.
        model: "mlp" of a depth, 0 for softmax regression, or "cnn". Its last layer
            starts at zero.
        batch_size: rows of a step.
        num_steps: T, of each training.
        rate: η at the start.
        momentum: μ at the start; every ρ starts at 0.
        outer: the optimiser of λ.
        num_outer_steps: its steps.
        against: other ways to the first hypergradient, compared to the estimator's.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Learning rate", ("d_eta",), "outer step", "dF/dη"),
        Panel("Momentum", ("d_mu",), "outer step", "dF/dμ"),
        Panel("L1 penalty", ("d_l1",), "outer step", "dF/dρ1"),
    )

    source: ImageSet = "mnist"
    skip: Annotated[int, Field(ge=0)] = 5_000
    num_train: Count = 35_000
    num_valid: Count = 21_000
    model: Annotated[Perceptron | Convolutional, Field(discriminator="name")] = (
        Perceptron(depth=0)
    )
    batch_size: Count = 200
    num_steps: Count = 100
    rate: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.5
    outer: hg.Outer = hg.Outer("adam", learning_rate=1e-3, clip=float("inf"))
    num_outer_steps: Count = 3
    against: tuple[Other, ...] = ()

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Loss and d_eta, d_mu, d_l1, d_l2 (sums over layers) at each outer step.

        first_NAME: at the first, which is no curve where it is alone. NAME_gap: the
        largest relative difference of a component, for each of `against`; gap: the
        largest of these.
        """
        online = isinstance(estimator, hg.OnlineEstimator)
        problem = self.problem(seed, self.num_outer_steps if online else 1)
        key, state, found = jax.random.key(seed), (), []
        hparams = self.start(problem, key)
        if online:
            state = estimator.init(problem, hparams, key)

        def objective(hparams, step):
            nonlocal state
            del step
            estimate, state = hg.estimate(problem, estimator, hparams, state, key)
            found.append(estimate.hypergrad)
            return estimate.value, estimate.hypergrad

        descent = descend(
            objective,
            hparams,
            self.outer.transformation(),
            self.num_outer_steps,
            report,
            project=lambda moved: jax.tree.map(lambda x: jnp.maximum(x, 0.0), moved),
        )
        gaps = {}
        if self.against:
            one = self.problem(seed, 1) if online else problem
            for name in self.against:
                other, _ = hg.estimate(one, self.other(name), hparams, (), key)
                gaps[f"{name}_gap"] = largest_difference(other.hypergrad, found[0])
            gaps["gap"] = max(gaps.values())
        lines = {"loss": descent.values}
        for name in hparams:
            lines[f"d_{name}"] = [float(jnp.sum(slope[name])) for slope in found]
        first = {f"first_{name}": line[0] for name, line in lines.items()}
        several = self.num_outer_steps > 1
        curves = {name: curve(line) for name, line in lines.items() if several}
        return Measured(numbers=first | gaps, curves=curves)

    def other(self, name: Other) -> hg.Estimator:
        """What a word of `against` stands for."""
        wide = jnp.result_type(float) == jnp.float64
        known: dict[Other, hg.Estimator] = {
            "forward": hg.Forward(),
            "columns": hg.Forward(chunk=1),
            "reverse": hg.Reverse(),
            "kept": hg.Reverse(checkpoint=hg.NoCheckpoint()),
            "segments": hg.Reverse(checkpoint=hg.Segments()),
            "tree": hg.Reverse(checkpoint=hg.Tree()),
            "kary": hg.Reverse(checkpoint=hg.KAry()),
            "online_reverse": hg.OnlineReverse(window=self.num_steps),
            "real_time": hg.RTHO(),
            "reversible": hg.Reversible(bits=64 if wide else 32),
            # Short ones: |w| has kinks, and weights that are crossing them.
            "differences": hg.FiniteDifference(step=1e-5, order=4),
        }
        return known[name]

    def start(self, problem: hg.Problem, key: jax.Array) -> HParams:
        """λ before the first outer step."""
        shape = (len(kernels(self._network().model.init(key))),)
        return {
            "eta": jnp.asarray(self.rate),
            "mu": jnp.asarray(self.momentum),
            "l1": jnp.zeros(shape),
            "l2": jnp.zeros(shape),
        }

    def problem(self, seed: int, num_trainings: int) -> hg.Problem:
        """T steps, or as many times T in one.

        Args:
            seed: of the batches.
            num_trainings: T is counted so many times.
        """
        network, rows = self._network(), self._rows()
        train, valid = (
            batch(part, network.shape)
            for part in (
                rows.rows(0, self.num_train),
                rows.rows(self.num_train, self.num_train + self.num_valid),
            )
        )
        num_steps = num_trainings * self.num_steps
        table = shuffled(self.num_train, num_steps, self.batch_size, seed)

        def init(key, hp):
            weights = network.model.init(key)
            return weights | {"head": jax.tree.map(jnp.zeros_like, weights["head"])}

        def inner_loss(w, hp, batch):
            penalty = sum(
                l1 * jnp.sum(jnp.abs(kernel)) + l2 * jnp.sum(kernel**2)
                for l1, l2, kernel in zip(hp["l1"], hp["l2"], kernels(w), strict=True)
            )
            return loss(w, batch) + penalty

        def loss(w, batch):
            inputs, labels = batch
            return jnp.mean(hg.cross_entropy(network.model.apply(w, inputs), labels))

        return hg.Problem(
            init=init,
            inner_loss=inner_loss,
            outer_loss=lambda w, hp, batch: loss(w, batch),
            optimizer=lambda hp: optax.sgd(hp["eta"], momentum=hp["mu"]),
            train=train,
            valid=valid,
            num_steps=num_steps,
            batches=hg.IndexTable(table),
        )

    def _network(self) -> Network:
        given = load(self.source).train.inputs
        shape = self.model.arrange(jnp.asarray(given[:1]), False).shape[1:]
        shapes = Shapes(shape, vocabulary=0, num_outputs=NUM_CLASSES, every=False)
        return Network(stateless(self.model.build(shapes)), shape)

    def _rows(self) -> Images:
        """All rows as the authors' loader has them."""
        rows, end = images(self.source), len(load(self.source).train.targets)
        if self.skip > end:
            raise ValueError(
                f"skip is at most the {end} training rows of {self.source}; got "
                f"{self.skip}: --set paper.skip=0"
            )
        last = len(rows.labels)
        order = np.r_[self.skip : end, : self.skip, end:last]
        return Images(rows.inputs[order], rows.labels[order])


def batch(rows: Images, shape: tuple[int, ...]):
    """(inputs, labels) in the default float type, each row of this shape."""
    inputs = jnp.asarray(rows.inputs, jnp.result_type(float))
    return inputs.reshape(-1, *shape), jnp.asarray(rows.labels)


def shuffled(num_rows: int, num_steps: int, batch_size: int, seed: int) -> jax.Array:
    """[T, batch_size]: consecutive parts of as many shuffled epochs as it takes."""
    state, taken = np.random.RandomState(seed), num_steps * batch_size
    epochs = []
    for _ in range(-(-taken // num_rows)):
        order = np.arange(num_rows)
        state.shuffle(order)
        epochs.append(order)
    table = np.concatenate(epochs)[:taken]
    return jnp.asarray(table.reshape(num_steps, batch_size), jnp.int32)


def kernels(weights: Weights) -> list[jax.Array]:
    """What a layer's inputs are multiplied by; biases have no penalty."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return [leaf for path, leaf in leaves if path[-1].key == "kernel"]


def largest_difference(slope: HParams, reference: HParams) -> float:
    """max_j |a_j − b_j| / |b_j|."""
    gaps = jax.tree.map(
        lambda a, b: np.max(np.abs(a - b) / np.abs(b)), slope, reference
    )
    return float(max(jax.tree.leaves(gaps)))
