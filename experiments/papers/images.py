"""Image sets as papers take them: rows of pixels in [0, 1], slices in file order."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.data.sources import ImageSet, load


class Images(NamedTuple):
    """Rows [n, pixels] in [0, 1], and their classes [n]."""

    inputs: np.ndarray
    labels: np.ndarray

    def rows(self, start: int, stop: int) -> "Images":
        """Rows start to stop - 1.

        Raises:
            ValueError: there are not as many.
        """
        if stop > len(self.labels):
            raise ValueError(
                f"rows {start} to {stop} are asked for, and there are "
                f"{len(self.labels)}: ask for fewer by --set paper.num_train and so on"
            )
        return Images(self.inputs[start:stop], self.labels[start:stop])

    def batch(self) -> tuple:
        """(inputs, labels) as a problem takes them."""
        return jnp.asarray(self.inputs), jnp.asarray(self.labels)


def images(source: ImageSet) -> Images:
    """All rows of an image set, as `every_image` has them, pixels in one axis."""
    inputs, labels = every_image(source)
    return Images(inputs.reshape(len(inputs), -1), labels)


def every_image(source: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """[n, height, width, channels] and classes [n], training rows before test rows."""
    data = load(source)
    parts = [part for part in (data.train, data.test) if part is not None]
    inputs = np.concatenate([np.asarray(part.inputs) for part in parts])
    return inputs, np.concatenate([part.targets for part in parts])
