"""One weight decay by a hypernetwork, Lorraine and Duvenaud (2018).

A linear model of images with weights w is trained on 10 of them, F is of 10,000 others:

    ℓ(w, λ) = −mean log N(y; x w, σ²) + e^λ |w|,     F(w) = −mean log N(y; x w, σ²)

A hypernetwork w_φ(λ) is trained to answer every λ, or those that come by:

    global   min over φ of the mean of ℓ(w_φ(λ), λ) over λ drawn from a wide normal
    local    φ ← φ − α ∇_φ ℓ(w_φ(λ̂), λ̂),   λ̂ ← λ̂ − Adam(∇_λ F(w_φ(λ̂)))

The λ of the least F(w_φ(λ)) is then compared with that of F after training from
scratch, which is found by bisection of dF/dλ.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.images import Images, images

NUM_CLASSES = 10
_HALVINGS = 12
_CHUNK = 250  # iterations of a compiled loop
_NEAR = 1.0  # from λ̂: where a local answer is drawn

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Net = list[tuple[jax.Array, jax.Array]]
"""Kernel and bias of each layer."""


class Rows(NamedTuple):
    """Inputs [n, p + 1], the last of them 1, and targets [n, classes] of 0 and 1."""

    inputs: jax.Array
    targets: jax.Array

    def error(self, w: jax.Array) -> jax.Array:
        """Mean squared error of x w, over rows and classes; w is one vector."""
        kernel = w.reshape(self.inputs.shape[1], -1)
        return jnp.mean((self.inputs @ kernel - self.targets) ** 2)


class Moments(NamedTuple):
    """What the squared error of many rows depends on: mean x xᵀ, x yᵀ and |y|²."""

    gram: jax.Array
    cross: jax.Array
    square: jax.Array

    @classmethod
    def of(cls, rows: Rows) -> "Moments":
        """Means over the rows."""
        x, y = rows
        n = len(x)
        return cls(x.T @ x / n, x.T @ y / n, jnp.mean(jnp.sum(y**2, axis=1)))

    def error(self, w: jax.Array) -> jax.Array:
        """As that of `Rows`, at a cost that knows nothing of their number."""
        kernel = w.reshape(self.gram.shape[0], -1)
        mixed = jnp.sum(kernel * (self.gram @ kernel - 2.0 * self.cross))
        return (mixed + self.square) / kernel.shape[1]


@paper("lorraine2018_hypernet")
class LorraineHypernet(Paper):
    """Options.

    Attributes:
        source: the images; training and validation rows follow each other.
        num_train, num_valid: how many.
        noise: σ.
        penalty: |w| is the "norm" in the authors' code, or of "squares".
        init_scale: standard deviation of all first weights, hypernetworks' too.
        rate: of Adam from scratch, and of what trains the hypernetwork.
        num_steps: of Adam from scratch.
        low, high: λ between which F is looked at.
        num_points: how many of them are trained from scratch.
        response: "global" or "local".
        hidden: ReLU units of the hypernetwork; 0 for a linear one.
        center, spread, most: λ is drawn from N(center, spread²), cut at `most`.
        num_samples: λ of an iteration.
        start: λ̂ at first.
        outer_rate: of the Adam of λ̂.
        num_iterations: of the hypernetwork.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Validation loss", ("from_scratch", "response"), "λ", "F"),
        Panel("The hyperparameter", ("current",), "iteration", "λ̂"),
    )

    source: ImageSet = "mnist"
    num_train: Count = 10
    num_valid: Count = 10_000
    noise: Positive = 0.1
    penalty: Literal["norm", "squares"] = "norm"
    init_scale: Positive = 0.01
    rate: Positive = 1e-4
    num_steps: Count = 1_000
    low: float = -1.0
    high: float = 3.0
    num_points: Annotated[int, Field(ge=3)] = 21
    response: Literal["global", "local"] = "global"
    hidden: Annotated[int, Field(ge=0)] = 50
    center: float = 1.0
    spread: Positive = 3.0
    most: float = 4.0
    num_samples: Count = 10
    start: float = -3.5
    outer_rate: Positive = 0.01
    num_iterations: Count = 10_000

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """minimum: of F from scratch; response_minimum: of F(w_φ(λ)).

        gap: between the two. excess: F from scratch at the second over that at the
        first, in parts of the range of F from `low` to `high`. current: where λ̂ ends.
        """
        train, valid = self.rows()
        problem, key = self.problem(train, valid, seed), jax.random.key(seed)
        grid = jnp.linspace(self.low, self.high, self.num_points)
        value = jax.jit(lambda x: hg.unroll(problem, x, key)[0])
        scratch = np.array([value(point) for point in grid])
        best = int(np.argmin(scratch))
        minimum = self._bisect(
            hg.hypergrad(problem, estimator),
            float(grid[max(best - 1, 0)]),
            float(grid[min(best + 1, len(grid) - 1)]),
            key,
        )
        net, path = self._learned(train, valid, seed, report)

        fine = np.linspace(self.low, self.high, 1_000)
        answers = np.asarray(
            jax.lax.map(
                lambda x: self.likelihood(valid, answer(net, x[None])),
                jnp.asarray(fine, grid.dtype),
            )
        )
        found = fine[int(np.argmin(answers))]
        least, there = float(value(minimum)), float(value(found))
        near = np.abs(fine - found) <= (np.inf if self.response == "global" else _NEAR)
        curves = {
            "from_scratch": curve(scratch, grid),
            "response": curve(answers[near][::10], fine[near][::10]),
        }
        if self.response == "local":
            curves["current"] = curve(path)
        return Measured(
            numbers=numbers(
                minimum=minimum,
                response_minimum=found,
                gap=abs(found - minimum),
                excess=(there - least) / (np.max(scratch) - least),
                current=path[-1],
            ),
            curves=curves,
        )

    def rows(self) -> tuple[Rows, Moments]:
        """To train on, and to validate on."""
        data, end = images(self.source), self.num_train
        valid = one_hot(data.rows(end, end + self.num_valid))
        return one_hot(data.rows(0, end)), Moments.of(valid)

    def likelihood(self, rows: Rows | Moments, w: jax.Array) -> jax.Array:
        """−mean log N(y; x w, σ²)."""
        constant = math.log(self.noise) + 0.5 * math.log(2.0 * math.pi)
        return 0.5 * rows.error(w) / self.noise**2 + constant

    def inner_loss(self, train: Rows, w: jax.Array, hp: jax.Array) -> jax.Array:
        """ℓ(w, λ)."""
        square = jnp.sum(w**2)
        size = jnp.sqrt(square) if self.penalty == "norm" else square
        return self.likelihood(train, w) + jnp.exp(hp) * size

    def problem(self, train: Rows, valid: Moments, seed: int) -> hg.Problem:
        """Training from scratch."""
        size = train.inputs.shape[1] * NUM_CLASSES
        start = drawn([size], self.init_scale, seed)
        return hg.Problem(
            init=lambda key, hp: start,
            inner_loss=lambda w, hp, batch: self.inner_loss(batch, w, hp),
            outer_loss=lambda w, hp, batch: self.likelihood(batch, w),
            optimizer=lambda hp: optax.adam(self.rate),
            train=train,
            valid=valid,
            num_steps=self.num_steps,
        )

    def _bisect(self, slope, low: float, high: float, key) -> float:
        """Where dF/dλ changes its sign."""
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            if float(slope(jnp.asarray(middle), key)) > 0.0:
                high = middle
            else:
                low = middle
        return 0.5 * (low + high)

    def _learned(self, train, valid, seed, report) -> tuple[Net, list[float]]:
        """The hypernetwork, and λ̂ after each iteration."""
        size = train.inputs.shape[1] * NUM_CLASSES
        wide = self.response == "global"
        net = layers(
            [1, *[self.hidden] * (self.hidden > 0), size], self.init_scale, seed
        )
        inner = optax.adam(self.rate) if wide else optax.sgd(self.rate)
        outer = optax.adam(self.outer_rate)
        current = jnp.asarray(self.start)
        carry = (net, inner.init(net), current, outer.init(current))

        def loss(net, points):
            each = jax.vmap(lambda x: self.inner_loss(train, answer(net, x[None]), x))(
                points
            )
            return jnp.mean(each)

        def iterate(carry, points):
            net, inner_state, current, outer_state = carry
            points = points if wide else current[None]
            move, inner_state = inner.update(jax.grad(loss)(net, points), inner_state)
            net = add(net, move)
            if not wide:
                slope = jax.grad(
                    lambda x: self.likelihood(valid, answer(net, x[None]))
                )(current)
                move, outer_state = outer.update(slope, outer_state)
                current = current + move
            return (net, inner_state, current, outer_state), current

        run = jax.jit(lambda carry, points: jax.lax.scan(iterate, carry, points))
        seen = []
        for first in range(0, self.num_iterations, _CHUNK):
            last = min(first + _CHUNK, self.num_iterations)
            carry, path = run(carry, self._points(first, last))
            seen += [float(x) for x in path]
            report(last, self.num_iterations)
        return carry[0], seen

    def _points(self, first: int, last: int) -> jax.Array:
        """λ of these iterations; the authors seed each by its number."""
        normal = [
            np.random.RandomState(k).randn(self.num_samples) for k in range(first, last)
        ]
        points = self.center + self.spread * np.array(normal)
        return jnp.asarray(np.minimum(points, self.most), jnp.result_type(float))


