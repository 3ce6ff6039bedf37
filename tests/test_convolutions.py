"""Convolutions by slices: the same function, in value and derivatives."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import hypergrad as hg
from hypergrad.convolutions import convolutions_as_products
from hypergrad.models import from_linen, from_nnx, stateless
from tests.problems import relative

NATIVE = {"conv_general_dilated", "reduce_window_max", "reduce_window_sum"}


def primitives(fn, *args):
    """Names of all that a program does, loops and calls seen through."""

    def inside(program):
        for equation in program.eqns:
            yield equation.primitive.name
            for body in jax.extend.core.jaxprs_in_params(equation.params):
                yield from inside(body)

    return set(inside(jax.make_jaxpr(fn)(*args).jaxpr))


def agree(fn, *args):
    """Value, gradient, and a Hessian-vector product, by both ways."""
    ours = convolutions_as_products(fn)
    assert primitives(fn, *args) & NATIVE
    assert not primitives(ours, *args) & NATIVE

    @jax.jit
    def everything(*args):
        def scalar(fn):
            return lambda *args: jnp.sum(jnp.sin(fn(*args)))

        def of(fn):
            tangents = jax.tree.map(jnp.cos, args)
            gradient = jax.grad(scalar(fn), tuple(range(len(args))))
            stacked = jnp.stack([args[0], 2.0 * args[0]])
            both = jax.vmap(lambda x: fn(x, *args[1:]))(stacked)
            return fn(*args), jax.jvp(gradient, args, tangents), both

        return of(ours), of(fn)

    assert jax.eval_shape(fn, *args) == jax.eval_shape(ours, *args)
    got, expected = everything(*args)
    assert relative(got, expected) < 1e-12


@pytest.mark.parametrize(
    ("shape", "kernel", "numbers", "options"),
    [
        ((2, 8, 7, 3), (3, 3, 3, 4), ("NHWC", "HWIO", "NHWC"), {"padding": "SAME"}),
        ((2, 3, 8, 7), (4, 3, 3, 2), ("NCHW", "OIHW", "NCHW"), {"padding": "VALID"}),
        pytest.param(
            (2, 9, 9, 3),
            (3, 2, 3, 4),
            ("NHWC", "HWIO", "NCHW"),
            {"padding": [(2, 1), (0, 3)], "window_strides": (2, 3)},
            marks=pytest.mark.slow,
        ),
        (
            (2, 9, 3),
            (3, 3, 5),
            ("NHC", "HIO", "NHC"),
            {"padding": [(-1, 2)], "rhs_dilation": (2,)},
        ),
        pytest.param(
            *((1, 4, 4, 4, 2), (2, 2, 2, 2, 3), ("NHWDC", "HWDIO", "NHWDC"), {}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_convolutions(shape, kernel, numbers, options, key):
    spatial = len(shape) - 2
    options = {"window_strides": (1,) * spatial, "padding": "VALID"} | options

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)

    a, b = jax.random.split(key)
    agree(convolve, jax.random.normal(a, shape), jax.random.normal(b, kernel))


@pytest.mark.parametrize("pool", [nnx.max_pool, nnx.avg_pool])
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [((2, 2), (2, 2), "VALID"), ((3, 2), (1, 2), "SAME"), ((3, 3), (2, 2), "SAME")],
)
def test_pools(pool, window, strides, padding, key):
    x = jax.random.normal(key, (2, 7, 8, 3))
    agree(lambda x: pool(x, window, strides=strides, padding=padding), x)


def test_on_ties_the_first_entry_has_the_derivative():
    x = jnp.zeros((1, 4, 4, 1))

    def scalar(x):
        return jnp.sum(nnx.max_pool(x, (2, 2), strides=(2, 2)))

    ours = jax.grad(convolutions_as_products(scalar))(x)
    np.testing.assert_array_equal(ours, jax.grad(scalar)(x))
    assert ours.sum() == 4.0


def test_nan_is_not_lost():
    x = jnp.ones((1, 4, 4, 1)).at[0, 0, 0, 0].set(jnp.nan).at[0, 3, 3, 0].set(jnp.nan)
    pool = convolutions_as_products(lambda x: nnx.max_pool(x, (2, 2), (2, 2)))
    assert np.isnan(pool(x)).sum() == 2


@pytest.mark.parametrize("around", [jax.jit, jax.checkpoint, "scan"])
def test_it_sees_through_calls_and_loops(around, key):
    w = jax.random.normal(key, (3, 3, 2, 2))

    def layer(x, w):
        return jnp.tanh(
            jax.lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )

    def network(x, w):
        if around == "scan":
            return jax.lax.scan(lambda x, s: (layer(x, s * w), s), x, jnp.ones(3))[0]
        return around(layer)(x, w)

    agree(network, jax.random.normal(key, (2, 5, 5, 2)), w)


def test_what_is_transposed_or_grouped_stays(key):
    x = jax.random.normal(key, (1, 5, 5, 4))

    def both(x):
        transposed = nnx.ConvTranspose(4, 4, (3, 3), rngs=nnx.Rngs(0))
        grouped = nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
        return grouped(transposed(x))

    ours = convolutions_as_products(both)
    assert primitives(ours, x) & NATIVE
    np.testing.assert_allclose(ours(x), both(x), rtol=1e-6)


def test_static_arguments_stay_static(key):
    def fn(x, double, *, name, key):
        assert isinstance(double, bool)
        assert name == "x"
        return {"y": x * (2 if double else 1) + jax.random.normal(key), "z": None}

    args, options = (jnp.ones(3), True), {"name": "x", "key": key}
    ours = convolutions_as_products(fn)(*args, **options)
    np.testing.assert_array_equal(ours["y"], fn(*args, **options)["y"])
    assert ours["z"] is None


class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs, param_dtype=float, dtype=float)
        self.dense = nnx.Linear(12, 2, rngs=rngs, param_dtype=float, dtype=float)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), strides=(2, 2))
        return self.dense(x.reshape(len(x), -1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(3, (3, 3), param_dtype=float, dtype=float)(x)
        x = linen.max_pool(linen.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        return linen.Dense(2, param_dtype=float, dtype=float)(x)


@pytest.mark.parametrize(
    "border", ["nnx", pytest.param("linen", marks=pytest.mark.slow)]
)
def test_hypergradients_of_an_ordinary_flax_network(border, key):
    x = jax.random.normal(key, (6, 4, 4, 1))
    y = jnp.arange(6) % 2
    model = stateless(
        from_nnx(lambda rngs: Net(rngs=rngs))
        if border == "nnx"
        else from_linen(LinenNet(), x)
    )

    def problem(apply):
        def loss(weights, hp, batch):
            return jnp.mean(hg.cross_entropy(apply(weights, batch[0]), batch[1]))

        return hg.Problem(
            init=lambda key, hp: model.init(key),
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda rate: optax.sgd(rate, momentum=0.9),
            train=(x, y),
            valid=(x[::-1], y),
            num_steps=3,
        )

    ours, native = (
        hg.value_and_hypergrad(problem(apply), hg.Reverse())(jnp.asarray(0.1), key)
        for apply in (convolutions_as_products(model.apply), model.apply)
    )
    assert relative(ours, native) < 1e-12
