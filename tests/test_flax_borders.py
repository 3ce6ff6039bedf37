"""Models cross from flax, and from pairs written by hand, with nothing lost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import hypergrad as hg
from hypergrad.models import (
    CNN,
    MLP,
    Model,
    Recurrent,
    Transformer,
    from_linen,
    from_nnx,
    mlp,
    stateful,
    stateless,
)
from hypergrad.training import Context
from tests.test_models import (
    build_of,
)


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(5)(x))
        return linen.Dense(2)(x)


@pytest.mark.slow
def test_three_ways_to_write_a_perceptron(key):
    x, y = (jnp.asarray(np.random.default_rng(0).normal(size=(6, n))) for n in (3, 2))
    plain = mlp([3, 5, 2])
    first, last = plain.init(key)
    weights = {
        "plain": (first, last),
        "nnx": {"layers": {0: {"linear": first}}, "head": last},
        "linen": {"Dense_0": first, "Dense_1": last},
    }
    models = {
        "plain": stateful(plain),
        "nnx": from_nnx(lambda rngs: MLP(3, 5, 1, 2, rngs=rngs)),
        "linen": from_linen(LinenMLP(), x),
    }

    def hypergradient(model, weights):
        chex.assert_trees_all_equal_shapes_and_dtypes(model.init(key)[0], weights)
        _, state = model.init(key)

        def loss(w, hp, batch, context):
            x, y = batch
            outputs, model_state = model.apply(w, context, x)
            return jnp.mean((outputs - y) ** 2) + hg.l2(w, hp["decay"]), model_state

        problem = hg.Problem.with_context(
            init=lambda key, hp: (weights, state),
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda hp: optax.sgd(hp["rate"]),
            train=(x, y),
            valid=(x, y),
            num_steps=3,
        )
        hparams = {"rate": 0.2, "decay": 0.1}
        return hg.value_and_hypergrad(problem, hg.Reverse())(hparams, key)

    results = {name: hypergradient(models[name], weights[name]) for name in models}
    for name in ("nnx", "linen"):
        chex.assert_trees_all_close(results[name], results["plain"], rtol=1e-12)


def test_one_key_one_draw(key):
    """A module's own nnx.Dropout replays at its key, differs at others and in eval."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Dropout(0.5, rngs=rngs)
            self.second = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.first(x), self.second(x), self.first(x)

    model, x = from_nnx(Net), jnp.ones(64)
    weights, state = model.init(key)
    assert weights == state == {}

    def draw(key, train=True):
        return model.apply(weights, Context(key, state, train), x)[0]

    once = draw(key)
    chex.assert_trees_all_equal(once, draw(key))
    masks = [np.asarray(y) for y in (*once, *draw(jax.random.key(1)))]
    for i, a in enumerate(masks):
        assert all(np.any(a != b) for b in masks[:i])
    for y in draw(key, train=False):
        np.testing.assert_array_equal(y, x)
    assert stateless(model).init(key) == {}


def test_equal_models_are_equal():
    build = build_of("cnn")
    assert from_nnx(build) == from_nnx(build)
    assert hash(from_nnx(build)) == hash(from_nnx(build))
    x = jnp.ones((1, 3))
    assert hash(from_linen(LinenMLP(), x)) == hash(from_linen(LinenMLP(), x))
    plain = mlp([2, 2])
    assert stateful(plain) == stateful(plain)
    assert stateless(stateful(plain)) == stateless(stateful(plain))


