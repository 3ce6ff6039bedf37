"""A searcher proposes coordinates z and learns from F(z): init, ask, tell.

A study is `lax.scan` of ask -> evaluate -> tell, so `ask` and `tell` are pure functions
of fixed-shape arrays: they jit, vmap over keys, and lower for every backend. The
exceptions, searchers on the host, say so.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from hypergrad.space import Space
from hypergrad.typing import Key, PyTree


class Searcher(abc.ABC):
    """An immutable choice of how to search; what it has seen lives in its state.

    Attributes:
        needs_gradient: whether `tell` reads dF/dz.
        on_host: whether `ask` and `tell` are Python that no program can hold, as
            another library's; they then see concrete arrays (`HostSearch`).
        batch: how many coordinates one `ask` proposes.
    """

    needs_gradient: ClassVar[bool] = False
    on_host: ClassVar[bool] = False
    batch: int

    @abc.abstractmethod
    def init(self, space: Space, num_trials: int, key: Key) -> PyTree:
        """State before the first trial of `num_trials`; the key may be traced."""

    @abc.abstractmethod
    def ask(self, space: Space, state: PyTree) -> tuple[jax.Array, PyTree]:
        """Propose coordinates [batch, d]."""

    @abc.abstractmethod
    def tell(
        self,
        space: Space,
        state: PyTree,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> PyTree:
        """Learn F [batch] and, if `needs_gradient`, dF/dz [batch, d] at `coords`.

        A value that is not finite is a diverged run: the worst, never an error.
        """

    def num_trials(self, space: Space, budget_trials: int) -> int:
        """How many of `budget_trials` the searcher can use."""
        del space
        return budget_trials

    def describe(self, space: Space, num_trials: int) -> str:
        """One sentence on what `num_trials` trials in this space will be."""
        where = f"{space.dim} dimensions"
        if space.has_choices:
            count = len(space.discrete)
            where = f"{space.dim - count} dimensions and {count} choices"
        return f"{self}: {num_trials} trials in {where}"


def start(space: Space, key: Key, index: int | jax.Array) -> jax.Array:
    """Starting point `index`, z [d]: 0 is the default, the others are uniform draws.

    Every searcher begins from these, so that at equal keys they begin equal.
    """
    default = space.to_coords(space.defaults())
    drawn = space.sample(jax.random.fold_in(key, index))
    return jnp.where(index == 0, default, drawn)


def starts(space: Space, key: Key, indices: jax.Array) -> jax.Array:
    """`start` of each of the indices [n]: [n, d]."""
    return jax.vmap(lambda index: start(space, key, index))(indices)


class PlanState(NamedTuple):
    """All the points [n, d] of a study, and how many were asked for."""

    points: jax.Array
    num_asked: jax.Array


@dataclass(frozen=True)
class PlannedSearch(Searcher):
    """A search that ignores what it is told: its points are known before the study."""

    batch: int = 1

    def __post_init__(self):
        check_positive("batch", self.batch)

    @abc.abstractmethod
    def plan(self, space: Space, num_trials: int, key: Key) -> jax.Array:
        """The points of trials 1, 2, ..., num_trials - 1: [num_trials - 1, d]."""

    def init(self, space: Space, num_trials: int, key: Key) -> PlanState:
        """Plan all trials: the default, then the searcher's own."""
        default = space.to_coords(space.defaults())[None]
        points = jnp.concatenate([default, self.plan(space, num_trials, key)])
        return PlanState(points, jnp.zeros((), int))

    def ask(self, space: Space, state: PlanState) -> tuple[jax.Array, PlanState]:
        """The next rows of the plan; after its end it begins again."""
        del space
        rows = (state.num_asked + jnp.arange(self.batch)) % len(state.points)
        return state.points[rows], state._replace(
            num_asked=state.num_asked + self.batch
        )

    def tell(
        self,
        space: Space,
        state: PlanState,
        coords: jax.Array,
        values: jax.Array,
        grads: jax.Array | None = None,
    ) -> PlanState:
        """Nothing to learn."""
        del space, coords, values, grads
        return state


def check_positive(name: str, value: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least one."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def check_gradient(searcher: Searcher, grads: jax.Array | None) -> jax.Array:
    """Raise ValueError unless the searcher was told dF/dz."""
    if grads is None:
        raise ValueError(
            f"grads must be dF/dz [batch, d]; got None. {type(searcher).__name__} "
            "needs an estimator that gives a hypergradient, such as Reverse()"
        )
    return grads


def check_continuous(space: Space) -> None:
    """Raise ValueError unless the space has a hyperparameter to descend in."""
    if not space.continuous:
        raise ValueError(
            f"space must have a continuous hyperparameter to descend in; got choices "
            f"only, {list(space.discrete)}; use GridSearch or another search by values"
        )
