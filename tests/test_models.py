"""Models made pure: shapes, modes, borders, and hypergradients through each of them."""

import functools
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hypergrad as hg
from hypergrad.models import (
    CNN,
    MLP,
    BatchNorm,
    Conv,
    Recurrent,
    ResidualCNN,
    StatefulModel,
    Transformer,
    from_nnx,
)
from hypergrad.training import Context

ROWS, IMAGE = 6, (5, 4, 2)

# Constructor and shape of one input row; an int is a vocabulary's size.
MODULES: dict[str, tuple[Any, tuple[int, ...], int | None]] = {
    "mlp": (functools.partial(MLP, 4, 3, 2, 3), (2, 2), None),
    "mlp, batch": (functools.partial(MLP, 4, 3, 1, 3, norm="batch"), (4,), None),
    "linear": (functools.partial(MLP, 4, 3, 0, 3), (4,), None),
    "cnn": (functools.partial(CNN, IMAGE, 4, 2, 3, 2, 3), IMAGE, None),
    "cnn, group": (
        functools.partial(CNN, IMAGE, 4, 1, 2, 1, 3, "silu", "group"),
        IMAGE,
        None,
    ),
    "residual, batch": (
        functools.partial(ResidualCNN, IMAGE, 2, 1, 3, 2, 3, "gelu", "batch"),
        IMAGE,
        None,
    ),
    "residual, layer": (
        functools.partial(ResidualCNN, IMAGE, 4, 1, 3, 1, 3, "tanh", "layer"),
        IMAGE,
        None,
    ),
    "rnn": (
        functools.partial(Recurrent, 2, units=3, cell="rnn", out_features=3),
        (4, 2),
        None,
    ),
    "lstm, tokens": (
        functools.partial(
            Recurrent, vocabulary=7, units=3, layers=2, cell="lstm", out_features=3
        ),
        (4,),
        7,
    ),
    "gru, every": (
        functools.partial(
            Recurrent, 2, units=3, layers=2, out_features=3, outputs="every"
        ),
        (4, 2),
        None,
    ),
    "transformer": (
        functools.partial(
            Transformer, 2, length=5, width=4, depth=1, heads=2, out_features=3
        ),
        (4, 2),
        None,
    ),
    "transformer, tokens": (
        functools.partial(
            Transformer,
            vocabulary=7,
            length=4,
            width=4,
            depth=2,
            heads=2,
            out_features=3,
            outputs="every",
        ),
        (4,),
        7,
    ),
}


@functools.cache
def build_of(name):
    """The function of rngs, one and the same for a name."""
    make = MODULES[name][0]
    return lambda rngs: make(rngs=rngs)


def module(name):
    """(model, inputs)."""
    _, shape, vocabulary = MODULES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, *shape))
    if vocabulary is not None:
        x = rng.integers(0, vocabulary, (ROWS, *shape))
    return from_nnx(build_of(name)), jnp.asarray(x)


@dataclass(frozen=True)
class Start:
    model: StatefulModel

    def __call__(self, key, hparams):
        return self.model.init(key)


@dataclass(frozen=True)
class Loss:
    model: StatefulModel

    def __call__(self, weights, hparams, batch, context):
        x, y = batch
        z, state = self.model.apply(weights, context, x, hparams["dropout"])
        loss = jnp.mean((z - y) ** 2)
        if context.train:
            loss += hg.l2(weights, hparams["decay"])
        return loss, state


def momentum(hparams):
    return optax.sgd(hparams["rate"], momentum=0.5)


def problem_of(name, num_steps=4):
    """Training of a module with λ = rate, dropout and decay."""
    model, x = module(name)
    weights, state = model.init(jax.random.key(0))
    context = Context(jax.random.key(0), state, train=False)
    z, _ = jax.eval_shape(lambda: model.apply(weights, context, x))
    y = jnp.asarray(np.random.default_rng(1).normal(size=z.shape))
    return hg.Problem.with_context(
        init=Start(model),
        inner_loss=Loss(model),
        outer_loss=Loss(model),
        optimizer=momentum,
        train=(x, y),
        valid=(x[:3], 1.5 * y[:3]),
        num_steps=num_steps,
        batch_size=4,
    )


HPARAMS = {"rate": 0.1, "dropout": 0.4, "decay": 0.02}


