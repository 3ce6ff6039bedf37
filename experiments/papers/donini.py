"""Donini et al. (2020), MARTHE: a rate moved by a validation loss, the past discounted.

    v_{t+1} = m v_t + g_t,   w_{t+1} = w_t − α_t v_{t+1},   g_t = ∇(ℓ_t + δ/2 ‖w‖²)
    α_{t+1} = α_t − β ∇E_{t+1} · Z_{t+1},                   Z_{t+1} = μ A_t Z_t + B_t

E_t is the loss of a validation batch, Z the derivative of w along α with what happened
k steps ago weighted by μ^k: h = Σ_k μ^k ∂E/∂α_{t−k}. So μ = 1 is real-time
hyperparameter optimisation (RTHO), and μ = 0 hypergradient descent on validation data.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import hypergrad as hg
from experiments.data.sources import ImageSet
from experiments.paper import Measured, Panel, Paper, Steps, curve, numbers, paper
from experiments.papers import one_training
from experiments.papers.baydin import Count, Setting
from experiments.papers.torch_draws import TorchDraws
from experiments.papers.vgg import VGG11, Blocks, moved, pictures, vgg
from hypergrad.typing import HParams


@dataclass(frozen=True)
class HeavyBall:
    """λ = {"lr": α} to v ← m v + g, w ← w − α v."""

    momentum: float

    def __call__(self, hparams: HParams) -> optax.GradientTransformation:
        """The transformation."""
        return optax.chain(
            optax.trace(self.momentum), optax.scale(-1.0 * hparams["lr"])
        )


@paper("donini2020_marthe")
class MartheVGG(Paper):
    """Options.

    Attributes:
        source: of the images.
        num_train: training rows, from the first on; a last batch that is short is left
            out of an epoch.
        num_valid: the rows after them, which judge α batch by batch, in their order.
        blocks: widths of the convolutions of each block; the paper's is VGG-11.
        mean: taken from every pixel, of any channel.
        std: by which it is then divided.
        shift: training images are moved by up to as many pixels.
        flip: and every other one is turned left for right.
        alpha: α_0.
        beta: the rate of the rate; 0 holds α and asks no estimator.
        momentum: m.
        weight_decay: δ.
        batch_size: rows a step.
        num_epochs: passes over the training rows, in a fresh order each.
        num_checked: if not 0, there is no training, and MARTHE after as many steps is
            held against the derivatives by the rate of each step, in reverse mode.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Learning rate", ("alpha",), "step", "α", log="y"),
        Panel("Validation loss", ("valid_loss",), "epoch", "cross-entropy", log="y"),
        Panel("Validation error", ("valid_error",), "epoch", "%"),
    )

    source: ImageSet = "cifar10"
    num_train: Count = 50_000
    num_valid: Count = 10_000
    blocks: Blocks = VGG11
    mean: float = 0.473
    std: Annotated[float, Field(gt=0)] = 0.201
    shift: Annotated[int, Field(ge=0)] = 4
    flip: bool = True
    alpha: float = 0.01
    beta: Annotated[float, Field(ge=0)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    batch_size: Count = 128
    num_epochs: Count = 200
    num_checked: Annotated[int, Field(ge=0)] = 0

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Loss and error on validation an epoch, α at each step; or the checks."""
        if self.num_checked:
            return Measured(numbers=numbers(**self.checked(seed)))
        functions, data, valid = self._setting(seed)
        problem = one_training.problem_of(functions, data)
        key, lr = jax.random.key(seed), {"lr": jnp.asarray(self.alpha)}
        run = one_training.trained(
            problem,
            estimator if self.beta else None,
            lr,
            one_training.sgd(self.beta),
            self.num_epochs,
            key,
        )
        losses, errors, paths = [], [], []
        for epoch, (_, path, state) in enumerate(run, start=1):
            loss, wrong = one_training.evaluated(functions.network, state, *valid)
            losses.append(loss)
            errors.append(100.0 * wrong)
            paths.append(path["lr"])
            report(epoch, self.num_epochs)
        alpha, epochs = np.concatenate(paths), range(1, self.num_epochs + 1)
        found = {"final_valid": losses[-1], "final_error": errors[-1]}
        found |= {"alpha_last": alpha[-1], "alpha_max": alpha.max()}
        return Measured(
            numbers=numbers(**found),
            curves={
                "alpha": one_training.thinned(alpha),
                "valid_loss": curve(losses, epochs),
                "valid_error": curve(errors, epochs),
            },
        )

    def checked(self, seed: int) -> dict[str, float]:
        """How far estimators are from Σ_k μ^k ∂E/∂α_{n−1−k} after n steps at α_0.

        gap_zero, gap_half, gap_one: of MARTHE with that μ; gap_rtho: of RTHO, which is
        μ = 1. All relative to Σ_k |∂E/∂α_{n−1−k}|.
        """
        functions, data, _ = self._setting(seed)
        n, key = self.num_checked, jax.random.key(seed)
        lr = {"lr": jnp.asarray(self.alpha)}

        def after(step) -> hg.Problem:
            return hg.Problem.from_step(
                functions.start, step, functions.judge, data=data, num_steps=n
            )

        def step(rates, state, tick):
            return functions.step({"lr": rates["lr"][tick.t]}, state, tick)

        of_each = hg.hypergrad(after(step), hg.Reverse())
        slopes = of_each({"lr": jnp.full(n, self.alpha)}, key)["lr"][::-1]
        # The state () stands for all calls of a training.
        whole, found = jax.jit(hg.estimate, static_argnums=1), {}
        for name, mu, estimator in [
            ("zero", 0.0, hg.MARTHE(mu=0.0)),
            ("half", 0.5, hg.MARTHE(mu=0.5)),
            ("one", 1.0, hg.MARTHE(mu=1.0)),
            ("rtho", 1.0, hg.RTHO()),
        ]:
            result, _ = whole(after(functions.step), estimator, lr, (), key)
            ours = result.hypergrad["lr"]
            wanted = jnp.sum(mu ** jnp.arange(n) * slopes)
            found[f"gap_{name}"] = jnp.abs(ours - wanted) / jnp.sum(jnp.abs(slopes))
        return found

    def _setting(self, seed: int) -> Setting:
        """The functions of the training, its data, and all validation rows."""
        every = pictures(self.source, self.num_train, self.num_valid)
        sizes = (every.shape, self.blocks, (), 0.0, every.num_classes)
        network = vgg(*sizes, self.mean, self.std)
        weights, model_state = network.init(jax.random.key(seed))
        draws = TorchDraws(seed)
        orders = [draws.permutation(self.num_train) for _ in range(self.num_epochs)]
        rows = one_training.rows(*every.train, self.batch_size, orders, short=False)
        in_order = [np.arange(self.num_valid)]
        judges = one_training.rows(*every.held, self.batch_size, in_order, short=False)
        functions = one_training.training(
            network.apply,
            HeavyBall(self.momentum),
            self.weight_decay,
            moved(self.shift, self.flip),
        )
        data = one_training.Data(rows, judges, weights, model_state)
        return functions, data, every.held.batch()
