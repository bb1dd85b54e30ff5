"""The report that people read: the overview of a plan's estimate, then the memory and the time it consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from plandsl.backends.terminal_communication import communication_table, library
from plandsl.estimate import Estimate, Memory, OpTime, PhaseEstimate, Pools, Shift, Speculated, comparisons
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_bytes, show_count, show_percent, show_rate, show_time

BAR = 30
PARTS = (("weights", "blue"), ("kv_cache", "cyan"), ("activations", "yellow"), ("buffers", "magenta"))
LABELS = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations", "buffers": "buffers"}


def print_estimate(plan: PlanSpec, estimate: Estimate, console: Console) -> None:
    """Print the whole report of one plan."""
    parts: list[RenderableType] = [title_of(plan, estimate), _overview(plan, estimate), Text()]
    if estimate.pools is not None:
        parts += [_pools(estimate.pools), Text()]
    if estimate.shift is not None:
        parts += [_shift(estimate.shift), Text()]
    if estimate.speculate is not None:
        parts += [_speculation(estimate.speculate), Text()]
    parts += [_memory(estimate), Text()]
    parts += [_time(estimate), Text()]
    if estimate.communication.rows:
        parts += [communication_table(estimate.communication, len(estimate.stages)), Text()]
    if estimate.requires:
        parts += [_requires(estimate), Text()]
    parts += list(_footnotes(plan, estimate))
    print_lines(console, *parts)


def print_comparison(estimates: Sequence[Estimate], console: Console) -> None:
    """Print the plans of a file side by side, and the pairs of plans that lie within each other's band."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("compared", no_wrap=True)
    for name in ("GPUs", "TTFT", "TPOT", "throughput", "per GPU", "fits"):
        table.add_column(name, justify="right", no_wrap=True)
    best = [min(e.ttft_s for e in estimates), min(e.tpot_s for e in estimates)]
    best.append(max(e.throughput_tokens_per_s for e in estimates))
    for e in estimates:
        cells = (show_time(e.ttft_s), show_time(e.tpot_s), show_token_rate(e.throughput_tokens_per_s))
        values = (e.ttft_s, e.tpot_s, e.throughput_tokens_per_s)
        marked = [Text(c, style="bold" if v == b else "") for c, v, b in zip(cells, values, best, strict=True)]
        fits = Text("yes" if e.fits else "NO", style="" if e.fits else "bold red")
        table.add_row(e.plan, str(e.gpus), *marked, show_token_rate(e.throughput_per_gpu_tokens_per_s), fits)
    print_lines(console, table, *(Text(line, style="dim") for line in _band_lines(estimates)))


METRIC = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency", "throughput_tokens_per_s": "throughput"}


def _band_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """A line for each metric with the plans that lie within each other's band."""
    pairs = comparisons(estimates)
    for metric, word in METRIC.items():
        same = [" and ".join(p["plans"]) for p in pairs if metric in p["within_band"]]
        if same:
            more = f", and {len(same) - 4} more pairs" if len(same) > 4 else ""
            yield f"within each other's band, {word}: {'; '.join(same[:4])}{more}"


def title_of(plan: PlanSpec, e: Estimate) -> Text:
    """The first line of a report: plan, model and machine."""
    mesh = _mesh(e)
    out = Text(e.plan, style="bold")
    active = e.active_parameters or e.parameters
    some = f", {show_count(active)} active" if active < e.parameters else ""
    out.append(f"  {plan.model.name} ({show_count(e.parameters)} parameters{some}) on ", style="")
    if e.pools is not None:
        return out.append(
            f"{e.pools.prefill.machine} for prefill and {e.pools.decode.machine} for decode, {e.gpus} GPUs"
        )
    out.append(f"{plan.machine}, ", style="")
    out.append(f"{e.gpus} GPU{'s' if e.gpus > 1 else ''}: {mesh}" if e.gpus > 1 else mesh)
    return out


def _mesh(e: Estimate) -> str:
    return " x ".join(f"{name} {size}" for name, size in e.mesh) or "1 GPU"


def _table(*justify: str) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for side in justify:
        table.add_column(justify="right" if side == "r" else "left", no_wrap=True)
    return table


