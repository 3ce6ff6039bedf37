"""A weight decay for each weight by a hypernetwork, Lorraine and Duvenaud (2018).

A linear model of images, 7,850 weights and as many decays:

    ℓ(w, λ) = mean |x w − y|² + Σ_i e^λ_i w_i²,     F(w) = mean |x w − y|² of other rows

A linear hypernetwork with a bottleneck, w_φ(λ) = (λ A + a) B + b, and λ̂ are trained
side by side: φ on samples of λ around λ̂, λ̂ on F(w_φ(λ̂)). The other way is to train w
from scratch and to differentiate F through that.
"""

import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.descent import descend
from experiments.papers.images import images
from experiments.papers.lorraine_hypernet import (
    NUM_CLASSES,
    Count,
    Moments,
    Net,
    Positive,
    drawn,
    layers,
    one_hot,
)

_CHUNK = 100  # iterations between two looks


@paper("lorraine2018_hypernet_each")
class LorraineHypernetEach(Paper):
    """Options.

    Attributes:
        source: the images; training, validation and test rows follow each other.
        num_train, num_valid, num_test: how many.
        start: every λ at first.
        init_scale: standard deviation of all first weights.
        method: "hypernet", or "scratch" by the config's estimator.
        units: of the bottleneck.
        spread: standard deviation of λ around λ̂.
        num_samples: λ of an iteration.
        rate: of the Adam of φ.
        outer_rate: of the Adam of λ̂.
        num_iterations: of both.
        scratch_rate: of Adam from scratch.
        num_steps: of Adam from scratch.
        scratch_outer: the optimiser of λ then.
        num_outer_steps: its steps.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel(
            "Through the hypernetwork",
            ("valid", "test"),
            "iteration",
            "mean squared error",
            log="y",
        ),
        Panel(
            "Through training from scratch",
            ("scratch_valid", "scratch_test"),
            "outer step",
            "mean squared error",
        ),
    )

    source: ImageSet = "mnist"
    num_train: Count = 10_000
    num_valid: Count = 10_000
    num_test: Count = 10_000
    start: float = -5.0
    init_scale: Positive = 0.01
    method: Literal["hypernet", "scratch"] = "hypernet"
    units: Count = 10
    spread: Positive = 1e-5**0.5
    num_samples: Count = 2
    rate: Positive = 1e-4
    outer_rate: Positive = 1e-4
    num_iterations: Count = 5_000
    scratch_rate: Positive = 3e-3
    num_steps: Count = 100
    scratch_outer: hg.Outer = hg.Outer("adam", learning_rate=0.1, clip=float("inf"))
    num_outer_steps: Count = 40

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """Errors of the last weights on validation and test rows, and on the way."""
        parts = self.rows()
        if self.method == "hypernet":
            found, every = self._by_hypernet(parts, seed, report), _CHUNK
            names = {"valid": "valid", "test": "test"}
        else:
            found, every = self._from_scratch(parts, estimator, seed, report), 1
            names = {"valid": "scratch_valid", "test": "scratch_test"}
        last = {name: line[-1] for name, line in found.items()}
        places = [every * i for i in range(len(found["valid"]))]
        return Measured(
            numbers=numbers(
                valid_error=last["valid"],
                test_error=last["test"],
                overfit=last["test"] - last["valid"],
            ),
            curves={new: curve(found[name], places) for name, new in names.items()},
        )

    def rows(self) -> dict[str, Moments]:
        """Training, validation and test rows, as far as a squared error sees them."""
        data, first, parts = images(self.source), 0, {}
        sizes = {"train": self.num_train, "valid": self.num_valid}
        for name, size in (sizes | {"test": self.num_test}).items():
            parts[name] = Moments.of(one_hot(data.rows(first, first + size)))
            first += size
        return parts

    def _by_hypernet(self, parts, seed: int, report: Steps) -> dict[str, list[float]]:
        size = parts["train"].gram.shape[0] * NUM_CLASSES
        net = layers([size, self.units, size], self.init_scale, seed)
        inner, outer = optax.adam(self.rate), optax.adam(self.outer_rate)
        hparams = jnp.full(size, self.start)
        carry = (net, inner.init(net), hparams, outer.init(hparams))

        def loss(net, points):
            each = jax.vmap(lambda hp: inner_loss(answer(net, hp), hp, parts["train"]))(
                points
            )
            return jnp.mean(each)

        def iterate(carry, key):
            net, inner_state, hparams, outer_state = carry
            noise = jax.random.normal(key, (self.num_samples, size))
            points = hparams[None] + self.spread * noise
            move, inner_state = inner.update(jax.grad(loss)(net, points), inner_state)
            net = jax.tree.map(jnp.add, net, move)
            slope = jax.grad(lambda hp: parts["valid"].error(answer(net, hp)))(hparams)
            move, outer_state = outer.update(slope, outer_state)
            return (net, inner_state, hparams + move, outer_state), None

        @jax.jit
        def run(carry, key):
            keys = jax.random.split(key, _CHUNK)
            return jax.lax.scan(iterate, carry, keys)[0]

        found = {"valid": [], "test": []}
        chunks = -(-self.num_iterations // _CHUNK)
        for chunk in range(chunks + 1):
            w = answer(carry[0], carry[2])
            for name, line in found.items():
                line.append(float(parts[name].error(w)))
            if chunk < chunks:
                carry = run(carry, jax.random.fold_in(jax.random.key(seed), chunk))
                report(chunk + 1, chunks)
        return found

    def _from_scratch(self, parts, estimator, seed: int, report: Steps):
        problem, key = self.problem(parts, seed), jax.random.key(seed)
        found = {"valid": [], "test": []}
        hg.value_and_hypergrad(problem, estimator)  # refuses what does not apply

        def objective(hparams, step):
            del step
            at, _ = hg.estimate(problem, estimator, hparams, (), key)
            for name, line in found.items():
                line.append(float(parts[name].error(at.info.state.weights)))
            return at.value, at.hypergrad

        descend(
            objective,
            jnp.full(parts["train"].gram.shape[0] * NUM_CLASSES, self.start),
            self.scratch_outer.transformation(),
            self.num_outer_steps,
            report,
        )
        return found

    def problem(self, parts: dict[str, Moments], seed: int) -> hg.Problem:
        """Training from scratch."""
        size = parts["train"].gram.shape[0] * NUM_CLASSES
        # Moments have no rows to be batched: all are one.
        train = jax.tree.map(lambda x: x[None], parts["train"])
        return hg.Problem(
            init=lambda key, hp: drawn((size,), self.init_scale, seed),
            inner_loss=lambda w, hp, batch: inner_loss(
                w, hp, jax.tree.map(functools.partial(jnp.squeeze, axis=0), batch)
            ),
            outer_loss=lambda w, hp, batch: batch.error(w),
            optimizer=lambda hp: optax.adam(self.scratch_rate),
            train=train,
            valid=parts["valid"],
            num_steps=self.num_steps,
        )


def inner_loss(w: jax.Array, hp: jax.Array, rows: Moments) -> jax.Array:
    """ℓ(w, λ)."""
    return rows.error(w) + jnp.sum(jnp.exp(hp) * w**2)


def answer(net: Net, hparams: jax.Array) -> jax.Array:
    """w_φ(λ), linear in λ."""
    for kernel, bias in net:
        hparams = hparams @ kernel + bias
    return hparams
