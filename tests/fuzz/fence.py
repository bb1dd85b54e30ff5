"""Bounds of a worker: CPU time and memory of each case, and the wall clock for what never ends.

- CPU time of the process (`ITIMER_PROF`), since the machine may be busy with other work: `OverTime` is raised.
- Memory: the peak of the resident set, which the kernel is told to forget before each case (`/proc/self/clear_refs`).
  The address space is fenced too, at `SPACE` beyond that of the process as it begins: `MemoryError` is raised.
- The wall clock ends the process with `SIGALRM` after `WALL` seconds; whoever started the worker sees it.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

MEMORY = 10**9
"""Most bytes of the resident set of a process, Python and the product included."""

SPACE = 2 * 10**9
"""Bytes of address space that a worker may take beyond what it has as it begins."""

WALL = 900
"""Seconds by the wall clock after which a worker is ended, for a case that waits for something.

On a machine with much other work, 2 s of CPU time took over two minutes.
"""


class OverTime(BaseException):
    """A case took more CPU time than it may. It is no `Exception`, so that nobody takes it for wrong input."""


class Spent(NamedTuple):
    """What a case took: CPU time in s, and the peak of the resident set in bytes."""

    seconds: float = 0.0
    memory: int = 0


def fence_memory() -> None:
    """Bound the address space of this process, for good."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def bounded(seconds: float) -> Iterator[list[Spent]]:
    """Run the block within bounds; the list has one entry when it ends, whichever way it does."""
    found: list[Spent] = []
    _forget_peak()
    handler = signal.signal(signal.SIGPROF, _stop)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, WALL)
    # again and again, should somebody swallow it
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, handler)
        found.append(Spent(time.process_time() - begun, _peak()))


def _stop(number: int, frame: object) -> None:
    raise OverTime


def _forget_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:  # the peak is then that of all cases so far
        pass


def _peak() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
