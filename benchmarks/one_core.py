"""One thread on one core, arranged before JAX or NumPy is imported.

Ratios of CPU seconds mean little where libraries divide their work among threads as
they please, and wall seconds little where the scheduler moves them about.
"""

import os

_FLAG = "--xla_cpu_multi_thread_eigen=false"
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def use() -> None:
    """Keep this process and those it will start to one thread and one core."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
    for name in _VARIABLES:
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):  # Linux
        # The last core: the first one often serves interrupts.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
