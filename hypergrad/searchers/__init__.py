"""Searchers: immutable values with `init`, `ask` and `tell`."""

from hypergrad.searchers.base import Searcher as Searcher
from hypergrad.searchers.bayesian import BayesianSearch as BayesianSearch
from hypergrad.searchers.bayesian_gradient import (
    GradientBayesianSearch as GradientBayesianSearch,
)
from hypergrad.searchers.cmaes import CMAES as CMAES
from hypergrad.searchers.cmaes import DiagonalCovariance as DiagonalCovariance
from hypergrad.searchers.cmaes import FullCovariance as FullCovariance
from hypergrad.searchers.gradient import GradientSearch as GradientSearch
from hypergrad.searchers.grid import GridSearch as GridSearch
from hypergrad.searchers.halving import ASHA as ASHA
from hypergrad.searchers.halving import Hyperband as Hyperband
from hypergrad.searchers.halving import SuccessiveHalving as SuccessiveHalving
from hypergrad.searchers.host import HostSearch as HostSearch
from hypergrad.searchers.hybrid import HybridSearch as HybridSearch
from hypergrad.searchers.optuna import OptunaSearch as OptunaSearch
from hypergrad.searchers.optuna_samplers import GP as GP
from hypergrad.searchers.optuna_samplers import QMC as QMC
from hypergrad.searchers.optuna_samplers import TPE as TPE
from hypergrad.searchers.optuna_samplers import Grid as Grid
from hypergrad.searchers.optuna_samplers import Random as Random
from hypergrad.searchers.outer import Outer as Outer
from hypergrad.searchers.partial import PartialSearch as PartialSearch
from hypergrad.searchers.population import (
    PopulationBasedTraining as PopulationBasedTraining,
)
from hypergrad.searchers.proposals import BayesianProposals as BayesianProposals
from hypergrad.searchers.proposals import RandomProposals as RandomProposals
from hypergrad.searchers.random import RandomSearch as RandomSearch
from hypergrad.searchers.random import SobolSearch as SobolSearch
