"""What any number of devices must agree on: `python -m tests.sharded.agree OUT PARTS`.

Writes OUT.npz, and fails unless the work is really spread over the devices.
"""

import functools
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import hypergrad as hg
from hypergrad.runner import evaluate
from hypergrad.sharding import Shard, device_mesh, shard_rows
from hypergrad.study import FreshKeys

ROWS, BATCH, UNITS = 48, 16, 7  # 48 and 16 over 2 or 8 devices: no two alike.
HPARAMS = {"lr": 0.1, "momentum": 0.8, "l2": 0.3}
HYPERPARAMETERS = {
    "lr": hg.Log(1e-3, 0.5, default=0.1),
    "momentum": hg.Logit(0.5, 0.99, default=0.8),
    "l2": hg.Log(1e-4, 1.0, default=0.05),
}
SPACE = hg.Space(HYPERPARAMETERS)
BATCHES = {
    "full": hg.FullBatch(),
    "replaced": hg.WithReplacement(BATCH),
    "epochs": hg.Epochs(BATCH),
}
ESTIMATORS = {
    "reverse": hg.Reverse(),
    "segments": hg.Reverse(checkpoint=hg.Segments()),
    "forward": hg.Forward(),
    "implicit": hg.Implicit(solver=hg.CG()),
    "online": hg.OnlineReverse(window=3),
    "reversible": hg.Reversible(bits=64),
}


def _error(weights, batch):
    x, y = batch
    return 0.5 * jnp.mean((jnp.tanh(x @ weights).mean(axis=1) - y) ** 2)


def _problem(batches, num_rows=ROWS, outer_every=None):
    rng = np.random.default_rng(0)
    x, xv = rng.normal(size=(2, num_rows, 4))
    truth = rng.normal(size=4)
    return hg.Problem(
        init=lambda key, hp: jax.random.normal(key, (4, UNITS)),
        inner_loss=lambda w, hp, batch: _error(w, batch) + hg.l2(w, hp["l2"]),
        outer_loss=lambda w, hp, batch: _error(w, batch),
        optimizer=lambda hp: optax.sgd(hp["lr"], momentum=hp["momentum"]),
        train=(x, np.tanh(x @ truth)),
        valid=(xv, np.tanh(xv @ truth)),
        num_steps=6,
        batches=batches,
        outer_every=outer_every,
    )


def population():
    """Two rounds of 5, one of 16 with keys of their own, three trainings of the best.

    8 devices divide 16 and not 5.
    """
    problem, key = _problem(hg.WithReplacement(6)), jax.random.key(1)
    searched = hg.search(
        problem,
        SPACE,
        hg.GradientSearch(starts=5),
        estimator=hg.Reverse(),
        num_trials=10,
        key=key,
        execution=Shard(),
    )
    coords = jax.vmap(SPACE.sample)(jax.random.split(key, 16))
    keys = jax.random.split(key, 16)
    run = jax.jit(evaluate, static_argnums=(1, 2, 5))
    sixteen = run(problem, SPACE, hg.Forward(), coords, keys, Shard(each=hg.Chunk(2)))

    def norm(state, hparams):
        return jnp.sum(state.weights**2) + hparams["l2"]

    best = searched.best_hparams
    retrained = hg.retrain(problem, best, keys[:3], norm, Shard(each=hg.Vmap()))
    return {"searched": searched.trials, "sixteen": sixteen, "retrained": retrained}


def choices():
    """A search in which the trials of one round are of two programs."""
    space = hg.Space(HYPERPARAMETERS | {"rows": hg.Choice((4, 6))})

    def make(choices):
        return _problem(hg.WithReplacement(choices["rows"]))

    found = hg.search(
        make,
        space,
        hg.RandomSearch(batch=6),
        num_trials=6,
        key=jax.random.key(4),
        execution=Shard(),
    )
    return found.trials


def quick():
    """A search of 5, and the program that `assert_rows_are_spread` looks into."""
    problem, program = _laid_program("replaced")
    searched = hg.search(
        _problem(hg.WithReplacement(6)),
        SPACE,
        hg.RandomSearch(batch=5),
        num_trials=5,
        key=jax.random.key(1),
        execution=Shard(),
        training_keys=FreshKeys(),
    )
    return {"searched": searched.trials, "reverse": program(problem)}


