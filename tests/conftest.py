"""The suite's ground rules: float64 on, implicit rank promotion an error."""

import os

# Before JAX is imported. Each of the workers of pytest-xdist has a core: pools of threads
# would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """One key for all."""
    return jax.random.key(0)
