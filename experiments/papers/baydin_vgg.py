"""Baydin et al. (2018): hypergradient descent while a VGG is trained on images."""

from typing import Annotated

import jax
from pydantic import Field

from experiments.data.sources import ImageSet
from experiments.paper import Measured, Steps, paper
from experiments.papers import one_training
from experiments.papers.baydin import Count, HypergradientDescentPaper, Setting
from experiments.papers.torch_draws import TorchDraws
from experiments.papers.vgg import VGG16, Blocks, moved, pictures, vgg


@paper("baydin2018_vgg")
class BaydinVGG(HypergradientDescentPaper):
    """Further options.

    A last batch that is short is left out: batch statistics would see what fills it up.
    Rates move tensor by tensor in the order of the tree: within a layer the bias first.

    Attributes:
        blocks: widths of the convolutions of each block; the paper's is VGG-16.
        hidden: widths of rectified layers after them.
        dropout: before each of these.
        mean: taken from every pixel, of any channel.
        std: by which it is then divided.
        shift: training images are moved by up to as many pixels.
        flip: and every other one is turned left for right.
    """

    source: ImageSet = "cifar10"
    num_train: Count = 50_000
    num_epochs: Count = 100
    blocks: Blocks = VGG16
    hidden: tuple[Count, ...] = (512, 512)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mean: float = 0.449
    std: Annotated[float, Field(gt=0)] = 0.226
    shift: Annotated[int, Field(ge=0)] = 4
    flip: bool = True

    def measure(self, estimator, seed: int, report: Steps) -> Measured:
        """Losses an epoch; the rate at each step, its mean an epoch and its range."""
        return self.follow(*self.setting(seed), estimator, seed, report)

    def setting(self, seed: int) -> Setting:
        """The network and its weights, the batches, and validation rows."""
        data = pictures(self.source, self.num_train, self.num_valid)
        sizes = (data.shape, self.blocks, self.hidden, self.dropout, data.num_classes)
        network = vgg(*sizes, self.mean, self.std)
        weights, model_state = network.init(jax.random.key(seed))
        draws = TorchDraws(seed)
        orders = [draws.permutation(self.num_train) for _ in range(self.num_epochs)]
        rows = one_training.rows(*data.train, self.batch_size, orders, short=False)
        given = one_training.Data(rows, None, weights, model_state)
        functions = self.functions(network.apply, moved(self.shift, self.flip))
        return functions, given, data.held.batch()
