"""Estimators of the hypergradient: one idea a file, all with the same two functions."""

from hypergrad.estimators.base import Estimate, Estimator, Info, Target
from hypergrad.estimators.evolution import (
    EvolutionStrategies,
    NoiseReuseES,
    PersistentES,
)
from hypergrad.estimators.finite_difference import FiniteDifference
from hypergrad.estimators.forward import Forward
from hypergrad.estimators.forward_sharing import ForwardSharing
from hypergrad.estimators.hypergradient_descent import (
    Additive,
    HypergradientDescent,
    Multiplicative,
)
from hypergrad.estimators.implicit import Implicit
from hypergrad.estimators.one_step import Darts, OneStep
from hypergrad.estimators.online_base import OnlineEstimator
from hypergrad.estimators.online_reverse import OnlineReverse
from hypergrad.estimators.penalty import BOME, F2SA
from hypergrad.estimators.random_directions import (
    Gaussian,
    Rademacher,
    RandomDirections,
)
from hypergrad.estimators.randomly_truncated import RandomlyTruncated
from hypergrad.estimators.real_time import MARTHE, RTHO
from hypergrad.estimators.response import (
    DeltaSTN,
    LayerwiseResponse,
    LinearResponse,
    SelfTuning,
)
from hypergrad.estimators.reverse import Reverse
from hypergrad.estimators.reversible import Reversible
from hypergrad.estimators.single_loop import SABA, SOBA
from hypergrad.estimators.stochastic_bilevel import StocBiO
from hypergrad.estimators.tower import AdamLevel, SGDLevel, Tower
from hypergrad.estimators.uoro import UORO
from hypergrad.estimators.value import Value

ESTIMATORS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Value,
        Reverse,
        RandomlyTruncated,
        Reversible,
        Forward,
        ForwardSharing,
        RandomDirections,
        UORO,
        Implicit,
        OneStep,
        Darts,
        HypergradientDescent,
        RTHO,
        MARTHE,
        OnlineReverse,
        Tower,
        EvolutionStrategies,
        PersistentES,
        NoiseReuseES,
        SOBA,
        SABA,
        StocBiO,
        F2SA,
        BOME,
        SelfTuning,
        DeltaSTN,
        FiniteDifference,
    )
}
"""Every estimator by name, for configs and tables of tests."""

__all__ = [
    "AdamLevel",
    "Additive",
    "BOME",
    "Darts",
    "DeltaSTN",
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "EvolutionStrategies",
    "F2SA",
    "FiniteDifference",
    "Forward",
    "ForwardSharing",
    "Gaussian",
    "HypergradientDescent",
    "Implicit",
    "Info",
    "LayerwiseResponse",
    "LinearResponse",
    "MARTHE",
    "Multiplicative",
    "NoiseReuseES",
    "OneStep",
    "OnlineEstimator",
    "OnlineReverse",
    "PersistentES",
    "RTHO",
    "Rademacher",
    "RandomDirections",
    "RandomlyTruncated",
    "Reverse",
    "Reversible",
    "SABA",
    "SGDLevel",
    "SOBA",
    "SelfTuning",
    "StocBiO",
    "Target",
    "Tower",
    "UORO",
    "Value",
]
