"""Wide: MLP 784-1024-1024-10, batch 128, momentum, T = 48: matrix products count."""

from benchmarks.works.base import Work
from benchmarks.works.data import digits
from benchmarks.works.perceptron import make_work

STEPS = 48
SIZES, SMALLEST_SIZES = (784, 1024, 1024, 10), (784, 8, 8, 10)


def make(steps: int | None = None, smallest: bool = False) -> Work:
    """The work; `smallest` keeps its form only."""
    steps = steps or (3 if smallest else STEPS)
    sizes = SMALLEST_SIZES if smallest else SIZES
    return make_work(
        "wide",
        f"digits at 28 × 28, MLP {'-'.join(map(str, sizes))} tanh, SGD momentum, T = "
        f"{steps}; λ = {steps} learning rates, momentum, weight decay",
        sizes,
        digits(enlarged=True),
        steps,
        8 if smallest else 128,
        tolerance=0.01,
    )
