"""Rows answered by serving their requests one by one, as the load generator sent them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.lengths import draw_cut, draw_lengths
from plandsl.backends.accuracy.row import NEVER, ROUNDS, Row
from plandsl.backends.accuracy.spread import Refused
from plandsl.backends.cost.answers.simulation import Servers, serve_load, time_servers
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.clock import table_clock
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.requests import Closed, Floats, Requests
from plandsl.backends.cost.serving.workloads import Load

OPEN = 1000
"""Requests of an open loop: the default of vLLM's and of SGLang's load generator."""

QUEUE = 6
"""Requests that are queued for each that runs at once, where the queue never ended."""

WINDOW = (0.4, 0.8)
"""The share of the requests that have ended, from and to, between which the rate of an endless queue is counted."""


TOKENS, MOST_TOKENS, FEWEST = 1e6, 1e7, 4
"""Output tokens of a run of servers that do not leap, the most of them, and the fewest rounds.

A million takes two seconds. Against ten rounds, four are off by 2.5 % in TTFT (median of 12 loads of two pools with 8
to 16 requests in flight; 23 % at most), by 0.05 % in TPOT and by 2.7 % in throughput.
"""

MANY = 100_000
"""Requests that servers that leap serve whole."""

SIMULATION, SHORTENED, CLOSED_FORM = "simulation", "simulation of fewer requests", "closed form"
"""What answers a row."""


class Told(NamedTuple):
    """What the load generator reports: seconds to the first token and for each later one, output tokens/s."""

    ttft: float
    tpot: float
    rate: float
    by: str = SIMULATION


def row_servers(model: Deployment) -> tuple[Servers, int]:
    """The servers that answer for a row, and how often they stand side by side.

    Equal servers of one pool take turns, so that one of them, with its share of the load, answers for all.
    """
    pools = model.pools
    if len(pools) > 1:
        return time_servers(*pools, clock=table_clock), 1
    (pool,) = pools
    return time_servers(Replicas(1, pool.one), clock=table_clock), pool.n


def simulate_row(model: Deployment, servers: Servers, many: int, row: Row) -> Told:
    """What is reported of the row's load. Raises `Refused` where a request is too long, `PlanError` where none fits."""
    if row.kind == "offline_all_at_once" and row.requests >= NEVER:
        count = max(round(QUEUE * running(model, row)), 1)
        records = _serve(model, servers, draw_load(row, many, count))
        return Told(reported(records, "ttft", row), reported(records, "tpot", row), steady_rate(records) * many)
    count = sent(row, many)
    each = 0 if leaps(model) and count <= MANY else _round(model, row, many)
    shorter = shortened(row, count, each) if each else count
    if shorter is None:
        return in_closed_form(model, row)
    records = _serve(model, servers, draw_load(row, many, shorter))
    if shorter < count:
        return _as_if_longer(records, row, each, rounds=count / each, many=many)
    return Told(reported(records, "ttft", row), reported(records, "tpot", row), total_rate(records) * many)


def _serve(model: Deployment, servers: Servers, load: Load) -> Records:
    """What becomes of the requests. Raises `Refused` where one is too long."""
    _, records = serve_load(model.plan, servers, load, keep_steps=False)
    if not records.served.all():
        raise Refused("a request is longer than the memory for the KV cache holds")
    return records


def leaps(model: Deployment) -> bool:
    """Whether servers take many steps at once: those of one pool, one stage, and ranks that all serve every request."""
    (*others, pool) = model.pools
    return not others and int(pool.main.ways) == 1 and pool.in_flight == 1


def _round(model: Deployment, row: Row, many: int) -> int:
    """Requests of a round: as many as one of ``many`` servers has in flight, or runs at once of those that wait."""
    if row.kind == "open_poisson":
        return 0
    if row.kind == "closed_concurrency" or len(model.pools) > 1:
        return max(round(row.clients / many), 1)
    return max(min(round(running(model, row)), round(row.clients / many)), 1)


def shortened(row: Row, count: int, each: int) -> int | None:
    """How many of ``count`` requests servers that do not leap serve: rounds of ``each``; None where even they are long.

    They serve as many whole rounds as make `TOKENS` tokens, at least `FEWEST`.
    """
    count = min(count, max(FEWEST, int(TOKENS / row.output / each)) * each)
    return count if count * row.output <= MOST_TOKENS else None