def _overview(plan: PlanSpec, e: Estimate) -> Table:
    load = plan.workload
    batches, replicas = _multiples(e)
    table = _table("l", "l", "l", "l")
    used = e.memory.total / e.memory.capacity
    share = show_percent(used) if used < 10 else f"{show_count(used)} times the capacity"
    fits = Text("yes", style="bold green") if e.fits else Text("NO", style="bold red")
    fits.append(f", {share} of {show_bytes(e.memory.capacity)}", style="not bold default")
    many = f"batch {load.batch}{batches}" if e.load is None else f"{e.load.concurrency} requests in flight"
    cached = f" ({e.reuse.tokens} cached, {e.reuse.prefix})" if e.reuse else ""
    table.add_row("fits", fits, "load", f"{load.input} in{cached}, {load.output} out, {many}{replicas}")
    rate = show_band(show_token_rate, e.throughput_tokens_per_s, e.band("throughput_tokens_per_s"))
    table.add_row("TTFT", show_band(show_time, e.ttft_s, e.band("ttft_s")), "throughput", rate)
    per_gpu = show_token_rate(e.throughput_per_gpu_tokens_per_s)
    table.add_row("TPOT", show_band(show_time, e.tpot_s, e.band("tpot_s")), "per GPU", per_gpu)
    latency = show_band(show_time, e.latency_s, e.band("latency_s"), style="")
    if e.load is None:
        table.add_row("latency", latency, "largest batch", f"{e.max_batch}")
    else:
        waiting = f", {show_count(round(e.load.waiting))} wait" if e.load.waiting >= 0.5 else ""
        table.add_row("latency", latency, "running", f"{show_count(round(e.load.running))} at once{waiting}")
    blocks = f", {show_count(e.kv_capacity_tokens // e.kv_block)} blocks" if e.kv_block > 1 else ""
    table.add_row("", "", "KV capacity", f"{show_count(e.kv_capacity_tokens)} tokens{blocks}")
    if e.cost_usd_per_mtok is not None:
        table.add_row("", "", "cost", f"{e.cost_usd_per_mtok:.2f} USD per million output tokens")
    return table


def _multiples(e: Estimate) -> tuple[str, str]:
    """The number of batches in flight and of replicas, as text; empty for one."""
    batches = f" x {e.in_flight} in flight" if e.in_flight > 1 else ""
    return batches, f" x {e.replicas} replicas" if e.replicas > 1 else ""


def _pools(pools: Pools) -> Group:
    """Each pool with the rate that it sustains, and the transfer between the pools."""
    table, sent = _table("l", "l", "l", "r", "r"), pools.sent
    table.add_row(*map(_bold, ("pools", "", "batch", "memory", "sustains")))
    rows: dict[str, tuple[str, str, str, float]] = {}
    for word, pool in (("prefill", pools.prefill), ("decode", pools.decode)):
        e = pool.estimate
        shape = f"{pool.machine}, {e.gpus} GPU{'s' if e.gpus > 1 else ''}: {_mesh(e)}"
        share = show_percent(e.memory.total / e.memory.capacity)
        rows[word] = shape, f"{e.batch}{''.join(_multiples(e))}", share, pool.requests_per_s
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
    table = _table("l", "l", "l", "l")
    table.add_row(Text(f"shift at {shift.threshold} tokens", style="bold"), "", "TTFT", "TPOT")
    for word, mode in (("base", shift.base), ("tensor", shift.tensor)):
        mesh = " x ".join(f"{name} {size}" for name, size in mode.mesh)
        ttft, tpot = (
            Text(show_time(value), style="bold" if taken == word else "")
            for value, taken in ((mode.ttft_s, shift.prefill), (mode.tpot_s, shift.decode))
        )
        steps = "larger steps" if word == "base" else "all others"
        table.add_row(f"  {word} {mode.sharding}", f"{mesh}, {steps}", ttft, tpot)
    counts = (("prefill", shift.prefill_tokens, "tokens"), ("decode", shift.decode_tokens, "requests"))
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
    table = _table("l", "l", "l", "l")
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


def show_band(
    show: Callable[[float], str], value: float, band: tuple[float, float] | None, style: str = "bold"
) -> Text:
    """A value and its band, in which 80 % of measurements would lie: ``812 ms, 760 to 880``."""
    out = Text(show(value), style=style)
    if band is not None:
        low, high = (show(v) for v in band)
        unit = low.rpartition(" ")[2]
        low = low.rpartition(" ")[0] if high.endswith(" " + unit) else low
        out.append(f", {low} to {high}", style="dim not bold")
    return out


def _bold(text: str) -> Text:
    return Text(text, style="bold")


def show_token_rate(value: float) -> str:
    """A rate in tokens per second, as text."""
    return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.3g} tok/s"


