"""What networks over sequences share: their kinds of input, and which outputs."""

from typing import Literal

import jax

from hypergrad.models.layers import check_sizes

Outputs = Literal["last", "every"]


def check_inputs(in_features: int | None, vocabulary: int | None, outputs: str) -> int:
    """The one of `in_features` and `vocabulary` that is given."""
    if (in_features is None) == (vocabulary is None):
        raise ValueError(
            "give exactly one of in_features (floating input [B, L, in_features]) and "
            f"vocabulary (tokens [B, L]), got {in_features} and {vocabulary}"
        )
    if outputs not in ("last", "every"):
        raise ValueError(f"outputs must be 'last' or 'every', got {outputs!r}")
    size = vocabulary if in_features is None else in_features
    assert size is not None
    check_sizes(**{"vocabulary" if in_features is None else "in_features": size})
    return size


def pick(x: jax.Array, outputs: Outputs) -> jax.Array:
    """[B, L, F] at the last position, [B, F], or at every one."""
    return x[:, -1] if outputs == "last" else x
