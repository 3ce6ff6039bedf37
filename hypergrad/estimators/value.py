"""F(λ) and nothing else, for searchers that need no gradient."""

from dataclasses import dataclass

from hypergrad.estimators.base import Estimate, Estimator, Info, Target
from hypergrad.unroll import unroll


@dataclass(frozen=True)
class Value(Estimator):
    """The value F(λ) without a hypergradient.

    Computes: F(λ), by one training.
    Bias:     none.
    Variance: none beyond that of F over keys.
    Memory:   one inner state.
    Time:     T inner steps.
    """

    @property
    def target(self) -> Target:
        """No hypergradient."""
        return Target.NOTHING

    def estimate(self, problem, hparams, state, key):
        """`Estimate(F(λ), None, info)`."""
        value, end = unroll(problem, hparams, key)
        return Estimate(value, None, Info(end)), state
