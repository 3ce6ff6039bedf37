"""Every optimiser of optax: its hypergradient past a dead ReLU unit, or a refusal."""

import functools
import types
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from hypergrad.api import value_and_hypergrad
from hypergrad.estimators import Reverse
from hypergrad.problem import Problem
from hypergrad.safe_optax import UnsafeOptimizerError, check, differentiable, require


def rows(module, **cases):
    """{name: (factory of hp, learning rate, other hyperparameter)}."""

    def make(name, learning_rate, other="", value=0.0, **fixed):
        def factory(hp):
            chosen = {other: hp["other"]} if other else {}
            return getattr(module, name)(hp["lr"], **chosen, **fixed)

        return factory, learning_rate, value

    return {
        name: make(name, *args[:3], **(args[3] if len(args) > 3 else {}))
        for name, args in cases.items()
    }


TABLE = rows(
    optax,
    adabelief=(0.02, "b1", 0.9),
    adadelta=(0.5, "rho", 0.9),
    adafactor=(0.02, "decay_rate", 0.8, {"min_dim_size_to_factor": 2}),
    adagrad=(0.1, "eps", 1e-3),
    adam=(0.02, "b1", 0.9),
    adamax=(0.02, "b1", 0.9),
    adamaxw=(0.02, "weight_decay", 0.1),
    adamw=(0.02, "weight_decay", 0.1),
    adan=(0.02, "b1", 0.9),
    amsgrad=(0.02, "b2", 0.9),
    fromage=(0.02,),
    lamb=(0.02, "b1", 0.9),
    lars=(0.002, "momentum", 0.9),
    lion=(0.01, "weight_decay", 0.1),
    nadam=(0.02, "b1", 0.9),
    nadamw=(0.02, "weight_decay", 0.1),
    noisy_sgd=(0.02, "eta", 0.01, {"key": jax.random.key(0)}),
    novograd=(0.02, "b1", 0.9),
    optimistic_adam=(0.02, "b1", 0.9),
    optimistic_adam_v2=(0.015, "alpha", 0.9),
    optimistic_gradient_descent=(0.02, "alpha", 0.9),
    polyak_sgd=(0.2, "scaling", 0.5),
    radam=(0.02, "b2", 0.9),
    rmsprop=(0.02, "decay", 0.9),
    rprop=(0.01,),
    sgd=(0.05, "momentum", 0.9),
    sign_sgd=(0.01,),
    signum=(0.01,),
    sm3=(0.1, "momentum", 0.9),
    yogi=(0.02, "b1", 0.9),
) | rows(
    contrib,
    acprop=(0.02, "b1", 0.9),
    ademamix=(0.02, "b1", 0.9),
    adopt=(0.02, "b1", 0.9),
    cocob=(0.8, "alpha", 100.0),
    dadapt_adamw=(0.8, "weight_decay", 0.1),
    dog=(0.8, "weight_decay", 0.1),
    dowg=(0.8, "weight_decay", 0.1),
    galore=(0.02, "weight_decay", 0.1, {"rank": 2}),
    madgrad=(0.02, "momentum", 0.9),
    momo=(0.02, "beta", 0.9),
    momo_adam=(0.02, "b1", 0.9),
    muon=(0.02, "beta", 0.9),
    prodigy=(0.8, "weight_decay", 0.1),
    schedule_free_adamw=(0.02, "weight_decay", 0.1),
    schedule_free_sgd=(0.05, "b1", 0.9),
    simplified_ademamix=(0.002, "b1", 0.9),
)
TABLE["lbfgs"] = (lambda hp: optax.lbfgs(hp["lr"], 3, linesearch=None), 0.1, 0.0)
TABLE["schedule_free"] = (
    lambda hp: contrib.schedule_free(optax.sgd(hp["lr"]), hp["lr"], b1=hp["other"]),
    0.05,
    0.9,
)

SIGN_BASED = ("lion", "rprop", "sign_sgd", "signum")

REFUSED = {
    "lbfgs with its line search": (lambda: optax.lbfgs(0.1), "value_fn"),
    "sophia": (lambda: contrib.sophia(0.1), "obj_fn must be provided"),
    "dpsgd": (lambda: contrib.dpsgd(0.1, 1.0, 1.0, 0), "updates have shapes"),
}

WEIGHTS = {"kernel": jnp.ones((3, 4))}


def problem_for(factory, dtype) -> Problem:
    """Twenty steps of a 3-4-1 network, the last unit of which never fires."""
    keys = jax.random.split(jax.random.key(0), 3)
    ones = jnp.ones((16, 1))
    x = jnp.concatenate([jax.random.normal(keys[0], (16, 3)), ones], axis=1)
    y = jnp.sin(2 * x[:, 0]) + x[:, 1] ** 2
    start = {
        "hidden": jax.random.normal(keys[1], (4, 4)).at[3, 3].set(-1e3),
        "out": jax.random.normal(keys[2], (4,)),
    }
    start, x, y = jax.tree.map(lambda leaf: leaf.astype(dtype), (start, x, y))

    def loss(weights, hparams, batch):
        del hparams
        x, y = batch
        hidden = jax.nn.relu(x @ weights["hidden"])
        return jnp.mean((hidden @ weights["out"] - y) ** 2)

    return Problem(
        init=lambda key, hp: start,
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda hp: differentiable(factory(hp)),
        train=(x[:10], y[:10]),
        valid=(x[10:], y[10:]),
        num_steps=20,
    )


STEPS = np.array([1e-4, 1e-5, 1e-6])

