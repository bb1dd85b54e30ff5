"""The lines of a report about an engine's start: its KV cache, what fits in theory, and which setting would help."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from plandsl.answers.estimate import Estimate
from plandsl.answers.start import Start
from plandsl.answers.text.words import plain_table
from plandsl.tables import Sheet
from plandsl.units import show_bytes, show_count, show_percent

GIB = 2**30


def start_table(estimates: Iterable[tuple[str, Estimate]]) -> Sheet:
    """What engines start with, beside theory, by pool; a plan without pools has one, whose name is empty."""
    table = plain_table("l", "l")
    for pool, e, start in ((pool, e, e.start) for pool, e in estimates if e.start is not None):
        at = f"{pool}: " if pool else ""
        table.add_row(Text(f"{at}{start.engine} starts with", style="bold"), _cache(start, e.replicas))
        if not start.refused or start.longest < start.asked:
            table.add_row("longest request", _longest(start))
        table.add_row("in theory", _theory(start))
        for knob in start.knobs:
            table.add_row("enough by itself", f"{knob}: {show_count(knob.kv_tokens)} tokens")
        # the settings of two pools are not tried
        if not (pool or start.knobs) and (start.refused or start.longest < start.asked):
            table.add_row("enough by itself", "no single setting")
    return table


def _cache(start: Start, replicas: int) -> Text:
    if start.refused:
        return Text(f"nothing: {start.refused}", style="bold red")
    known = [] if start.fitted else ["not fitted"]
    if start.band is not None:
        known.insert(0, " to ".join(show_count(round(start.kv_tokens * factor)) for factor in start.band))
    said = f" ({'; '.join(known)})" if known else ""
    of = " a replica" if replicas > 1 else ""
    return Text(f"{start.kv_bytes / GIB:.2f} GiB of KV cache on a GPU: {show_count(start.kv_tokens)} tokens{of}{said}")


def _longest(start: Start) -> Text:
    if start.longest < start.asked:
        return Text(f"{start.longest:,} tokens, and this load has {start.asked:,}", style="bold red")
    if start.context is None:
        return Text(f"{start.longest:,} tokens")
    if start.longest < start.context:
        return Text(f"{start.longest:,} tokens, less than the model's {start.context:,}: state a limit")
    return Text(f"{start.context:,} tokens, the model's most; the cache has room for one of {start.longest:,}")


def _theory(start: Start) -> str:
    held = start.theory
    word = "fits" if held.total <= held.capacity else "does not fit"
    share = show_percent(held.total / held.capacity)
    return f"this load alone {word}: {show_bytes(held.total)}, {share} of {show_bytes(held.capacity)} on a GPU"
