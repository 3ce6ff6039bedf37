"""Estimators of the hypergradient: one file each, all with the same two functions."""

from hypergrad.estimators.base import Estimate, Estimator, Info, Target
from hypergrad.estimators.finite_difference import FiniteDifference
from hypergrad.estimators.forward import Forward
from hypergrad.estimators.reverse import Reverse
from hypergrad.estimators.value import Value

ESTIMATORS: dict[str, type] = {
    cls.__name__: cls for cls in (Value, Reverse, Forward, FiniteDifference)
}
"""Every estimator by name, for configs and tables of tests."""

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "FiniteDifference",
    "Forward",
    "Info",
    "Reverse",
    "Target",
    "Value",
]