# Of optax itself: names and arguments that it is about to drop.
old_names = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@old_names
@pytest.mark.parametrize("name", TABLE)
def test_hypergradient_past_a_dead_unit(name):
    """Finite, and equal to central differences of the same program, in float64."""
    factory, learning_rate, other = TABLE[name]
    evaluate = value_and_hypergrad(problem_for(factory, jnp.float64), Reverse())

    # The centre and then, for each hyperparameter and step, the points either side.
    centre = np.array([learning_rate, other])
    moves = np.maximum(np.abs(centre), 1e-3)[:, None] * STEPS
    offsets = np.einsum("ij,is,k->isjk", np.eye(2), moves, [1.0, -1.0])
    points = centre + np.r_[np.zeros((1, 2)), np.moveaxis(offsets, 2, 3).reshape(-1, 2)]
    hparams = {"lr": jnp.asarray(points[:, 0]), "other": jnp.asarray(points[:, 1])}
    values, grads = jax.jit(
        lambda hp: jax.lax.map(lambda hp: evaluate(hp, jax.random.key(0)), hp),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles faster
    )(hparams)

    hypergrad = np.array([grads["lr"][0], grads["other"][0]])
    ahead, behind = np.moveaxis(values[1:].reshape(2, len(STEPS), 2), 2, 0)
    differences = (ahead - behind) / (2 * moves)
    assert np.all(np.isfinite(hypergrad))
    assert np.any(hypergrad != 0)
    noise = 1e-13 * abs(values[0]) / moves
    error = np.abs(differences - hypergrad[:, None])
    tolerance = noise + 1e-5 * np.abs(hypergrad[:, None])
    assert np.all(np.any(error <= tolerance, axis=1)), (hypergrad, differences)


@old_names
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("adam", "radam") else pytest.mark.slow)
        for name in TABLE
    ],
)
def test_hypergradient_past_a_dead_unit_in_float32(name):
    factory, learning_rate, other = TABLE[name]
    hparams = {"lr": jnp.float32(learning_rate), "other": jnp.float32(other)}
    problem = problem_for(factory, jnp.float32)
    value, grads = value_and_hypergrad(problem, Reverse())(hparams, jax.random.key(0))
    assert value.dtype == jnp.float32
    assert np.all(np.isfinite([*grads.values()]))


def test_the_table_is_complete():
    """Each factory with a learning rate, but for the building blocks scale_by_*."""
    kinds = (types.FunctionType, functools.partial)
    found = {
        name
        for module in (optax, contrib)
        for name, factory in vars(module).items()
        if isinstance(factory, kinds) and not name.startswith(("_", "scale_by_"))
        if {"learning_rate", "max_learning_rate"} & {*signature(factory).parameters}
    }
    assert found == {*TABLE, "sophia", "dpsgd"}


@pytest.mark.parametrize(
    "tx", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1, eps_root=1e-8)]
)
def test_check_passes_what_is_safe(tx):
    report = check(tx, WEIGHTS)
    assert report.ok
    assert str(report) == "safe to differentiate"
    require(tx, WEIGHTS)


@pytest.mark.parametrize(
    ("tx", "where"),
    [
        (optax.adam(0.1), "where some entries are zero and where all are zero"),
        (optax.clip_by_global_norm(1.0), "finite where all are zero in float32; where"),
    ],
)
def test_check_names_the_cure_and_the_cure_cures(tx, where):
    report = check(tx, WEIGHTS)
    assert (report.finite, report.smooth, report.ok) == (False, True, False)
    assert where in report.reason
    assert "hypergrad.differentiable" in report.cure
    assert check(differentiable(tx), WEIGHTS).ok
    with pytest.raises(UnsafeOptimizerError, match="not finite where"):
        require(tx, WEIGHTS)


@pytest.mark.parametrize("name", SIGN_BASED)
def test_check_refuses_signs(name):
    factory, learning_rate, other = TABLE[name]
    tx = factory({"lr": learning_rate, "other": other})
    report = check(tx, WEIGHTS)
    assert (report.finite, report.smooth) == (True, False)
    assert "zero almost everywhere" in str(report)


@old_names
@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_what_cannot_be_differentiated(name):
    make, reason = REFUSED[name]
    report = check(make(), WEIGHTS)
    assert not report.ok
    assert reason in report.reason
    with pytest.raises(UnsafeOptimizerError, match=reason):
        report.raise_if_unsafe()


def test_check_knows_that_a_while_loop_has_no_reverse_mode():
    def update(updates, state, params=None):
        del params
        halve = lambda g: jax.lax.while_loop(  # noqa: E731
            lambda g: jnp.abs(g).sum() > 1, lambda g: g / 2, g
        )
        return jax.tree.map(halve, updates), state

    tx = optax.GradientTransformation(optax.init_empty_state, update)
    assert "Reverse-mode" in check(tx, WEIGHTS).reason


def assert_close(tree, expected):
    """Equal to rounding: fused programs may differ in the last bit."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), tree, expected
    )


@pytest.mark.parametrize("name", ["adam", "radam", "novograd"])
def test_differentiable_changes_no_update(name):
    factory, learning_rate, other = TABLE[name]
    tx = factory({"lr": learning_rate, "other": other})
    cured = differentiable(tx)
    state, cured_state = tx.init(WEIGHTS), cured.init(WEIGHTS)
    for scale in (1.0, 0.0, 0.3):
        grads = jax.tree.map(lambda w: scale * jnp.sin(3 * w.cumsum(-1)), WEIGHTS)  # noqa: B023
        updates, state = tx.update(grads, state, WEIGHTS)
        cured_updates, cured_state = cured.update(grads, cured_state, WEIGHTS)
        assert_close(cured_updates, updates)
        assert_close(cured_state, state)
