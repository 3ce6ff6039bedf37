"""W1: digits, MLP 64-128-128-10 tanh, batch 100, momentum, T = 100, 1000 or 10,000."""

from benchmarks.works.base import Work
from benchmarks.works.data import digits
from benchmarks.works.perceptron import make_work

STEPS = 1000
SIZES, SMALLEST_SIZES = (64, 128, 128, 10), (64, 8, 8, 10)


def make(steps: int | None = None, smallest: bool = False) -> Work:
    """The work; `smallest` keeps its form only."""
    steps = steps or (6 if smallest else STEPS)
    sizes = SMALLEST_SIZES if smallest else SIZES
    return make_work(
        "w1",
        f"digits, MLP {'-'.join(map(str, sizes))} tanh, SGD momentum, T = {steps}; λ = "
        f"{steps} learning rates, momentum, weight decay",
        sizes,
        digits(),
        steps,
        10 if smallest else 100,
        tolerance=0.005,
    )
