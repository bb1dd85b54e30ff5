"""What every library that measures needs of this machine: its cores and memory, a clock, and reasons in a line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from plandsl.diagnostics import clip


def cores() -> int | None:
    """Cores that this process may use; where the system does not say, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def host_memory() -> float:
    """Bytes of the host; 0 where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 0.0


def timed(run: Callable[[], object], count: int) -> float:
    """Seconds of one of the ``count`` kernels of a call."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / count


def reason(error: Exception) -> str:
    """The first line of what a library says."""
    lines = str(error).strip().splitlines()
    return clip(lines[0] if lines else type(error).__name__, 120)
