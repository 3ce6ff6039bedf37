"""What an estimator is: a value with `init` and `estimate`, and what it aims at."""

import enum
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypergrad import tree
from hypergrad.problem import Problem
from hypergrad.typing import HParams, Key, PyTree, Scalar


class Target(enum.Enum):
    """The quantity that an estimator estimates, and against which it is proved."""

    OBJECTIVE = "dF/dλ"
    WINDOW = "dF/dλ with states older than the window held constant"
    SMOOTHED = "the derivative of F smoothed over a ball in λ"
    UPDATE = "an online update of λ, which is no derivative of F"
    NOTHING = "the value F(λ) alone"


class Info(NamedTuple):
    """What an estimate knows beside value and hypergradient.

    Attributes:
      state: s_T, the state after training (for everyday problems an `InnerState`).
      doubtful: shape (), whether the estimate should not be trusted as it stands;
        `Estimator.doubt` says why.
    """

    state: PyTree
    doubtful: jax.Array | bool = False


class Estimate(NamedTuple):
    """One estimate at one λ.

    Attributes:
      value: F(λ), or the online loss, shape ().
      hypergrad: like λ (integer leaves carry float0 zeros); None from `Value`.
      info: `Info`, or a richer NamedTuple of arrays with the same two fields.
    """

    value: Scalar
    hypergrad: HParams
    info: Any


class Estimator(ABC):
    """An immutable, hashable value; its state is a separate pytree.

    An episodic estimator trains from start to end at every call and carries `()`. An
    online one carries the inner state (and more) from call to call; given `()` it, too,
    trains once from start to end, with λ held.
    """

    @property
    @abstractmethod
    def target(self) -> Target:
        """What it estimates."""

    @property
    def exact(self) -> bool:
        """Whether, in exact arithmetic, the estimate equals dF/dλ."""
        return False

    @property
    def unbiased(self) -> bool:
        """Whether its mean over its own randomness equals what `target` names."""
        return self.exact

    def init(self, problem: Problem, hparams: HParams, key: Key) -> PyTree:
        """The estimator's state before the first estimate; `()` when episodic."""
        del problem, hparams, key
        return ()

    @abstractmethod
    def estimate(
        self, problem: Problem, hparams: HParams, state: PyTree, key: Key
    ) -> tuple[Estimate, PyTree]:
        """The estimate at λ with the run's key, and the next state."""
        ...

    def applies(self, problem: Problem) -> str | None:
        """None where the estimator serves, otherwise the reason why it does not."""
        del problem
        return None

    def doubt(self, info: Any) -> str | None:
        """Why this estimate should not be trusted, from concrete info; None if fine."""
        if not bool(info.doubtful):
            return None
        return f"{self}: the estimate is doubtful"

    def twice_differentiable(self) -> "Estimator | None":
        """The same estimator in a form that JAX may differentiate, or None."""
        return None


def estimator_key(key: Key, i: int | jax.Array = 0) -> Key:
    """Key number i for an estimator's own randomness.

    Apart from all that the training derives from its key by one `fold_in` or `split`.
    """
    return jax.random.fold_in(jax.random.fold_in(key, 0x5EED), i)


def objective_of_floats(fn, hparams: HParams):
    """Restrict `fn(hparams)` to the floating leaves of λ.

    Returns:
      `(fn_of_floats, floats, restore)`; `restore(hypergrad_of_floats)` puts float0
      zeros where λ has integers or keys.
    """
    floats, others = tree.partition(tree.as_arrays(hparams))
    if not jax.tree.leaves(floats):
        raise ValueError(
            "hparams has no floating leaf to differentiate; write 1.0 rather than 1"
        )

    for path, leaf in jax.tree_util.tree_leaves_with_path(floats):
        if jnp.finfo(leaf.dtype).bits < 32:
            raise ValueError(
                f"hparams{jax.tree_util.keystr(path)} is {leaf.dtype}, in which a sum "
                "over the steps of training stalls and the hypergradient is wrong: "
                "pass it in float32 and cast where it is used"
            )

    def restore(hypergrad):
        return tree.combine(hypergrad, tree.without_tangent(others))

    return lambda x: fn(tree.combine(x, others)), floats, restore
