"""The report's tables for plans of several parts: two pools, two shardings, a draft."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.text import Text

from plandsl.answers.estimate import Estimate
from plandsl.answers.modes import Shift, Speculated
from plandsl.answers.pools import Pools
from plandsl.answers.text.words import plain_table, show_mesh, show_multiples
from plandsl.units import show_bytes, show_count, show_percent, show_rate, show_time


def part_tables(e: Estimate) -> Iterator[Group]:
    """A table for the pools, for the shift and for the speculation of a plan, where it has them."""
    if e.pools is not None:
        yield _pools(e.pools)
    if e.shift is not None:
        yield _shift(e.shift)
    if e.speculate is not None:
        yield _speculation(e.speculate)


def _pools(pools: Pools) -> Group:
    """Each pool with the rate that it sustains, and the transfer between the pools."""
    sent = pools.sent
    table = plain_table("l", "l", "l", "r", "r", header=("pools", "", "batch", "memory", "sustains"), labels=2)
    rows: dict[str, tuple[str, str, str, float]] = {}
    for word, pool in (("prefill", pools.prefill), ("decode", pools.decode)):
        e = pool.estimate
        shape = f"{pool.machine}, {e.gpus} GPU{'s' if e.gpus > 1 else ''}: {show_mesh(e)}"
        share = show_percent(e.memory.total / e.memory.capacity)
        rows[word] = shape, f"{e.batch}{''.join(show_multiples(e))}", share, pool.requests_per_s
    moved = f"{show_bytes(sent.request)} of KV cache a request, {sent.between or show_rate(sent.bandwidth)}"
    rows["transfer"] = moved, "", "", sent.requests_per_s
    for word in ("prefill", "transfer", "decode"):
        *cells, rate = rows[word]
        limits = word == pools.limit
        table.add_row(f"  {word}", *cells, Text(f"{show_count(rate)} req/s", style="bold" if limits else ""))
    ports = f"a port sends {show_bytes(sent.sent)} of a request or receives {show_bytes(sent.received)}"
    late = f"a batch takes {show_time(sent.time_s)}, {show_time(sent.exposed_s)} of it after its prefill"
    limit = f"{pools.limit} limits; one prefill replica feeds {pools.balance:.3g} decode replicas"
    return Group(table, Text(f"  {ports}; {late}", style="dim"), Text(f"  {limit}", style="dim"))


def _shift(shift: Shift) -> Group:
    """Both shardings of a shift: the times of each, the phases that use it, and from where `base` is faster."""
    times = ("TTFT", "TPOT") if shift.decode else ("latency",)
    header = (f"shift at {shift.threshold} tokens", "", *times)
    table = plain_table("l", "l", *"l" * len(times), header=header, labels=2)
    for word, mode in (("base", shift.base), ("tensor", shift.tensor)):
        mesh = " x ".join(f"{name} {size}" for name, size in mode.mesh)
        cells = (
            Text(show_time(value), style="bold" if taken == word else "")
            for value, taken in ((mode.ttft_s, shift.prefill), (mode.tpot_s, shift.decode))
            if value is not None
        )
        steps = "larger steps" if word == "base" else "all others"
        table.add_row(f"  {word} {mode.sharding}", f"{mesh}, {steps}", *cells)
    counts = [("prefill", shift.prefill_tokens, "tokens")]
    counts += [("decode", shift.decode_tokens, "requests")] if shift.decode else []
    cross = ", ".join(f"in {phase} {'never' if n is None else f'from {n} {what}'}" for phase, n, what in counts)
    return Group(table, Text(f"  base is faster {cross}", style="dim"))


def _speculation(s: Speculated) -> Group:
    """Speculation: who drafts, the time and the tokens of a step, and the acceptance from which it pays."""
    by = (
        "looked up"
        if s.draft is None
        else f"by {s.draft} on " + (" x ".join(f"{name} {size}" for name, size in s.mesh) or "each GPU")
    )
    rates = ", ".join(show_percent(a) for a in dict.fromkeys(s.acceptance))
    table = plain_table("l", "l", "l", "l", pairs=True)
    table.add_row(
        Text("guessed ahead", style="bold"),
        f"{len(s.acceptance)} token{'s' * (len(s.acceptance) > 1)}, {by}",
        "accepted",
        rates,
    )
    drafted = f", the draft {show_time(s.draft_s)} of it, {show_percent(s.draft_share)}" if s.draft_s else ""
    table.add_row("  step", show_time(s.step_s) + drafted, "brings", f"{s.tokens_per_step:.3g} tokens")
    worth = "never" if s.break_even is None else f"from {show_percent(s.break_even)} accepted"
    table.add_row("  TPOT without", show_time(s.plain_tpot_s), "worth it", worth)
    return Group(table, Text("  below, decode lists the ops of one step; its sums are for one token", style="dim"))
