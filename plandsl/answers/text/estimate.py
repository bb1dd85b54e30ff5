"""The report that people read: the overview of a plan's estimate, then the memory and the time it consists of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.estimate import Estimate, comparisons
from plandsl.answers.phases import PhaseEstimate
from plandsl.answers.text.communication import communication_table
from plandsl.answers.text.money import fleet_line, money_notes, money_rows, money_table
from plandsl.answers.text.resources import memory_table, time_table
from plandsl.answers.text.words import (
    METRIC,
    origin_words,
    plain_table,
    requirement_table,
    show_band,
    show_multiples,
    show_token_rate,
    show_verdicts,
    title_of,
)
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.tables import Sheet
from plandsl.units import show_bytes, show_count, show_percent, show_time
from plandsl.values import sum_up

ASSUMED_WORDS = {"otherwise": "falling back to"}
"""Words for assumed fields whose name does not say what is assumed."""


def print_estimate(plan: PlanSpec, estimate: Estimate, console: Console) -> None:
    """Print the whole report of one plan."""
    parts = [title_of(plan, estimate), *overview_parts(plan, estimate), *table_parts(plan, estimate)]
    print_lines(console, *parts)


def overview_parts(plan: PlanSpec, estimate: Estimate) -> Iterator[RenderableType]:
    """What is required, the metrics, a short simulation, and a table for each part of a plan of several."""
    if estimate.requires:
        yield from (requirement_table(estimate.requires), Text())
    yield _overview(plan, estimate)
    yield from more_parts(estimate)


def more_parts(estimate: Estimate) -> Iterator[RenderableType]:
    """What stands below the metrics: a fleet, a short simulation, and a table for each part of a plan of several."""
    if estimate.fleet is not None:
        yield fleet_line(estimate.fleet)
    yield Text()
    if estimate.simulated is not None:
        from plandsl.answers.text.short import short_lines

        yield from (*short_lines(estimate, estimate.simulated), Text())
    if estimate.pools or estimate.shift or estimate.speculate or estimate.tower:
        from plandsl.answers.text.parts import part_tables

        yield from (line for table in part_tables(estimate) for line in (table, Text()))


def table_parts(plan: PlanSpec, estimate: Estimate) -> Iterator[RenderableType]:
    """The tables of memory, time and communication, and the footnotes."""
    yield from (memory_table(estimate), Text(), *start_parts(estimate))
    yield from (time_table(estimate), Text())
    if estimate.communication.rows:
        yield from (communication_table(estimate.communication, len(estimate.stages)), Text())
    yield from _footnotes(plan, estimate)


def start_parts(estimate: Estimate) -> list[RenderableType]:
    """What engines start with; nothing for a plan without an engine that says so."""
    if estimate.start is None:
        return []
    from plandsl.answers.text.start import start_table

    pools = estimate.pools
    both = () if pools is None else (("prefill", pools.prefill.estimate), ("decode", pools.decode.estimate))
    return [start_table(both or (("", estimate),)), Text()]


def print_comparison(estimates: Sequence[Estimate], console: Console) -> None:
    """Print the plans of a file side by side, and the pairs of plans that lie within each other's band."""
    asked = any(e.requires for e in estimates)
    header = ("compared", "GPUs", "TTFT", "TPOT", "throughput", "per GPU", "fits", *["requirements"] * asked)
    table = plain_table("l", *"rrrrrr", *"r" * asked, header=header)
    told = [compared_values(e) for e in estimates]
    steps = [tpot for _, tpot, _ in told if tpot is not None]
    best = [min(ttft for ttft, _, _ in told), min(steps, default=None), max(rate for _, _, rate in told)]
    for e, values in zip(estimates, told, strict=True):
        tpot = "-" if values[1] is None else show_time(values[1])
        cells = (show_time(values[0]), tpot, show_token_rate(values[2]))
        marked = [Text(c, style="bold" if v == b else "") for c, v, b in zip(cells, values, best, strict=True)]
        fits = Text("yes" if e.fits else "NO", style="" if e.fits else "bold red")
        held = [show_verdicts(e.requires)] * asked
        row: list[RenderableType] = [e.plan, str(e.gpus), *marked, show_token_rate(values[2] / e.gpus), fits, *held]
        table.add_row(*row)
    money: list[RenderableType] = [Text(), paid] if (paid := money_table(estimates)) is not None else []
    lines = list(_band_lines(estimates))
    if all(e.simulated is None for e in estimates):
        print_lines(console, table, *(Text(line, style="dim") for line in lines), *money)
    else:
        said = "by simulation where requests arrive over time; `planc simulate` puts percentiles side by side"
        print_lines(console, table, Text(said, style="dim"), *money)


