"""Words, values and tables that several reports share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from math import isfinite, isnan

from rich.text import Text

from plandsl.answers.estimate import Estimate, Requirement
from plandsl.answers.simulation import Figure
from plandsl.spec.origins import FITTED_HERE, MEASURED
from plandsl.spec.plan import PlanSpec
from plandsl.tables import Sheet
from plandsl.units import HOUR, show_bytes, show_count, show_energy, show_money, show_percent, show_power, show_time
from plandsl.values import sum_up

METRIC = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency", "throughput_tokens_per_s": "throughput"}

SMALLEST_SHARE = 0.0005
"""Smaller shares of a sum are not printed."""

NAMED_SHARE = 0.05
"""Share of a phase's time from which a ranking names where constants come from."""

LABELS = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations", "buffers": "buffers"}


def title_of(plan: PlanSpec, e: Estimate) -> Text:
    """The first line of a report: plan, model and machine."""
    mesh = show_mesh(e)
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


def show_mesh(e: Estimate) -> str:
    """The axes of a mesh with their sizes, as text."""
    return " x ".join(f"{name} {size}" for name, size in e.mesh) or "1 GPU"


def show_multiples(e: Estimate) -> tuple[str, str]:
    """The number of batches in flight and of replicas, as text; empty for one."""
    batches = f" x {e.in_flight} in flight" if e.in_flight > 1 else ""
    return batches, f" x {e.replicas} replicas" if e.replicas > 1 else ""


def plain_table(*justify: str, header: Sequence[str] = (), labels: int = 1, gap: int = 2, pairs: bool = False) -> Sheet:
    """A table without lines; each column is aligned left (``l``) or right (``r``) below its word of the ``header``.

    The rest is as a `Sheet` takes it.
    """
    table = Sheet(gap=gap, header=bool(header), labels=labels, pairs=pairs)
    for side, word in zip(justify, header or [""] * len(justify), strict=True):
        table.add_column(word, justify="right" if side == "r" else "left", no_wrap=True)
    return table


def bold(text: str) -> Text:
    """``text`` in bold."""
    return Text(text, style="bold")


def show_band(
    show: Callable[[float], str], value: float, band: tuple[float, float] | None, style: str = "bold"
) -> Text:
    """A value and its band, in which 80 % of measurements would lie: ``812 ms, 760 to 880``, or ``812 ms, no band``."""
    out = Text(show(value), style=style)
    if band is None:
        out.append(", no band", style="dim not bold")
    else:
        low, high = (show(v) for v in band)
        unit = low.rpartition(" ")[2]
        low = low.rpartition(" ")[0] if high.endswith(" " + unit) else low
        out.append(f", {low} to {high}", style="dim not bold")
    return out


def show_token_rate(value: float) -> str:
    """A rate in tokens per second, as text."""
    return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.3g} tok/s"


def closed_form_lines(*estimates: Estimate) -> list[Text]:
    """What stands for requests that come and go, for each plan that has them."""
    loads = dict.fromkeys(e.load.concurrency for e in estimates if e.load is not None)
    if not loads:
        return []
    many = " and ".join(show_count(n) for n in loads)
    said = f"in closed form: {many} requests in flight, all alike, which come at random; `planc compile` simulates"
    return [Text(said, style="dim")]


def requirement_table(requires: Sequence[Requirement]) -> Sheet:
    """A line for each requirement, those that are missed first: whether it is met, and the value."""
    table = plain_table("l", "l")
    for r in sorted(requires, key=lambda r: r.ok):
        table.add_row(*verdict(r.text, r.ok, show_metric(r.text, r.value)))
    return table


def verdict(text: str, ok: bool, value: str) -> tuple[Text, Text]:
    """A requirement and whether its ``value`` meets it."""
    mark = Text("met", style="green") if ok else Text("FAILED", style="bold red")
    return Text(f"require {text}", style="" if ok else "red"), mark.append(f", {value}", style="not bold default")


def show_verdicts(requires: Sequence[Requirement]) -> Text:
    """How many requirements are missed: ``met``, ``2 FAILED``, or ``-`` where there are none."""
    missed = sum(not r.ok for r in requires)
    return Text(f"{missed} FAILED" if missed else "met" if requires else "-", style="bold red" if missed else "")


