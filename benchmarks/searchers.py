"""Searchers at equal cost on functions of known minimum: the regret each is left with.

A gradient is counted as `--multiple` evaluations of F, so that a search by gradients
has so many times fewer trials. Every study begins at the middle of the cube, and each
key has a function of its own: the quadratic is drawn anew, the others are seen through
a smooth warp of each coordinate. GradientSearch is shown at its default and at the best
of a small grid, which is chosen on other keys.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false OMP_NUM_THREADS=1 \
    python -m benchmarks.searchers --functions branin hartmann --multiple 3 --keys 10

Printed per function and searcher: trials, the median over keys of the best regret, its
quartiles, and the ratio of the median to that of the first searcher listed.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tasks.functions import LEAST, branin, hartmann6, rosenbrock
from hypergrad.hyperparameters import Linear
from hypergrad.searchers import BayesianSearch, GradientSearch, Outer, RandomSearch
from hypergrad.searchers.base import Searcher
from hypergrad.searchers.bayesian_gradient import GradientBayesianSearch
from hypergrad.searchers.hybrid import HybridSearch
from hypergrad.space import Space

# Added to the key of a study where settings are chosen, not reported.
_TUNING = 1000


@dataclass(frozen=True)
class Function:
    """F(z, key) on [0, 1]^dim, its least value, and the evaluations of a study."""

    value: Callable[[jax.Array, jax.Array], jax.Array]
    dim: int
    minimum: float
    budget: int


def warped(z, key):
    """Map u to u + a u (1 − u), a ~ U(−0.8, 0.8): onto itself, its middle moved."""
    bend = jax.random.uniform(key, z.shape, minval=-0.8, maxval=0.8)
    return z + bend * z * (1.0 - z)


def seen_warped(function):
    """A function of the cube, through a warp of its own for each key."""
    return lambda z, key: function(warped(z, key))


def quadratic(z, key):
    """100 dimensions, curvatures from 1 to 100 along rotated axes."""
    axes, center = jax.random.split(key)
    rotation, _ = jnp.linalg.qr(jax.random.normal(axes, (100, 100)))
    center = jax.random.uniform(center, (100,), minval=0.2, maxval=0.8)
    return 0.5 * jnp.sum(jnp.logspace(0.0, 2.0, 100) * (rotation @ (z - center)) ** 2)


FUNCTIONS = {
    "branin": Function(seen_warped(branin), 2, LEAST["branin"], 60),
    "hartmann": Function(seen_warped(hartmann6), 6, LEAST["hartmann6"], 120),
    "rosenbrock": Function(seen_warped(rosenbrock), 20, LEAST["rosenbrock"], 180),
    "quadratic": Function(quadratic, 100, 0.0, 180),
}

GRID = tuple(
    GradientSearch(Outer("adam", learning_rate=rate, final=final), starts=starts)
    for rate, final, starts in itertools.product((0.03, 0.1, 0.3), (0.0, 1.0), (1, 4))
)


def searchers() -> dict[str, Searcher]:
    """What is compared, beside the tuned GradientSearch."""
    return {
        "RandomSearch": RandomSearch(),
        "BayesianSearch": BayesianSearch(),
        "GradientSearch": GradientSearch(),
        "GradientBayesianSearch": GradientBayesianSearch(),
        "HybridSearch": HybridSearch(),
    }


class Outcome(NamedTuple):
    """The best regret of each key, how many trials a study had, and seconds of one."""

    regrets: np.ndarray
    trials: int
    seconds: float


def regrets(searcher: Searcher, function: Function, trials: int, keys) -> Outcome:
    """The best regret of one study per key."""
    space = Space({"x": Linear(0.0, 1.0, shape=(function.dim,))})
    rounds = trials // searcher.batch

    @jax.jit
    def study(key):
        own, drawn = jax.random.split(key)
        evaluate = jax.vmap(jax.value_and_grad(lambda z: function.value(z, drawn)))

        def one_round(state, _):
            coords, state = searcher.ask(space, state)
            values, grads = evaluate(coords)
            return searcher.tell(space, state, coords, values, grads), values

        state = searcher.init(space, rounds * searcher.batch, own)
        return jnp.min(jax.lax.scan(one_round, state, length=rounds)[1])

    found = [float(study(jax.random.key(keys[0])))]
    began = time.perf_counter()
    found += [float(study(jax.random.key(key))) for key in keys[1:]]
    seconds = (time.perf_counter() - began) / max(len(keys) - 1, 1)
    return Outcome(np.array(found) - function.minimum, rounds * searcher.batch, seconds)


def tuned(function: Function, trials: int, num_keys: int) -> Searcher:
    """The GradientSearch of the grid with the least median regret on other keys."""
    keys = range(_TUNING, _TUNING + num_keys)
    return min(
        GRID, key=lambda s: np.median(regrets(s, function, trials, keys).regrets)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS))
    parser.add_argument("--multiple", type=int, default=3)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=None, help="names of searchers")
    args = parser.parse_args()
    for name in args.functions:
        function, random = FUNCTIONS[name], None
        compared = searchers()
        if args.only is None or "tuned" in args.only:
            best = tuned(function, function.budget // args.multiple, 5)
            compared["tuned"] = best
            print(f"tuned on {name}: {best}")
        print(f"{name}: {function.budget} evaluations, a gradient is {args.multiple}")
        for label, searcher in compared.items():
            if args.only is not None and label not in args.only:
                continue
            cost = args.multiple if searcher.needs_gradient else 1
            outcome = regrets(
                searcher, function, function.budget // cost, range(args.keys)
            )
            low, median, high = np.quantile(outcome.regrets, (0.25, 0.5, 0.75))
            random = median if random is None else random
            print(
                f"  {label:<24} {outcome.trials:>4} trials  {median:9.2e} "
                f"[{low:8.2e}, {high:8.2e}]  ratio {median / random:9.2e}  "
                f"{outcome.seconds:6.1f} s a study",
                flush=True,
            )


if __name__ == "__main__":
    main()
