"""Models: plain pairs of functions, flax modules made pure, and the usual networks.

What needs flax is loaded when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

from hypergrad.models.pair import Model, StatefulModel, mlp, stateful, stateless

if TYPE_CHECKING:
    from hypergrad.models.attention import Transformer
    from hypergrad.models.convolutional import CNN, ResidualCNN
    from hypergrad.models.layers import Conv, Dropout
    from hypergrad.models.linen_border import from_linen
    from hypergrad.models.nnx_border import from_nnx
    from hypergrad.models.norms import BatchNorm
    from hypergrad.models.perceptron import MLP
    from hypergrad.models.recurrent import Recurrent

_HOMES = {
    "BatchNorm": "norms",
    "CNN": "convolutional",
    "Conv": "layers",
    "Dropout": "layers",
    "MLP": "perceptron",
    "Recurrent": "recurrent",
    "ResidualCNN": "convolutional",
    "Transformer": "attention",
    "from_linen": "linen_border",
    "from_nnx": "nnx_border",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "BatchNorm",
    "CNN",
    "Conv",
    "Dropout",
    "MLP",
    "Model",
    "Recurrent",
    "ResidualCNN",
    "StatefulModel",
    "Transformer",
    "from_linen",
    "from_nnx",
    "mlp",
    "stateful",
    "stateless",
]