def in_closed_form(model: Deployment, row: Row) -> Told:
    """The same without a simulation: in a steady state, requests arrive as by chance."""
    copies = row.copies(model.plan.ranks)
    clients, requests = max(row.clients / copies, 1), max(row.requests, row.clients, copies) / copies
    if row.kind == "static_batch":
        found = model.evaluate(batch=clients, input=row.input, output=row.output)
    else:
        found = model.evaluate(concurrency=clients, input=row.input, output=row.output, requests=requests)
    if not found.fits:
        raise Refused(NO_ROOM)
    return Told(float(found.ttft), float(found.tpot), float(found.throughput) * copies, CLOSED_FORM)


NO_ROOM = "the plan does not fit the GPUs' memory"


def _as_if_longer(records: Records, row: Row, each: int, rounds: float, many: int) -> Told:
    """What is reported of more ``rounds`` than were served: the last but one counts for those that were left out.

    A round is ``each`` requests, in the order in which they were sent. The first one starts at once, and the last one
    ends alone; the longer the run, the less do requests of a round move in step.
    """
    more = rounds - len(records.output) / each
    weights = np.ones(len(records.output))
    weights[-2 * each : -each] += more
    order = np.argsort(records.finish_s, kind="stable")
    begin, end = records.finish_s[order[[-2 * each - 1, -each - 1]]]
    whole = float(records.finish_s.max() - records.arrival_s.min()) + more * (end - begin)
    rate = many * float((weights * records.output).sum() / whole)
    ttft, tpot = (_weighted(records, metric, row, weights) for metric in ("ttft", "tpot"))
    if row.kind != "closed_concurrency":  # all wait from the start: each round that was left out lengthens the queue
        ttft += (end - begin) * more * ((more + 1) / 2 + 1) / rounds
    return Told(float(ttft), tpot, rate, SHORTENED)


def _weighted(records: Records, metric: str, row: Row, weights: Floats) -> float:
    """`reported`, where requests have ``weights``."""
    values: Floats = getattr(records, f"{metric}_s")
    there = np.isfinite(values)
    values, weights = values[there], weights[there]
    if not len(values):
        return float("nan")
    if metric not in row.medians:
        return float(np.average(values, weights=weights))
    order = np.argsort(values, kind="stable")
    part = np.cumsum(weights[order]) / weights.sum()
    return float(values[order[int(np.searchsorted(part, 0.5))]])


def sent(row: Row, many: int) -> int:
    """Requests that one of ``many`` servers gets; a closed loop sends `ROUNDS` for each one in flight."""
    if row.kind == "open_poisson":
        return max(round(OPEN / many), 1)
    each = ROUNDS * row.clients if row.kind == "closed_concurrency" else row.clients
    whole = row.requests if row.requests < NEVER else each
    return max(round(whole / many), 1)


def running(model: Deployment, row: Row) -> float:
    """Requests that a server runs at once where all of the row wait for it, in closed form."""
    clients = max(row.clients / row.copies(model.plan.ranks), 1)
    found = model.evaluate(concurrency=clients, input=row.input, output=row.output)
    return clients if found.served is None else float(found.served.running)


def draw_load(row: Row, many: int, count: int) -> Load:
    """``count`` requests as one of ``many`` servers gets them. The same row gives the same requests."""
    rng = np.random.default_rng(0)
    if row.longest:
        input_, output = (draw_cut(mean, row.longest, count, rng) for mean in (row.input, row.output))
    else:
        input_, output = (draw_lengths(mean, row.spread, count, rng) for mean in (row.input, row.output))
    times = np.zeros(count)
    if row.kind == "open_poisson":  # of a Poisson process that takes turns, each server gets every n-th request
        times = np.cumsum(rng.gamma(many, 1 / row.rate, count))
    requests = Requests(times, input_, output)
    clients = max(round(row.clients / many), 1) if row.kind == "closed_concurrency" else None
    return Load(requests, None if clients is None else Closed(clients))


def reported(records: Records, metric: str, row: Row) -> float:
    """The mean of a latency over the requests, or its median; NaN where it has none."""
    values: Floats = getattr(records, f"{metric}_s")
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan")
    return float(np.median(values) if metric in row.medians else np.mean(values))


def total_rate(records: Records) -> float:
    """Output tokens/s from the first request that is sent to the last answer."""
    return float(records.output.sum() / (records.finish_s.max() - records.arrival_s.min()))


def steady_rate(records: Records) -> float:
    """Output tokens/s of the requests that end inside `WINDOW`."""
    order = np.argsort(records.finish_s, kind="stable")
    first, last = (int(share * (len(order) - 1)) for share in WINDOW)
    begin, end = records.finish_s[order[[first, last]]]
    if not end > begin:
        return total_rate(records)
    return float(records.output[order[first + 1 : last + 1]].sum() / (end - begin))
