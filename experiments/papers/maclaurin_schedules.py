"""Learned training schedules of Maclaurin, Duvenaud and Adams (2015), section 3.1.

    F(λ) = ℓ(w_T, train),   w_0 = exp(log_scale) ε,   ε ~ N(0, 1)
    v ← γ_t v − (1 − γ_t) ∇ℓ(w, batch_t),   w ← w + α_t v

A perceptron is trained for T steps; λ holds a log α and a logit γ for each step and
each array of weights, and the log scale of each array at the start: 1,608 numbers for
four layers and T = 100. The outer step i draws ε and the batches anew, from its number.
"""

import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers.descent import descend
from experiments.papers.maclaurin import (
    Arithmetic,
    as_weights,
    judge,
    mean_nll,
    momentum,
    num_weights,
    odd_adam,
    per_group,
    random_state,
    run_backwards,
    stacked,
)
from hypergrad import Problem
from hypergrad.typing import HParams

_LAYERS = range(1, 5)


@paper("maclaurin2015_schedules")
class MaclaurinSchedules(Paper):
    """Options.

    Attributes:
        source: whose images; the mean image is subtracted.
        hidden: widths of the tanh layers.
        num_train, num_valid, num_test: rows, one slice after another.
        batch_size: drawn with replacement.
        num_steps: T.
        log_alpha, gamma, log_scale: where λ starts; γ is 0.5 in the paper's figure.
        log_l2: log of the coefficient of Σ w², which is not learned.
        arithmetic: of the velocities.
        learning_rate: of the outer optimiser, `odd_adam`.
        fading: of its momentum, see there; 1 is the usual Adam.
        num_outer_steps: trainings.
        way_back: run the last one backwards as well.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("After training", ("train_loss", "valid_loss"), "outer step", "loss"),
        Panel("Hypergradient", ("gradient",), "outer step", "‖dF/dλ‖", log="y"),
        Panel("Test error", ("test_error",), "outer step", "share of images"),
        Panel(
            "Learned step sizes of weights",
            tuple(f"layer_{n}" for n in _LAYERS),
            "step of training",
            "α",
        ),
        Panel(
            "Learned momenta of weights",
            tuple(f"momentum_of_layer_{n}" for n in _LAYERS),
            "step of training",
            "γ",
        ),
        Panel(
            "Learned scales of weights at the start",
            tuple(f"scale_of_layer_{n}" for n in _LAYERS),
            "outer step",
            "standard deviation",
        ),
    )

    source: ImageSet = "mnist"
    hidden: tuple[int, ...] = (50, 50, 50)
    num_train: int = 10_000
    num_valid: int = 10_000
    num_test: int = 10_000
    batch_size: int = 200
    num_steps: Annotated[int, Field(ge=1)] = 100
    log_alpha: float = -1.0
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.9
    log_scale: float = -3.0
    log_l2: float = -100.0
    arithmetic: Arithmetic = "published"
    learning_rate: float = 0.04
    fading: float = 1e-4
    num_outer_steps: Annotated[int, Field(ge=1)] = 50
    way_back: bool = True

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """train_loss, valid_loss, test_loss, test_error, gradient: at each outer step.

        angle: cosine of each hypergradient and the one before, of the first and ones.
        alpha, last_alpha, log_scale: of W_1, b_1, W_2, ..., as learned: the mean α of
        all steps, that of the last tenth, and the log scale. late: the largest ratio of
        these two means, of the W. wrong_bits: by which a way back through the last
        training misses its start. way_back_gap: relative difference of the
        hypergradient found on it and the estimator's.
        """
        rows, stop = stacked(self.source, centred=True), self.num_train + self.num_valid
        train, valid = rows.rows(0, self.num_train), rows.rows(self.num_train, stop)
        test = rows.rows(stop, stop + self.num_test)
        sizes = (rows.inputs.shape[1], *self.hidden, int(rows.labels.max()) + 1)
        problem = self._problem(sizes, train.batch())
        losses = judge(hg.models.mlp(sizes).apply)
        unseen = valid.batch(), test.batch()
        seen, slopes, path = [], [], []
        found: dict[str, float] = {}

        def objective(hparams: HParams, i: int):
            drawn, key = self._drawn(problem, sizes, seed, i), jax.random.key(i)
            both = hg.value_and_hypergrad(drawn, estimator, has_aux=True)
            (value, info), slope = both(hparams, key)
            (valid_loss, _), tested = (losses(info.state.weights, x) for x in unseen)
            seen.append((valid_loss, *tested))
            slopes.append(np.asarray(ravel_pytree(slope)[0]))
            if self.way_back and i == self.num_outer_steps - 1:
                found["wrong_bits"], back = run_backwards(drawn, hparams, key)
                gap = np.asarray(ravel_pytree(back)[0]) - slopes[-1]
                found["way_back_gap"] = float(
                    np.linalg.norm(gap) / np.linalg.norm(slopes[-1])
                )
            return value, slope

        descent = descend(
            objective,
            self._start(2 * len(sizes) - 2),
            odd_adam(self.learning_rate, fading=self.fading),
            self.num_outer_steps,
            report,
            look=lambda step, hparams: path.append(hparams),
        )
        valid_loss, test_loss, test_error = zip(*seen, strict=True)
        learned = self._learned(path)
        late = np.divide(learned["last_alpha"], learned["alpha"])[::2]
        curves = {
            "train_loss": descent.values,
            "valid_loss": valid_loss,
            "test_loss": test_loss,
            "test_error": test_error,
            "gradient": descent.norms,
            "angle": _cosines([np.ones_like(slopes[0]), *slopes]),
            **learned,
        }
        return Measured(
            numbers=found | numbers(late=late.max()),
            curves={name: curve(values) for name, values in curves.items()},
        )

    def _learned(self, path: list[HParams]) -> dict[str, np.ndarray]:
        """Curves of λ along the outer steps, and of the last one."""
        alpha = np.exp(path[-1]["log_alpha"])
        gamma = 1.0 / (1.0 + np.exp(-path[-1]["logit_gamma"]))
        scales = np.exp([hparams["log_scale"] for hparams in path])
        curves = {
            "alpha": alpha.mean(axis=0),
            "last_alpha": alpha[-max(1, self.num_steps // 10) :].mean(axis=0),
            "log_scale": np.asarray(path[-1]["log_scale"]),
        }
        for layer, group in enumerate(range(0, alpha.shape[1], 2), start=1):
            curves[f"layer_{layer}"] = alpha[:, group]
            curves[f"momentum_of_layer_{layer}"] = gamma[:, group]
            curves[f"scale_of_layer_{layer}"] = scales[:, group]
        return curves

    def _problem(self, sizes: tuple[int, ...], train) -> Problem:
        """F, whose ε and batches are still to be drawn."""
        apply, decay = hg.models.mlp(sizes).apply, math.exp(self.log_l2)

        def init(key, hp, noise):
            scales = per_group(jnp.exp(hp["log_scale"]))
            return jax.tree.map(jnp.multiply, scales, as_weights(noise, sizes)), ()

        def inner_loss(weights, hp, batch, context):
            loss = mean_nll(apply, weights, batch) + hg.l2(weights, 2.0 * decay)
            return loss, context.model_state

        def outer_loss(weights, hp, batch, context):
            return mean_nll(apply, weights, batch), context.model_state

        def optimizer(hp):
            return momentum(
                lambda t: per_group(jnp.exp(hp["log_alpha"][t])),
                lambda t: per_group(jax.nn.sigmoid(hp["logit_gamma"][t])),
                self.arithmetic,
            )

        return Problem.with_context(
            init=init,
            inner_loss=inner_loss,
            outer_loss=outer_loss,
            optimizer=optimizer,
            train=train,
            valid=train,
            num_steps=self.num_steps,
        )

    def _drawn(self, problem: Problem, sizes, seed: int, i: int) -> Problem:
        """The problem with ε and the batches of outer step i."""
        noise = random_state(seed, i).randn(num_weights(sizes))
        rows = [
            random_state(seed, i, t).randint(self.num_train, size=self.batch_size)
            for t in range(self.num_steps)
        ]
        batches = hg.IndexTable(jnp.asarray(np.array(rows, np.int32)))
        data = problem.data._replace(given=jnp.asarray(noise), batches=batches)
        return problem.replace(data=data)

    def _start(self, groups: int) -> HParams:
        """λ before it is learned."""
        each = jnp.ones((self.num_steps, groups))
        return {
            "log_alpha": self.log_alpha * each,
            "logit_gamma": math.log(self.gamma / (1.0 - self.gamma)) * each,
            "log_scale": self.log_scale * each[0],
        }


def _cosines(vectors: list[np.ndarray]) -> list[float]:
    """Of each with the one before it."""
    units = [v / np.linalg.norm(v) for v in vectors]
    return [float(a @ b) for a, b in zip(units[:-1], units[1:], strict=True)]
