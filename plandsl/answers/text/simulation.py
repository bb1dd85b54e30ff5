"""`planc simulate` for people: what was served, how long requests took, what servers held, and what held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite, nan

from attrs import evolve
from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.simulation import AdapterUse, Figure, Found, Occupancy, Simulation
from plandsl.answers.text.money import spent_line
from plandsl.answers.text.words import (
    plain_table,
    requirement_table,
    show_half,
    show_request_rate,
    show_token_rate,
    show_value,
    show_verdicts,
)
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.units import show_bytes, show_energy, show_money, show_percent, show_time

SCHEDULERS = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
ROUTERS = {
    "round_robin": "replicas take turns",
    "least_loaded": "the least loaded replica gets a request",
    "two_choices": "the less loaded of two replicas gets a request",
    "prefix": "the replica that knows the prefix gets a request",
    "adapter": "the replica that has the adapter gets a request",
}
FIGURES = ("mean", "p50", "p90", "p95", "p99")
TIMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "latency": "latency"}


def print_simulation(plan: PlanSpec, found: Simulation, console: Console) -> None:
    """Print the whole report of one plan."""
    required = [requirement_table(found.requires), Text()] if found.requires else []
    print_lines(console, title_of_run(plan, found), *required, *simulation_parts(found))


def simulation_parts(found: Simulation) -> list[RenderableType]:
    """What was served, how long requests took, what servers held, and how far to trust it."""
    spent = [] if found.spent is None else [Text(line) for line in spent_line(found.spent, encodes=found.encodes)]
    parts: list[RenderableType] = [Text(_served(found)), *spent, Text(), times_table(found), Text()]
    if found.prefill:
        parts += [held_table(found.prefill.occupancy, "a prefill server had"), Text()]
    if isfinite(found.occupancy.busy):
        parts += [
            held_table(
                found.occupancy, "a decode server had" if found.prefill else "a server had", encodes=found.encodes
            ),
            Text(),
        ]
    if found.found:
        parts += [_cached(found.found), Text()]
    if found.adapters:
        parts += [_adapters(found.adapters), Text()]
    return [*parts, *_footnotes(found)]


SIDE_BY_SIDE = 5
"""Plans that fit side by side in a table."""


def print_side_by_side(loads: Sequence[WorkloadSpec], found: Sequence[Simulation], console: Console) -> None:
    """Print several plans in columns, the best of each line in bold; ``loads`` are their workloads."""
    parts: list[RenderableType] = []
    for first in range(0, len(found), SIDE_BY_SIDE):
        parts += [side_by_side_table(found[first : first + SIDE_BY_SIDE]), Text()]
    alike = all(evolve(load, name="") == evolve(loads[0], name="") for load in loads)
    said = "all plans served the same requests"
    said = said if alike else "the plans have different loads: they did not serve the same requests"
    print_lines(console, *parts, Text(said, style="dim"))


def side_by_side_table(found: Sequence[Simulation]) -> RenderableType:
    """A column for each run, the best of each line in bold."""
    table = plain_table("l", *"r" * len(found), header=("side by side", *(s.plan for s in found)))
    if any(s.requires or not s.summary.stable for s in found):
        table.add_row("requirements", *(_verdict(s) for s in found))
    table.add_row("GPUs", *(str(s.gpus) for s in found))
    for name, word in TIMES.items():
        if not any(name in s.times for s in found):
            continue
        for column in ("p50", "p95", "p99") if name != "itl" else ():
            values = [getattr(getattr(s.summary, name), column).value for s in found]
            table.add_row(f"{word} {column}", *_best(values, [show_value(name, v) for v in values], min))
    for word, metric, values in (
        ("throughput", "throughput", [s.summary.output_rate for s in found]),
        ("per GPU", "throughput_per_gpu", [s.summary.output_rate / s.gpus for s in found]),
        ("goodput", "goodput", [s.summary.goodput for s in found]),
    ):
        table.add_row(word, *_best(values, [show_value(metric, v) for v in values], max))
    for word, name, show in (
        ("cost, M tokens", "usd_per_mtok", show_money),
        ("energy, token", "j_per_token", show_energy),
    ):
        figures = [None if s.spent is None else getattr(s.spent, name) for s in found]
        if any(v is not None for v in figures):
            known = [nan if v is None else v for v in figures]
            table.add_row(word, *_best(known, ["-" if v is None else show(v) for v in figures], min))
    table.add_row("preemptions", *(f"{s.summary.preemptions:,}" for s in found))
    table.add_row("KV cache, peak", *(_share(s.occupancy.kv_cache[1]) for s in found))
    return table


def _share(value: float) -> str:
    return show_percent(value) if isfinite(value) else "-"


def _best(values: Sequence[float], cells: Sequence[str], which: Callable[[list[float]], float]) -> list[Text]:
    """``cells``, those of the best value in bold."""
    there = [v for v in values if isfinite(v)]
    best = which(there) if there else None
    return [Text(cell, style="bold" if v == best else "") for v, cell in zip(values, cells, strict=True)]


def _verdict(s: Simulation) -> Text:
    """How many requirements are met; whether the queue grows."""
    told = show_verdicts(s.requires)
    return told if s.summary.stable else Text(f"{told.plain}, queue grows", style="bold red")


def title_of_run(plan: PlanSpec, found: Simulation) -> Text:
    """The first line of a report: plan, model, machine and scheduler."""
    replicas = f", {found.replicas} replicas" if found.replicas > 1 else ""
    if first := found.prefill:
        replicas = f", {first.replicas} prefill and {found.replicas} decode server{'s' * (found.replicas > 1)}"
    gpus = f"{found.gpus} GPU{'s' if found.gpus > 1 else ''}"
    machine, scheduler = " and ".join(dict.fromkeys(pool.machine for pool in plan.pools)), SCHEDULERS[found.scheduler]
    return Text(found.plan, style="bold").append(
        f"  {plan.model.name} on {machine}, {gpus}{replicas}, scheduler of {scheduler}", style="not bold"
    )


def _served(found: Simulation) -> str:
    s = found.summary
    if not s.served:
        return f"no request served, of {s.requests:,}"
    out = "" if found.encodes else f", {show_token_rate(s.output_rate)} out"
    rates = f"{show_request_rate(s.request_rate)}{out}, {show_token_rate(s.input_rate)} in"
    good = f", goodput {show_request_rate(s.goodput)}"
    many = f"{s.served:,} of {s.requests:,} requests" if s.requests > 1 else "1 request"
    return f"{many} served in {show_time(s.duration_s)}: {rates}{good}"


def times_table(found: Simulation) -> RenderableType:
    """A line for each latency, with its mean and its percentiles."""
    table = plain_table("l", *"r" * len(FIGURES), header=("", *FIGURES))
    for name in found.times:
        word, spread = TIMES[name], getattr(found.summary, name)
        table.add_row(word, *(show_figure(getattr(spread, column)) for column in FIGURES))
    return table


def show_figure(figure: Figure) -> str:
    """``1.2 s +- 5 %``: the value and its 95 % interval."""
    return show_value("latency", figure.value) + show_half(figure)


def held_table(o: Occupancy, who: str, *, encodes: bool = False) -> RenderableType:
    """What one server held, in the mean and at most."""
    table = plain_table("l", "r", "r", header=(who, "mean", "peak"))
    table.add_row("requests that run", f"{o.running[0]:.1f}", f"{o.running[1]:.0f}")
    table.add_row("requests that wait", f"{o.waiting[0]:.1f}", f"{o.waiting[1]:.0f}")
    if not encodes:
        table.add_row("blocks of KV cache", show_percent(o.kv_cache[0]), show_percent(o.kv_cache[1]))
    return table


def _cached(found: Found) -> RenderableType:
    table = plain_table("l", "r", "r", header=("prompt tokens", "share", "bytes of a GPU"))
    table.add_row("found at admission", show_percent(found.cached / max(found.tokens, 1)), "")
    for number, tier in enumerate(found.tiers, 1):
        share = show_percent(tier.tokens / max(found.tokens, 1))
        table.add_row(f"loaded from tier {number}", share, show_bytes(tier.bytes_per_gpu))
    return table


def _adapters(use: AdapterUse) -> RenderableType:
    """What became of requests that name an adapter, each line with the time that it takes."""
    table = plain_table("l", "r", "r", header=(f"{use.requests:,} requests with adapters", "share", "time of each"))
    every = max(use.requests, 1)
    table.add_row("found on the GPU", show_percent(use.resident / every), "")
    for word, loaded, seconds in zip(("host memory", "disk"), use.loaded, use.load_s, strict=True):
        if loaded or word != "disk":
            table.add_row(f"loaded from {word}", show_percent(loaded / every), show_time(seconds) if loaded else "")
    waited = show_time(use.wait_s) if use.waited else ""
    table.add_row(f"waited for one of {use.slots} slots", show_percent(use.waited / every), waited)
    return table


def _footnotes(found: Simulation) -> Iterator[RenderableType]:
    s = found.summary
    for warning in s.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    if found.unchecked:
        yield Text(f"not checked here: {', '.join(found.unchecked)}", style="dim")
    said = [f"{s.preemptions} preemptions"] if s.preemptions else []
    if isfinite(found.occupancy.busy):
        who = "decode servers" if found.prefill else "servers"
        said.append(f"{who} had a step {show_percent(found.occupancy.busy)} of the time")
    spread = f", {ROUTERS[found.router]} ({found.router})" if found.replicas > 1 else ""
    if said or spread:
        yield Text(("; ".join(said) + spread).removeprefix(", "), style="dim")
    yield Text(f"times with their 95 % interval by batch means, no band of the model; seed {found.seed}", style="dim")
