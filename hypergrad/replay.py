"""dF/dλ for very long training: states on disk, and a backward pass that can be killed.

REPLAY (Engstrom et al. 2025) driven from the host. Forwards, the state at which each
segment starts goes to disk. Backwards, from the last segment to the first, one compiled
program turns the adjoint at a segment's end into that at its start, and the result goes
to disk before the next. Whatever is killed, the same call goes on from there, to the
same bits.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from hypergrad import checkpoints, tree
from hypergrad.estimators.base import Estimate, Info, objective_of_floats
from hypergrad.estimators.online_base import run_window
from hypergrad.estimators.sweep import pull_start, pull_window, zeros_like_floats
from hypergrad.gradients import InnerGradient, Mixed
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar
from hypergrad.unroll import Checkpoint, EveryStep, check_step, zero_outer

Tree = TypeVar("Tree")


def replay(
    problem: Problem,
    hparams: HParams,
    key: Key,
    folder: str | Path,
    *,
    segment: int | None = None,
    arity: int | None = None,
    checkpoint: Checkpoint = EveryStep(),
    gradient: InnerGradient = Mixed(),
    report: Callable[[int, int], None] | None = None,
) -> Estimate:
    """dF/dλ by reverse mode, Σ_i (∂s_{(i+1)K}/∂λ)ᵀ v_{(i+1)K} over segments of K steps.

    Called again with the same arguments after a kill, it goes on from the last file
    written, forwards or backwards, and returns the bits of the undisturbed run (on the
    same machine). A damaged file counts as absent: what it held is computed again from
    the one before. After the end, the folder holds the result. For use outside of jit.

    Computes: dF/dλ, exactly.
    Bias:     none.
    Variance: none beyond that of F over keys.
    Memory:   on the device that of `checkpoint` over one segment; on disk T / K states,
              or with an arity a about a · log_a (T / K).
    Time:     4 to 5 T inner steps; with an arity, log_a (T / K) − 1 times T more.

    Args:
      problem: the problem.
      hparams: λ.
      key: the run's key.
      folder: where to keep states; made if absent. One run, one folder.
      segment: K; None for ⌈√T⌉.
      arity: None keeps the start of every segment; a >= 2 those of an a-ary tree's
        current branch, and computes the others again.
      checkpoint: what is kept of the segment being swept.
      gradient: the inner gradient's derivative rule, `Mixed()` or `Plain()`.
      report: called with (done, all), counted in segments forwards and backwards,
        after each is safe on disk.

    Returns:
      `Estimate(value, hypergrad, Info(s_T))`, as `Reverse` gives.

    Raises:
      ValueError: the folder holds a run of another problem, λ or key.

    Example:
      >>> import jax, jax.numpy as jnp, tempfile, hypergrad as hg
      >>> problem = hg.Problem.from_step(
      ...     start=lambda hp, tick: jnp.ones(()), step=lambda hp, s, tick: hp * s,
      ...     outer_at=lambda hp, s, tick: s, num_steps=3)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     print(hg.replay(problem, 2.0, jax.random.key(0), folder).hypergrad)
      12.0
    """
    if segment is not None and segment < 1:
        raise ValueError(f"segment must be >= 1 or None, got {segment}")
    if arity is not None and arity < 2:
        raise ValueError(f"arity must be >= 2 or None, got {arity}")
    hparams = tree.as_arrays(hparams)
    _, floats, restore = objective_of_floats(lambda hparams: hparams, hparams)
    num_steps = problem.num_steps
    length = min(segment or math.isqrt(num_steps - 1) + 1, num_steps)
    starts = [*range(0, num_steps, length), num_steps]
    end = len(starts) - 1
    run = (problem, hparams, key)

    first = _start(*run)
    check_step(problem, hparams, first.state, key, gradient)
    swept = _Backward(*zeros_like_floats((first.state, floats)))
    program = _pull.lower(
        length, checkpoint, gradient, *run, first.state, jnp.int32(0), swept
    )
    store = _Store.open(Path(folder), _identity(program, length, *run))

    def tell(done):
        if report is not None:
            report(done, 2 * end)

    def reach(target, keep):
        """The state at the start of a segment, from the nearest one on disk."""
        at, found = 0, first
        for i in range(target, 0, -1):
            if (whole := store.read("state", i, first)) is not None:
                at, found = i, whole
                break
        for i in range(at, target):
            t = jnp.int32(starts[i])
            found = _advance(starts[i + 1] - starts[i], *run, found, t)
            if i + 1 in keep:
                store.save("state", i + 1, found)
            if target == end:
                tell(i + 1)
        return found

    last = reach(end, kept(end - 1, arity) | {end})
    at = end
    for i in range(end):
        if (whole := store.read("adjoint", i, swept)) is not None:
            at, swept = i, whole
            break
    for i in reversed(range(at)):
        state = reach(i, kept(i, arity)).state
        size, t = starts[i + 1] - starts[i], jnp.int32(starts[i])
        swept = _pull(size, checkpoint, gradient, *run, state, t, swept)
        store.save("adjoint", i, swept)
        states = {("state", j) for j in {end, *kept(i - 1, arity)}}
        store.prune(states | {("adjoint", i), ("adjoint", i + 1)})
        tell(2 * end - i)

    hypergrad = restore(_finish(*run, swept))
    return Estimate(last.value, hypergrad, Info(last.state))


def kept(target: int, arity: int | None) -> set[int]:
    """The segments whose starts are on disk while segment `target` is swept.

    Those of an a-ary tree: on each level the siblings up to the ancestor of `target`.
    The start of segment 0 is that of training, which is computed.
    """
    if arity is None:
        return set(range(1, target + 1))
    starts, stride = set(), 1
    while stride <= target:
        first_sibling = target - target % (stride * arity)
        starts.update(range(first_sibling, target + 1, stride))
        stride *= arity
    return starts - {0}


class _Forward(NamedTuple):
    """What is kept at the start of a segment."""

    state: PyTree
    value: Scalar  # the sum of the outer losses so far


class _Backward(NamedTuple):
    """What is kept of the sweep back to the start of a segment."""

    adjoint: PyTree
    hypergrad: HParams  # the sum over the segments so far


@jax.jit
def _start(problem, hparams, key):
    state = problem.start(hparams, key)
    return _Forward(state, zero_outer(problem, hparams, state, key))


@functools.partial(jax.jit, static_argnums=0)
def _advance(size, problem, hparams, key, carry, t):
    loss, state = run_window(
        problem, hparams, carry.state, t, key, size, end_loss=False
    )
    return _Forward(state, carry.value + loss)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pull(size, checkpoint, gradient, problem, hparams, key, state, t, swept):
    added, adjoint = pull_window(
        problem,
        hparams,
        state,
        t,
        key,
        size,
        swept.adjoint,
        checkpoint=checkpoint,
        gradient=gradient,
    )
    return _Backward(adjoint, tree.axpy(1, added, swept.hypergrad))


@jax.jit
def _finish(problem, hparams, key, swept):
    added = pull_start(problem, hparams, key, swept.adjoint)
    return tree.axpy(1, added, swept.hypergrad)


def _identity(program, length, problem, hparams, key) -> str:
    """The run's name: its programs, sizes, data, λ and key; the same in any process."""
    identity = hashlib.sha256(f"{problem.num_steps} {length} ".encode())
    begin = _start.lower(problem, hparams, key)
    identity.update((begin.as_text() + program.as_text()).encode())
    identity.update(checkpoints.digest((problem, hparams, key)))
    return identity.hexdigest()[:16]


