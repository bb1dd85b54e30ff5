"""Which cache a value comes from, also after it travelled between ranks."""

from __future__ import annotations

from plandsl.ir.collectives import Along
from plandsl.ir.program import Region


def cache_sources(region: Region) -> dict[str, str]:
    """The original name of every value that an op along an axis passes on."""
    source: dict[str, str] = {}
    for op in region.ops:
        if isinstance(op, Along):
            source |= trace_sources(op, source)
    return source


def trace_sources(op: Along, known: dict[str, str]) -> dict[str, str]:
    """The original name of each result of ``op``; ``known`` has the original names of earlier values."""
    return {out.name: known.get(x.name, x.name) for out, x in zip(op.results, op.operands, strict=True)}