@pytest.mark.parametrize("name", MODULES)
def test_shapes_dtypes_and_modes(name, key):
    model, x = module(name)

    def both(key, x):
        weights, state = model.init(key)
        results = []
        for train in (True, False):
            context = Context(key, state, train)
            y, new = model.apply(weights, context, x, jnp.asarray(0.3))
            chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
            results.append(y)
        return results, weights

    (trained, evaluated), weights = jax.eval_shape(both, key, x)
    every = (4,) if "every" in name or name == "transformer, tokens" else ()
    assert trained.shape == evaluated.shape == (ROWS, *every, 3)
    assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype("float64")}
    with jax.enable_x64(False):
        x = jnp.asarray(x, jnp.float32 if jnp.issubdtype(x.dtype, float) else int)
        _, weights = jax.eval_shape(both, key, x)
    assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype("float32")}


def _value(problem, hparams, key):
    """F(λ)."""
    return hg.estimate(problem, hg.Value(), hparams, (), key)[0].value


def reverse_meets_differences(name, key):
    """The hypergradient in rate, dropout and decay, once it agrees with F's values."""
    F = hg.value_and_hypergrad(problem_of(name), hg.Reverse())
    _, slopes = F(HPARAMS, key)
    assert all(float(jnp.abs(slope)) > 1e-6 for slope in slopes.values())
    direction = dict(zip(HPARAMS, (0.3, -0.8, 0.5), strict=True))
    h = 1e-6

    def along(size):
        return F({n: x + size * direction[n] for n, x in HPARAMS.items()}, key)[0]

    slope = sum(direction[n] * slopes[n] for n in HPARAMS)
    np.testing.assert_allclose(slope, (along(h) - along(-h)) / (2 * h), rtol=1e-6)
    return slopes


def test_hypergradients_through_a_network_with_batch_norm(key):
    reverse_meets_differences("mlp, batch", key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MODULES if n != "linear"])
def test_hypergradients_through_every_module(name, key):
    reverse = reverse_meets_differences(name, key)
    forward = hg.hypergrad(problem_of(name), hg.Forward())(HPARAMS, key)
    chex.assert_trees_all_close(reverse, forward, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "stride", "shape"),
    [
        pytest.param(3, 1, (5, 4), marks=pytest.mark.slow),
        pytest.param(2, 2, (5, 4), marks=pytest.mark.slow),
        (4, 3, (7, 2)),
    ],
)
def test_convolution_equals_the_native_one(size, stride, shape):
    layer = Conv(2, 3, size, stride, rngs=nnx.Rngs(0))
    graphdef, weights = nnx.split(layer)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape, 2)))
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(size, size, 2, 3)))
    weights["kernel"].set_value(kernel)

    def ours(kernel, x):
        layer = nnx.merge(graphdef, {"kernel": kernel, "bias": jnp.zeros(3)})
        return layer(x)

    def native(kernel, x):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def with_slopes(f):
        square = lambda kernel, x: jnp.sum(f(kernel, x) ** 2)
        return lambda *args: (f(*args), jax.grad(square, (0, 1))(*args))

    results = [jax.jit(with_slopes(f))(kernel, x) for f in (ours, native)]
    chex.assert_trees_all_close(*results, atol=1e-11)


