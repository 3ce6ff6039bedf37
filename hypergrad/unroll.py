"""The only training loop in the library: a scan, with checkpointing as a value.

Checkpointing chooses what reverse-mode differentiation keeps of a loop of T steps and
what it computes again. With C the bytes of one state, R those of one step's residuals
and G those of one inner gradient:

| value             | bytes kept          | forward steps computed |
|-------------------|---------------------|------------------------|
| `NoCheckpoint()`  | T · R               | T                      |
| `EveryStep()`     | T · C + R           | 2 T                    |
| `Segments()`      | √T · C + √T · R     | 2 T                    |
| `Tree(depth=3)`   | 2 · T^⅓ · C + T^⅓·R | 3 T                    |
| `KAry(arity=k)`   | k · log_k T · C + R | (1 + log_k T) T        |
| `Gradients()`     | T · G + √T · C + √T · R | T, the optimiser twice |
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.gradients import InnerGradient, Plain, only_gradients
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar

Carry = TypeVar("Carry")


class Checkpoint(ABC):
    """What reverse mode keeps of a loop."""

    @abstractmethod
    def lengths(self, num_steps: int) -> tuple[int, ...]:
        """Lengths of the nested scans, outermost first; product >= num_steps."""

    @property
    def recompute_step(self) -> bool:
        """Whether even a single step is recomputed rather than stored."""
        return False

    @property
    def policy(self) -> Callable[..., bool] | None:
        """What is kept of the innermost segments beside their first states."""
        return None


@dataclass(frozen=True)
class NoCheckpoint(Checkpoint):
    """Keep every step's residuals: fastest, memory T · R."""

    def lengths(self, num_steps):
        """One scan."""
        return (num_steps,)


@dataclass(frozen=True)
class EveryStep(Checkpoint):
    """Keep every state, recompute each step: memory T · C."""

    def lengths(self, num_steps):
        """One scan."""
        return (num_steps,)

    @property
    def recompute_step(self):
        """True."""
        return True


