"""Whether a kernel fits into memory, asked before it is allocated."""

from pathlib import Path

import jax
import numpy as np
import psutil
from jax.core import Tracer


def available_bytes(X=None) -> int:
    """Free memory of the device that holds `X` (of the default device): what JAX says, or the machine's.

    >>> available_bytes() > 0
    True
    """
    device = next(iter(X.devices())) if isinstance(X, jax.Array) and not isinstance(X, Tracer) else jax.devices()[0]
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return int(min(psutil.virtual_memory().available, _container_bytes()))


def _container_bytes() -> float:
    """What is left of the memory of a Linux container."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        cache = next(line for line in (folder / "memory.stat").read_text().splitlines() if line.startswith("file "))
    except (OSError, ValueError, StopIteration):
        return float("inf")
    return limit - used + int(cache.split()[1])


def require_memory(rows: int, columns: int, dtype, matrices: int, X=None, *, remedy: str) -> None:
    """Raise MemoryError if `matrices` kernels of rows x columns do not fit, before anything is allocated. `remedy` says
    how else to compute them."""
    # Inside a compiled function only what the function returns is kept: one matrix is all that is certain.
    matrices = 1 if isinstance(X, Tracer) else matrices
    size = rows * columns * np.dtype(dtype).itemsize
    if rows * columns * matrices < 2**22:
        return
    free = available_bytes(X)
    if matrices * size > free:
        need, left = (f"{amount / 2**30:.3g} GiB" for amount in (matrices * size, free))
        raise MemoryError(
            f"{matrices} kernel matrices of {rows} x {columns} {np.dtype(dtype).name} need {need} and {left} are free: "
            f"compute them {remedy}"
        )
