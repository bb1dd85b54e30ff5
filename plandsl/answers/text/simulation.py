"""`planc simulate` for people: what was served, how long requests took, what servers held, and what held."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.simulation import Figure, Simulation
from plandsl.answers.text.words import plain_table, requirement_table, show_token_rate
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_percent, show_time

SCHEDULERS = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
ROUTERS = {
    "round_robin": "replicas take turns",
    "least_loaded": "the least loaded replica gets a request",
    "two_choices": "the less loaded of two replicas gets a request",
    "prefix": "the replica that knows the prefix gets a request",
}
FIGURES = ("mean", "p50", "p90", "p95", "p99")
TIMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "latency": "latency"}


def print_simulation(plan: PlanSpec, found: Simulation, console: Console) -> None:
    """Print the whole report of one plan."""
    parts: list[RenderableType] = [_title(plan, found), Text(_served(found)), Text(), _times(found), Text()]
    parts += [_held(found), Text()]
    if found.requires:
        parts += [requirement_table(found.requires), Text()]
    print_lines(console, *parts, *_footnotes(found))


def _title(plan: PlanSpec, found: Simulation) -> Text:
    replicas = f", {found.replicas} replicas" if found.replicas > 1 else ""
    gpus = f"{found.gpus} GPU{'s' if found.gpus > 1 else ''}"
    scheduler = SCHEDULERS[found.scheduler]
    return Text(found.plan, style="bold").append(
        f"  {plan.model.name} on {plan.machine}, {gpus}{replicas}, scheduler of {scheduler}", style="not bold"
    )


def _served(found: Simulation) -> str:
    s = found.summary
    rates = f"{s.request_rate:.3g} req/s, {show_token_rate(s.output_rate)} out, {show_token_rate(s.input_rate)} in"
    good = f", goodput {s.goodput:.3g} req/s" if s.served else ""
    return f"{s.served:,} of {s.requests:,} requests served in {show_time(s.duration_s)}: {rates}{good}"


def _times(found: Simulation) -> RenderableType:
    table = plain_table("l", *"r" * len(FIGURES), header=("", *FIGURES))
    for name, word in TIMES.items():
        spread = getattr(found.summary, name)
        table.add_row(word, *(_figure(getattr(spread, column)) for column in FIGURES))
    return table


def _figure(figure: Figure) -> str:
    """``1.2 s +- 5 %``: the value and its 95 % interval."""
    if not isfinite(figure.value):
        return "-"
    if not isfinite(figure.half) or not figure.value:
        return show_time(figure.value)
    share = 100 * figure.half / figure.value
    return f"{show_time(figure.value)} +-{share:.0f} %" if share >= 10 else f"{show_time(figure.value)} +-{share:.2g} %"


def _held(found: Simulation) -> RenderableType:
    o = found.occupancy
    table = plain_table("l", "r", "r", header=("a server had", "mean", "peak"))
    table.add_row("requests that run", f"{o.running[0]:.1f}", f"{o.running[1]:.0f}")
    table.add_row("requests that wait", f"{o.waiting[0]:.1f}", f"{o.waiting[1]:.0f}")
    table.add_row("blocks of KV cache", show_percent(o.kv_cache[0]), show_percent(o.kv_cache[1]))
    return table


def _footnotes(found: Simulation) -> Iterator[RenderableType]:
    s = found.summary
    for warning in s.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    if found.unchecked:
        yield Text(f"not checked here: {', '.join(found.unchecked)}", style="dim")
    said = f"{s.preemptions} preemptions; " if s.preemptions else ""
    spread = f", {ROUTERS[found.router]} ({found.router})" if found.replicas > 1 else ""
    yield Text(f"{said}servers had a step {show_percent(found.occupancy.busy)} of the time{spread}", style="dim")
    yield Text(f"times with their 95 % interval by batch means; seed {found.seed}", style="dim")
