"""A short simulation for people: its numbers beside those in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from rich.console import RenderableType
from rich.text import Text

from plandsl.answers.estimate import Estimate
from plandsl.answers.simulation import Figure, Short, Spread
from plandsl.answers.text.simulation import show_figure
from plandsl.answers.text.words import plain_table, show_band, show_token_rate
from plandsl.units import show_count, show_time

PERCENTILES = {"p50": 20, "p95": 200, "p99": 1000}
"""Percentiles, and the requests without which chance settles them."""


def short_lines(e: Estimate, s: Short) -> Iterator[RenderableType]:
    """The table of both, and what was served."""
    table = plain_table("l", "r", *"rrr", "l", header=("by simulation", "mean", *PERCENTILES, "closed form"))
    for word, spread, name in (
        ("TTFT", s.ttft, "ttft_s"),
        ("TPOT", s.tpot, "tpot_s"),
        ("latency", s.latency, "latency_s"),
    ):
        value = getattr(e, name)
        if value is None or (e.encodes and name == "ttft_s"):  # the time of a text is its latency
            continue
        table.add_row(
            word, *_cells(spread, s.kind == "steady loop"), show_band(show_time, value, e.band(name), style="")
        )
    closed = show_band(show_token_rate, e.throughput_tokens_per_s, e.band("throughput_tokens_per_s"), style="")
    per_gpu = show_token_rate(e.throughput_per_gpu_tokens_per_s)
    running = "" if e.load is None else show_count(round(e.load.running))
    blank = [""] * len(PERCENTILES)
    table.add_row("throughput", _bold(show_token_rate(s.output_rate)), *blank, closed)
    table.add_row("per GPU", show_token_rate(s.output_rate / e.gpus), *blank, per_gpu)
    table.add_row("goodput", f"{s.goodput:.3g} req/s", *blank, "")
    table.add_row("running", f"{s.running:.3g}", *blank, running)
    yield table
    yield Text()
    for warning in s.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    yield Text(_served(s), style="dim")
    yield Text(f"the tables of memory and time below are in closed form{_in_flight(e)}", style="dim")


def _in_flight(e: Estimate) -> str:
    if e.load is None:
        return ""
    many = e.load.concurrency
    return " of 1 request in flight" if many == 1 else f" of {show_count(many)} requests in flight, all alike"


def _served(s: Short) -> str:
    if s.kind == "steady loop":
        return f"by simulation: {s.requests:,} requests in the middle of a closed loop of equal requests, without end"
    if s.of is None:
        return f"by simulation: {s.requests:,} request{'s' * (s.requests > 1)}; `planc simulate` tells more"
    return f"by simulation: the first {s.requests:,} of {s.of:,} requests; `planc simulate` serves all"


def _cells(spread: Spread, periodic: bool) -> list[Text]:
    shown = [periodic or spread.number >= least for least in PERCENTILES.values()]
    return [
        _bold(show_figure(spread.mean)),
        *(_plain(getattr(spread, name), enough) for name, enough in zip(PERCENTILES, shown, strict=True)),
    ]


def _plain(figure: Figure, enough: bool) -> Text:
    return Text(show_time(figure.value) if enough and isfinite(figure.value) else "-")


def _bold(text: str) -> Text:
    return Text(text, style="bold")