def compared_values(e: Estimate) -> tuple[float, float | None, float]:
    """TTFT, TPOT and throughput, by simulation where there is one; a TPOT that no request has is 0."""
    s = e.simulated
    if s is None:
        return e.ttft_s, e.tpot_s, e.throughput_tokens_per_s
    tpot = None if e.encodes else s.tpot.mean.value if s.tpot.number else 0.0
    return s.ttft.mean.value, tpot, s.output_rate


def within_bands(estimates: Sequence[Estimate]) -> Iterator[str]:
    """For each metric the pairs of plans that lie within each other's band, the first few by name."""
    pairs = comparisons(estimates)
    for metric, word in METRIC.items():
        same = [" and ".join(pair["plans"]) for pair in pairs if metric in pair["within_band"]]
        if same:
            more = f", and {len(same) - 4} more pairs" if len(same) > 4 else ""
            yield f"within each other's band, {word}: {'; '.join(same[:4])}{more}"


def _band_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """A line for each metric with the plans that lie within each other's band, and with those that have none."""
    yield from (f"{told} (their order may be wrong)" for told in within_bands(estimates))
    without: dict[tuple[str, ...], list[str]] = {}
    for metric, word in METRIC.items():
        without.setdefault(tuple(e.plan for e in estimates if e.band(metric) is None), []).append(word)
    for plans, words in without.items():
        if plans:
            more = f" and {len(plans) - 4} more" if len(plans) > 4 else ""
            yield f"no band, {', '.join(words)}: {', '.join(plans[:4])}{more}"


def _overview(plan: PlanSpec, e: Estimate) -> Sheet:
    batches, replicas = show_multiples(e)
    table = plain_table("l", "l", "l", "l", pairs=True)
    used = e.memory.total / e.memory.capacity
    share = show_percent(used) if used < 10 else f"{show_count(used)} times the capacity"
    fits = Text("yes", style="bold green") if e.fits else Text("NO", style="bold red")
    fits.append(f", {share} of {show_bytes(e.memory.capacity)}", style="not bold default")
    table.add_row("fits", fits, "load", f"{load_words(plan, e)}{batches if e.load is None else ''}{replicas}")
    if e.simulated is None:
        _add_metrics(table, e)
    if e.encodes:
        table.add_row("", "", "KV cache", "none is kept" if not e.memory.kv_cache else "of one step")
        return _with_money(table, e)
    blocks = f", {show_count(e.kv_capacity_tokens // e.kv_block)} blocks" if e.kv_block > 1 else ""
    table.add_row("", "", "KV capacity", f"{show_count(e.kv_capacity_tokens)} tokens{blocks}")
    return _with_money(table, e)


def _with_money(table: Sheet, e: Estimate) -> Sheet:
    for word, text in money_rows(e):
        table.add_row("", "", word, text)
    return table


def load_words(plan: PlanSpec, e: Estimate) -> str:
    """What a plan serves: tokens in and out, and how many requests at once."""
    load = plan.workload
    if load.traffic is not None:
        known = load.traffic.lengths is not None or load.traffic.classes
        lengths = f"{load.input} in, nothing out" if load.encodes else f"{load.input} in and {load.output} out"
        return "requests over time" + (f", {lengths} on average" if known else "")
    many = f"batch {load.batch}" if e.load is None else f"{e.load.concurrency} requests in flight"
    cached = f" ({e.reuse.tokens} cached, {e.reuse.prefix})" if e.reuse else ""
    return f"{load.input} in{cached}, {'nothing' if load.encodes else load.output} out, {many}"


def _add_metrics(table: Sheet, e: Estimate) -> None:
    """The metrics in closed form."""
    rate = show_band(show_token_rate, e.throughput_tokens_per_s, e.band("throughput_tokens_per_s"))
    per_gpu = show_token_rate(e.throughput_per_gpu_tokens_per_s)
    if e.tpot_s is None:
        _add_encoding(table, e, rate, per_gpu)
        return
    table.add_row("TTFT", show_band(show_time, e.ttft_s, e.band("ttft_s")), "throughput", rate)
    table.add_row("TPOT", show_band(show_time, e.tpot_s, e.band("tpot_s")), "per GPU", per_gpu)
    latency = show_band(show_time, e.latency_s, e.band("latency_s"), style="")
    if e.load is None:
        table.add_row("latency", latency, "largest batch", f"{e.max_batch}")
    else:
        waiting = f", {show_count(round(e.load.waiting))} wait" if e.load.waiting >= 0.5 else ""
        table.add_row("latency", latency, "running", f"{show_count(round(e.load.running))} at once{waiting}")


