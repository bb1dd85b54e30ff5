"""What measures: a device with its name and size, which makes functions that run kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from plandsl.backends.measure.cases import Case


class Refused(Exception):
    """The device or the library cannot run a kernel; the message says why."""


class About(NamedTuple):
    """A device: its name, the library, ``units`` (multiprocessors, or cores of a CPU; None: unknown), bytes of memory
    (0: unknown), how many such devices there are, and whether they are the processor of the host.
    """

    name: str
    library: str
    units: int | None
    memory: float
    devices: int
    host: bool


Repetition = Callable[[], float]
"""Runs a kernel, perhaps several times in a row, and gives the seconds of one run."""


class Device(Protocol):
    """A device of this machine."""

    about: About

    def prepare(self, case: Case, copies: int) -> Repetition:
        """Compile a function that runs the kernel of ``case`` ``copies`` times, on as many copies of its operands.

        Raises `Refused`.
        """
        ...
