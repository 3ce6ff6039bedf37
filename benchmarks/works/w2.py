"""W2: a CNN written the ordinary way in flax, Adam, T = 50; λ = rate, b1, decay."""

from dataclasses import dataclass

import jax
import optax
from flax import nnx

from benchmarks.programs import of_estimator
from benchmarks.works import classifier
from benchmarks.works.base import FORWARD, Work, floats, history_bytes
from benchmarks.works.classifier import problem_of, training_arrays
from benchmarks.works.data import Split, batch_table, digits
from hypergrad.convolutions import convolutions_as_products
from hypergrad.estimators import Estimator, Forward, Value
from hypergrad.models import Model, from_nnx, stateless
from hypergrad.safe_optax import differentiable

STEPS = 50
WIDTHS, SMALLEST_WIDTHS = (16, 32), (2, 3)
SIDE = 28

CONTENDERS: dict[str, Estimator] = {
    **classifier.CONTENDERS,
    "Forward()": Forward(),
}


class ConvNet(nnx.Module):
    """Convolution, pool, convolution, pool, dense, as flax's own tutorial has them."""

    def __init__(self, widths: tuple[int, int], *, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, widths[0], kernel_size=(3, 3), rngs=rngs)
        self.second = nnx.Conv(widths[0], widths[1], kernel_size=(3, 3), rngs=rngs)
        self.dense = nnx.Linear((SIDE // 4) ** 2 * widths[1], 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 28, 28, 1] to logits."""
        for convolution in (self.first, self.second):
            x = nnx.relu(convolution(x))
            x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.dense(x.reshape(len(x), -1))


@dataclass(frozen=True)
class Build:
    """`rngs -> module`; equal ones make equal models."""

    widths: tuple[int, int]

    def __call__(self, rngs: nnx.Rngs) -> ConvNet:
        """The module."""
        return ConvNet(self.widths, rngs=rngs)


# One line a way to run the same module; the first one's weights go to the peers.
MODELS = {
    "": lambda build: stateless(from_nnx(build)),
    "products, ": lambda build: as_products(stateless(from_nnx(build))),
}


def as_products(model: Model) -> Model:
    """The same module, its convolutions as products."""
    return model._replace(apply=convolutions_as_products(model.apply))


def optimizer(hparams) -> optax.GradientTransformation:
    """Adam on g + decay w."""
    tx = optax.chain(
        optax.add_decayed_weights(hparams["decay"]),
        optax.scale_by_adam(b1=hparams["b1"]),
        optax.scale_by_learning_rate(hparams["rate"]),
    )
    return differentiable(tx)  # a dead unit's gradient is exactly zero


def images(split: Split, smallest: bool) -> Split:
    """Rows as images; at the smallest size, few to validate on."""
    rows = 20 if smallest else None

    def shaped(part, rows=None):
        return part[0][:rows].reshape(-1, SIDE, SIDE, 1), part[1][:rows]

    return Split(shaped(split.train), shaped(split.valid, rows))


def make(steps: int | None = None, smallest: bool = False) -> Work:
    """The work; `smallest` keeps its form only."""
    steps = steps or (2 if smallest else STEPS)
    widths = SMALLEST_WIDTHS if smallest else WIDTHS
    split = images(digits(enlarged=True), smallest)
    table = batch_table(len(split.train[1]), steps, 4 if smallest else 64)
    hparams = {"rate": floats(1e-3), "b1": floats(0.9), "decay": floats(1e-3)}
    key = jax.random.key(0)

    problems = {
        name: problem_of(make(Build(widths)), optimizer, split, steps, table=table)
        for name, make in MODELS.items()
    }
    first = problems[""]
    programs = {FORWARD: of_estimator(first, Value(), hparams, key)} | {
        f"{prefix}{label}": of_estimator(problem, estimator, hparams, key)
        for prefix, problem in problems.items()
        for label, estimator in CONTENDERS.items()
    }
    return Work(
        "w2",
        f"digits at 28 × 28, flax CNN of {widths[0]} and {widths[1]} channels, Adam, "
        f"T = {steps}; λ = rate, b1, weight decay",
        programs,
        reference="Reverse(EveryStep, Plain)",
        tolerance=0.02,
        steps=steps,
        history_bytes=history_bytes(first, hparams, key),
        peers={
            "torch, forward training": "plain_torch:convolutional_forward",
            "plain torch": "plain_torch:convolutional",
            "TorchOpt MetaAdam": "with_torchopt:convolutional",
            "higher": "with_higher:convolutional",
        },
        arrays=training_arrays(first, hparams, key, split, table),
        problem=first,
        hparams=hparams,
        key=key,
    )
