"""The limits of an engine's steps where nothing states them: engines choose them by the memory of the GPU."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, TypeAlias

MemoryName: TypeAlias = Literal["memory", "memory_total"]

MEMORIES: tuple[MemoryName, ...] = ("memory", "memory_total")
"""Fields of a GPU that an engine may choose by: what CUDA shows a program, or what the driver reports."""

LIMITED = ("step_tokens", "max_requests")
"""Limits that an engine may choose."""


class Place(NamedTuple):
    """Which of the values of each limit a GPU has, counted from 0, and why: empty for the last one."""

    at: int
    why: str


class LimitsSpec(NamedTuple):
    """The limits that an engine chooses by the field ``of`` of the GPU.

    ``bounds`` are bytes that rise. GPUs below the first bound have the first value of each limit, and so on, so that
    each limit has one value more than there are bounds; a limit without values does not depend on the GPU. A GPU with a
    word of ``small`` in its name has the first values, whatever its memory.
    """

    of: MemoryName
    bounds: tuple[float, ...]
    step_tokens: tuple[int, ...] = ()
    max_requests: tuple[int, ...] = ()
    small: tuple[str, ...] = ()

    def values(self, name: str) -> tuple[int, ...]:
        """The values of a limit in `LIMITED`, from small to large GPUs."""
        return self.step_tokens if name == "step_tokens" else self.max_requests

    def place(self, memory: float, names: Collection[str]) -> Place:
        """The place of a GPU with ``memory`` bytes, which has ``names``."""
        index = sum(memory >= bound for bound in self.bounds)
        words = {word for name in names for word in name.split("_")}
        if index and (named := [word for word in self.small if word in words]):
            return Place(0, named[0])
        return Place(index, f"GPUs below {self.bounds[index] / 2**30:g} GiB" if index < len(self.bounds) else "")
