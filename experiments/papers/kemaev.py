"""MixFlow-MG of Kemaev et al. (2025): the inner gradient, in mixed modes.

A hypergradient needs (∂g/∂(w, λ))ᵀ v of the inner gradient g = ∇_w ℓ. Reverse mode
through it is reverse-over-reverse, and keeps the tape of a tape; as the Hessian is
symmetric,

    (∂g/∂(w, λ))ᵀ v  =  d/dε ∇_{(w, λ)} ℓ(w + ε v, λ)  at ε = 0,

forward-over-reverse there and reverse-over-forward here (`hg.gradients.Mixed`), keeps
nothing of the inner backward pass. Measured here: whether
the two agree, and what the compiler reserves for each. λ are weights of the training
rows, of a perceptron or a small transformer trained by Adam on random numbers.
"""

import dataclasses
import time
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.paper import Measured, Panel, Paper, Steps, curve, paper
from experiments.papers.programs import Program, distance

Count = Annotated[int, Field(ge=1)]
_MIB = 2.0**20
_FEATURES, _CLASSES, _VALID = 32, 10, 64


@paper("kemaev2025_mixed_mode")
class MixedMode(Paper):
    """Options.

    Attributes:
        model: "mlp", or "transformer" that reads a row as `length` vectors.
        width: of its layers.
        depth: layers (of a transformer: blocks) of the sweep over T.
        length: of a transformer's sequences.
        batch_size: rows, of which every step sees all.
        rate: of Adam.
        lengths: the numbers T of steps of the first sweep.
        depths: of the second.
        num_steps: T of the second.
        repeats: of each timed run, of which the fastest counts; 0 times none.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Reverse over reverse", ("plain_mib",), "inner steps T", "MiB", "xy"),
        Panel("Forward over reverse", ("mixed_mib",), "inner steps T", "MiB", "xy"),
        Panel("How much less", ("ratio",), "inner steps T", "plain / mixed", "xy"),
        Panel("Over depth", ("ratio_of_depth",), "layers", "plain / mixed"),
    )

    model: Literal["mlp", "transformer"] = "mlp"
    width: Count = 64
    depth: Count = 3
    length: Count = 16
    batch_size: Count = 1024
    rate: float = 1e-3
    lengths: tuple[Count, ...] = (2, 8, 32)
    depths: tuple[Count, ...] = (2, 4, 8)
    num_steps: Count = 8
    repeats: Annotated[int, Field(ge=0)] = 3

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Two sweeps.

        ratio: bytes of reverse-over-reverse over those of the estimator. distance: of
        their hypergradients, ‖a − b‖ / ‖b‖, at each T. flops, seconds: the estimator's
        over the other's, at the last T.
        """
        total = len(self.lengths) + len(self.depths)
        numbers: dict[str, float] = {}
        rows = []
        for done, steps in enumerate(self.lengths, start=1):
            one, other = self._pair(estimator, self.depth, steps, seed)
            apart = distance(one().hypergrad, other().hypergrad)
            rows.append((one.num_bytes, other.num_bytes, apart))
            numbers["flops"] = one.flops / other.flops
            if self.repeats and done == len(self.lengths):
                ours, theirs = (fastest(each, self.repeats) for each in (one, other))
                numbers["seconds"] = ours / theirs
            report(done, total)
        ratios = []
        for done, depth in enumerate(self.depths, start=len(self.lengths) + 1):
            one, other = self._pair(estimator, depth, self.num_steps, seed)
            ratios.append(other.num_bytes / one.num_bytes)
            report(done, total)
        mixed, plain, distances = np.array(rows).reshape(-1, 3).T
        at = self.lengths
        return Measured(
            numbers=numbers,
            curves={
                "mixed_mib": curve(mixed / _MIB, at),
                "plain_mib": curve(plain / _MIB, at),
                "ratio": curve(plain / mixed, at),
                "distance": curve(distances, at),
                "ratio_of_depth": curve(ratios, self.depths),
            },
        )

    def _pair(self, estimator, depth: int, num_steps: int, seed: int):
        """The estimator's program, and that of reverse-over-reverse."""
        given = self._setting(depth, num_steps, seed)
        plain = reverse_over_reverse(estimator)
        return Program(estimator, *given), Program(plain, *given)

    def _setting(self, depth: int, num_steps: int, seed: int):
        """(problem, λ, key) of one size."""
        model, shape = self._model(depth)
        key = jax.random.key(seed)
        draw = jax.random.split(jax.random.fold_in(key, 1), 4)
        rows = self.batch_size, *shape
        inputs = jax.random.normal(draw[0], rows)
        labels = jax.random.randint(draw[1], rows[:1], 0, _CLASSES)
        clean = jax.random.normal(draw[2], (_VALID, *shape))
        truth = jax.random.randint(draw[3], (_VALID,), 0, _CLASSES)

        def losses(weights, batch):
            return hg.cross_entropy(model.apply(weights, batch[0]), batch[1])

        problem = hg.Problem(
            init=lambda key, hp: model.init(key),
            inner_loss=lambda w, hp, batch: hg.weighted_mean(losses(w, batch), hp),
            outer_loss=lambda w, hp, batch: jnp.mean(losses(w, batch)),
            # A derivative that is finite where a gradient is zero.
            optimizer=lambda hp: optax.adam(self.rate, eps_root=1e-8),
            train=(inputs, labels),
            valid=(clean, truth),
            num_steps=num_steps,
        )
        return problem, jnp.ones(self.batch_size), key

    def _model(self, depth: int):
        """The network, and the shape of a row."""
        if self.model == "mlp":
            sizes = [_FEATURES, *[self.width] * depth, _CLASSES]
            return hg.models.mlp(sizes), (_FEATURES,)

        def build(rngs):
            return hg.models.Transformer(
                width=self.width,
                depth=depth,
                heads=2,
                length=self.length,
                in_features=_FEATURES,
                out_features=_CLASSES,
                outputs="last",
                rngs=rngs,
            )

        model = hg.models.stateless(hg.models.from_nnx(build))
        return model, (self.length, _FEATURES)


def reverse_over_reverse(estimator) -> hg.Reverse:
    """The same sweep whose inner gradient JAX differentiates by its own rules.

    Of an estimator that sweeps nothing: the sweep that keeps everything.
    """
    rule = hg.gradients.Plain()
    if isinstance(estimator, hg.Reverse):
        return dataclasses.replace(estimator, gradient=rule)
    return hg.Reverse(hg.NoCheckpoint(), gradient=rule)


def fastest(program: Program, repeats: int) -> float:
    """Seconds of the fastest of some runs."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        program()
        taken.append(time.perf_counter() - began)
    return min(taken)
