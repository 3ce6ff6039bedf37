"""Named hyperparameters: values λ, Euclidean coordinates z, and the unit cube u.

    λ  --to_coords-->  z = log λ, logit λ, ...  --to_cube-->  u = (z - a) / (b - a)

Grid, random, Bayesian and gradient search all move in z (or u); problems and
estimators only ever see λ. A `Choice` has a coordinate too, but is no part of λ: it
decides which problem is trained. A `Space` is hashable, so it is static under jit.
"""

import difflib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from hypergrad.choices import Choice
from hypergrad.hyperparameters import SLACK, Hyperparameter, floats

Entry = Hyperparameter | Choice


@final
@dataclass(frozen=True, init=False, repr=False)
class Space:
    """λ = {name: array} <-> z in R^d <-> u in [0, 1]^d, by one map per name.

    Args:
        entries: a `Hyperparameter`, or a `Choice`, per name; their order is that of
            the coordinates.

    >>> from hypergrad.hyperparameters import Log, Logit
    >>> space = Space({"lr": Log(0.01, 1.0, shape=2), "momentum": Logit(0.1, 0.9)})
    >>> space.names
    ('lr[0]', 'lr[1]', 'momentum')
    >>> print(space.to_cube(space.to_coords(space.defaults())))
    [0.5 0.5 0.5]
    >>> space = Space({"lr": Log(0.01, 1.0), "cell": Choice(("gru", "lstm"))})
    >>> sorted(space.defaults()), space.choices(jnp.array([-1.0, 1.0]))
    (['lr'], {'cell': 'lstm'})
    """

    entries: tuple[tuple[str, Entry], ...]

    def __init__(self, entries: Mapping[str, Entry]):
        if not entries:
            raise ValueError("entries must name at least one hyperparameter; got none")
        for name, entry in entries.items():
            if not isinstance(entry, Entry):
                raise ValueError(
                    f"entries[{name!r}] must be a Hyperparameter, such as "
                    f"Log(1e-3, 1.0), or a Choice; got {entry!r}"
                )
        object.__setattr__(self, "entries", tuple(entries.items()))

    def __repr__(self) -> str:
        return f"Space({dict(self.entries)!r})"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each coordinate: "momentum", "lr[0]", "mask[1,2]"."""
        return tuple(
            coord for name, entry in self.entries for coord in _coord_names(name, entry)
        )

    @property
    def dim(self) -> int:
        """Number of coordinates, d."""
        return len(self.names)

    @property
    def continuous(self) -> dict[str, Hyperparameter]:
        """The entries that make λ."""
        return {n: e for n, e in self.entries if isinstance(e, Hyperparameter)}

    @property
    def discrete(self) -> dict[str, Choice]:
        """The entries that are choices."""
        return {n: e for n, e in self.entries if isinstance(e, Choice)}

    @property
    def has_choices(self) -> bool:
        """Whether any entry is a choice."""
        return bool(self.discrete)

    @cached_property
    def is_choice(self) -> np.ndarray:
        """Which of the coordinates are choices: bool [d]."""
        return np.repeat(
            [isinstance(entry, Choice) for _, entry in self.entries],
            [entry.size for _, entry in self.entries],
        )

    def defaults(self) -> dict[str, Array]:
        """λ at every default."""
        return {n: e.from_coord(e.default_coord()) for n, e in self.continuous.items()}

    def default_choices(self) -> dict[str, Any]:
        """Every choice's default option."""
        return {n: e.default_option for n, e in self.discrete.items()}

    def to_coords(
        self,
        hparams: Mapping[str, Array],
        choices: Mapping[str, Hashable] | None = None,
    ) -> Array:
        """The coordinates z [d] of values λ and of choices, by default the defaults."""
        self._check_shapes(hparams)
        chosen = self.default_choices() | self._known_choices(choices or {})
        return jnp.concatenate(
            [
                floats(e.index(chosen[n])).reshape(1)
                if isinstance(e, Choice)
                else e.to_coord(floats(hparams[n])).reshape(-1)
                for n, e in self.entries
            ]
        )

    def from_coords(self, coords: Array) -> dict[str, Array]:
        """The values λ at coordinates z [d], whatever the choices."""
        return {
            n: e.from_coord(z)
            for n, e, z in self._pieces(coords)
            if isinstance(e, Hyperparameter)
        }

    def choices(self, coords: Array) -> dict[str, Any]:
        """The option of every choice at concrete coordinates z [d]."""
        if isinstance(coords, Tracer):
            raise ValueError(
                "coords must be concrete, for options are Python values that decide "
                "what is compiled; got a traced array; call choices outside of jit"
            )
        pieces = self._pieces(np.asarray(coords))
        return {n: e.option(z) for n, e, z in pieces if isinstance(e, Choice)}

    def bounds(self) -> tuple[Array, Array]:
        """The box of coordinates: low a [d] and high b [d]."""
        pairs = [(e.size, *e.coord_bounds()) for _, e in self.entries]
        low = jnp.concatenate([jnp.full(size, low) for size, low, _ in pairs])
        high = jnp.concatenate([jnp.full(size, high) for size, _, high in pairs])
        return low, high

    def to_cube(self, coords: Array) -> Array:
        """The point u = (z - a) / (b - a), [d]."""
        low, high = self.bounds()
        return (coords - low) / (high - low)

    def from_cube(self, cube: Array) -> Array:
        """The coordinates z = a (1 - u) + b u, [d], exact at both ends."""
        low, high = self.bounds()
        return low * (1.0 - cube) + high * cube

    def project(self, coords: Array) -> Array:
        """Nearest z [d] within the bounds and each hyperparameter's constraint."""
        return jnp.concatenate(
            [e.project(z).reshape(-1) for _, e, z in self._pieces(coords)]
        )

    def sample(self, key: Array) -> Array:
        """Random z [d]: uniform in the cube, then projected."""
        return self.project(self.from_cube(jax.random.uniform(key, (self.dim,))))

    def check(self, hparams: Mapping[str, Array]) -> None:
        """Raise ValueError unless λ has the names, shapes and range declared here.

        Under a trace only names and shapes can be checked.
        """
        self._check_shapes(hparams)
        for name, entry in self.continuous.items():
            value = hparams[name]
            if isinstance(value, Tracer):
                continue
            with jax.ensure_compile_time_eval():
                coord = entry.to_coord(floats(value))
                low, high = entry.coord_bounds()
                slack = SLACK * (high - low)
                inside = (low - slack <= coord) & (coord <= high + slack)
                if not np.all(inside):
                    raise ValueError(
                        f"hparams[{name!r}] must lie in [{entry.low}, {entry.high}]; "
                        f"got {value}"
                    )
                if not np.all(abs(entry.project(coord) - coord) <= slack):
                    raise ValueError(
                        f"hparams[{name!r}] must satisfy {entry}; got {value}. "
                        f"Space.project gives the nearest point that does"
                    )

    def tie(self, axes: Mapping[str, Iterable[str]]) -> "Ties":
        """The subspace in which all coordinates of an axis share a cube position."""
        return Ties(self, tuple((name, tuple(to)) for name, to in axes.items()))

    def _check_shapes(self, hparams: Mapping[str, Array]) -> None:
        declared = list(self.continuous)
        for name in hparams:
            if name not in declared:
                raise ValueError(
                    f"hparams has an unknown name {name!r}; "
                    f"expected {declared}{_did_you_mean(name, declared)}"
                )
        for name, entry in self.continuous.items():
            if name not in hparams:
                raise ValueError(f"hparams lacks {name!r}; got {list(hparams)}")
            shape = jnp.shape(hparams[name])
            if shape != entry.shape:
                raise ValueError(
                    f"hparams[{name!r}] must have shape {entry.shape}; got {shape}"
                )

    def _known_choices(self, choices: Mapping[str, Hashable]) -> dict[str, Hashable]:
        known = list(self.discrete)
        for name in choices:
            if name not in known:
                raise ValueError(
                    f"choices has an unknown name {name!r}; "
                    f"expected {known}{_did_you_mean(name, known)}"
                )
        return dict(choices)

    def _pieces(self, coords: Any) -> Iterable[tuple[str, Entry, Any]]:
        if coords.shape != (self.dim,):
            raise ValueError(
                f"coords must have shape ({self.dim},); got {coords.shape}"
            )
        start = 0
        for name, entry in self.entries:
            piece = coords[start : start + entry.size]
            yield name, entry, piece.reshape(entry.shape)
            start += entry.size


