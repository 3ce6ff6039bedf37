"""Chandra et al. (2022): towers of optimisers on MNIST, each level tuned by the next.

A perceptron of one hidden layer, tanh after both layers, is trained by SGD or Adam,
whose rate (and decays) are moved by an optimiser at each step, whose rate is moved by
another. Only the last update is differentiated: moments count as constants. In their
Adam v starts at eps instead of 0, because √v has no derivative there, and b1 and b2 are
learned as z with b = (tanh z + 1)/2:

    m ← b1 m + (1 − b1) g,   v ← b2 v + (1 − b2) g²,   v_0 = eps
    w ← w − α m̂ / (√v̂ + eps),   m̂ = m / (1 − b1^t),   v̂ = v / (1 − b2^t)
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers import one_training
from experiments.papers.adam import adam
from experiments.papers.images import images
from experiments.papers.torch_draws import TorchDraws
from hypergrad.estimators.tower import Level
from hypergrad.typing import HParams

Learned = Literal["alpha", "beta1", "beta2"]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class WarmAdamLevel(Level):
    """Their Adam as a level of `Tower`: v starts at eps, one idle step is counted.

    Before the second step of a training λ has no gradient; theirs then makes a step
    with zeros.
    """

    rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def transformation(self):
        """Adam's direction."""
        return adam(self.b1, self.b2, self.eps, start=self.eps, idle=1)


def squashed(z):
    """(tanh z + 1)/2, in (0, 1)."""
    return (jnp.tanh(z) + 1.0) / 2.0


def unsquashed(b: float) -> float:
    """The z of b."""
    return float(np.arctanh(2.0 * b - 1.0))


@dataclass(frozen=True)
class Optimizer:
    """The lowest level: λ holds what is learned, the rest is fixed."""

    optimizer: Literal["sgd", "adam"]
    alpha: float
    beta1: float
    beta2: float
    eps: float
    warm: bool

    def __call__(self, hparams: HParams) -> optax.GradientTransformation:
        """W ← w − α · direction."""
        rate = optax.scale(-1.0 * hparams.get("alpha", self.alpha))
        if self.optimizer == "sgd":
            return rate
        b1 = squashed(hparams["beta1"]) if "beta1" in hparams else self.beta1
        b2 = squashed(hparams["beta2"]) if "beta2" in hparams else self.beta2
        start = self.eps if self.warm else 0.0
        return optax.chain(adam(b1, b2, self.eps, start=start), rate)


@paper("chandra2022_mnist")
class ChandraMnist(Paper):
    """Options.

    Attributes:
        source: of the images, pixels in [0, 1].
        num_train: training rows, from the first on.
        num_test: the rows after them.
        hidden: units.
        optimizer: of the weights.
        learned: the hyperparameters of the optimiser that the tower moves; none is the
            plain optimiser and asks no estimator.
        alpha: its rate, at the start.
        beta1: likewise.
        beta2: likewise.
        eps: of Adam.
        warm: v starts at eps, not at 0.
        outer_rate: of λ ← λ − rate · estimate; a tower's estimate is its move, and for
            any other estimator this is the rate of plain descent.
        batch_size: rows a step.
        num_epochs: passes over the training rows, in a fresh order each.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Learning rate", ("alpha",), "step", "α", log="x"),
        Panel("Training", ("train_loss",), "epoch", "cross-entropy", log="y"),
        Panel("Test", ("error",), "epoch", "error, %", log="y"),
    )

    source: ImageSet = "mnist"
    num_train: Count = 60_000
    num_test: Count = 10_000
    hidden: Count = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learned: tuple[Learned, ...] = ()
    alpha: float = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8
    warm: bool = True
    outer_rate: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Count = 256
    num_epochs: Count = 30

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Error on test and training loss an epoch, α at each step, all λ at the end.

        Raises:
            ValueError: SGD has no decays to be learned.
        """
        if self.optimizer == "sgd" and set(self.learned) - {"alpha"}:
            raise ValueError(
                f"learned: sgd has an alpha only, got {list(self.learned)}; use "
                '--set paper.optimizer=adam, or learned = ["alpha"]'
            )
        network = one_training.perceptron(jnp.tanh, jnp.tanh)
        fields = {name: getattr(self, name) for name in Optimizer.__annotations__}
        functions = one_training.training(network, Optimizer(**fields))
        data, test = self._data(seed)
        problem = one_training.problem_of(functions, data)
        starts = {
            "alpha": self.alpha,
            "beta1": unsquashed(self.beta1),
            "beta2": unsquashed(self.beta2),
        }
        hparams = {name: jnp.asarray(starts[name]) for name in self.learned}

        key = jax.random.key(seed)
        losses, errors, paths = [], [], []
        run = one_training.trained(
            problem,
            estimator if self.learned else None,
            hparams,
            one_training.sgd(self.outer_rate),
            self.num_epochs,
            key,
        )
        for epoch, (each, path, state) in enumerate(run, start=1):
            losses.append(np.mean(each))
            errors.append(100.0 * one_training.evaluated(network, state, *test)[1])
            paths.append(path)
            report(epoch, self.num_epochs)
        path = {name: np.concatenate([p[name] for p in paths]) for name in hparams}
        found = {"final_error": errors[-1]}
        for name, values in path.items():
            found[name] = values[-1] if name == "alpha" else squashed(values[-1])
        epochs = range(1, self.num_epochs + 1)
        curves = {"error": curve(errors, epochs), "train_loss": curve(losses, epochs)}
        if "alpha" in path:
            curves["alpha"] = one_training.thinned(path["alpha"])
        return Measured(numbers=numbers(**found), curves=curves)

    def _data(self, seed: int) -> tuple[one_training.Data, tuple]:
        """What is trained on, and test rows."""
        every, end = images(self.source), self.num_train + self.num_test
        train, test = every.rows(0, self.num_train), every.rows(self.num_train, end)
        sizes = (every.inputs.shape[1], self.hidden, int(every.labels.max()) + 1)
        draws = TorchDraws(seed)
        weights = one_training.linear_layers(draws, sizes)
        orders = [draws.permutation(self.num_train) for _ in range(self.num_epochs)]
        rows = one_training.rows(*train, self.batch_size, orders)
        return one_training.Data(rows, None, weights), test.batch()