@dataclass(frozen=True)
class Segments(Checkpoint):
    """Keep one state a segment, recompute a segment at a time: memory about √T (C + R).

    Attributes:
      length: steps a segment; None for ⌈√T⌉.
    """

    length: int | None = None

    def __post_init__(self):
        if self.length is not None and self.length < 1:
            raise ValueError(f"Segments.length must be >= 1 or None, got {self.length}")

    def lengths(self, num_steps):
        """(segments, steps a segment)."""
        length = min(self.length or math.isqrt(num_steps - 1) + 1, num_steps)
        return (-(-num_steps // length), length)


@dataclass(frozen=True)
class Tree(Checkpoint):
    """Segments within segments, `depth` levels: memory about depth · T^(1/depth).

    Each level adds one forward pass of recomputation, and one loop to compile
    whatever T.

    Attributes:
      depth: number of nested scans; 1 is `NoCheckpoint`, 2 is `Segments`.
    """

    depth: int = 3

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError(f"Tree.depth must be >= 1, got {self.depth}")

    def lengths(self, num_steps):
        """The smallest equal arity whose power reaches T, trimmed at the top."""
        depth = min(self.depth, max(1, (num_steps - 1).bit_length()))  # log₂ T
        arity = max(2, round(num_steps ** (1 / depth)))
        arity += arity**depth < num_steps
        inner = arity ** (depth - 1)
        return (-(-num_steps // inner), *(arity,) * (depth - 1))


@dataclass(frozen=True)
class KAry(Checkpoint):
    """A tree of arity k down to single steps: memory about k · log_k T states + R.

    As deep as it must be, d = ⌈log_k T⌉ levels, each of which keeps the starts of the k
    children of one node: the tree that REPLAY walks (Engstrom et al. 2025). The least
    memory of all for long T, for d further forward passes; the program to compile grows
    as d².

    Attributes:
      arity: k >= 2, children a node. 2 needs no less memory than 4, and twice the time.
    """

    arity: int = 4

    def __post_init__(self):
        if self.arity < 2:
            raise ValueError(f"KAry.arity must be >= 2, got {self.arity}")

    def lengths(self, num_steps):
        """Those of the `Tree` of the least depth that keeps within the arity."""
        depth = 1
        while self.arity**depth < num_steps:
            depth += 1
        return Tree(depth).lengths(num_steps)

    @property
    def recompute_step(self):
        """True."""
        return True


@dataclass(frozen=True)
class Gradients(Checkpoint):
    """Keep every inner gradient and one state a segment: memory T · G + 2 √T · C.

    The states within a segment come out of the kept gradients by the optimiser alone,
    so that no loss is ever evaluated twice: with `Mixed`, the fewest flops of all that
    keep less than every state.

    Attributes:
      stretch: None, or the steps whose gradients are kept at a time: the loop is then
        run a second time, and T · G becomes (T / stretch) · C + stretch · G.
    """

    stretch: int | None = None

    def __post_init__(self):
        if self.stretch is not None and self.stretch < 1:
            raise ValueError(
                f"Gradients.stretch must be >= 1 or None, got {self.stretch}"
            )

    def lengths(self, num_steps):
        """(segments, steps a segment), within stretches if there are any."""
        stretch = min(self.stretch or num_steps, num_steps)
        segments = Segments().lengths(stretch)
        if self.stretch is None:
            return segments
        return (-(-num_steps // math.prod(segments)), *segments)

    @property
    def policy(self):
        """The inner gradients."""
        return only_gradients


CHECKPOINTS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (NoCheckpoint, EveryStep, Segments, Tree, KAry, Gradients)
}
"""Every checkpointing value by name, for configs."""


def loop(
    body: Callable[[Carry, jax.Array], Carry],
    carry: Carry,
    num_steps: int,
    *,
    checkpoint: Checkpoint = NoCheckpoint(),
    first: int | jax.Array = 0,
) -> Carry:
    """carry_{t+1} = body(carry_t, t) for t = first, ..., first + num_steps - 1.

    Args:
      body: `(carry, t) -> carry`, t an int32 scalar.
      carry: any pytree of arrays.
      num_steps: static length >= 0.
      checkpoint: what reverse mode keeps.
      first: number of the first step, may be traced.

    Returns:
      The last carry.
    """
    if num_steps == 0:
        return carry
    first = jnp.asarray(first, jnp.int32)
    lengths = checkpoint.lengths(num_steps)
    step: Any = body
    if math.prod(lengths) > num_steps:  # the last segment is not full
        end = first + num_steps

        def masked(carry, t):
            return jax.lax.cond(t < end, body, lambda carry, t: carry, carry, t)

        step = masked

    if checkpoint.recompute_step:
        step = jax.checkpoint(step, prevent_cse=False)

    stride = 1
    for level, length in enumerate(reversed(lengths)):
        inner = step
        if level:
            policy = checkpoint.policy if level == 1 else None
            inner = jax.checkpoint(step, prevent_cse=False, policy=policy)
        step = _scan(inner, length, stride)
        stride *= length
    return step(carry, first)


def _scan(inner, length, stride):
    def run(carry, first):
        def body(carry, i):
            return inner(carry, first + i * stride), None

        return jax.lax.scan(body, carry, jnp.arange(length, dtype=jnp.int32))[0]

    return run


def unroll(
    problem: Problem,
    hparams: HParams,
    key: Key,
    *,
    checkpoint: Checkpoint = NoCheckpoint(),
    gradient: InnerGradient = Plain(),
    window: int | None = None,
) -> tuple[Scalar, PyTree]:
    """F(λ) = Σ_t outer_t(λ, s_t) and the last state s_T, by running the training.

    Args:
      problem: the problem.
      hparams: λ.
      key: the run's key (start, batches, dropout, ...).
      checkpoint: what reverse mode keeps of the loop.
      gradient: the inner gradient operator (`Plain()` or `Mixed()`).
      window: K cuts the derivative (never the value): states older than the K-step
        window that an outer loss lies in count as constants. Windows end at step T.

    Returns:
      `(value, state)`, value of shape ().
    """
    state = problem.start(hparams, key)
    check_step(problem, hparams, state, key, gradient)
    every, end = problem.outer_every, problem.num_steps

    def advance(carry, t):
        state, value = carry
        state = problem.step(hparams, state, t, key, gradient)
        if every is not None:
            value = add_outer(problem, hparams, state, value, t + 1, key)
        return state, value

    zero = zero_outer(problem, hparams, state, key)
    if window is None or window >= end:
        carry = loop(advance, (state, zero), end, checkpoint=checkpoint)
    elif every is None:
        # Steps before the only window contribute nothing: run them undifferentiated.
        fixed = jax.lax.stop_gradient(hparams)

        def warm_up(state, t):
            return problem.step(fixed, state, t, key)

        before = end - window
        state = loop(warm_up, jax.lax.stop_gradient(state), before)
        carry = loop(
            advance, (state, zero), window, checkpoint=checkpoint, first=before
        )
    else:

        def windowed(carry, t):
            state, value = carry
            cut = (end - t) % window == 0
            state = jax.tree.map(
                lambda x: jnp.where(cut, jax.lax.stop_gradient(x), x), state
            )
            return advance((state, value), t)

        carry = loop(windowed, (state, zero), end, checkpoint=checkpoint)

    state, value = carry
    if every is None:
        value = problem.outer(hparams, state, end, key)
    return value, state


def train(problem: Problem, hparams: HParams, key: Key) -> PyTree:
    """s_T: the state after training with λ (for everyday problems an `InnerState`)."""
    return unroll(problem, hparams, key)[1]


def add_outer(
    problem: Problem, hparams: HParams, state: PyTree, value: Scalar, t, key: Key
) -> Scalar:
    """`value` + outer_t(λ, s_t) where t is a multiple of `outer_every`."""
    if problem.outer_every == 1:
        return value + problem.outer(hparams, state, t, key)
    return jax.lax.cond(
        t % problem.outer_every == 0,
        lambda: value + problem.outer(hparams, state, t, key),
        lambda: value,
    )


def outer_term(problem: Problem, hparams: HParams, state: PyTree, t, key: Key):
    """outer_t(λ, s_t), 0 where `outer_every` passes t over; any t without it."""
    if problem.outer_every is None:
        return problem.outer(hparams, state, t, key)
    zero = zero_outer(problem, hparams, state, key)
    return add_outer(problem, hparams, state, zero, t, key)


def zero_outer(problem: Problem, hparams: HParams, state: PyTree, key: Key) -> Scalar:
    """0 in the type of the outer loss: what `add_outer` starts from."""
    return tree.zeros_of(lambda h, s: problem.outer(h, s, 0, key), hparams, state)


def check_step(
    problem: Problem,
    hparams: HParams,
    state: PyTree,
    key: Key,
    gradient: InnerGradient = Plain(),
) -> None:
    """Raise a `ValueError`, naming the leaf, if a step changes the state's form."""
    expected = jax.eval_shape(lambda s: s, state)
    got = jax.eval_shape(
        lambda h, s: problem.step(h, s, 0, key, gradient), hparams, state
    )
    if jax.tree.structure(expected) != jax.tree.structure(got):
        raise ValueError(
            "step must return a state of the structure that start gave: expected "
            f"{jax.tree.structure(expected)}, got {jax.tree.structure(got)}"
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(got), strict=True
    )
    for (path, a), b in pairs:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(
                f"step changes the state's leaf {jax.tree_util.keystr(path)}: start "
                f"gave {a.dtype}{list(a.shape)}, step returned {b.dtype}"
                f"{list(b.shape)}. Cast or reshape so that every step returns a state "
                "like the one it was given"
            )
