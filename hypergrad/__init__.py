"""Hypergradients in JAX: validation loss differentiated through training.

min over λ of F(λ) = Σ_t outer_t(λ, s_t),   s_{t+1} = step(λ, s_t),   s_0 = start(λ)
"""

from hypergrad import gradients, projections, safe_optax, schedules
from hypergrad.api import (
    HypergradWarning,
    estimate,
    hypergrad,
    objective,
    value_and_hypergrad,
)
from hypergrad.batches import Epochs, FullBatch, IndexTable, WithReplacement
from hypergrad.estimators import (
    Estimate,
    Estimator,
    FiniteDifference,
    Forward,
    Info,
    Reverse,
    Target,
    Value,
)
from hypergrad.hyperparameters import Linear, Log, Logit, Simplex, Softplus
from hypergrad.penalties import elastic_net, l1, l2, smooth_l1
from hypergrad.problem import Problem
from hypergrad.projections import CappedSimplex, ProbabilitySimplex
from hypergrad.runner import Chunk, Loop, Vmap, choose_execution, cost_multiple, retrain
from hypergrad.safe_optax import differentiable
from hypergrad.schedules import (
    Basis,
    Constant,
    Cosine,
    Exp,
    Exponential,
    PiecewiseLinear,
    Table,
    Warmup,
)
from hypergrad.searchers import (
    BayesianSearch,
    GradientSearch,
    GridSearch,
    Outer,
    RandomSearch,
    Searcher,
    SobolSearch,
)
from hypergrad.space import Space
from hypergrad.study import FreshKeys, SameKey, StudyResult, search
from hypergrad.training import Context, InnerState
from hypergrad.typing import Tick
from hypergrad.unroll import EveryStep, NoCheckpoint, Segments, Tree, train, unroll
from hypergrad.verify import Verification, verify

__all__ = [
    "Basis",
    "BayesianSearch",
    "CappedSimplex",
    "Chunk",
    "Constant",
    "Context",
    "Cosine",
    "Epochs",
    "Estimate",
    "Estimator",
    "EveryStep",
    "Exp",
    "Exponential",
    "FiniteDifference",
    "Forward",
    "FreshKeys",
    "FullBatch",
    "GradientSearch",
    "GridSearch",
    "HypergradWarning",
    "IndexTable",
    "Info",
    "InnerState",
    "Linear",
    "Log",
    "Logit",
    "Loop",
    "NoCheckpoint",
    "Outer",
    "PiecewiseLinear",
    "ProbabilitySimplex",
    "Problem",
    "RandomSearch",
    "Reverse",
    "SameKey",
    "Searcher",
    "Segments",
    "Simplex",
    "SobolSearch",
    "Softplus",
    "Space",
    "StudyResult",
    "Table",
    "Target",
    "Tick",
    "Tree",
    "Value",
    "Verification",
    "Vmap",
    "Warmup",
    "WithReplacement",
    "choose_execution",
    "cost_multiple",
    "differentiable",
    "elastic_net",
    "estimate",
    "gradients",
    "hypergrad",
    "l1",
    "l2",
    "objective",
    "projections",
    "retrain",
    "safe_optax",
    "schedules",
    "search",
    "smooth_l1",
    "train",
    "unroll",
    "value_and_hypergrad",
    "verify",
]
