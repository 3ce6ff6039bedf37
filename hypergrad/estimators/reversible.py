"""Training with momentum run backwards, bit for bit, instead of being stored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

import hypergrad.estimators.reversible_arithmetic as exact
from hypergrad.estimators.base import (
    Estimate,
    Estimator,
    Target,
    objective_of_floats,
)
from hypergrad.estimators.heavy_ball import HeavyBall
from hypergrad.estimators.rounded_heavy_ball import (
    Faults,
    Grid,
    Rounded,
    RoundedHeavyBall,
    sweep,
    sweep_back,
)
from hypergrad.gradients import Mixed
from hypergrad.training import Folds, Training
from hypergrad.typing import HParams, PyTree, Scalar
from hypergrad.unroll import check_step, outer_term, zero_outer


class ReversibleInfo(NamedTuple):
    """What the way back has shown of itself.

    Attributes:
      state: s_T.
      doubtful: any of the below is not as it should be.
      recovered: whether the start was recovered exactly.
      wrong_bits: in how many bits weights, velocity and stack differ from the start's.
      out_of_range: weights, velocity, force or displacement left ±2^integer_bits, or
        were not finite; value and hypergradient are then NaN.
      bad_momentum: a momentum lay outside [smallest_momentum, 1].
      stack_full: the bits lost to momentum found no room.
      rule_error: the largest ‖rule − problem.step‖ / ‖problem.step‖ of four steps, see
        `HeavyBall`.
      wrong_rule: whether that is more than rounding.
    """

    state: PyTree
    doubtful: jax.Array
    recovered: jax.Array
    wrong_bits: jax.Array
    out_of_range: jax.Array
    bad_momentum: jax.Array
    stack_full: jax.Array
    rule_error: Scalar
    wrong_rule: jax.Array


@dataclass(frozen=True)
class Reversible(Estimator):
    """dF/dλ of v' = γ v + G_t(w, λ), w' = w + β v', both undone in the sweep back.

    Weights and velocity are integers, units of 2^-f. The way back, w = w' − β v' and
    v = (v' − G_t(w, λ)) / γ, meets the same integers again: what rounding γ v dropped
    was kept (`reversible_arithmetic`). With adjoints a, algorithm 2 of Maclaurin,
    Duvenaud & Adams 2015 reads, from T to 0,

        b = a_v + β a_w,   dF/dβ = a_w · v',   dF/dγ = b · v,
        dF/dλ += (∂G/∂λ)ᵀ b,   a_w += (∂G/∂w)ᵀ b,   a_v = γ b.

    γ, β = −α and G are read off the problem's own optimiser, so `optax.sgd(rate,
    momentum=γ)` with any schedules, and gradient clipping or decay before it, serve;
    Nesterov's and other rules do not, which `rule_error` tells. γ is rounded to a
    multiple of 2^-(bits/2).

    Computes: dF/dλ of the rounded training, roundings counting as the identity.
    Bias:     that of training in units of 2^-f (2^-24, and 2^-56 with 64 bits), against
              training in floats.
    Variance: none beyond that of F over keys.
    Memory:   2(1 − γ) T bits a weight for γ >= ½, the smallest: one bit at ½, 1/25 at
              0.98, where storing states takes 64.
    Time:     about 5 T inner steps.

    Attributes:
      bits: 32, or 64 (with JAX's x64 mode).
      integer_bits: weights, velocity, G and β v' must stay below 2^integer_bits; f =
        bits − 2 − integer_bits.
      smallest_momentum: the least γ that can be undone, > 0; it sizes the stacks.
      spill_every: steps after which full words leave the registers, None for as many as
        a word holds bits of.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hypergrad as hg
      >>> problem = hg.Problem(
      ...     init=lambda key, hp: jnp.ones(2),
      ...     inner_loss=lambda w, hp, batch: 0.5 * jnp.sum(w**2),
      ...     outer_loss=lambda w, hp, batch: jnp.sum(w),
      ...     optimizer=lambda hp: optax.sgd(hp["lr"], momentum=0.5),
      ...     train=jnp.ones(1), valid=jnp.ones(1), num_steps=2)
      >>> fn = hg.value_and_hypergrad(problem, hg.Reversible(), has_aux=True)
      >>> (value, info), slope = fn({"lr": 0.5}, jax.random.key(0))
      >>> print(info.recovered, round(float(slope["lr"]), 3))  # 2 (−5/2 + 2 α)
      True -3.0
    """

    bits: int = 32
    integer_bits: int = 6
    smallest_momentum: float = 0.5
    spill_every: int | None = None

    def __post_init__(self):
        if self.bits not in (32, 64):
            raise ValueError(f"Reversible.bits must be 32 or 64, got {self.bits}")
        if not 0 <= self.integer_bits <= self.bits // 2:
            raise ValueError(
                f"Reversible.integer_bits must lie in 0..{self.bits // 2}, got "
                f"{self.integer_bits}"
            )
        if not 2**-16 <= self.smallest_momentum <= 1:
            raise ValueError(
                "Reversible.smallest_momentum must lie in [2^-16, 1], got "
                f"{self.smallest_momentum}"
            )
        if self.spill_every is not None and not 1 <= self.spill_every <= self._longest:
            raise ValueError(
                f"Reversible.spill_every must lie in 1..{self._longest} for this "
                f"smallest_momentum, or be None, got {self.spill_every}"
            )

    @property
    def target(self) -> Target:
        """dF/dλ."""
        return Target.OBJECTIVE

    def applies(self, problem):
        """Everyday problems only: others may not be trained by momentum."""
        if isinstance(problem.dynamics, Training | Folds):
            return None
        return (
            "it runs an optimiser with momentum backwards, and a problem made by "
            "from_step hides its optimiser: use Problem(...), or Reverse()"
        )

    def doubt(self, info):
        """Every check that failed."""
        if not bool(info.doubtful):
            return None
        limit = 2**self.integer_bits
        reasons = {
            f"weights or velocity left ±{limit} or were not finite (lower the rate or "
            "raise integer_bits)": info.out_of_range,
            f"a momentum lies outside [{self.smallest_momentum}, 1] (lower "
            "smallest_momentum)": info.bad_momentum,
            "the stacks of lost bits were full (lower smallest_momentum)": (
                info.stack_full
            ),
            f"the way back missed the start in {int(info.wrong_bits)} bits": (
                not info.recovered
            ),
            "the optimiser is not v' = γ v + G, w' = w + β v': one step differs by "
            f"{float(info.rule_error):.1e} of its size (use Reverse())": (
                info.wrong_rule
            ),
        }
        return f"{self}: " + "; ".join(text for text, true in reasons.items() if true)

    def estimate(self, problem, hparams, state, key):
        """One training and its way back."""
        check_step(problem, hparams, problem.start(hparams, key), key)
        complete, floats, restore = objective_of_floats(lambda h: h, hparams)
        ball = HeavyBall.of(problem, hparams, key)
        grid = Grid(self.bits, self.integer_bits)
        rounded = RoundedHeavyBall(ball, hparams, grid, self.smallest_momentum)
        run = _Run(rounded, complete, self.spill_every or self._longest)

        start, faults = rounded.start()
        last, faults, value = run.forth(start, faults)
        back, hypergrad = run.back(last, floats)
        value, hypergrad = jax.tree.map(
            lambda x: jnp.where(faults.out_of_range, jnp.nan, x), (value, hypergrad)
        )
        wrong_bits = back.differing_bits(start)
        end, large = problem.num_steps - 1, 2.0**self.integer_bits
        probes = (
            jnp.asarray([0, end, 0, end], jnp.int32),
            jnp.asarray([1, 1, large, large], ball.dtype),
        )
        rule_error = jnp.max(
            jax.vmap(lambda t, size: ball.error(hparams, t, size))(*probes)
        )
        wrong_rule = ~(rule_error <= 32 * jnp.finfo(rule_error.dtype).eps)
        full = last.stacks.overflown
        info = ReversibleInfo(
            state=ball.state(*rounded.floats(last), problem.num_steps),
            doubtful=jnp.any(jnp.stack([wrong_bits > 0, *faults, full, wrong_rule])),
            recovered=wrong_bits == 0,
            wrong_bits=wrong_bits,
            out_of_range=faults.out_of_range,
            bad_momentum=faults.bad_momentum,
            stack_full=full,
            rule_error=rule_error,
            wrong_rule=wrong_rule,
        )
        return Estimate(value, restore(hypergrad), info), state

    @property
    def _longest(self) -> int:
        return exact.WORD // max(1, exact.widest(self.smallest_momentum))


class _Adjoint(NamedTuple):
    """dF/dw_t, dF/dv_t, and dF/dλ as far as collected."""

    w: jax.Array
    v: jax.Array
    hparams: HParams


@dataclass(frozen=True)
class _Run:
    """The two sweeps of one training; `complete` makes λ of its floating leaves."""

    rounded: RoundedHeavyBall
    complete: Callable[[HParams], HParams]
    spill_every: int

    def forth(self, start: Rounded, faults: Faults) -> tuple[Rounded, Faults, Scalar]:
        """(s_T, what went wrong, F)."""
        ball, hparams = self.rounded.ball, self.rounded.hparams
        problem = ball.problem

        def body(carry, t):
            s, faults, value = carry
            s, new = self.rounded.step(s, t)
            if problem.outer_every is not None:
                value += self._outer(hparams, *self.rounded.floats(s), t + 1)
            return s, faults | new, value

        def spill(carry):
            s, *others = carry
            return s._replace(stacks=s.stacks.spill()), *others

        steps = problem.num_steps
        zero = zero_outer(problem, hparams, ball.example, ball.key)
        carry = (start, faults, zero)
        s, faults, value = sweep(body, carry, spill, steps, self.spill_every)
        if problem.outer_every is None:
            value = self._outer(hparams, *self.rounded.floats(s), steps)
        return s, faults, value

    def back(self, last: Rounded, floats: HParams) -> tuple[Rounded, HParams]:
        """(s_0, dF/dλ)."""
        ball = self.rounded.ball
        steps, every = ball.problem.num_steps, ball.problem.outer_every

        def body(carry, t):
            later, a = carry
            if every is not None:
                a = self._collect(a, later, floats, t + 1)
            earlier = self.rounded.undo(later, t)
            return earlier, self._pull(a, earlier, later, floats, t)

        def fetch(carry):
            s, a = carry
            return s._replace(stacks=s.stacks.fetch()), a

        zero = jnp.zeros_like(self.rounded.floats(last)[0])
        a = _Adjoint(zero, zero, jax.tree.map(jnp.zeros_like, floats))
        if every is None:
            a = self._collect(a, last, floats, steps)
        s, a = sweep_back(body, (last, a), fetch, steps, self.spill_every)
        _, pull = jax.vjp(lambda x: ball.start(self.complete(x)), floats)
        return s, _add(a.hparams, *pull((a.w, a.v)))

    def _pull(self, a: _Adjoint, earlier: Rounded, later: Rounded, floats, t):
        """The adjoint at t from that at t + 1 (algorithm 2)."""
        ball = self.rounded.ball
        (w, v), (_, v_later) = map(self.rounded.floats, (earlier, later))

        factors, pull_factors = jax.vjp(
            lambda x: ball.factors(self.complete(x), t), floats
        )
        _, pull_force = jax.vjp(
            lambda x, w: ball.force(self.complete(x), w, t, Mixed()), floats, w
        )
        gamma, beta = self.rounded.used(*factors)
        b = a.v + beta * a.w
        (of_factors,) = pull_factors((b * v, a.w * v_later))
        of_force, slope = pull_force(b)
        return _Adjoint(a.w + slope, gamma * b, _add(a.hparams, of_factors, of_force))

    def _collect(self, a: _Adjoint, s: Rounded, floats, t):
        """The adjoint with the derivatives of outer_t."""
        w, v = self.rounded.floats(s)
        outer = lambda x, w: self._outer(self.complete(x), w, v, t)
        direct, slope = jax.grad(outer, (0, 1))(floats, w)
        return _Adjoint(a.w + slope, a.v, _add(a.hparams, direct))

    def _outer(self, hparams, w, v, t) -> Scalar:
        """outer_t, and 0 where F has no such term."""
        ball = self.rounded.ball
        return outer_term(ball.problem, hparams, ball.state(w, v, t), t, ball.key)


def _add(*trees):
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)