@final
@dataclass(frozen=True)
class Ties:
    """u [m] -> z [d]: each axis moves its coordinates together through the cube.

    Attributes:
        space: the space whose coordinates are tied.
        axes: pairs (axis name, names of hyperparameters or single coordinates).

    >>> from hypergrad.hyperparameters import Linear, Log
    >>> space = Space({"lr": Log(0.01, 1.0, shape=3), "momentum": Linear(0.0, 1.0)})
    >>> ties = space.tie({"rate": ("lr",)})
    >>> print(space.to_cube(ties.expand(jnp.array([0.25]))).round(3))
    [0.25 0.25 0.25 0.5 ]
    """

    space: Space
    axes: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self):
        claimed: dict[str, str] = {}
        entries = dict(self.space.entries)
        known = [*entries, *self.space.names]
        for axis, targets in self.axes:
            if not targets:
                raise ValueError(f"axis {axis!r} ties no hyperparameter")
            for target in targets:
                if target not in known:
                    raise ValueError(
                        f"axis {axis!r} ties an unknown name {target!r}; "
                        f"expected one of {list(entries)} or a coordinate such as "
                        f"{self.space.names[0]!r}{_did_you_mean(target, known)}"
                    )
                for name in self._coordinates(target):
                    if name in claimed:
                        raise ValueError(
                            f"axes {claimed[name]!r} and {axis!r} both tie {name!r}"
                        )
                    claimed[name] = axis

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each axis."""
        return tuple(axis for axis, _ in self.axes)

    @property
    def dim(self) -> int:
        """Number of axes, m."""
        return len(self.axes)

    @cached_property
    def axis_of(self) -> tuple[int | None, ...]:
        """Index of the axis that moves each of the d coordinates; None where none."""
        owner = {
            name: index
            for index, (_, targets) in enumerate(self.axes)
            for target in targets
            for name in self._coordinates(target)
        }
        return tuple(owner.get(name) for name in self.space.names)

    def expand(self, cube: Array) -> Array:
        """The z [d] of u [m], projected; a coordinate in no axis keeps its default."""
        if cube.shape != (self.dim,):
            raise ValueError(f"cube must have shape ({self.dim},); got {cube.shape}")
        start = self.space.to_cube(self.space.to_coords(self.space.defaults()))
        tied = np.array([axis is not None for axis in self.axis_of])
        index = np.array([axis or 0 for axis in self.axis_of])
        full = jnp.where(tied, cube[index], start)
        return self.space.project(self.space.from_cube(full))

    def _coordinates(self, target: str) -> tuple[str, ...]:
        entry = dict(self.space.entries).get(target)
        return (target,) if entry is None else _coord_names(target, entry)


def _coord_names(name: str, entry: Entry) -> tuple[str, ...]:
    if not entry.shape:
        return (name,)
    indices = (",".join(map(str, index)) for index in np.ndindex(entry.shape))
    return tuple(f"{name}[{index}]" for index in indices)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
