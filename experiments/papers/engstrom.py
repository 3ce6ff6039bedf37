"""REPLAY of Engstrom et al. (2025): the metagradient of a long training, exactly.

    dF/dλ = Σ_t (∂s_{t+1}/∂λ)ᵀ a_{t+1},   a_t = (∂s_{t+1}/∂s_t)ᵀ a_{t+1},   t = T−1 … 0

needs the states backwards. A lazy tree of arity k keeps those of one branch, which are
1 + (k − 1) log_k T, and computes the others again: 1 + log_k T forward passes in all.
λ are weights of the training images, of a perceptron trained on batches by momentum.
"""

import abc
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, paper
from experiments.papers.images import Images, images
from experiments.papers.programs import Program, distance, training_flops
from hypergrad.typing import HParams, Key

Count = Annotated[int, Field(ge=1)]
Given = tuple[hg.Problem, HParams, Key]
_EVERYTHING = hg.Reverse(hg.NoCheckpoint())


class Training(Paper):
    """A perceptron with one hidden layer; what λ is, `batch_loss` says.

    Attributes:
        source: the images.
        num_train, num_valid: rows, in this order of the file.
        hidden: units of the layer.
        batch_size: rows a step, drawn with replacement.
        rate, momentum: of SGD.
    """

    source: ImageSet = "digits"
    num_train: Count = 400
    num_valid: Count = 400
    hidden: Count = 32
    batch_size: Count = 20
    rate: float = 0.1
    momentum: float = 0.9

    @abc.abstractmethod
    def batch_loss(self, losses, hparams: HParams, batch) -> jax.Array:
        """Of a batch (inputs, labels, numbers of the rows).

        Args:
            losses: (inputs, labels) -> cross-entropies, one a row.
            hparams: λ.
            batch: rows of the training set.
        """

    def rows(self) -> tuple[Images, Images, Images]:
        """Training, validation, and what is left."""
        every, middle = images(self.source), self.num_train
        end = middle + self.num_valid
        return (
            every.rows(0, middle),
            every.rows(middle, end),
            every.rows(end, len(every.labels)),
        )

    def problem(self, num_steps: int) -> tuple[hg.Problem, Any]:
        """(training on batches, the model)."""
        train, valid, _ = self.rows()
        classes = int(train.labels.max()) + 1
        model = hg.models.mlp([train.inputs.shape[1], self.hidden, classes])

        def losses_of(weights):
            return lambda inputs, labels: hg.cross_entropy(
                model.apply(weights, inputs), labels
            )

        problem = hg.Problem(
            init=lambda key, hp: model.init(key),
            inner_loss=lambda w, hp, batch: self.batch_loss(losses_of(w), hp, batch),
            outer_loss=lambda w, hp, batch: jnp.mean(losses_of(w)(*batch)),
            optimizer=lambda hp: optax.sgd(self.rate, momentum=self.momentum),
            train=(*train.batch(), jnp.arange(self.num_train)),
            valid=valid.batch(),
            num_steps=num_steps,
            batch_size=self.batch_size,
        )
        return problem, model


@paper("engstrom2025_replay")
class Replay(Training):
    """Options beside those of the training.

    Attributes:
        lengths: the numbers T of steps; powers of the arity, where the tree is full.
        arity: k of the tree on disk; None keeps all states there.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("States on disk", ("states",), "steps of training T", "states", "xy"),
        Panel(
            "Memory of one program", ("memory",), "steps of training T", "states", "xy"
        ),
        Panel("Forward passes", ("passes",), "steps of training T", "", "x"),
    )

    lengths: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 64, 256)
    arity: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _full_trees(self) -> Self:
        for length in self.lengths:
            if self.arity and self.arity ** self.levels(length) != length:
                raise ValueError(f"lengths are powers of arity {self.arity}: {length}")
        return self

    def levels(self, num_steps: int) -> int:
        """log_k T, in whole numbers; 0 without a tree."""
        return round(math.log(num_steps, self.arity)) if self.arity else 0

    def batch_loss(self, losses, hparams, batch):
        """The mean weighted by λ."""
        inputs, labels, row = batch
        return hg.weighted_mean(losses(inputs, labels), hparams[row])

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Curves over T.

        On disk, a program a step. states: the most that were there at once, the last
        one included; bits: numbers of dF/dλ in which any bit differs from the same run
        that keeps all states; disk_distance: ‖g − g_full‖ / ‖g_full‖ from
        backpropagation in one program.

        In one program, of the estimator: distance; memory: what it reserves, in
        states; beyond: less k log_k T; less: how often that of backpropagation;
        passes: forward passes, counted in flops.
        """
        key, (problem, _) = jax.random.key(seed), self.problem(self.lengths[0])
        hparams = jnp.ones(self.num_train)
        rows: dict[str, list[float]] = {}
        for done, length in enumerate(self.lengths, start=1):
            given = problem.replace(num_steps=length), hparams, key
            full = Program(_EVERYTHING, *given)
            exact = full().hypergrad
            found = self._on_disk(given, exact)
            found |= self._in_one_program(estimator, given, full, exact)
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
            report(done, len(self.lengths))
        return Measured(
            curves={name: curve(ys, self.lengths) for name, ys in rows.items()}
        )

    def _on_disk(self, given: Given, exact: HParams) -> dict[str, float]:
        tree, states = replayed(given, self.arity)
        whole = tree if self.arity is None else replayed(given, None)[0]
        return {
            "states": states,
            "bits": float(np.sum(bits(tree) != bits(whole))),
            "disk_distance": distance(tree, exact),
        }

    def _in_one_program(
        self, estimator, given: Given, full: Program, exact: HParams
    ) -> dict[str, float]:
        one = full if estimator == _EVERYTHING else Program(estimator, *given)
        # One forward pass to train, and one of each step as it is swept.
        twice = Program(hg.Reverse(hg.EveryStep()), *given)
        problem, hparams, key = given
        state = sum(x.nbytes for x in jax.tree.leaves(problem.start(hparams, key)))
        branch = (self.arity or 0) * self.levels(problem.num_steps)
        return {
            "distance": distance(one().hypergrad, exact),
            "memory": one.num_bytes / state,
            "beyond": one.num_bytes / state - branch,
            "less": full.num_bytes / one.num_bytes,
            "passes": 2 + (one.flops - twice.flops) / training_flops(*given),
        }


def replayed(given: Given, arity: int | None) -> tuple[Any, int]:
    """(dF/dλ through states on disk, the most that were there after any step)."""
    counts = []
    with tempfile.TemporaryDirectory() as folder:

        def count(done: int, total: int) -> None:
            counts.append(len(list(Path(folder).glob("state-*"))))

        run = hg.replay(*given, folder, segment=1, arity=arity, report=count)
    return run.hypergrad, max(counts)


def bits(numbers: Any) -> np.ndarray:
    """Floats as the integers that have the same bits."""
    numbers = np.asarray(numbers)
    return numbers.view(f"i{numbers.itemsize}")