@dataclass(frozen=True)
class _Store:
    """Files KIND-INDEX-RUN.npz in one folder, each whole or as good as absent."""

    path: Path
    run: str

    @classmethod
    def open(cls, path: Path, run: str) -> "_Store":
        """Make the folder, or refuse one that holds another run."""
        path.mkdir(parents=True, exist_ok=True)
        files = [*path.glob("state-*-*.npz"), *path.glob("adjoint-*-*.npz")]
        others = {file.stem.split("-")[-1] for file in files} - {run}
        if others:
            raise ValueError(
                f"folder {path} holds the run {min(others)} of another problem, "
                f"hparams, key, segment or version, got {run}: use an empty folder, or "
                "the arguments that it was made with"
            )
        return cls(path, run)

    def _file(self, kind: str, index: int) -> Path:
        return self.path / f"{kind}-{index:08d}-{self.run}.npz"

    def save(self, kind: str, index: int, pytree: PyTree) -> None:
        checkpoints.save(self._file(kind, index), pytree)

    def read(self, kind: str, index: int, like: Tree) -> Tree | None:
        return checkpoints.read(self._file(kind, index), like)

    def prune(self, keep: set[tuple[str, int]]) -> None:
        """Remove this run's other files, and what a killed write left."""
        wanted = {self._file(kind, index) for kind, index in keep}
        for file in self.path.glob(f"*-{self.run}.npz"):
            if file not in wanted:
                file.unlink()
        for torn in self.path.glob(f".*-{self.run}.npz.*.tmp"):
            torn.unlink()