def one_hot(rows: Images) -> Rows:
    """With a 1 behind the pixels, which makes the bias a part of the kernel."""
    inputs = np.c_[rows.inputs, np.ones(len(rows.labels))]
    kind = jnp.result_type(float)
    return Rows(
        jnp.asarray(inputs, kind), jnp.asarray(np.eye(NUM_CLASSES)[rows.labels], kind)
    )


def drawn(shape, scale: float, state: int | np.random.RandomState) -> jax.Array:
    """Normal numbers of NumPy's generator times `scale`."""
    if isinstance(state, int):
        state = np.random.RandomState(state)
    return jnp.asarray(scale * state.randn(*shape), jnp.result_type(float))


def layers(sizes: list[int], scale: float, seed: int) -> Net:
    """Kernel and bias of each layer, in the order in which the authors draw them."""
    state = np.random.RandomState(seed)
    return [
        (drawn((a, b), scale, state), drawn((b,), scale, state))
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def add(net: Net, move: Any) -> Net:
    """One after the other layer, what it is plus what it moves."""
    return jax.tree.map(jnp.add, net, move)


def answer(net: Net, hparams: jax.Array) -> jax.Array:
    """w_φ(λ) for a λ of shape [d]; ReLU between layers."""
    *hidden, (kernel, bias) = net
    for inner, offset in hidden:
        hparams = jax.nn.relu(hparams @ inner + offset)
    return hparams @ kernel + bias
