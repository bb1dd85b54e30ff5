"""Which cache a value is read of."""

from __future__ import annotations

from plandsl.ir.collectives import Along
from plandsl.ir.program import Region


def sources(region: Region) -> dict[str, str]:
    """What is read of a cache by another name: it has travelled."""
    source: dict[str, str] = {}
    for op in region.ops:
        if isinstance(op, Along):
            source |= handed_on(op, source)
    return source


def handed_on(op: Along, known: dict[str, str]) -> dict[str, str]:
    """What each result of an op along an axis is by another name, given what those of earlier ones are."""
    return {out.name: known.get(x.name, x.name) for out, x in zip(op.results, op.operands, strict=True)}
