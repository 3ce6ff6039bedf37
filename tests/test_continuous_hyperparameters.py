"""Every continuous hyperparameter, through real training: is its hypergradient right?

A small network is trained for a few steps on scikit-learn's digits, in float64. For
each row of the table, and for each of its hyperparameters on its own, the hypergradient
meets central differences of the validation loss; forward mode meets reverse mode.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import hypergrad as hg
from hypergrad import augment
from hypergrad.dropout import dropout, gaussian_dropout
from hypergrad.layers import per_layer, scale_layers
from hypergrad.losses import cross_entropy, weighted_mean
from hypergrad.models import mlp

NUM_STEPS = 5
NUM_TRAIN = 24
BODY, HEAD = mlp([64, 5, 4]), mlp([4, 10])
BATCHES = jnp.asarray(np.random.default_rng(0).integers(0, NUM_TRAIN, (NUM_STEPS, 8)))


class Rows(NamedTuple):
    """Images [n, 8, 8, 1] in [0, 1], labels [n], and which training image it is [n]."""

    images: jax.Array
    labels: jax.Array
    index: jax.Array


def rows(begin, end) -> Rows:
    data = load_digits()
    images = jnp.asarray(data.images[begin:end, :, :, None] / 16)
    return Rows(images, jnp.asarray(data.target[begin:end]), jnp.arange(end - begin))


def new_weights(seed):
    rng = np.random.default_rng(seed)

    def layer(fan_in, fan_out):
        kernel = rng.normal(size=(fan_in, fan_out)) * fan_in**-0.5
        return {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(fan_out)}

    return {"body": (layer(64, 5), layer(5, 4)), "head": (layer(4, 10),)}


def logits(weights, images, drop=lambda x: x):
    hidden = jnp.tanh(BODY.apply(weights["body"], images.reshape(-1, 64)))
    return HEAD.apply(weights["head"], drop(hidden))


def losses(weights, images, targets, smoothing=0.0):
    return cross_entropy(logits(weights, images), targets, smoothing)


def plain_loss(weights, hp, batch, key):
    return losses(weights, batch.images, batch.labels).mean()


class Row(NamedTuple):
    """λ and the part of training that it enters."""

    hparams: Any
    loss: Callable = plain_loss
    optimizer: Callable = lambda hp: optax.sgd(0.5, momentum=0.8)
    init: Callable = lambda hp: new_weights(0)

    def problem(self) -> hg.Problem:
        return hg.Problem.with_context(
            init=lambda key, hp: (self.init(hp), ()),
            inner_loss=lambda w, hp, batch, context: (
                self.loss(w, hp, batch, context.key),
                (),
            ),
            outer_loss=lambda w, hp, batch, context: (
                plain_loss(w, hp, batch, None),
                (),
            ),
            optimizer=self.optimizer,
            train=rows(0, NUM_TRAIN),
            valid=rows(100, 140),
            num_steps=NUM_STEPS,
            # Neither this nor the initial weights are drawn inside of the program,
            # where compiling random numbers would take longer than all the rest.
            batches=hg.IndexTable(BATCHES),
        )


def numbers(name, size):
    """Positive numbers that differ."""
    return 1 + 0.5 * jnp.sin(jnp.arange(size) + len(name))


def adam(rate, b1=0.9, b2=0.99, eps=1e-3, decay=0.0):
    return hg.differentiable(optax.adamw(rate, b1, b2, eps, weight_decay=decay))


def scheduled(schedule):
    return Row({"schedule": schedule}, optimizer=lambda hp: optax.sgd(hp["schedule"]))


def decayed_loss(weights, hp, batch, key):
    """One decay for all, one for each layer and one for each weight, added up."""
    penalty = hg.l2(weights, hp["decay"]) + hg.l2(weights, hp["weight_decays"])
    penalty += hg.l2(weights, per_layer(hp["layer_decays"], weights))
    return plain_loss(weights, hp, batch, key) + penalty


def reweighted_loss(weights, hp, batch, key):
    each = losses(weights, batch.images, batch.labels, hp["label_smoothing"])
    scales = hp["class_weights"][batch.labels] * hp["example_weights"][batch.index]
    return weighted_mean(each, scales)


def dropout_loss(weights, hp, batch, key):
    noise, mask = jax.random.split(key)
    images = gaussian_dropout(noise, batch.images, hp["gaussian_dropout"])
    drop = lambda x: dropout(mask, x, hp["dropout"])
    return cross_entropy(logits(weights, images, drop), batch.labels).mean()


def augmented(hp, batch, key):
    """Images and targets after all six changes."""
    keys = jax.random.split(key, 6)
    images = augment.shift(keys[0], batch.images, hp["shift"])
    images = augment.rotate(keys[1], images, hp["rotation"])
    images = augment.rescale(keys[2], images, hp["rescaling"])
    images = augment.brighten(keys[3], images, hp["brightness"])
    images = augment.add_noise(keys[4], images, hp["noise"])
    targets = jax.nn.one_hot(batch.labels, 10)
    return augment.mixup(keys[5], images, targets, hp["mixup"])


def augmented_loss(weights, hp, batch, key):
    return losses(weights, *augmented(hp, batch, key)).mean()


def loss_of_everything(weights, hp, batch, key):
    """All that may enter a loss at once."""
    mask, noise, key = jax.random.split(key, 3)
    images, targets = augmented(hp, batch, key)
    images = gaussian_dropout(noise, images, hp["gaussian_dropout"])
    drop = lambda x: dropout(mask, x, hp["dropout"])
    each = cross_entropy(logits(weights, images, drop), targets, hp["label_smoothing"])
    scales = hp["class_weights"][batch.labels] * hp["example_weights"][batch.index]
    return weighted_mean(each, scales)


def optimizer_of_everything(hp):
    """Clipped adamw, with a schedule times a rate for each layer."""
    return hg.differentiable(
        optax.chain(
            optax.clip_by_global_norm(hp["clip_norm"]),
            optax.adamw(
                hp["rate"], hp["b1"], hp["b2"], hp["eps"], weight_decay=hp["decay"]
            ),
            scale_layers(hp["layer_rates"]),
        )
    )


def distilled_loss(weights, hp, batch, key):
    """The images of the batch are λ; its labels and their order are the data's."""
    return losses(weights, hp["images"][batch.index], batch.labels).mean()


