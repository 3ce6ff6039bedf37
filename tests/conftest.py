"""The suite's ground rules: float64 on, implicit rank promotion an error."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """One key for all."""
    return jax.random.key(0)
