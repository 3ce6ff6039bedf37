"""Training of a model on labelled rows as functions of the named hyperparameters.

ℓ(w, λ; batch) = mean of weight_i · loss(model(augment(x_i)), y_i) + ½ Σ decay · w²
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

import hypergrad as hg
from experiments.supervised.networks import Network
from hypergrad.models import StatefulModel
from hypergrad.tree import ravel
from hypergrad.typing import PyTree

IMAGE_NOISE = (
    ("shift", hg.shift),
    ("rotation", hg.rotate),
    ("rescaling", hg.rescale),
    ("brightness", hg.brighten),
    ("noise", hg.add_noise),
)
"""What may be done to a row before it is shown, in this order."""


class Pretrained(NamedTuple):
    """Where training starts.

    Attributes:
        weights: of the parts of a model that are kept, by name; the others are drawn.
        model_state: of the whole model.
    """

    weights: dict[str, PyTree]
    model_state: PyTree


@dataclass(frozen=True, eq=False)
class Recipe:
    """The functions of a problem with context; compared by identity, so make it once.

    Attributes:
        network: arranges rows for the model.
        model: the pair of pure functions.
        tokens: whether rows are tokens.
        classes: how many there are; 0 where targets are numbers.
        optimizer_name, schedule_name: keys of `experiments.supervised.vocabulary`.
        num_steps: T.
        fixed: values of the hyperparameters that are no part of λ.
    """

    network: Network
    model: StatefulModel
    tokens: bool
    classes: int
    optimizer_name: str
    schedule_name: str
    num_steps: int
    fixed: Mapping[str, ArrayLike] = field(default_factory=dict)

    def init(self, key, hparams, pretrained: Pretrained | None = None):
        """(w_0, model state); each layer's weights times its `init_scale`."""
        hp = self._all(hparams)
        weights, model_state = self.model.init(key)
        if pretrained is not None:
            weights, model_state = weights | pretrained.weights, pretrained.model_state
        if "init_scale" in hp:
            scales = hg.per_layer(hp["init_scale"], weights)
            weights = jax.tree.map(jnp.multiply, weights, scales)
        return weights, model_state

    def inner_loss(self, weights, hparams, batch, context):
        """ℓ and the new model state."""
        hp = self._all(hparams)
        inputs, targets, rows = batch
        augment_key, model_key = jax.random.split(context.key)
        inputs, targets = self._augmented(augment_key, hp, inputs, targets)
        outputs, model_state = self._apply(
            weights, context._replace(key=model_key), inputs, hp.get("dropout", 0.0)
        )
        losses = self.losses(
            hg.outputs(outputs), targets, hp.get("label_smoothing", 0.0)
        )
        if "class_weights" in hp:
            losses = losses * hp["class_weights"][batch[1]]
        if "example_weights" in hp:
            of_row = hp["example_weights"][rows]
            of_row = of_row.reshape(-1, *(1,) * (losses.ndim - 1))
            losses = losses * jnp.broadcast_to(of_row, losses.shape)
        penalty = self._penalty(weights, hp, context.given)
        return jnp.mean(losses) + penalty, model_state

    def outer_loss(self, weights, hparams, batch, context):
        """The mean loss in eval mode, without smoothing, weights or penalty."""
        del hparams
        inputs, targets = batch
        outputs, model_state = self._apply(weights, context, inputs, 0.0)
        return jnp.mean(self.losses(outputs, targets, 0.0)), model_state

    def optimizer(self, hparams):
        """Clip, then the optimiser at its scheduled rate, then each layer's rate."""
        hp = self._all(hparams)
        schedule = self.rate(hp)
        if self.schedule_name == "layer_table":
            core, after = self._core(hp, 1.0), [hg.scale_layers(schedule)]
        else:
            core, after = self._core(hp, schedule), []
        if "layer_rates" in hp:
            after.append(hg.scale_layers(hp["layer_rates"]))
        before = []
        if "clip_norm" in hp:
            before.append(optax.clip_by_global_norm(hp["clip_norm"]))
        if not (before or after):
            return hg.differentiable(core)
        return hg.differentiable(optax.chain(*before, core, *after))

    def rate(self, hparams):
        """The learning rate over T steps, the rise of a warm-up among them."""
        hp = self._all(hparams)
        rate, rise = hp["rate"], hp.get("warmup")
        steps = self.num_steps if rise is None else self.num_steps - rise
        match self.schedule_name:
            case "constant":
                schedule = hg.Constant(rate)
            case "exponential":
                schedule = hg.Exponential(rate, hp["rate_decay"], steps)
            case "cosine":
                schedule = hg.Cosine(rate, rate * hp["final_rate"], steps)
            case "piecewise":
                schedule = hg.PiecewiseLinear(rate, steps)
            case _:
                schedule = hg.Table(rate)
        return schedule if rise is None else hg.Warmup(schedule, rise)

    def outputs(self, state: hg.InnerState, inputs):
        """What the trained model says of rows, in eval mode."""
        context = hg.Context(jax.random.key(0), state.model_state, train=False)
        return self._apply(state.weights, context, inputs, 0.0)[0]

    def losses(self, outputs, targets, smoothing):
        """The loss of each row (and of each step of it, where there are targets)."""
        if self.classes:
            return hg.cross_entropy(outputs, targets, smoothing)
        return jnp.mean(jnp.square(outputs - targets), axis=-1)

    def _all(self, hparams):
        return {**self.fixed, **hparams}

    def _apply(self, weights, context, inputs, dropout):
        inputs = self.network.arrange(inputs, self.tokens)
        return self.model.apply(weights, context, inputs, dropout)

    def _augmented(self, key, hp, inputs, targets):
        for i, (name, augment) in enumerate(IMAGE_NOISE):
            if name in hp:
                inputs = augment(jax.random.fold_in(key, i), inputs, hp[name])
        if "mixup" in hp:
            if self.classes:
                targets = jax.nn.one_hot(targets, self.classes, dtype=inputs.dtype)
            inputs, targets = hg.mixup(
                jax.random.fold_in(key, len(IMAGE_NOISE)), inputs, targets, hp["mixup"]
            )
        return inputs, targets

    def _penalty(self, weights, hp, pretrained):
        """½ Σ λ w²: of `decay` and `layer_decay` over matrices, not over biases.

        And ½ λ Σ (w − w_pre)² of `start_decay` over what was pre-trained.
        """
        total = jnp.zeros(())
        if "decay" in hp and self.optimizer_name != "adamw":
            total = total + hg.l2(_matrices(weights), hp["decay"])
        if "layer_decay" in hp:
            coefficients = hg.per_layer(hp["layer_decay"], weights)
            kept = jax.tree.map(lambda w, c: c * (w.ndim > 1), weights, coefficients)
            total = total + hg.l2(weights, kept)
        if "weight_decays" in hp:
            vector, _ = ravel(weights)
            total = total + hg.l2(vector, hp["weight_decays"])
        if "start_decay" in hp:
            ours = {name: weights[name] for name in pretrained.weights}
            moved = jax.tree.map(jnp.subtract, ours, pretrained.weights)
            total = total + hg.l2(moved, hp["start_decay"])
        return total

    def _core(self, hp, rate):
        match self.optimizer_name:
            case "sgd":
                return optax.sgd(rate, momentum=hp["momentum"])
            case "nesterov":
                return optax.sgd(rate, momentum=hp["momentum"], nesterov=True)
            case "adam":
                return optax.adam(rate, hp["b1"], hp["b2"], hp["eps"])
            case "adamw":
                decay, mask = hp["decay"], _is_matrix
                return optax.adamw(
                    rate, hp["b1"], hp["b2"], hp["eps"], weight_decay=decay, mask=mask
                )
            case _:
                return optax.rmsprop(rate, hp["b2"], hp["eps"])


def _is_matrix(weights):
    return jax.tree.map(lambda w: w.ndim > 1, weights)


def _matrices(weights):
    return [w for w in jax.tree.leaves(weights) if w.ndim > 1]
