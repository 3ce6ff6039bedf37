"""What searchers of other libraries share: a package to need, and a seed for each ask.

Such a package is imported where it is used, so that the library does without it.
"""

import importlib.util

import numpy as np


def need(package: str, *, extra: str, by: object) -> None:
    """Raise ValueError with the remedy unless `package` is installed.

    >>> need("numpy", extra="search", by="RandomSearch()")
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"searcher {by} needs the package {package}, which is not installed: "
            f"pip install 'hypergrad[{extra}]'"
        )


def seed_of_ask(seed: int, number: int) -> int:
    """A seed of 32 bits for the ask after `number` trials: no two asks draw alike.

    >>> seed_of_ask(0, 4) == seed_of_ask(0, 4), seed_of_ask(0, 4) == seed_of_ask(0, 5)
    (True, False)
    """
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
