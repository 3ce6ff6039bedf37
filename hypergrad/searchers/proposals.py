"""Where new descents begin: at random, or where a process expects them to end low."""

import abc
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp

import hypergrad.searchers.gaussian_process as gp
from hypergrad.searchers.acquisition import CANDIDATES, believed_batch
from hypergrad.searchers.base import check_positive
from hypergrad.searchers.dealing import dealt
from hypergrad.searchers.features import features, filled, groups, standardise
from hypergrad.space import Space
from hypergrad.typing import Key


class Proposals(abc.ABC):
    """Proposes the z and the choices where descents begin; an immutable value."""

    @abc.abstractmethod
    def propose(
        self,
        space: Space,
        key: Key,
        indices: jax.Array,
        begun: jax.Array,
        reached: jax.Array,
        count: jax.Array,
    ) -> jax.Array:
        """Where the descents `indices` [k] begin, z [k, d].

        Args:
            space: where.
            key: the search's.
            indices: numbers of the new descents, counted from the first of all.
            begun: where the known ones began, z [n, d].
            reached: the F that each had reached at equal age, [n].
            count: how many of the rows are known.
        """


@final
@dataclass(frozen=True)
class RandomProposals(Proposals):
    """Descent i begins at the default or a uniform draw, in combination i of choices.

    >>> RandomProposals()
    RandomProposals()
    """

    def propose(self, space, key, indices, begun, reached, count):
        """The next of the starting points that every descent search has."""
        del begun, reached, count
        return dealt(space, key, indices)


@final
@dataclass(frozen=True)
class BayesianProposals(Proposals):
    """argmax EI under a Gaussian process of F(after one rung | start, choices).

    The process smooths F as a descent of one rung sees it: local structure that a few
    steps leave behind is gone. It is fitted anew at each proposal.

    Args:
        warmup: descents begun at random before the model is asked.
        num_candidates: points at which EI is compared.
        fit_steps: Adam steps of a fit.
        jitter: added to the kernel's diagonal, relative to its variance.

    >>> BayesianProposals(warmup=6).warmup
    6
    """

    warmup: int = 4
    num_candidates: int = 256
    fit_steps: int = 30
    jitter: float = 1e-4

    def __post_init__(self):
        for name in ("warmup", "num_candidates", "fit_steps"):
            check_positive(name, getattr(self, name))
        if not self.jitter > 0:
            raise ValueError(f"jitter must be positive; got {self.jitter}")

    def propose(self, space, key, indices, begun, reached, count):
        """The points of most expected improvement; the random ones while warming up."""
        room = ((0, len(indices)), (0, 0))
        cube = jnp.pad(jax.vmap(space.to_cube)(begun), room)
        values = jnp.pad(reached, room[0])

        def model():
            known, targets = groups(space), standardise(values, filled(values, count))
            starts = jax.tree.map(lambda leaf: leaf[None], gp.prior_params(known))
            params = gp.fit(
                starts,
                features(space, cube),
                targets,
                filled(values, count),
                known,
                self.jitter,
                self.fit_steps,
            )

            def surrogate(cube, targets, count):
                mask, inputs = filled(targets, count), features(space, cube)
                posterior = gp.condition(
                    params, inputs, targets, mask, known, self.jitter
                )
                return lambda points: gp.predict(
                    posterior, features(space, points), known
                )

            seed = jax.random.fold_in(jax.random.fold_in(key, CANDIDATES), indices[0])
            points = believed_batch(
                space,
                surrogate,
                cube,
                targets,
                count,
                seed,
                len(indices),
                self.num_candidates,
            )
            return jax.vmap(space.from_cube)(points)

        return jax.lax.cond(
            count < self.warmup, lambda: dealt(space, key, indices), model
        )


PROPOSALS: dict[str, type] = {
    c.__name__: c for c in (RandomProposals, BayesianProposals)
}
"""Both by name, for configs."""