def show_request_rate(value: float) -> str:
    """A rate in requests per second, as text."""
    return f"{value:.3g} req/s"


SHOW_METRIC: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(("ttft", "tpot", "latency"), show_time),
    **dict.fromkeys(("comm_share", "mfu", "mbu"), show_percent),
    **dict.fromkeys(("throughput", "throughput_per_gpu"), show_token_rate),
    "memory": show_bytes,
    **dict.fromkeys(("goodput", "bearable"), show_request_rate),
    **dict.fromkeys(("cost", "cost_input", "cost_output", "cost_blended", "cost_request"), show_money),
    "spend": lambda value: f"{show_money(value * HOUR)}/h",
    **dict.fromkeys(("energy", "energy_request"), show_energy),
    "power": show_power,
    "request_throughput": show_request_rate,
}
"""How the values of metrics are shown; any other is a count."""


MONEY_WORDS = {
    "cost": " per million output tokens",
    "cost_input": " per million input tokens",
    "cost_output": " per million output tokens",
    "cost_blended": " per million tokens",
    "cost_request": " per request",
    "energy": " per output token",
    "energy_request": " per request",
}
"""What money and energy are counted by, where a requirement is told."""


def show_value(metric: str, value: float) -> str:
    """The value of a metric with its unit; `-` where it has none."""
    return SHOW_METRIC.get(metric, show_count)(value) if isfinite(value) else "-"


def show_half(figure: Figure) -> str:
    """`` +-5 %``: the half width of an interval, as a share of the value; empty where there is none."""
    if not (isfinite(figure.value) and isfinite(figure.half) and figure.value):
        return ""
    share = 100 * figure.half / figure.value
    return f" +-{share:.0f} %" if share >= 10 else f" +-{share:.2g} %" if share >= 0.01 else " +-0 %"


def show_metric(text: str, value: float) -> str:
    """The value of a requirement, in the unit of its metric, or of the metric inside a percentile."""
    if isnan(value):
        return "no request was served"
    if "%" in text:
        return show_percent(value)
    metric = next((word for word in re.findall(r"[a-z_]+", text) if word in SHOW_METRIC), None)
    if metric is not None:
        return SHOW_METRIC[metric](value) + MONEY_WORDS.get(metric, "")
    return show_count(value) if value < 1e6 else f"{value:,.0f}"


def origin_shares(times: Iterable[tuple[str, float]]) -> str:
    """The shares of origins in pairs of origin and time, the largest first: ``fitted here 93.0 %, pooled 7.0 %``."""
    sums: dict[str, float] = {}
    for origin, time in times:
        sums[origin] = sums.get(origin, 0.0) + time
    total = sum_up(sums.values()) or 1.0
    ordered = sorted(((name, time / total) for name, time in sums.items() if name), key=lambda item: -item[1])
    return ", ".join(f"{name} {show_percent(share)}" for name, share in ordered if share >= SMALLEST_SHARE)


def origin_words(e: Estimate) -> str:
    """Where constants come from that were not fitted on this GPU, nor for this model; empty where all of them were."""
    told = {name: [(op.origin, op.time_s) for op in phase.ops] for name, phase in e.timed.items()}
    known = {"", FITTED_HERE, MEASURED}
    parts = [f"{name} {origin_shares(ops)}" for name, ops in told.items() if {origin for origin, _ in ops} - known]
    parts += [f"engine {e.engine} {e.engine_origin}"] if e.engine_origin not in known else []
    return "; ".join(parts)


def origin_names(e: Estimate) -> str:
    """Where most constants come from, without shares, and those of the engine: ``fitted here; engine vllm pooled``."""
    names: dict[str, None] = {}
    for phase in e.timed.values():
        total = sum_up(op.time_s for op in phase.ops)
        sums: dict[str, float] = {}
        for op in phase.ops:
            sums[op.origin] = sums.get(op.origin, 0.0) + op.time_s
        names |= dict.fromkeys(name for name, time in sums.items() if name and time >= NAMED_SHARE * total)
    engine = f"; engine {e.engine} {e.engine_origin}" if e.engine_origin else ""
    return f"{', '.join(sorted(names))}{engine}"