class LinenWithModes(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(momentum=0.5)(linen.Dense(4)(x), not train)
        return linen.Dropout(0.5, deterministic=not train)(x)


@pytest.mark.slow
def test_linen_modes_state_and_keys(key):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    model = from_linen(LinenWithModes(), x)
    weights, state = model.init(key)
    assert set(state) == {"batch_stats"}
    y, new = model.apply(weights, Context(key, state, True), x)
    again, _ = model.apply(weights, Context(key, state, True), x)
    np.testing.assert_array_equal(y, again)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    z = x @ weights["Dense_0"]["kernel"]
    mean = new["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * z.mean(0), rtol=1e-10)
    a, same = model.apply(weights, Context(key, new, False), x)
    b, _ = model.apply(weights, Context(jax.random.key(1), new, False), x)
    np.testing.assert_array_equal(a, b)
    chex.assert_trees_all_equal(same, new)


def _with_averages(border):
    if border == "nnx":
        return from_nnx(lambda rngs: MLP(3, 2, 1, 1, norm="batch", rngs=rngs))
    return from_linen(LinenWithModes(), jnp.ones((1, 3)))


@pytest.mark.parametrize(
    "border", ["nnx", pytest.param("linen", marks=pytest.mark.slow)]
)
def test_derivatives_pass_through_the_averages(border, key):
    """∂(running mean)/∂w is that of the batch's mean; a cut would give zero."""
    model = _with_averages(border)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    weights, state = model.init(key)

    @jax.jit
    @jax.grad
    def slope(weights):
        _, new = model.apply(weights, Context(key, state, True), x)
        leaves = jax.tree_util.tree_leaves_with_path(new)
        return sum(jnp.sum(y) for path, y in leaves if "mean" in str(path[-1]))

    slopes = jax.tree.leaves(slope(weights))
    assert max(float(jnp.max(jnp.abs(g))) for g in slopes) > 1e-3


def _changing(rngs):
    class Net(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(jnp.zeros(2))

        def __call__(self, x):
            self.count.set_value(jnp.zeros(3))
            return x

    return Net()


def test_what_is_refused_says_why(key):
    context = Context(key, {}, True)
    with pytest.raises(ValueError, match="rngs -> nnx.Module"):
        from_nnx(MLP(3, 2, 1, 1, rngs=nnx.Rngs(0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must return an nnx.Module, got int"):
        from_nnx(lambda rngs: 3).init(key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="running averages"):
        from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs)).init(key)
    model = from_nnx(_changing)
    weights, state = model.init(key)
    with pytest.raises(ValueError, match="model_state changed in a call.*count"):
        model.apply(weights, context._replace(model_state=state), jnp.ones(3))
    with pytest.raises(ValueError, match="keeps no state.*mean"):
        stateless(from_nnx(lambda rngs: MLP(3, 2, 1, 1, norm="batch", rngs=rngs))).init(
            key
        )
    with pytest.raises(ValueError, match="from_nnx"):
        from_linen(LinenMLP)  # type: ignore[arg-type]
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="activation must be one of"):
        MLP(3, 2, 1, 1, "sine", rngs=rngs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="norm must be one of"):
        MLP(3, 2, 1, 1, norm="bach", rngs=rngs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exactly one of in_features"):
        Recurrent(units=2, out_features=1, rngs=rngs)
    with pytest.raises(ValueError, match="cell must be one of"):
        Recurrent(3, units=2, out_features=1, cell="elman", rngs=rngs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads must divide"):
        Transformer(3, length=2, width=4, depth=1, heads=3, out_features=1, rngs=rngs)
    with pytest.raises(ValueError, match="filters must be a Python int >= 1"):
        CNN((4, 4, 1), 0, 1, 3, 1, 2, rngs=rngs)


def test_the_plain_names_need_no_flax():
    import subprocess
    import sys

    code = "import hypergrad.models, sys; from hypergrad.models import mlp, Model"
    code += "; assert 'flax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert isinstance(mlp([1, 1]), Model)


class LinenWithMode(linen.Module):
    """The mode's argument has a name of its own."""

    drop: float = 0.0
    averages: bool = False

    @linen.compact
    def __call__(self, x, eval_mode=True):
        if self.averages:
            x = linen.BatchNorm(use_running_average=eval_mode)(x)
        return linen.Dropout(self.drop, deterministic=eval_mode)(x)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (LinenWithMode(drop=0.5), "Dropout"),
        pytest.param(
            LinenWithMode(averages=True), "batch_stats", marks=pytest.mark.slow
        ),
    ],
    ids=["dropout", "averages"],
)
def test_a_linen_mode_of_unknown_name_is_asked_for(module, what, key):
    x = jnp.arange(12.0).reshape(4, 3)
    with pytest.raises(ValueError, match=f"has {what}, and .*when_training"):
        from_linen(module, x).init(key)
    model = from_linen(module, x, when_training={"eval_mode": False})
    assert model == from_linen(module, x, when_training={"eval_mode": False})
    weights, state = model.init(key)
    y, new = model.apply(weights, Context(key, state, True), x)
    z, same = model.apply(weights, Context(key, state, False), x)
    assert jnp.any(y != z)
    chex.assert_trees_all_equal(same, state)
    if what == "batch_stats":
        assert jnp.any(new["batch_stats"]["BatchNorm_0"]["mean"] != 0)
    frozen = from_linen(module, x, when_training={})
    weights, state = frozen.init(key)
    y, _ = frozen.apply(weights, Context(key, state, True), x)
    z, _ = frozen.apply(weights, Context(key, state, False), x)
    np.testing.assert_array_equal(y, z)


def test_linen_modules_without_modes_need_none(key):
    x = jnp.ones((2, 3))
    model = from_linen(LinenWithMode(), x)  # a rate of zero drops nothing
    assert model.init(key) == ({}, {})
    for wrong in ({"evalmode": False}, {"eval_mode": 0}):
        with pytest.raises(ValueError, match=r"\['self', 'x', 'eval_mode'\]; got"):
            from_linen(LinenWithMode(), x, when_training=wrong)  # type: ignore[arg-type]


def test_nnx_modules_that_cut_or_round_are_refused(key):
    def wrapped(make):
        class Net(nnx.Module):
            def __init__(self, rngs):
                self.inner = make(rngs)

        return from_nnx(Net)

    def spectral(rngs):
        return nnx.SpectralNorm(nnx.Linear(2, 2, rngs=rngs), rngs=rngs)

    with pytest.raises(ValueError, match="inner is an nnx.SpectralNorm.*singular"):
        wrapped(spectral).init(key)
    rounding = {
        "inner is an nnx.Embed": lambda rngs: nnx.Embed(3, 2, rngs=rngs),
        "inner.dense_h is an nnx.Linear": lambda rngs: nnx.SimpleCell(3, 2, rngs=rngs),
        "inner is": lambda rngs: nnx.Linear(3, 2, dtype=jnp.float32, rngs=rngs),
    }
    for name, make in rounding.items():
        with pytest.raises(ValueError, match=f"{name}.*float32 while"):
            wrapped(make).init(key)
    with jax.enable_x64(False):
        from_nnx(lambda rngs: nnx.Embed(3, 2, rngs=rngs)).init(key)


@pytest.mark.slow
def test_nnx_modules_of_float64_are_taken(key):
    """An embedding, and a scan whose carry is of param_dtype."""
    double = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    model = from_nnx(lambda rngs: nnx.Embed(3, 2, dtype=jnp.float64, rngs=rngs))
    weights, state = model.init(key)
    y, _ = model.apply(weights, Context(key, state, True), jnp.array([1]))
    np.testing.assert_array_equal(y, weights["embedding"][1:2])
    cell = lambda rngs: nnx.RNN(nnx.SimpleCell(3, 2, **double, rngs=rngs))
    model = from_nnx(cell)
    weights, state = model.init(key)
    y, _ = model.apply(weights, Context(key, state, True), jnp.ones((1, 4, 3)))
    assert y.dtype == jnp.float64


def test_complex_weights_keep_their_imaginary_part(key):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.Param(jnp.full(2, 1 + 2j, jnp.complex64))
            self.b = nnx.Param(jnp.ones(2, jnp.float32))

    weights, _ = from_nnx(Net).init(key)
    np.testing.assert_array_equal(weights["w"], [1 + 2j, 1 + 2j])
    assert weights["b"].dtype == jnp.float64
