"""How far long work is: what it tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Tick: TypeAlias = Callable[[int, int], None]
"""Hears how many pieces of work are done, of about how many."""


def silent(done: int, of: int) -> None:
    """The `Tick` of work that nobody watches."""


def count_parts(tick: Tick, at: int, parts: int) -> Tick:
    """The part of ``tick`` that counts piece ``at`` of ``parts`` equally large pieces of work."""
    return lambda done, of: tick(at * of + done, parts * of)
