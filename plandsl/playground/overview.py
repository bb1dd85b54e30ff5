"""What a page shows of estimates first: a row for each plan, and the numbers of one plan with their bands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any

from plandsl.answers.estimate import Estimate
from plandsl.answers.text.money import money_rows
from plandsl.answers.text.words import show_band, show_metric, show_multiples, show_token_rate
from plandsl.terms import TERMS, find_term
from plandsl.units import show_bytes, show_count, show_percent, show_time


def row_of(e: Estimate, others: Sequence[Estimate]) -> dict[str, Any]:
    """A plan in the table of all: its numbers in closed form, and which are the best of ``others`` that fit."""
    fit = [o for o in others if o.fits]
    steps = [o.tpot_s for o in fit if o.tpot_s is not None]
    best = {
        "ttft": _is_best(e.ttft_s, [o.ttft_s for o in fit], min),
        "tpot": e.tpot_s is not None and _is_best(e.tpot_s, steps, min),
        "throughput": _is_best(e.throughput_tokens_per_s, [o.throughput_tokens_per_s for o in fit], max),
    }
    return {
        "name": e.plan,
        "gpus": e.gpus,
        "ttft": show_time(e.ttft_s),
        "tpot": "-" if e.tpot_s is None else show_time(e.tpot_s),
        "throughput": show_token_rate(e.throughput_tokens_per_s),
        "per_gpu": show_token_rate(e.throughput_per_gpu_tokens_per_s),
        "fits": e.fits,
        "memory": _used(e),
        "missed": sum(not r.ok for r in e.requires),
        "asked": len(e.requires),
        "best": [name for name, is_best in best.items() if is_best and e.fits],
    }


def _is_best(value: float, values: Sequence[float], best: Callable[[Sequence[float]], float]) -> bool:
    """Whether a value is the best of several that are not all alike."""
    return len(set(values)) > 1 and value == best(values)


def overview(e: Estimate) -> dict[str, Any]:
    """The numbers of one plan for people: each with its word, value, band and meaning; then what it promises."""
    promises = [{"text": r.text, "ok": r.ok, "value": show_metric(r.text, r.value)} for r in e.requires]
    return {"fits": e.fits, "ok": e.ok, "numbers": [*_numbers(e)], "requires": sorted(promises, key=lambda p: p["ok"])}


def _numbers(e: Estimate) -> Iterator[dict[str, str]]:
    yield _number("memory", _used(e), f"of {show_bytes(e.memory.capacity)}" if e.fits else "does not fit")
    yield from _times(e) if e.simulated is None else _simulated(e)
    if not e.encodes:
        yield _number("KV capacity", show_count(e.kv_capacity_tokens), "tokens")
    if e.load is None:
        batches, replicas = show_multiples(e)
        yield _number("batch", f"{e.batch}", f"{batches}{replicas}, at most {e.max_batch}".strip(" ,"))
    else:
        yield _number("running", f"{show_count(round(e.load.running))} at once", f"of {e.load.concurrency} in flight")
    for word, text in money_rows(e):
        value, _, unit = text.partition(" per ")
        yield _number(word, value, f"per {unit}")


def _times(e: Estimate) -> Iterator[dict[str, str]]:
    """The metrics in closed form, with their bands."""
    shown: tuple[tuple[str, str, float | None, Callable[[float], str]], ...] = (
        ("TTFT", "ttft_s", None if e.encodes else e.ttft_s, show_time),
        ("TPOT", "tpot_s", e.tpot_s, show_time),
        ("latency", "latency_s", e.latency_s, show_time),
        ("throughput", "throughput_tokens_per_s", e.throughput_tokens_per_s, show_token_rate),
    )
    for word, metric, value, show in shown:
        if value is not None:
            yield _number(word, *show_band(show, value, e.band(metric)).plain.split(", ", 1))
    yield _number("per GPU", show_token_rate(e.throughput_per_gpu_tokens_per_s))


def _simulated(e: Estimate) -> Iterator[dict[str, str]]:
    """The metrics of the short simulation: means, with the 95th percentile."""
    s = e.simulated
    assert s is not None, "the caller looked"
    for word, spread in (("TTFT", s.ttft), ("TPOT", s.tpot), ("latency", s.latency)):
        if isfinite(spread.mean.value) and not (e.encodes and word != "latency"):
            tail = f"p95 {show_time(spread.p95.value)}" if isfinite(spread.p95.value) else "mean"
            yield _number(word, show_time(spread.mean.value), tail)
    yield _number("throughput", show_token_rate(s.output_rate), "simulated")
    yield _number("per GPU", show_token_rate(s.output_rate / e.gpus))


def _number(word: str, value: str, beside: str = "") -> dict[str, str]:
    name = find_term(word)
    return {"word": word, "value": value, "beside": beside, "tip": TERMS[name].text if name else ""}


def _used(e: Estimate) -> str:
    share = e.memory.total / e.memory.capacity
    return show_percent(share) if share < 10 else f"{show_count(share)} times"
