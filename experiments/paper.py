"""Published experiments by name, each with the protocol of its paper.

    @paper("shaban2019_toy")
    class ShabanToy(Paper):
        num_steps: int = 100

        def measure(self, estimator, seed, report): ...

A task says what F is, and any search may run on it; a paper also says how: its outer
loop, its quirks, what it printed. Both are frozen values, built from a config's table.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from experiments.results import Value

if TYPE_CHECKING:
    import hypergrad as hg

PAPERS: dict[str, type["Paper"]] = {}
Registered = TypeVar("Registered", bound="Paper")
Steps = Callable[[int, int], None]
"""(how much is done, how much there is) -> None."""


class Curve(Value):
    """y over x, in the order of x."""

    x: list[float]
    y: list[float]

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} x and {len(self.y)} y")
        return self


class Measured(Value):
    """What one run of a paper's protocol has found.

    Attributes:
        numbers: {quantity: value}.
        curves: {quantity: curve}; an expectation looks at some of its x.
        pictures: {title: images [n][height][width]}.
    """

    numbers: dict[str, float] = {}
    curves: dict[str, Curve] = {}
    pictures: dict[str, list[list[list[float]]]] = {}


class Panel(NamedTuple):
    """One axes of a paper's figure.

    Attributes:
        title: above it.
        curves: quantities that are drawn, of every method.
        x, y: what the axes say.
        log: which axes are logarithmic: "", "x", "y" or "xy".
    """

    title: str
    curves: tuple[str, ...]
    x: str
    y: str
    log: str = ""


class Paper(BaseModel, abc.ABC):
    """A published experiment; the fields of a subclass are its options.

    Attributes:
        precision: of every number that is not asked for otherwise.
        panels: its figure.
        differentiates: whether it takes the [estimator] of a config; one that brings
            its own rule takes none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    panels: ClassVar[tuple[Panel, ...]] = ()
    differentiates: ClassVar[bool] = True

    precision: Literal["float32", "float64"] = "float32"

    @abc.abstractmethod
    def measure(
        self, estimator: "hg.Estimator | None", seed: int, report: Steps
    ) -> Measured:
        """Run the protocol.

        Args:
            estimator: of the hypergradient; None where `differentiates` is False.
            seed: of everything drawn at random.
            report: told about progress.

        Raises:
            ValueError: the estimator does not apply, or options do not fit each other.
        """


def paper(name: str) -> Callable[[type[Registered]], type[Registered]]:
    """Class decorator: makes the experiment known to configs as `name`."""

    def add(cls: type[Registered]) -> type[Registered]:
        other = PAPERS.get(name)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise ValueError(f"two papers are named {name!r}: {other} and {cls}")
        PAPERS[name] = cls
        return cls

    return add


def curve(ys: Any, xs: Any = None) -> Curve:
    """A curve from arrays; x counts from 0 unless given."""
    ys = [float(y) for y in ys]
    return Curve(x=[float(x) for x in (range(len(ys)) if xs is None else xs)], y=ys)


def numbers(**found: Any) -> dict[str, float]:
    """Scalars of any library as plain numbers."""
    return {name: float(value) for name, value in found.items()}
