"""Which rows are for what: disjoint sets of rows, and labels made wrong, by a seed."""

from collections.abc import Sequence

import numpy as np


def draw(num_rows: int, sizes: Sequence[int], seed: int) -> tuple[np.ndarray, ...]:
    """Disjoint sets of rows, uniformly at random without replacement.

    Args:
        num_rows: rows 0 .. num_rows - 1 to draw from.
        sizes: how many for each set, such as train, validation and test.
        seed: the same seed gives the same rows.

    Returns:
        Row numbers [size] int64 for each of `sizes`.

    Raises:
        ValueError: the sizes ask for more rows than there are.

    Example:
        >>> train, valid = draw(5, (3, 2), seed=0)
        >>> sorted([*train.tolist(), *valid.tolist()])
        [0, 1, 2, 3, 4]
    """
    return _cut(np.random.default_rng(seed).permutation(num_rows), sizes)


def draw_stratified(
    labels: np.ndarray, sizes: Sequence[int], seed: int
) -> tuple[np.ndarray, ...]:
    """Disjoint sets of rows, each with the classes in the proportions of all rows.

    Row r of the n_c rows of class c, in random order, stands at (r + u_c) / n_c with
    u_c uniform in [0, 1); the sets are consecutive stretches of all rows in that order
    (systematic sampling, Madow and Madow 1944). Balanced classes come out even within
    two rows a class.

    Args:
        labels: [n] the class of each row.
        sizes: how many rows for each set.
        seed: the same seed gives the same rows.

    Returns:
        Row numbers [size] int64 for each of `sizes`, in random order within a set.

    Raises:
        ValueError: the sizes ask for more rows than there are.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + rng.uniform()) / len(rows)
    return tuple(rng.permutation(rows) for rows in _cut(np.argsort(place), sizes))


def wrong_labels(
    labels: np.ndarray, fraction: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a fraction, rounded, is replaced by another class, uniformly.

    Args:
        labels: [n] classes 0 .. num_classes - 1.
        fraction: of rows, in [0, 1].
        num_classes: at least 2.
        seed: the same seed gives the same rows and classes.

    Returns:
        The labels [n] int32, and [n] bool: which of them are wrong.

    Raises:
        ValueError: the fraction is not in [0, 1], or there is no other class.

    Example:
        >>> shown, wrong = wrong_labels(np.zeros(10, int), 0.3, 2, seed=0)
        >>> int(wrong.sum()), bool((shown == wrong).all())
        (3, True)
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: got {fraction}, expected a number in [0, 1]")
    if num_classes < 2:
        raise ValueError(f"num_classes: got {num_classes}, expected at least 2")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: round(fraction * len(labels))]
    wrong = np.zeros(len(labels), bool)
    wrong[rows] = True
    shown = np.array(labels, np.int32)
    # A step of 1 .. num_classes - 1 around the circle of classes never comes back.
    shown[rows] += rng.integers(1, num_classes, len(rows), dtype=np.int32)
    return shown % num_classes, wrong


def _cut(rows: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, ...]:
    if min(sizes, default=0) < 0 or sum(sizes) > len(rows):
        raise ValueError(
            f"sizes: got {' + '.join(map(str, sizes))} = {sum(sizes)} rows, expected "
            f"none negative and at most the {len(rows)} that there are; ask for fewer"
        )
    ends = np.cumsum(sizes)
    return tuple(rows[e - size : e] for e, size in zip(ends, sizes, strict=True))
