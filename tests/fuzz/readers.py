"""Targets that read one kind of file."""

from __future__ import annotations

from tests.fuzz.case import Target

READERS: tuple[Target, ...] = ()
