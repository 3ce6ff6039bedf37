"""Searchers: immutable values with `init`, `ask` and `tell`."""

from hypergrad.searchers.base import Searcher as Searcher
from hypergrad.searchers.bayesian import BayesianSearch as BayesianSearch
from hypergrad.searchers.gradient import GradientSearch as GradientSearch
from hypergrad.searchers.grid import GridSearch as GridSearch
from hypergrad.searchers.host import HostSearch as HostSearch
from hypergrad.searchers.outer import Outer as Outer
from hypergrad.searchers.random import RandomSearch as RandomSearch
from hypergrad.searchers.random import SobolSearch as SobolSearch
