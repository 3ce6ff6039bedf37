"""Spaces and functions of known minimum, and a study of them in one scan."""

import jax
import jax.numpy as jnp
import numpy as np

from hypergrad.hyperparameters import Linear, Log, Logit
from hypergrad.projections import CappedSimplex
from hypergrad.space import Space

SPACE = Space(
    {
        "lr": Log(1e-3, 1.0, default=0.1, shape=3),
        "momentum": Logit(0.1, 0.999, default=0.9),
        "mask": Linear(0.0, 1.0, shape=2, constraint=CappedSimplex(1.5)),
    }
)


def cube(dim, default=0.5):
    return Space({"x": Linear(0.0, 1.0, default=default, shape=dim)})


def quadratic(z):
    return 0.5 * jnp.sum((z - 0.3) ** 2)


def study(searcher, space, function, num_trials, key):
    """The whole study as one scan: coords [n, d], values [n]."""
    evaluate = jax.vmap(jax.value_and_grad(function))

    def ask_evaluate_tell(state, _):
        coords, state = searcher.ask(space, state)
        values, grads = evaluate(coords)
        return searcher.tell(space, state, coords, values, grads), (coords, values)

    state = searcher.init(space, num_trials, key)
    length = -(-num_trials // searcher.batch)
    _, (coords, values) = jax.lax.scan(ask_evaluate_tell, state, length=length)
    return coords.reshape(-1, space.dim), values.reshape(-1)


def jitted_study(searcher, space, function, num_trials, key):
    return jax.jit(study, static_argnums=(0, 1, 2, 3))(
        searcher, space, function, num_trials, key
    )


def assert_inside(space, coords):
    projected = jax.vmap(space.project)(coords)
    np.testing.assert_allclose(coords, projected, atol=1e-12)