@pytest.mark.parametrize(
    "cell", ["gru", *(pytest.param(c, marks=pytest.mark.slow) for c in ("rnn", "lstm"))]
)
def test_recurrent_layers_equal_a_loop_in_numpy(cell, key):
    model = from_nnx(
        lambda rngs: Recurrent(
            2, units=3, cell=cell, out_features=1, outputs="every", rngs=rngs
        )
    )
    weights, state = model.init(key)
    x = np.random.default_rng(0).normal(size=(2, 4, 2))
    y = jax.jit(lambda: model.apply(weights, Context(key, state, False), x)[0])()

    sigma = lambda z: 1 / (1 + np.exp(-z))
    layer = jax.tree.map(np.asarray, weights["layers"][0])
    h = c = np.zeros((2, 3))
    for t in range(4):
        a = x[:, t] @ layer["input"]["kernel"] + layer["input"]["bias"]
        a, b = (
            np.split(z, z.shape[-1] // 3, -1)
            for z in (a, h @ layer["recurrent"]["kernel"])
        )
        if cell == "rnn":
            h = np.tanh(a[0] + b[0])
        elif cell == "lstm":
            i, f, g, o = (p + q for p, q in zip(a, b, strict=True))
            c = sigma(f + 1) * c + sigma(i) * np.tanh(g)
            h = sigma(o) * np.tanh(c)
        else:
            r, z = sigma(a[0] + b[0]), sigma(a[1] + b[1])
            h = z * h + (1 - z) * np.tanh(a[2] + r * b[2])
        head = h @ np.asarray(weights["head"]["kernel"])
        np.testing.assert_allclose(y[:, t], head, atol=1e-12)


@pytest.mark.slow
def test_every_output_attends_to_no_later_token(key):
    model, x = module("transformer, tokens")
    weights, state = model.init(key)
    apply = jax.jit(lambda x: model.apply(weights, Context(key, state, False), x)[0])
    moved = np.abs(apply(x.at[:, 2].set((x[:, 2] + 1) % 7)) - apply(x)).max((0, 2))
    np.testing.assert_array_equal(moved[:2], 0)
    assert np.all(moved[2:] > 1e-6)


def test_no_dropout_costs_nothing_and_a_rate_of_zero_changes_nothing(key):
    model, x = module("mlp")
    weights, state = model.init(key)

    def run(rate):
        return model.apply(weights, Context(key, state, True), x, rate)[0]

    assert "random_bits" not in str(jax.make_jaxpr(lambda: run(0.0))())
    assert "random_bits" in str(jax.make_jaxpr(run)(0.0))
    np.testing.assert_allclose(run(jnp.zeros(())), run(0.0), rtol=1e-14)


def test_running_averages_are_those_of_numpy(key):
    model = from_nnx(lambda rngs: MLP(3, 2, 1, 1, norm="batch", rngs=rngs))
    weights, state = model.init(key)
    linear = weights["layers"][0]["linear"]
    mean, var = np.zeros(2), np.ones(2)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.normal(size=(5, 3)) * 100 + 1000
        _, state = model.apply(weights, Context(key, state, True), jnp.asarray(x))
        z = x @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"])
        mean, var = 0.9 * mean + 0.1 * z.mean(0), 0.9 * var + 0.1 * z.var(0)
    norm = state["layers"][0]["norm"]
    np.testing.assert_allclose(norm["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(norm["var"], var, rtol=1e-12)
    y, same = model.apply(weights, Context(key, state, False), jnp.asarray(x))
    chex.assert_trees_all_equal(same, state)
    hidden = np.tanh((z - mean) / np.sqrt(var + 1e-5))
    np.testing.assert_allclose(y, hidden @ np.asarray(weights["head"]["kernel"]))


def test_batch_norm_is_safe_in_float32():
    """A mean 1e4 times the deviation, and a feature that is constant."""
    x = jnp.asarray([[1e4, 3.0], [1e4 + 1, 3.0], [1e4 + 2, 3.0]], jnp.float32)
    with jax.enable_x64(False):
        y = BatchNorm(2)(x)
        slope = jax.grad(lambda x: jnp.sum(jnp.sin(BatchNorm(2)(x))))(x)
    np.testing.assert_allclose(
        y[:, 0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-3, atol=1e-3
    )
    assert jnp.all(y[:, 1] == 0)
    assert jnp.all(jnp.isfinite(slope))


def test_one_trace_for_equal_models_all_keys_and_all_hyperparameters(key):
    F = jax.jit(chex.assert_max_traces(_value, n=1))
    runs = ((0.1, key), (0.2, key), (0.2, jax.random.key(3)))
    values = [
        F(problem_of("mlp, batch"), {**HPARAMS, "rate": rate}, k) for rate, k in runs
    ]
    assert len({float(v) for v in values}) == 3


@pytest.mark.slow
def test_many_keys_and_hyperparameters_side_by_side(key):
    problem = problem_of("mlp, batch")
    keys = jax.random.split(key, 3)
    rates = jnp.asarray([0.1, 0.2, 0.3])
    many = {**{name: jnp.full(3, x) for name, x in HPARAMS.items()}, "rate": rates}
    together = jax.jit(jax.vmap(_value, (None, 0, 0)))(problem, many, keys)
    F = jax.jit(_value)
    alone = [
        F(problem, {**HPARAMS, "rate": rate}, k)
        for rate, k in zip(rates, keys, strict=True)
    ]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-12)
