"""Wide: MLP 784-1024-1024-10, batch 128, momentum, T = 48: matrix products count."""

from benchmarks.works.base import Work
from benchmarks.works.data import digits
from benchmarks.works.perceptron import make_work
from hypergrad.estimators import Estimator, Reverse, Reversible
from hypergrad.gradients import Plain
from hypergrad.unroll import EveryStep, KAry, NoCheckpoint, Segments, Tree

STEPS = 48
SIZES, SMALLEST_SIZES = (784, 1024, 1024, 10), (784, 8, 8, 10)

CONTENDERS: dict[str, Estimator] = {
    "Reverse(EveryStep, Mixed)": Reverse(EveryStep()),
    "Reverse(EveryStep, Plain)": Reverse(EveryStep(), gradient=Plain()),
    "Reverse(NoCheckpoint, Mixed)": Reverse(NoCheckpoint()),
    "Reverse(NoCheckpoint, Plain)": Reverse(NoCheckpoint(), gradient=Plain()),
    "Reverse(Segments, Mixed)": Reverse(Segments()),
    "Reverse(Tree, Mixed)": Reverse(Tree()),
    "Reverse(KAry, Mixed)": Reverse(KAry()),
    "Reversible()": Reversible(),
}


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
        CONTENDERS,
        reference="Reverse(EveryStep, Plain)",
        tolerance=0.01,
    )
