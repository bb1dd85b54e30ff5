"""What users and operators are told of a run: latencies, throughput, goodput, and what is wrong with the run itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.answers.simulation import GROWS, Figure, Summary
from plandsl.backends.cost.serving.percentiles import BEYOND, QUANTILES, figure, least_for, spread
from plandsl.backends.cost.serving.records import Records
from plandsl.spec.plan import TIMES

GROWTH, DEVIATIONS, MOST_GROWTH = 0.05, 3.0, 0.5
"""A system is unstable whose requests grow by this share of those that arrive, and by so many standard deviations.

In a burst the standard deviation is large. Where half of the requests that arrive stay, they are more than a burst.
"""

LEAST_GROWN = 2 * int(DEVIATIONS**2 + 1)
"""Fewest requests, half of which arrive in the second half of the time, whose growth can be so many deviations.

All n that arrive there may stay: n > `DEVIATIONS` sqrt(n).
"""

BINS = 20
"""Parts of the time in which requests arrive, whose numbers of arrivals show how bursty they are."""


class Bounds(NamedTuple):
    """What a request must keep to count as good, in seconds; None: no matter."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None


def summarise(records: Records, good: NDArray[np.bool_] | None = None) -> Summary:
    """What a run says, as the load generators define it. Goodput counts the ``good`` requests; None: all served.

    ``TPOT = (latency - TTFT) / (output - 1)`` of requests with more than one token; ITL over all gaps of all requests.
    Source: `vllm bench serve`, and SGLang's `bench_serving`.
    """
    served = records.served
    order = records.order
    start = records.arrival_s[np.isfinite(records.arrival_s)].min(initial=np.inf)
    duration = float(records.finish_s[order].max() - start) if served.any() else float("nan")
    times = [spread(getattr(records, f"{name}_s")[order]) for name in TIMES]
    bearable = bearable_rate(records)
    return Summary(
        requests=len(served),
        served=int(served.sum()),
        duration_s=duration,
        request_rate=float(served.sum()) / duration,
        input_rate=float(records.input[order].sum()) / duration,
        output_rate=float(records.output[order].sum()) / duration,
        goodput=float((served if good is None else good).sum()) / duration,
        ttft=times[0],
        tpot=times[1],
        itl=spread(*records.gaps),
        latency=times[2],
        preemptions=int(records.preemptions.sum()),
        bearable=bearable,
        warnings=tuple(_warnings(records, bearable)),
    )


PER_REQUEST = ("arrival_s", "first_s", "finish_s", "input", "output")
"""Fields of records that latencies and throughputs are made of."""


def meets(records: Records, bounds: Bounds) -> NDArray[np.bool_]:
    """Whether each request kept all bounds; the TPOT of a lone token counts as 0."""
    found = records.served
    if bounds.ttft_s is not None:
        found = found & (records.ttft_s <= bounds.ttft_s)
    if bounds.tpot_s is not None:
        found = found & (np.where(records.output > 1, records.tpot_s, 0.0) <= bounds.tpot_s)
    if bounds.latency_s is not None:
        found = found & (records.latency_s <= bounds.latency_s)
    return found


def bearable_rate(records: Records) -> float:
    """Requests/s that were served in the second half of the arrivals if fewer than arrived; NaN where all was well.

    The requests in the system are unstable where they grow by more than `GROWTH` of those that arrive in that half and
    by `DEVIATIONS` standard deviations of their number. A Poisson number of mean n has the variance n, and that of
    bursty arrivals is `dispersion` times as large.
    """
    sent, (half, end) = _sent(records), second_half(records)
    if not end > half:
        return float("nan")
    came = int(((sent > half) & (sent <= end)).sum())
    left = int(((records.finish_s > half) & (records.finish_s <= end)).sum())
    grown, poisson = came - left, DEVIATIONS * came**0.5
    chance = max(poisson, min(poisson * dispersion(sent) ** 0.5, MOST_GROWTH * came))
    return left / (end - half) if grown > max(GROWTH * came, chance) else float("nan")


def dispersion(sent: NDArray[np.float64]) -> float:
    """The variance over the mean of the number of arrivals in `BINS` equal parts of the time; 1 for a Poisson process.

    A value that a Poisson process has by chance, up to two standard deviations above 1, counts as 1. Source: Cox and
    Lewis, "The statistical analysis of series of events", 1966 (index of dispersion).
    """
    many, _ = np.histogram(sent, BINS)
    found = float(many.var(ddof=1) / many.mean())
    return found if found > 1 + 2 * (2 / (BINS - 1)) ** 0.5 else 1.0


def _sent(records: Records) -> NDArray[np.float64]:
    """When the requests arrived that a server took."""
    return records.arrival_s[np.isfinite(records.arrival_s) & (records.replica >= 0)]


def second_half(records: Records) -> tuple[float, float]:
    """The second half of the time in which requests arrive, from and to; NaN of fewer than two."""
    sent = _sent(records)
    if len(sent) < 2:
        return float("nan"), float("nan")
    start, end = float(sent.min()), float(sent.max())
    return (start + end) / 2, end


def served_rate(records: Records) -> Figure:
    """Requests/s that were served in the second half of the arrivals, from the mean time between two that leave."""
    half, end = second_half(records)
    left = np.sort(records.finish_s[(records.finish_s > half) & (records.finish_s <= end)])
    gap = figure(np.diff(left))
    return Figure(1 / gap.value, gap.half / gap.value**2) if gap.value > 0 else Figure(float("nan"), float("nan"))


def _warnings(records: Records, bearable: float) -> list[str]:
    """What a reader of the numbers should know."""
    found = []
    refused, lost = int((records.replica < 0).sum()), int((~records.served & (records.replica >= 0)).sum())
    served = int(records.served.sum())
    if refused:
        found.append(f"refused, since longer than a server holds: {refused} of {len(records.replica)} requests")
    if lost:
        found.append(f"not finished: {lost} of {len(records.replica)} requests")
    short = [q for q in QUANTILES if served * (1 - q) < BEYOND - 1e-9]
    if short and served:
        least = least_for(short[0])
        few = "1 request is" if served == 1 else f"{served} requests are"
        found.append(f"{few} too few for p{100 * short[0]:g}, which needs {least}")
    if bearable == 0:
        found.append(f"{GROWS}: hardly a request is served while requests arrive")
    elif bearable == bearable:
        found.append(f"{GROWS}: requests arrive faster than the {bearable:.4g} that are served in a second")
    return found
