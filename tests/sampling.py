"""Is the mean of stochastic estimates right, and precise enough to say so?"""

import jax
import numpy as np


def assert_mean(samples, expected, precision=0.05):
    """The mean over samples equals `expected` along that, as a whole and by leaf.

    Along each of these at most 8 directions the mean must be within 4 standard errors,
    and a standard error at most `precision` of the quantity.

    Args:
      samples: like `expected`, with a leading axis of samples.
      expected: pytree of float arrays, at most 7 leaves.
      precision: largest relative standard error.
    """
    n = len(jax.tree.leaves(samples)[0])
    rows = [np.reshape(leaf, (n, -1)) for leaf in jax.tree.leaves(samples)]
    truths = [np.ravel(leaf) for leaf in jax.tree.leaves(expected)]
    assert len(rows) == len(truths) <= 7
    pairs = zip([*rows, np.hstack(rows)], [*truths, np.hstack(truths)], strict=True)
    for row, truth in pairs:
        size = np.linalg.norm(truth)
        along = row @ truth / size
        error = along.std(ddof=1) / np.sqrt(n)
        assert error <= precision * size, f"{n} samples say {error / size:.1%} only"
        assert abs(along.mean() - size) <= 4 * error, (along.mean(), size, error)