def _add_encoding(table: Sheet, e: Estimate, rate: Text, per_gpu: str) -> None:
    """The metrics of a plan whose requests are texts that it reads: tokens in, texts, and the time of a text."""
    table.add_row("latency", show_band(show_time, e.latency_s, e.band("latency_s")), "throughput", rate.append(" in"))
    texts = f"{show_count(e.texts_per_s or 0.0)} texts/s"
    running = "" if e.load is None else f"{show_count(round(e.load.running))} at once"
    table.add_row("texts", Text(texts, style="bold"), "per GPU", per_gpu)
    if running:
        table.add_row("", "", "running", running)


def _footnotes(plan: PlanSpec, e: Estimate) -> Iterator[RenderableType]:
    if e.notes:
        yield notes_table(e)
    yield from trust_lines(plan, e)
    assumed: dict[str, list[str]] = {}
    for entry, path, value in e.assumed:
        assumed.setdefault(entry, []).append(f"{ASSUMED_WORDS.get(path, path)} {value}")
    text = calibration_words(e)
    if assumed:
        text += "; assumed: " + "; ".join(f"{entry}: {', '.join(items)}" for entry, items in assumed.items())
    yield Text(text, style="dim")


def calibration_words(e: Estimate) -> str:
    """The calibration and the engine."""
    return f"calibration {e.calibration}" + ("" if e.engine is None else f", engine {e.engine}")


def notes_table(e: Estimate) -> Sheet:
    """A line for each note, with its code."""
    notes = plain_table("l", "l")
    for note in e.notes:
        # a file may have several models from configs: the note says which
        config = f"{'/'.join(note.span.file.split('/')[-2:])}: " if note.code == "N201" and note.span else ""
        notes.add_row(Text(note.code, style="yellow"), Text(config + note.message))
    return notes


def trust_lines(plan: PlanSpec, e: Estimate) -> Iterator[Text]:
    """Why bands are missing, where constants come from, and the conventions behind the numbers."""
    reasons = dict.fromkeys(why for metric in e.banded if (why := e.no_band(metric)))
    if reasons:
        yield Text(f"no band: {'; '.join(reasons)}", style="dim")
    if said := origin_words(e):
        yield Text(f"constants: {said}", style="dim")
    for said in money_notes(e):
        yield Text(said, style="dim")
    yield Text(_conventions(plan, keeps=bool(e.memory.kv_cache)), style="dim")
    pools = (e,) if e.pools is None else (e.pools.prefill.estimate, e.pools.decode.estimate)
    for said in dict.fromkeys(pool.start.limited for pool in pools if pool.start and pool.start.limited):
        yield Text(said, style="dim")
    if e.stage_gpus:
        shown = ", ".join(f"in {phase} of {_slowest_gpus(p)}" for phase, p in e.timed.items())
        yield Text(f"an op takes the time of the slowest GPU of its stage: {shown}", style="dim")
    if e.load is not None and e.simulated is None:
        waits = (("for room", e.load.queue_s), ("for other prefills", e.load.line_s), ("at the start", e.load.start_s))
        shown = ", ".join(f"{show_time(t)} {what}" for what, t in waits if t > 0)
        yield Text(f"a first token waits {shown}" if shown else "no first token waits", style="dim")


def _slowest_gpus(phase: PhaseEstimate) -> str:
    """The slowest GPUs of the ops of a phase, by share of the time: ``h100_sxm 90 % and h200_sxm 10 %``."""
    total: dict[str, float] = {}
    for op in phase.ops:
        total[op.gpu] = total.get(op.gpu, 0.0) + op.time_s
    whole = sum_up(total.values())
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return " and ".join(name if len(total) == 1 else f"{name} {show_percent(t / whole)}" for name, t in ordered)


def _conventions(plan: PlanSpec, *, keeps: bool) -> str:
    """The conventions behind the numbers, stated in the plan or by default; ``keeps``: there is a KV cache."""
    resident = "all in-flight batches" if plan.kv_residency == "all_batches" else "one batch"
    cache = f"the KV cache of {resident}" if keeps or not plan.workload.encodes else "no KV cache"
    step = f"steps of at most {plan.full_step} tokens" if plan.full_step else "activations left out"
    fused = "fused with" if plan.fuse_norms else "apart from"
    beside = "; kernels run during collectives that they do not wait for" if plan.overlap == "collectives" else ""
    beside += f"; GEMMs next to a collective run in {plan.chunks} chunks" if plan.chunks > 1 else ""
    return f"counts {cache}, {step}; residual additions {fused} norms{beside}"
