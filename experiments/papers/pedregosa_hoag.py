"""Hyperparameter optimisation with approximate gradient (HOAG), Pedregosa (2016).

    minimise g(w) over α, where w minimises h(w, α), on the 20 newsgroups

Outer step k solves for w only until ‖∇h‖ < ε_k e^α ‖∇h_0‖ (L-BFGS, from the last w),
takes the hypergradient there, and moves α ← α − g' / L. The tolerance ε_k falls; L
falls while g behaves, and grows where it does not.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg
from experiments.paper import Curve, Measured, Panel, Paper, Steps, curve, paper
from experiments.papers import pedregosa_rows as sets
from experiments.papers.pedregosa_logistic import (
    EXACT,
    Data,
    error_rate,
    handed_in,
    held_out,
    newton,
    slope_gap,
    slope_norm,
    solve,
)
from experiments.papers.pedregosa_logistic import problem as bilevel

_LEAST = 1e-12  # no tolerance is less
_SLACK = 0.25  # C of the test that lets L fall


@paper("pedregosa2016_hoag_20news")
class Hoag(Paper):
    """Options.

    Attributes:
        source: the rows; the lower half of the classes are -1.
        valid: "test" validates on the publisher's test part; "half" on one half of the
            training part, dealt by scikit-learn's `train_test_split` with state 0.
        unit_rows: divide each row by its length.
        alpha: where α starts.
        low, high: α is kept between them.
        tolerance: ε_1.
        decrease: ε_k is 0.9^(k−1) ε_1, or falls as 1/k² or 1/k³.
        num_outer_steps: hypergradients.
        polish: "none" takes w as L-BFGS leaves it, which `Implicit` may; "newton" adds
            a Newton step, through which any other estimator can differentiate.
        grid: α whose held-out loss is computed exactly, for comparison.
    """

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("Exact solutions", ("grid",), "α", "held-out loss"),
        Panel("The hyperparameter", ("alpha",), "outer step", "α"),
        Panel("Work", ("work",), "outer step", "gradients of h so far"),
    )

    precision: Literal["float32", "float64"] = "float64"
    source: sets.RowSource = "news20"
    valid: Literal["test", "half"] = "test"
    unit_rows: bool = True
    alpha: float = 0.0
    low: float = -6.0
    high: float = 6.0
    tolerance: float = 1e-3
    decrease: Literal["exponential", "quadratic", "cubic"] = "exponential"
    num_outer_steps: int = 49
    polish: Literal["none", "newton"] = "none"
    grid: tuple[float, ...] = (-6.0, -5.0, -4.5625978805564005, -4.0, -3.0, -1.5, 0.0)

    def measure(self, estimator: Any, seed: int, report: Steps) -> Measured:
        """alpha, held_out: where HOAG ends; grid: exact held-out losses."""
        if self.polish == "none" and not isinstance(estimator, hg.Implicit):
            raise ValueError(
                f"{type(estimator).__name__} differentiates through training, and w is "
                "handed in from outside: add --set paper.polish=newton, or use Implicit"
            )
        data = self._data(seed)
        total = self.num_outer_steps + len(self.grid) + 1
        found = self._search(data, estimator, seed, lambda k: report(k, total))
        grid, wrong, weights = {}, math.nan, jnp.zeros_like(data.weights)
        for alpha in sorted({*self.grid, found.alpha}, reverse=True):
            weights, _ = solve(data, weights, alpha, EXACT)
            grid[alpha] = float(held_out(weights, data.valid))
            report(self.num_outer_steps + len(grid), total)
            if alpha == found.alpha:
                wrong = float(error_rate(weights, data.valid))
        best = min(self.grid, key=grid.__getitem__)
        return Measured(
            numbers={
                "alpha": found.alpha,
                "held_out": grid[found.alpha],
                "error": wrong,
                "from_grid_best": abs(found.alpha - best),
                "work": found.curves["work"].y[-1],
                "slope_gap": slope_gap(data, self.alpha),
            },
            curves=found.curves
            | {"grid": curve([grid[a] for a in sorted(self.grid)], sorted(self.grid))},
        )

    def _data(self, seed: int) -> Data:
        """Both parts, and w drawn from a normal distribution."""
        train, valid, num_classes = sets.parts(self.source)
        if self.valid == "half":
            state = np.random.RandomState(0)
            train, valid = sets.halves(train, state, stratify=False)

        def signed(part):
            signs = np.where(part.labels < num_classes / 2, -1.0, 1.0)
            return sets.matrix(part.inputs, self.unit_rows), jnp.asarray(signs)

        start = np.random.RandomState(seed).randn(train.inputs.shape[1])
        return Data(signed(train), signed(valid), jnp.asarray(start))

    def _search(self, data: Data, estimator, seed: int, report) -> "_Search":
        """The loop of HOAG."""
        step = newton if self.polish == "newton" else handed_in
        problem = bilevel(data, step)
        hg.value_and_hypergrad(problem, estimator)  # refuses what does not apply
        key = jax.random.key(seed)
        state = estimator.init(problem, jnp.asarray(self.alpha), key)
        alpha, tolerance, bend, last = self.alpha, self.tolerance, None, math.inf
        first = slope_norm(data.weights, alpha, data.train)
        alphas, values, work = [alpha], [], 0
        evaluations = []
        for k in range(1, self.num_outer_steps + 1):
            goal = tolerance * first * math.exp(alpha)
            weights, count = solve(data, data.weights, alpha, goal)
            data = data._replace(weights=weights)
            found, state = hg.estimate(
                problem.replace(data=data),
                within(estimator, tolerance),
                jnp.asarray(alpha),
                state,
                key,
            )
            value, slope = float(found.value), float(found.hypergrad)
            if bend is None:
                bend = abs(slope) if abs(slope) > 1e-3 else 1.0
            before, coarse = alpha, tolerance
            tolerance = max(self._tighter(tolerance, k), _LEAST)
            alpha = min(max(alpha - slope / bend, self.low), self.high)
            moved = abs(alpha - before)
            allowed = _SLACK * tolerance + coarse * (_SLACK + 1.0) * moved
            if value <= last + allowed - bend * moved**2:
                bend *= 0.95
            elif value >= 1.2 * last:  # rejected
                bend, alpha, tolerance = 2.0 * bend, before, 0.5 * tolerance
            last, work = value, work + int(count)
            alphas.append(alpha)
            values.append(value)
            evaluations.append(work)
            report(k)
        steps = range(1, len(values) + 1)
        return _Search(
            alpha,
            {
                "alpha": curve(alphas),
                "held_out": curve(values, steps),
                "work": curve(evaluations, steps),
            },
        )

    def _tighter(self, tolerance: float, k: int) -> float:
        powers = {"quadratic": 2, "cubic": 3}
        if self.decrease in powers:
            return self.tolerance / k ** powers[self.decrease]
        return 0.9 * tolerance


class _Search(NamedTuple):
    alpha: float
    curves: dict[str, Curve]


def within(estimator: Any, tolerance: float) -> Any:
    """The estimator with a linear solve to within ε, to the next power of ten below.

    Powers of ten, for each is a program to compile. Only a conjugate gradient method
    whose own tolerance the config leaves open is told.
    """
    solver = getattr(estimator, "solver", None)
    if not isinstance(solver, hg.CG) or solver.tolerance is not None:
        return estimator
    power = 10.0 ** math.floor(math.log10(tolerance))
    solver = dataclasses.replace(solver, tolerance=power)
    return dataclasses.replace(estimator, solver=solver)