def _memory(e: Estimate) -> Table:
    table = _table("l", "r", "r", "l")
    several = len({m.total for m in e.stages}) > 1 or len({g.gpus for g in e.stage_gpus}) > 1
    several = several and e.pools is None
    heading = "memory per GPU, fullest stage" if several else "memory per GPU" + (", fuller pool" if e.pools else "")
    if e.stage_gpus and not several:
        heading += f", of {e.stage_gpus[0].smallest}, the smallest"
    table.add_row(Text(heading, style="bold"), "", "", "")
    for part, style in PARTS:
        size = getattr(e.memory, part)
        share = size / e.memory.capacity
        table.add_row("  " + LABELS[part], show_bytes(size), show_percent(share), _bar(share, style))
    free = e.memory.capacity - e.memory.total
    word = "  free" if free >= 0 else "  over by"
    table.add_row(word, show_bytes(abs(free)), show_percent(abs(free) / e.memory.capacity), _memory_bar(e.memory))
    if several:
        for first, last, (a, b), m in _equal_stages(e):
            name = f"  stage {first}" if first == last else f"  stages {first} to {last}"
            on = f" on {e.stage_gpus[first]}" if e.stage_gpus else ""
            table.add_row(name, show_bytes(m.total), show_percent(m.total / m.capacity), f"layers {a}..{b}{on}")
    return table


def _equal_stages(e: Estimate) -> Iterator[tuple[int, int, tuple[int, int], Memory]]:
    """Runs of neighbouring stages with equal memory: the first and last stage, their layers, and the memory of one."""
    start = 0
    for i in range(1, len(e.stages) + 1):
        if i == len(e.stages) or e.stages[i] != e.stages[start] or e.stage_gpus[i:][:1] != e.stage_gpus[start:][:1]:
            yield start, i - 1, (e.layers[start][0], e.layers[i - 1][1]), e.stages[start]
            start = i


def _bar(share: float, style: str) -> Text:
    return Text("█" * min(BAR, round(share * BAR)) or "▏" if share > 0 else "", style=style)


def _memory_bar(m: Memory) -> Text:
    """All parts of the memory in one bar, then the free rest."""
    out = Text()
    used = 0
    for part, style in PARTS:
        cells = min(BAR - used, round(getattr(m, part) / m.capacity * BAR))
        out.append("█" * cells, style=style)
        used += cells
    return out.append("░" * (BAR - used), style="dim")


