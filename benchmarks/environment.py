"""What a measurement depends on beside the code: device, versions, commit, date."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "hypergrad")


def describe(command: str) -> dict:
    """Everything, as JSON has it."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": device(),
        "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
    }


def versions(packages) -> dict[str, str]:
    """Those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> dict:
    """JAX's device, the processor's name, and how many cores this process may use."""
    first = jax.devices()[0]
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return {
        "jax": f"{first.platform} {first.device_kind}",
        "processor": _processor(),
        "cores_used": len(allowed(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "float": str(jax.numpy.result_type(float)),
    }


def commit() -> str:
    """The commit of the sources, marked where they have been changed since."""
    here = Path(__file__).resolve().parent

    def git(*words):
        asked = ["git", "-C", str(here), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout

    try:
        head = git("rev-parse", "--short=12", "HEAD").strip()
        # Measuring needs both folders; a change elsewhere has no bearing.
        changed = git("status", "--porcelain", "--", ".", "../hypergrad").strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}, changed since" if changed else head


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
