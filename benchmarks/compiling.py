"""`compile`: compile time against T, and what the framework adds to a bare scan.

Both on W1. The bare scan is what a user of JAX alone would write for this very
training; its programs and ours are measured in the same rounds.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp

from benchmarks.measure import quartiles
from benchmarks.programs import Program, Result, of_estimator
from benchmarks.race import race
from benchmarks.works import w1
from benchmarks.works.base import FORWARD, Work
from benchmarks.works.classifier import CrossEntropy, problem_of
from benchmarks.works.data import batch_table, digits
from benchmarks.works.perceptron import (
    CONTENDERS,
    hyperparameters,
    model_of,
    optimizer,
)
from hypergrad.estimators import Estimator, Reverse, Value
from hypergrad.gradients import Plain
from hypergrad.unroll import EveryStep, NoCheckpoint

TIMES, SMALLEST_TIMES = (100, 1000, 10_000), (2, 4)

COMPILED: dict[str, Estimator] = {FORWARD: Value(), **CONTENDERS}
"""Whose compile time is measured."""

BARE: dict[str, Estimator] = {
    FORWARD: Value(),
    "Reverse(EveryStep, Plain)": Reverse(EveryStep(), gradient=Plain()),
    "Reverse(NoCheckpoint, Plain)": Reverse(NoCheckpoint(), gradient=Plain()),
}
"""What is written by hand, too, each as "bare NAME"."""


def measure(options: argparse.Namespace) -> dict:
    """The record: the race of the bare programs with ours, and the compile times."""
    work = overhead(options.steps, options.smallest)
    record = race(work, options.rounds, limit=options.memory)
    times = SMALLEST_TIMES if options.smallest else TIMES
    chosen = {
        name: estimator
        for name, estimator in COMPILED.items()
        if name == FORWARD
        or options.only is None
        or any(part in name for part in options.only)
    }
    seconds = compile_seconds(times, chosen, options.rounds, options.smallest)
    return {
        **record,
        "compile_seconds": seconds,
        "tables": [_overhead_table(record), _compile_table(seconds, times)],
    }


def overhead(steps: int | None, smallest: bool) -> Work:
    """W1 by the framework and by hand."""
    steps = steps or (3 if smallest else w1.STEPS)
    sizes = w1.SMALLEST_SIZES if smallest else w1.SIZES
    split, size = digits(), 10 if smallest else 100
    table = batch_table(len(split.train[1]), steps, size)
    problem = problem_of(model_of(sizes), optimizer, split, steps, table=table)
    hparams, key = hyperparameters(steps), jax.random.key(0)
    weights = problem.start(hparams, key).weights
    arguments = (weights, hparams, split.train, split.valid, jnp.asarray(table))
    programs = {}
    for name, estimator in BARE.items():
        programs[name] = of_estimator(problem, estimator, hparams, key)
        fn = functools.partial(
            _bare,
            CrossEntropy(model_of(sizes).apply),
            isinstance(estimator, Reverse),
            getattr(estimator, "checkpoint", None) == EveryStep(),
        )
        programs[f"bare {name}"] = Program(fn, arguments)
    return Work(
        "compile",
        f"W1 at T = {steps} against a scan written by hand",
        programs,
        reference="bare Reverse(EveryStep, Plain)",
        tolerance=0.02,
        steps=steps,
    )


def _bare(loss, differentiated, recomputed, weights, hparams, train, valid, table):
    """The training of W1 as a scan, and its derivative."""

    def objective(hparams):
        def step(carry, now):
            weights, velocity = carry
            rows, rate = now
            batch = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), train)
            grads = jax.grad(loss)(weights, hparams, batch)
            velocity = jax.tree.map(
                lambda v, g, w: hparams["momentum"] * v + g + hparams["decay"] * w,
                velocity,
                grads,
                weights,
            )
            weights = jax.tree.map(lambda w, v: w - rate * v, weights, velocity)
            return (weights, velocity), None

        if recomputed:
            step = jax.checkpoint(step, prevent_cse=False)
        start = (weights, jax.tree.map(jnp.zeros_like, weights))
        (last, _), _ = jax.lax.scan(step, start, (table, hparams["rates"]))
        return loss(last, hparams, valid)

    if not differentiated:
        return Result(objective(hparams), None, {})
    return Result(*jax.value_and_grad(objective)(hparams), {})


def compile_seconds(times, estimators, rounds: int, smallest: bool) -> dict:
    """`{estimator: {T: [CPU seconds of each round]}}` from tracing to the executable.

    CPU seconds: the compiler has threads of its own, and T must not matter to any.
    """
    sizes = w1.SMALLEST_SIZES if smallest else w1.SIZES
    split = digits()
    found: dict[str, dict[int, list[float]]] = {n: {} for n in estimators}
    for _ in range(rounds):
        for steps in times:
            table = batch_table(len(split.train[1]), steps, 10 if smallest else 100)
            problem = problem_of(model_of(sizes), optimizer, split, steps, table=table)
            hparams = hyperparameters(steps)
            for name, estimator in estimators.items():
                jax.clear_caches()
                program = of_estimator(problem, estimator, hparams, jax.random.key(0))
                began = time.process_time()
                jax.jit(program.fn).lower(*program.args).compile()
                found[name].setdefault(steps, []).append(time.process_time() - began)
    return found


def _overhead_table(record: dict) -> dict:
    """Framework over bare, round by round."""
    rows = {row["name"]: row for row in record["contenders"]}
    lines = []
    for name in BARE:
        pair = rows[name], rows[f"bare {name}"]
        if any("cpu" not in row for row in pair):
            continue
        each = [
            ours / bare for ours, bare in zip(*(r["cpu"] for r in pair), strict=True)
        ]
        low, median, high = quartiles(each)
        ours, bare = (row["bytes"] for row in pair)
        lines.append(
            [
                name,
                f"{median:.3f} ({low:.3f}, {high:.3f})",
                f"{ours / bare:.3f}",
            ]
        )
    return {
        "title": "CPU seconds and bytes over those of a scan written by hand",
        "header": ["program", "CPU ratio (quartiles)", "bytes"],
        "rows": lines,
    }


def _compile_table(seconds: dict, times) -> dict:
    """Medians, and their ratio to the forward program's."""

    def cell(name, steps):
        median, forward = (quartiles(seconds[n][steps]).median for n in (name, FORWARD))
        return f"{median:.2f} ({median / forward:.2f})"

    return {
        "title": "CPU seconds from tracing to the executable (over the forward's)",
        "header": ["program", *(f"T = {steps}" for steps in times)],
        "rows": [[name, *(cell(name, t) for t in times)] for name in seconds],
    }