def _time(e: Estimate) -> Table:
    """The ops of both phases side by side, the longest in either phase first, then the sums."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    several = len(e.stages) > 1
    table.add_column("where the time goes" + (", busiest stage" if several else ""), no_wrap=True)
    table.add_column("runs", justify="right")
    for phase in ("prefill", "decode step"):
        table.add_column(phase, justify="right", no_wrap=True)
        table.add_column("", justify="right")
        table.add_column("bound")
    both: dict[tuple[str, str], list[OpTime | None]] = {}
    for i, phase_estimate in enumerate((e.prefill, e.decode)):
        for op in phase_estimate.ops:
            both.setdefault((op.op, op.name), [None, None])[i] = op
    sums = (sum(o.time_s for o in e.prefill.ops) or 1.0, sum(o.time_s for o in e.decode.ops) or 1.0)

    def weight(pair: list[OpTime | None]) -> float:
        return max(o.time_s / s if o else 0.0 for o, s in zip(pair, sums, strict=True))

    for (kind, name), pair in sorted(both.items(), key=lambda item: -weight(item[1])):
        if weight(pair) < 0.003:
            continue
        count = max(o.count for o in pair if o)
        style = "magenta" if any(o and o.communicates for o in pair) else ""
        cells = [c for o, s in zip(pair, sums, strict=True) for c in _op_cells(o, s)]
        table.add_row("  " + (kind if kind == name else f"{kind} {name}"), str(count), *cells, style=style)
    table.add_section()
    for label, pick in SUMS:
        cells = [c for p in (e.prefill, e.decode) for c in _sum_cells(pick(p), p.time_s)]
        if any(pick(p) > 0 for p in (e.prefill, e.decode)):
            table.add_row(label, "", *cells)
    cells = [c for p in (e.prefill, e.decode) for c in (show_time(p.time_s), "", "")]
    table.add_row("total, all stages" if several else "total", "", *cells, style="bold")
    if any(p.idle_share > 0.0005 for p in (e.prefill, e.decode)):
        cells = [c for p in (e.prefill, e.decode) for c in ("", show_percent(p.idle_share), "")]
        table.add_row("GPUs idle", "", *cells, style="dim")
    cells = [c for p in (e.prefill, e.decode) for c in (show_percent(p.mfu), show_percent(p.mbu), "")]
    table.add_row("MFU, MBU", "", *cells, style="dim")
    return table


SUMS: tuple[tuple[str, Callable[[PhaseEstimate], float]], ...] = (
    ("compute", lambda p: p.compute_s),
    ("communication", lambda p: p.communication_s),
    ("draft", lambda p: p.draft_s),
    ("waiting for a stage", lambda p: p.bubble_s),
    ("prefill of others", lambda p: p.mixed_s),
    ("engine", lambda p: p.engine_s),
    ("waiting", lambda p: p.waiting_s),
)


def _sum_cells(part: float, whole: float) -> tuple[str, str, str]:
    return (show_time(part), show_percent(part / whole), "") if part > 0 else ("", "", "")


def _op_cells(op: OpTime | None, total: float) -> Iterable[str]:
    if op is None:
        return ("", "", "")
    bound = f"{op.bound}, {library(op.algorithm)}" if op.communicates else op.bound
    return (show_time(op.time_s), show_percent(op.time_s / total), bound)


def _requires(e: Estimate) -> Table:
    table = _table("l", "l")
    for r in e.requires:
        mark = Text("met", style="green") if r.ok else Text("FAILED", style="bold red")
        table.add_row("require " + r.text, mark.append(f", {show_metric(r.text, r.value)}", style="not bold default"))
    return table


def show_metric(text: str, value: float) -> str:
    """The value of a requirement, in the unit of its metric."""
    if text.split()[0] in ("ttft", "tpot", "latency"):
        return show_time(value)
    if "%" in text or text.split()[0] in ("comm_share", "mfu", "mbu"):
        return show_percent(value)
    if text.split()[0] == "memory":
        return show_bytes(value)
    if text.split()[0] in ("throughput", "throughput_per_gpu"):
        return show_token_rate(value)
    if text.split()[0] == "cost":
        return f"{value:.3g} USD per million output tokens"
    return show_count(value) if value < 1e6 else f"{value:,.0f}"


def _footnotes(plan: PlanSpec, e: Estimate) -> Iterator[RenderableType]:
    notes = _table("l", "l")
    for note in e.notes:
        notes.add_row(Text(note.code, style="yellow"), Text(note.message))
    if e.notes:
        yield notes
    yield Text(_conventions(plan), style="dim")
    if e.stage_gpus:
        phases = (("prefill", e.prefill), ("decode", e.decode))
        shown = ", ".join(f"in {phase} of {_slowest_gpus(p)}" for phase, p in phases)
        yield Text(f"an op takes the time of the slowest GPU of its stage: {shown}", style="dim")
    if e.load is not None:
        waits = (("for room", e.load.queue_s), ("for other prefills", e.load.line_s), ("at the start", e.load.start_s))
        shown = ", ".join(f"{show_time(t)} {what}" for what, t in waits if t > 0)
        yield Text(f"a first token waits {shown}" if shown else "no first token waits", style="dim")
    assumed: dict[str, list[str]] = {}
    for entry, path, value in e.assumed:
        assumed.setdefault(entry, []).append(f"{path} {value}")
    text = f"calibration {e.calibration}" + ("" if e.engine is None else f", engine {e.engine}")
    if assumed:
        text += "; assumed: " + "; ".join(f"{entry}: {', '.join(items)}" for entry, items in assumed.items())
    yield Text(text, style="dim")


def _slowest_gpus(phase: PhaseEstimate) -> str:
    """The slowest GPUs of the ops of a phase, by share of the time: ``h100_sxm 90 % and h200_sxm 10 %``."""
    total: dict[str, float] = {}
    for op in phase.ops:
        total[op.gpu] = total.get(op.gpu, 0.0) + op.time_s
    whole = sum(total.values())
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return " and ".join(name if len(total) == 1 else f"{name} {show_percent(t / whole)}" for name, t in ordered)


def _conventions(plan: PlanSpec) -> str:
    """The conventions behind the numbers, stated in the plan or by default."""
    resident = "all in-flight batches" if plan.kv_residency == "all_batches" else "one batch"
    step = f"steps of at most {plan.step_tokens} tokens" if plan.step_tokens else "activations left out"
    fused = "fused with" if plan.fuse_norms else "apart from"
    beside = "; kernels run during collectives that they do not wait for" if plan.overlap == "collectives" else ""
    beside += f"; GEMMs next to a collective run in {plan.chunks} chunks" if plan.chunks > 1 else ""
    return f"counts the KV cache of {resident}, {step}; residual additions {fused} norms{beside}"