def data_parallel():
    """Every exact estimator on minibatches, and every kind of batches."""
    table = np.random.default_rng(1).integers(0, ROWS, (3, BATCH))
    kinds = BATCHES | {"table": hg.IndexTable(jnp.asarray(table))}
    found = {
        f"batches {name}": _hypergrad(_problem(batches, outer_every=3), hg.Reverse())
        for name, batches in kinds.items()
    }
    for name, estimator in ESTIMATORS.items():
        found[name] = _hypergrad(_problem(BATCHES["replaced"]), estimator)
    return found


def copied():
    """Batches that are shared, from rows that are not."""
    found = {}
    for name, batches in BATCHES.items():
        laid = shard_rows(_problem(batches), parts=())
        fn = hg.value_and_hypergrad(laid, hg.Reverse())
        found[name] = fn(HPARAMS, jax.random.key(3))
    return found


def own_rows():
    """Each process gives the rows that it has: an equal part of all."""
    whole = _problem(BATCHES["replaced"])
    share = ROWS // jax.process_count()
    first = jax.process_index() * share
    mesh = device_mesh()
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def gathered(x):
        mine = np.asarray(x)[first : first + share]
        return jax.make_array_from_process_local_data(sharding, mine)

    train, valid = jax.tree.map(gathered, (whole.data.train, whole.data.valid))
    problem = whole.replace(data=whole.data._replace(train=train, valid=valid))
    return _hypergrad(problem, hg.Reverse())


def both():
    """Rows laid over the devices that share the trainings: each gathers its batches."""
    problem, key = shard_rows(_problem(BATCHES["replaced"])), jax.random.key(2)
    coords = jax.vmap(SPACE.sample)(jax.random.split(key, 5))
    run = jax.jit(evaluate, static_argnums=(1, 2, 5))
    keys = jax.random.split(key, 5)
    return {"both": run(problem, SPACE, hg.Reverse(), coords, keys, Shard())}


def _hypergrad(problem, estimator):
    laid, key = shard_rows(problem), jax.random.key(3)
    with warnings.catch_warnings():  # Implicit doubts a training of six steps.
        warnings.simplefilter("ignore", hg.HypergradWarning)
        found, _ = hg.estimate(laid, estimator, HPARAMS, (), key)
    return found.value, found.hypergrad


def assert_trainings_are_spread(num_devices):
    """Row i runs on device i // ⌈n/m⌉, and all hold its result."""

    def where(x):
        return x, jax.lax.axis_index("rows")

    for n in (5, 16):
        rows, device = jax.jit(lambda x: Shard().map(where, x))(jnp.arange(n))
        share = -(-n // num_devices)
        np.testing.assert_array_equal(device, np.arange(n) // share)
        np.testing.assert_array_equal(rows, np.arange(n))
        assert len(rows.sharding.device_set) == num_devices
        assert rows.sharding.is_fully_replicated


@functools.cache
def _laid_program(kind):
    """(problem, the compiled hypergradient by reverse mode)."""

    def estimate(problem):
        return hg.Reverse().estimate(problem, HPARAMS, (), jax.random.key(0))

    problem = shard_rows(_problem(BATCHES[kind]))
    return problem, jax.jit(estimate).lower(problem).compile()


def assert_rows_are_spread(num_devices, kind, n):
    """A device holds its part of the rows, and computes units of no others."""
    problem, program = _laid_program(kind)
    for leaf in jax.tree.leaves((problem.data.train, problem.data.valid)):
        assert len(leaf.sharding.device_set) == num_devices
        shapes = {shard.data.shape[0] for shard in leaf.addressable_shards}
        assert shapes == {ROWS // num_devices}
    text = str(program.as_text())
    assert "all-reduce" in text
    assert f"{n // num_devices},{UNITS}]" in text
    assert f"{n},{UNITS}]" not in text


_PARTS = (population, choices, quick, data_parallel, copied, own_rows, both)
PARTS = {f.__name__: f for f in _PARTS}


def flat(found):
    """{path: array}, on the host."""
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main(out, parts):
    """Check, compute, write."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if jax.device_count() > 1:
        assert_trainings_are_spread(jax.device_count())
        assert_rows_are_spread(jax.device_count(), "replaced", BATCH)
        if parts != "quick":
            assert_rows_are_spread(jax.device_count(), "full", ROWS)
    found = {part: PARTS[part]() for part in parts.split(",")}
    arrays: dict[str, Any] = flat(found)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
