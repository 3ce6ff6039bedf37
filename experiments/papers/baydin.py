"""Baydin et al. (2018): hypergradient descent for a linear model and a perceptron.

Their SGDN-HD multiplies the gradient by the last direction, momentum included, which is
the derivative through the last step. Their Adam-HD moves its rate once for each tensor
within a step (`tensor_by_tensor`), so that later tensors already use another rate:

    α ← α + β g_k · u_k,   w_k ← w_k − α u'_k        for tensor k = 1, ..., L in order

With False the rate moves once a step, for all tensors. Weights, batches and Adam's eps
are those of the PyTorch of that time.
"""

import functools
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers
from experiments.paper import paper as paper_named
from experiments.papers import one_training
from experiments.papers.adam import adam
from experiments.papers.images import images
from experiments.papers.torch_draws import TorchDraws
from hypergrad.typing import HParams

Method = Literal["sgd", "sgdn", "adam"]
Count = Annotated[int, Field(ge=1)]
Setting = tuple[one_training.Training, one_training.Data, tuple[jax.Array, jax.Array]]
"""The functions of a training, its data, and validation rows."""


def at_each_tensor(rates: jax.Array) -> optax.GradientTransformation:
    """u_k ↦ −rates_k u_k for tensor k, or for all of them one rate."""

    def update(updates, state, params=None):
        del params
        leaves, structure = jax.tree.flatten(updates)
        each = jnp.broadcast_to(rates, len(leaves))
        moves = [-rate * leaf for rate, leaf in zip(each, leaves, strict=True)]
        return structure.unflatten(moves), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@functools.cache
def one_after_another(beta: float) -> optax.GradientTransformation:
    """A single rate moved once a tensor, in order, within a step.

    With λ_k the rate of tensor k and L the last one of them: λ_k ← L − β Σ_{j ≤ k} h_j.
    """

    def update(updates, state, params=None):
        assert params is not None

        def move(h, rates):
            return rates[-1] - beta * jnp.cumsum(h) - rates

        return jax.tree.map(move, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@dataclass(frozen=True)
class Optimizer:
    """λ = {"lr": one rate, or one a tensor} to w ← w − lr · direction."""

    method: Method
    momentum: float

    def __call__(self, hparams: HParams) -> optax.GradientTransformation:
        """The transformation."""
        direction = {
            "sgd": optax.identity,
            "sgdn": lambda: optax.trace(self.momentum, nesterov=True),
            "adam": lambda: adam(late_eps=True),
        }[self.method]()
        return optax.chain(direction, at_each_tensor(hparams["lr"]))


class HypergradientDescentPaper(Paper):
    """What the three networks share; options.

    Attributes:
        source: of the images.
        num_train: training rows, from the first on.
        num_valid: the rows after them.
        method: sgd, sgdn (Nesterov's momentum) or adam.
        alpha: α_0.
        beta: the rate of the rate; 0 is the plain method and asks no estimator.
        momentum: of sgdn.
        weight_decay: δ, added to the gradient as δ w, so the hypergradient sees it.
        batch_size: rows a step.
        num_epochs: passes over the training rows, in a fresh order each.
        tensor_by_tensor: adam's rate moves once a tensor, in order, within a step.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Learning rate", ("alpha",), "step", "α", log="x"),
        Panel("Training", ("train_loss",), "epoch", "cross-entropy", log="y"),
        Panel("Validation", ("valid_loss",), "epoch", "cross-entropy", log="y"),
    )

    source: ImageSet = "mnist"
    num_train: Count = 60_000
    num_valid: Count = 10_000
    method: Method = "sgd"
    alpha: float = 1e-3
    beta: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    batch_size: Count = 128
    num_epochs: Count = 10
    tensor_by_tensor: bool = True

    def functions(
        self,
        network: one_training.Network,
        change: one_training.Change | None = None,
    ) -> one_training.Training:
        """Those of a problem."""
        optimizer = Optimizer(self.method, self.momentum)
        return one_training.training(network, optimizer, self.weight_decay, change)

    def follow(
        self,
        functions: one_training.Training,
        data: one_training.Data,
        valid: tuple[jax.Array, jax.Array],
        estimator,
        seed: int,
        report: Steps,
    ) -> Measured:
        """The training of a network, its losses and its rate."""
        problem, key = one_training.problem_of(functions, data), jax.random.key(seed)
        network = functions.network
        hparams, outer = {"lr": jnp.asarray(self.alpha)}, one_training.sgd(self.beta)
        start = problem.start(hparams, key)
        at_start = one_training.evaluated(network, start, *valid)[0]
        if self.method == "adam" and self.tensor_by_tensor and self.beta:
            num_tensors = len(jax.tree.leaves(data.weights))
            hparams = {"lr": jnp.full(num_tensors, self.alpha)}
            outer = one_after_another(self.beta)
        chosen = estimator if self.beta else None
        run = one_training.trained(
            problem, chosen, hparams, outer, self.num_epochs, key
        )
        train_losses, valid_losses, rates = [], [], []
        for epoch, (losses, path, state) in enumerate(run, start=1):
            train_losses.append(np.mean(losses))
            valid_losses.append(one_training.evaluated(network, state, *valid)[0])
            rates.append(path["lr"].reshape(len(losses), -1)[:, -1])
            report(epoch, self.num_epochs)
        epochs = range(1, self.num_epochs + 1)
        curves = {"train_loss": curve(train_losses, epochs)}
        curves["valid_loss"] = curve(valid_losses, epochs)
        found = {"start_loss": at_start, "final_valid": valid_losses[-1]}
        if not self.beta:
            return Measured(numbers=numbers(**found), curves=curves)
        alpha = np.concatenate(rates)
        curves["alpha"] = one_training.thinned(alpha)
        curves["alpha_mean"] = curve([np.mean(each) for each in rates], epochs)
        curves["alpha_last"] = curve([each[-1] for each in rates], epochs)
        found |= {"alpha_max": alpha.max(), "alpha_min": alpha.min()}
        return Measured(numbers=numbers(**found), curves=curves)


@paper_named("baydin2018_logreg")
class BaydinLogreg(HypergradientDescentPaper):
    """Further options.

    Attributes:
        hidden: widths of hidden layers, of rectified units.
        mean: taken from every pixel.
        std: by which it is then divided.
    """

    hidden: tuple[Count, ...] = ()
    mean: float = 0.1307
    std: Annotated[float, Field(gt=0)] = 0.3081

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Losses an epoch; the rate at each step, its mean an epoch and its range."""
        data = images(self.source)
        data = data._replace(inputs=(data.inputs - self.mean) / self.std)
        end = self.num_train + self.num_valid
        train, valid = data.rows(0, self.num_train), data.rows(self.num_train, end)
        num_classes = int(data.labels.max()) + 1
        sizes = (data.inputs.shape[1], *self.hidden, num_classes)

        draws = TorchDraws(seed)
        weights = one_training.linear_layers(draws, sizes)
        draws.permutation(self.num_train)  # spent on the loss before the first step
        orders = [draws.permutation(self.num_train) for _ in range(self.num_epochs)]
        rows = one_training.rows(*train, self.batch_size, orders)
        given = one_training.Data(rows, None, weights)
        functions = self.functions(one_training.perceptron(jax.nn.relu))
        return self.follow(functions, given, valid.batch(), estimator, seed, report)


@paper_named("baydin2018_mlp")
class BaydinMLP(BaydinLogreg):
    """The same of a perceptron; see `BaydinLogreg`."""

    hidden: tuple[Count, ...] = (1000, 1000)
    num_epochs: Count = 100
