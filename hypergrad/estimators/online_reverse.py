"""Truncated reverse mode along one training: K steps a call, the state carried on."""

from dataclasses import dataclass

import jax

from hypergrad.estimators.base import Estimate, Info, objective_of_floats
from hypergrad.estimators.online_base import (
    OnlineEstimator,
    Progress,
    run_window,
)
from hypergrad.gradients import InnerGradient, Mixed
from hypergrad.unroll import Checkpoint, EveryStep


@dataclass(frozen=True)
class OnlineReverse(OnlineEstimator):
    """d/dλ of the loss of the steps t, ..., t + K − 1, where s_t counts as a constant.

    Truncated backpropagation through time with a persistent inner state: a call unrolls
    K steps from where the last one ended, sweeps back over them, and goes on. The loss
    is the outer loss at the end of the K steps; with `outer_every`, the sum of the
    outer losses among them. A window of 1 is hypergradient descent on that loss.

    Computes: an update; with λ held and `outer_every`, the calls of a training add up
              to what `Reverse(window=K)` gives, for K = T to dF/dλ.
    Bias:     truncation, whose sign may be wrong (Wu et al. 2018, Vicol et al. 2021).
    Variance: none beyond that of the loss over keys.
    Memory:   that of `checkpoint` for K steps, see `hypergrad.unroll`.
    Time:     3 to 5 K inner steps a call, by `checkpoint`, and one outer gradient.

    Attributes:
      window: K, the inner steps of one call; it must divide T.
      checkpoint: which states of the window are kept, which computed again.
      gradient: the inner gradient's derivative rule, `Mixed()` or `Plain()`.

    Example:
      >>> import jax, jax.numpy as jnp, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=4)
      >>> estimator = hg.OnlineReverse(window=2)
      >>> state = estimator.init(problem, 3.0, jax.random.key(0))
      >>> for _ in range(2):  # 2 λ s_t from s_0 = 1 and s_2 = 9
      ...     result, state = hg.estimate(
      ...         problem, estimator, 3.0, state, jax.random.key(1))
      ...     print(result.hypergrad)
      6.0
      54.0
    """

    window: int = 1
    checkpoint: Checkpoint = EveryStep()
    gradient: InnerGradient = Mixed()

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"OnlineReverse.window must be >= 1, got {self.window}")

    def steps(self, problem):
        """`window`."""
        del problem
        return self.window

    def advance(self, problem, hparams, state, key):
        """K steps forward, one sweep back."""
        del key
        t, key, inner = state

        def loss(hparams):
            whole = self.window == problem.num_steps
            # A window that is the whole training sees how s_0 depends on λ, too.
            start = problem.start(hparams, key) if whole else inner
            return run_window(
                problem,
                hparams,
                start,
                t,
                key,
                self.window,
                end_loss=True,
                checkpoint=self.checkpoint,
                gradient=self.gradient,
            )

        run, floats, restore = objective_of_floats(loss, hparams)
        (value, inner), hypergrad = jax.value_and_grad(run, has_aux=True)(floats)
        estimate = Estimate(value, restore(hypergrad), Info(inner))
        return estimate, Progress(t + self.window, key, inner)
