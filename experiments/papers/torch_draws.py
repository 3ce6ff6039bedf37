"""What PyTorch draws on a CPU, from numpy: uniform numbers, and permutations.

Both take 32 bits at a time from the Mersenne twister that one integer seeds, which is
numpy's `RandomState`. A number in [0, 1) is the lower 24 of them over 2^24. Of n rows,
row i is swapped with row i + (bits mod n − i), for i = 0, ..., n − 2 in this order. So
PyTorch 0.3 did it, with `DataLoader` drawing nothing else; a run of that time can be
repeated draw by draw.
"""

import numpy as np


class TorchDraws:
    """A stream of draws.

    Example:
        >>> draws = TorchDraws(1)
        >>> draws.uniform(1.0, (2,)).tolist()
        [0.5152631998062134, -0.44137823581695557]
    """

    def __init__(self, seed: int):
        self._state = np.random.RandomState(seed)

    def uniform(self, bound: float, shape: tuple[int, ...]) -> np.ndarray:
        """Float32 numbers in [−bound, bound)."""
        unit = (self._bits(shape) & (2**24 - 1)).astype(np.float32) / 2.0**24
        return (unit * np.float32(2.0 * bound) - np.float32(bound)).astype(np.float32)

    def permutation(self, num_rows: int) -> np.ndarray:
        """[n], int32: 0, ..., n − 1 in another order."""
        left = num_rows - np.arange(max(num_rows - 1, 0))
        places = list(range(num_rows))
        for i, ahead in enumerate((self._bits(left.shape) % left).tolist()):
            places[i], places[i + ahead] = places[i + ahead], places[i]
        return np.array(places, np.int32)

    def _bits(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._state.randint(0, 2**32, size=shape, dtype=np.uint32)
