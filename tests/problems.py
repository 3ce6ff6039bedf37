"""The problems on which estimators are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import hypergrad as hg
from hypergrad.models import mlp
from tests.oracles import Ridge


def squared_error(weights, batch):
    x, y = batch
    return 0.5 * jnp.mean((x @ weights - y) ** 2)


def _start(key, hparams):
    return jnp.zeros(4)


def _inner(weights, hparams, batch):
    return squared_error(weights, batch) + hg.l2(weights, hparams["l2"])


def _outer(weights, hparams, batch):
    return squared_error(weights, batch)


def _optimizer(hparams):
    lr = hparams["lr"]
    rate = hg.Table(lr) if jnp.ndim(lr) else lr
    return optax.sgd(rate, momentum=hparams.get("momentum"))


def ridge(num_steps: int, **changes) -> hg.Problem:
    """The ridge regression whose closed forms are in `tests.oracles`."""
    data = Ridge.make()
    arguments = {
        "init": _start,
        "inner_loss": _inner,
        "outer_loss": _outer,
        "optimizer": _optimizer,
        "train": (data.x, data.y),
        "valid": (data.xv, data.yv),
        "num_steps": num_steps,
    }
    return hg.Problem(**(arguments | changes))


@functools.cache
def _mlp(sizes):
    model = mlp(sizes)

    def loss(weights, batch):
        x, y = batch
        logits = model.apply(weights, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return {
        "init": lambda key, hp: model.init(key),
        "inner_loss": lambda w, hp, batch: loss(w, batch) + hg.l2(w, hp["l2"]),
        "outer_loss": lambda w, hp, batch: loss(w, batch),
        "optimizer": lambda hp: optax.sgd(hg.Table(hp["lr"]), momentum=hp["momentum"]),
    }


def digits(num_steps: int, sizes=(64, 16, 10), dtype=jnp.float64, batch_size=20):
    """(problem, hparams): an MLP on digits with a rate per step, momentum and decay."""
    data = load_digits()
    x, y = jnp.asarray(data.data / 16.0, dtype), jnp.asarray(data.target)
    problem = hg.Problem(
        **_mlp(tuple(sizes)),
        train=(x[:1000], y[:1000]),
        valid=(x[1000:1300], y[1000:1300]),
        num_steps=num_steps,
        batch_size=batch_size,
    )
    hparams = {
        "lr": jnp.full(num_steps, 0.1, dtype),
        "momentum": jnp.asarray(0.8, dtype),
        "l2": jnp.asarray(1e-3, dtype),
    }
    return problem, hparams


def cubic(num_steps: int = 3, **changes) -> hg.Problem:
    """s_T = λ^T from s_0 = 1: the smallest problem that has a hypergradient."""
    return hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: hp * s,
        outer_at=lambda hp, s, tick: s,
        num_steps=num_steps,
        **changes,
    )


def relative(got, expected) -> float:
    """‖got − expected‖ / ‖expected‖ over all leaves."""
    got, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (got, expected)
    )
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