def pretrained():
    """Weights after some steps on other digits."""
    weights, data = new_weights(7), rows(200, 240)

    @jax.jit
    def train(weights):
        def step(w, _):
            g = jax.grad(plain_loss)(w, None, data, None)
            return jax.tree.map(lambda w, g: w - 0.5 * g, w, g), None

        return jax.lax.scan(step, weights, length=20)[0]

    return train(weights)


def scaled_init(hp):
    return jax.tree.map(
        jnp.multiply, new_weights(0), per_layer(hp["init_scale"], new_weights(0))
    )


AUGMENTATION = {
    "shift": 0.1,
    "rotation": 0.3,
    "rescaling": 0.2,
    "brightness": 0.3,
    "noise": 0.1,
    "mixup": 0.4,
}
ADAM = {"rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3}
REWEIGHTING = {
    "label_smoothing": 0.1,
    "class_weights": numbers("class", 10),
    "example_weights": numbers("example", NUM_TRAIN),
}
DROPOUT = {"dropout": 0.3, "gaussian_dropout": 0.2}
LAYERS = 3
KNOTS = jnp.array([0.2, 0.6, 0.3])

SCHEDULES = {
    "constant": hg.Constant(0.3),
    "exponential": hg.Exponential(0.5, 0.7, 2.5),
    "cosine": hg.Cosine(0.5, 0.1, 4.3),
    "piecewise": hg.PiecewiseLinear(KNOTS, 5.7),
    "table": hg.Table(jnp.linspace(0.5, 0.1, NUM_STEPS)),
    "basis": hg.Basis(KNOTS, 5.2),
    "exp": hg.Exp(hg.Basis(KNOTS, 5.2)),
    "warm-up": hg.Warmup(hg.Cosine(0.5, 0.1, 3.3), 2.4),
}

TABLE = {
    "everything at once": lambda: Row(
        AUGMENTATION
        | ADAM
        | REWEIGHTING
        | DROPOUT
        | {
            "decay": 0.05,
            "clip_norm": 0.7,
            "layer_rates": numbers("rates", LAYERS),
            "init_scale": numbers("scale", LAYERS),
        },
        loss=loss_of_everything,
        optimizer=optimizer_of_everything,
        init=scaled_init,
    ),
    "rate and momentum": lambda: Row(
        {"rate": 0.3, "momentum": 0.8},
        optimizer=lambda hp: optax.sgd(hp["rate"], momentum=hp["momentum"]),
    ),
    "rate per layer": lambda: Row(
        {"layer_rates": numbers("layers", LAYERS)},
        optimizer=lambda hp: optax.chain(
            optax.sgd(0.3, momentum=0.8), scale_layers(hp["layer_rates"])
        ),
    ),
    "rate per step and layer": lambda: Row(
        {"rates": numbers("table", NUM_STEPS * LAYERS).reshape(NUM_STEPS, LAYERS)},
        optimizer=lambda hp: optax.chain(
            optax.sgd(0.3, momentum=0.8), scale_layers(lambda t: hp["rates"][t])
        ),
    ),
    "adam": lambda: Row(ADAM, optimizer=lambda hp: adam(**hp)),
    "adamw's decay": lambda: Row(
        {"decay": 0.1}, optimizer=lambda hp: adam(0.05, decay=hp["decay"])
    ),
    "decay, per layer, per weight": lambda: Row(
        {
            "decay": 0.01,
            "layer_decays": 0.01 * numbers("layer", LAYERS),
            "weight_decays": jax.tree.map(
                lambda w: 0.01 * (1 + jnp.sin(w)), new_weights(3)
            ),
        },
        loss=decayed_loss,
    ),
    "label smoothing, weights of classes and examples": lambda: Row(
        REWEIGHTING, loss=reweighted_loss
    ),
    "dropout of both kinds": lambda: Row(DROPOUT, loss=dropout_loss),
    "clip norm": lambda: Row(
        {"clip_norm": 0.89},
        optimizer=lambda hp: hg.differentiable(
            optax.chain(
                optax.clip_by_global_norm(hp["clip_norm"]), optax.sgd(0.5, momentum=0.8)
            )
        ),
    ),
    "augmentation": lambda: Row(AUGMENTATION, loss=augmented_loss),
    "initial scale per layer": lambda: Row(
        {"init_scale": numbers("scale", LAYERS)}, init=scaled_init
    ),
    "initial weights (MAML)": lambda: Row(
        {"weights": new_weights(5)},
        init=lambda hp: hp["weights"],
    ),
    "training images (distillation)": lambda: Row(
        {"images": rows(0, NUM_TRAIN).images}, loss=distilled_loss
    ),
    "fine-tuning rates of pre-trained layers": lambda: Row(
        {"layer_rates": jnp.linspace(0.1, 1.0, LAYERS)},
        optimizer=lambda hp: optax.chain(
            optax.sgd(0.3), scale_layers(hp["layer_rates"])
        ),
        init=lambda hp, weights=pretrained(): weights,
    ),
} | {
    f"schedule: {name}": lambda schedule=schedule: scheduled(schedule)
    for name, schedule in SCHEDULES.items()
}


def difference_error(value, gradient, hparams, path, rng) -> float:
    """Worst over directions, best over h, relative to the norm of the gradient."""
    leaves, structure = jax.tree.flatten(hparams)
    paths = [p for p, _ in jax.tree.leaves_with_path(hparams)]
    place = paths.index(path)
    slope = np.asarray(jax.tree.leaves(gradient)[place])

    def at(change):
        moved = [*leaves]
        moved[place] = leaves[place] + change
        return float(value(jax.tree.unflatten(structure, moved)))

    errors = []
    for _ in range(2 if slope.size > 1 else 1):
        u = rng.normal(size=slope.shape)
        u = u / np.linalg.norm(u)
        steps = [10.0**-k for k in range(4, 8)]
        found = [(at(h * u) - at(-h * u)) / (2 * h) for h in steps]
        errors.append(min(abs(np.sum(slope * u) - f) for f in found))
    return max(errors) / float(np.linalg.norm(slope))


def compiled(fn):
    """Each program runs a few times only: the compiler's work would not pay."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def check(row: Row, key):
    """{hyperparameter: (norm, error against differences, forward against reverse)}."""
    problem = row.problem()
    hparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), row.hparams)
    value = compiled(lambda hp: hg.unroll(problem, hp, key)[0])
    reverse = compiled(lambda hp: hg.hypergrad(problem, hg.Reverse())(hp, key))(hparams)
    forward = compiled(lambda hp: hg.hypergrad(problem, hg.Forward())(hp, key))(hparams)
    rng, found = np.random.default_rng(0), {}
    other = dict(jax.tree.leaves_with_path(forward))
    for path, slope in jax.tree.leaves_with_path(reverse):
        norm = float(jnp.linalg.norm(slope.ravel()))
        assert norm > 1e-6, f"{path}: nothing to compare with"
        modes = float(jnp.linalg.norm((other[path] - slope).ravel())) / norm
        error = difference_error(value, reverse, hparams, path, rng)
        found[jax.tree_util.keystr(path, simple=True, separator=".")] = (
            norm,
            error,
            modes,
        )
    return found


DEFAULT = {"label smoothing, weights of classes and examples"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in DEFAULT else pytest.mark.slow) for n in TABLE],
)
def test_hypergradient_is_that_of_differences_and_of_forward_mode(name, key):
    for hyperparameter, (_, error, modes) in check(TABLE[name](), key).items():
        assert error < 1e-6, hyperparameter
        assert modes < 1e-8, hyperparameter


@pytest.mark.slow
def test_the_clip_is_active_at_some_steps_only(key):
    """Or its row would not show that the derivative switches on and off."""
    row = TABLE["clip norm"]()
    problem, state, norms = row.problem(), row.problem().start(row.hparams, key), []
    for t in range(NUM_STEPS):
        weights = problem.weights(state)
        gradient = jax.grad(
            lambda w, t=t, state=state: problem.batch_loss(
                row.hparams, problem.replace_weights(state, w), t, key
            )
        )(weights)
        norms.append(float(optax.global_norm(gradient)))
        state = problem.step(row.hparams, state, t, key)
    active = np.array(norms) > row.hparams["clip_norm"]
    assert 0 < active.sum() < NUM_STEPS, norms
