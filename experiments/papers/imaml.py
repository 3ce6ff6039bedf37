"""Meta-learning with implicit gradients: iMAML (Rajeswaran et al. 2019).

Each task minimises its support loss plus ρ/2 |w − λ|² and ends near w*(λ), whose
derivative needs nothing of the way there:

    dF/dλ = ρ (H + ρI)⁻¹ ∇(query loss)(w*),   H the Hessian of the support loss at w*

by a few conjugate gradients. It is what unrolling T steps tends to: for one task both
are held against their common limit, over T.
"""

from typing import Annotated, ClassVar, Self

import jax
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.paper import Measured, Panel, Steps, curve, numbers, paper
from experiments.papers.dynamics import halted_after
from experiments.papers.meta_learning import Count, MetaLearning
from experiments.papers.programs import distance
from experiments.supervised.networks import Convolutional
from experiments.tasks.few_shot import FewShot

SOLVED = hg.Implicit(
    solver=hg.CG(max_iterations=500, tolerance=1e-12), tolerance=float("inf")
)


@paper("rajeswaran2019_imaml")
class ImplicitMAML(MetaLearning):
    """Further options; see `MetaLearning`.

    Attributes:
        lengths: the T at which hypergradients of one task are compared, at most
            `limit_steps`.
        limit_steps: the T that stands for the limit.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        *MetaLearning.panels[::2],
        Panel(
            "Hypergradient of one task",
            ("unrolled", "solved", "estimated"),
            "inner steps T",
            "relative distance from the limit",
            log="xy",
        ),
    )

    task: FewShot = FewShot(
        source="omniglot",
        ways=5,
        shots=1,
        queries=1,
        batch=32,
        num_eval=600,
        tune=("weights",),
        model=Convolutional(filters=64, depth=4, norm="group"),
        rate=0.1,
        proximity=2.0,
        num_steps=16,
    )
    deviation: Annotated[float, Field(gt=0)] | None = None
    num_outer_steps: Count = 20_000
    adapt_steps: Count = 16
    lengths: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64)
    limit_steps: Annotated[int, Field(ge=2)] = 256

    @model_validator(mode="after")
    def _has_a_minimum_and_a_limit(self) -> Self:
        if self.task.proximity == 0:
            raise ValueError("iMAML needs task.proximity > 0, got 0")
        if not all(length <= self.limit_steps for length in self.lengths):
            raise ValueError(
                f"lengths are at most limit_steps ({self.limit_steps}); got "
                f"{self.lengths}"
            )
        return self

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """As of `MetaLearning`, and hypergradients of a task at the λ it starts from.

        unrolled: through all T steps; solved: implicit, with the linear system solved
        to the end; estimated: by the estimator. Their distances are from `solved` at
        `limit_steps`; gap: that of `unrolled` there.
        """
        measured, hparams = super().measure(estimator, seed, report), self.start(seed)
        problem, key = self.problem(seed), jax.random.key(seed)
        problem = problem.replace(num_steps=self.limit_steps)

        def slope(estimator, count):
            halted = halted_after(problem, count)
            return hg.estimate(halted, estimator, hparams, (), key)[0].hypergrad

        limit = slope(SOLVED, self.limit_steps)
        ways = {"unrolled": hg.Reverse(), "solved": SOLVED, "estimated": estimator}
        lines = {
            name: curve(
                [distance(slope(way, length), limit) for length in self.lengths],
                self.lengths,
            )
            for name, way in ways.items()
        }
        gap = distance(slope(hg.Reverse(), self.limit_steps), limit)
        return Measured(
            numbers=measured.numbers | numbers(gap=gap), curves=measured.curves | lines
        )
