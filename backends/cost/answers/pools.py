"""What is told of two pools: each phase from its pool, the memory of the fuller one, what limits and what balances."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from plandsl.backends.cost.answers.estimate import estimate_servers, price, requirement
from plandsl.backends.cost.answers.responses import CROWD
from plandsl.backends.cost.answers.terms import BUBBLE
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.pools import Pools, Rates
from plandsl.diagnostics import Diagnostic
from plandsl.estimate import BANDED, Band, Estimate, Pool, Sent
from plandsl.estimate import Pools as PoolsEstimate
from plandsl.explanation import DUST, Breakdown, Term
from plandsl.ir.program import DECODE, PREFILL
from plandsl.spec.plan import SplitSpec
from plandsl.units import show_rate


def estimate_pools(model: Deployment, metrics: Metrics, notes: Sequence[Diagnostic] = ()) -> Estimate:
    """The full answer for two pools."""
    assert isinstance(model, Pools), "a transfer lies between two pools"
    plan, load = model.plan, model.plan.workload
    alone = model.alone(metrics, load.input, load.output)
    a, d = (estimate_servers(pool, own) for pool, own in zip(model.pools, alone, strict=True))
    rates = model.rates(metrics, load.input, load.output)
    wait = float(metrics.sent)
    decode = evolve(d.decode, time_s=float(metrics.tpot), waiting_s=wait)
    fuller = max(a.memory, d.memory, key=lambda held: held.total / held.capacity)
    paid = price(model)
    cost = None if paid is None else paid / float(metrics.throughput) * 1e6
    return evolve(
        d,
        gpus=model.gpus,
        ttft_s=float(metrics.ttft),
        tpot_s=float(metrics.tpot),
        latency_s=float(metrics.latency),
        throughput_tokens_per_s=float(metrics.throughput),
        memory=fuller,
        prefill=a.prefill,
        decode=decode,
        requires=tuple(requirement(r, metrics, a.prefill, decode, cost) for r in plan.requires),
        notes=tuple(notes),
        assumed=_assumed(model.split, a, d),
        calibration=", ".join(dict.fromkeys((a.calibration, d.calibration))),
        cost_usd_per_mtok=cost,
        bands=_bands(a, d, metrics, rates, wait),
        pools=_pools(model, a, d, rates),
    )


# ---- terms


KEPT = "KV cache"
"""What travels from pool to pool."""


def transferred(model: Deployment, metrics: Metrics) -> list[Term]:
    """What a token waits for the cache to arrive: the message, its bytes, and the transfers of others."""
    assert isinstance(model, Pools), "a transfer lies between two pools"
    split, load = model.split, model.plan.workload
    tokens = max(load.output - 1, 1)
    moved = model.rates(metrics, load.input, load.output).moved
    bound = "network" if split.between else "transfer"
    message = split.latency / tokens
    bytes_ = float(moved.exposed) / tokens - message
    found = (
        Term(DECODE, "transfer", "transfer", KEPT, bytes_, bound, bytes=float(moved.sent), runs=1.0),
        Term(DECODE, "transfer", "message", f"{KEPT}, latency", message, "message", runs=1.0),
        Term(DECODE, "transfer", "wait", "other transfers", float(metrics.sent) - bytes_ - message, "wait"),
    )
    return [term._replace(part="transfer") for term in found if term.value > DUST * float(metrics.tpot)]


def told_by_pool(whole: Breakdown) -> Breakdown:
    """Terms of a time, each under its pool where nothing else is told of it."""
    named = (t if t.part else t._replace(part=f"{t.phase} pool") for t in whole.terms)
    return evolve(whole, terms=tuple(named))


def per_token(model: Deployment, metrics: Metrics, ttft: Breakdown, tpot: Breakdown) -> Breakdown:
    """Seconds per output token: what a request spends, over the tokens of all that are there at once.

    Of requests that follow one another, all of its stay (Little). Of batches, its stay in the pool that limits:

        prefill  (period + admit batch) / (replicas in_flight batch output)
        decode   (output - 1) TPOT / (replicas in_flight batch output)
    """
    assert isinstance(model, Pools), "a transfer lies between two pools"
    load, total = model.plan.workload, 1 / float(metrics.throughput)
    if metrics.served is not None:
        weight = 1 / (float(load.concurrency or 0) * load.output)
        once = [t for t in ttft.terms if t.name != CROWD]  # those who come first are there but once
        found = [t.times(weight) for t in once] + [t.times(weight * (load.output - 1)) for t in tpot.terms]
        rest = Term(DECODE, "the end of the run", "wait", "the end of the run", 0.0, "wait")
    else:
        found, rest = _limiting(model, metrics, ttft, tpot)
    left = total - sum(t.value for t in found)
    found.append(rest._replace(value=left))
    return Breakdown("per_token", total, tuple(t for t in found if abs(t.value) > DUST * total))


def _limiting(model: Pools, metrics: Metrics, ttft: Breakdown, tpot: Breakdown) -> tuple[list[Term], Term]:
    """The terms of a token in what limits, and what is left of it."""
    load = model.plan.workload
    limit = _limit(model.rates(metrics, load.input, load.output))
    bubble = Term(limit, BUBBLE, "bubble", BUBBLE, 0.0, "bubble", part=f"{limit} pool")
    if limit == "transfer":
        bound = "network" if model.split.between else "transfer"
        return [], Term(DECODE, "transfer", "transfer", KEPT, 0.0, bound, part="transfer")
    if limit == "decode":
        places = model.decode.n * model.decode.in_flight * float(metrics.batch)
        return [t.times(max(load.output - 1, 1) / places / load.output) for t in tpot.terms], bubble
    first, engine = float(metrics.joined), model.prefill.plan.runs_on
    places = model.prefill.n * model.prefill.in_flight * first
    admitted = Term(PREFILL, "engine", "engine", "engine", engine.admit * first, "engine", part="prefill pool")
    once = [*(t for t in ttft.terms if t.bound not in ("engine", "bubble")), admitted]
    return [t.times(1 / places / load.output) for t in once if t.value > 0], bubble


# ---- the estimate


def _assumed(split: SplitSpec, a: Estimate, d: Estimate) -> tuple[tuple[str, str, str], ...]:
    """What either pool takes for granted, and the link: its bandwidth is taken as reached."""
    link = [(split.between or "transfer", "bandwidth", f"{show_rate(split.bandwidth)} a port, reached in full")]
    if split.kv_transfer is None:
        link.append(("transfer", "kv_transfer", "after the prefill"))
    return tuple(dict.fromkeys((*a.assumed, *d.assumed, *link)))


def _bands(a: Estimate, d: Estimate, m: Metrics, rates: Rates, wait: float) -> tuple[tuple[str, Band], ...]:
    """TTFT as in its pool, TPOT as in the other with the transfer, the rate by what limits it."""
    ttft, step = a.band("ttft_s"), d.band("tpot_s")
    if ttft is None or step is None:
        return ()
    tpot, steps = (step[0] + wait, step[1] + wait), float(m.latency - m.ttft) / float(m.tpot)
    latency = ttft[0] + steps * tpot[0], ttft[1] + steps * tpot[1]
    limits = {"prefill": (a.ttft_s, ttft), "transfer": (1.0, (1.0, 1.0)), "decode": (float(m.tpot), tpot)}
    value, (low, high) = limits[_limit(rates)]
    rate = float(m.throughput) * value / high, float(m.throughput) * value / low
    return tuple(zip(BANDED, (ttft, tpot, latency, rate), strict=True))


def _limit(rates: Rates) -> str:
    return min(("prefill", "transfer", "decode"), key=lambda name: float(getattr(rates, name)))


def _pools(model: Pools, a: Estimate, d: Estimate, rates: Rates) -> PoolsEstimate:
    """What each pool holds and sustains, and the decode replicas that one of prefill feeds."""
    split, moved = model.split, rates.moved
    sent = Sent(
        split.kv_transfer or "after",
        split.between,
        split.bandwidth,
        split.latency,
        float(moved.request),
        float(moved.sent),
        float(moved.received),
        float(moved.seconds),
        float(moved.exposed),
        float(rates.transfer),
    )
    first, second = (
        Pool(pool.plan.machine, e, float(rate))
        for pool, e, rate in ((model.prefill, a, rates.prefill), (model.decode, d, rates.decode))
    )
    balance = (first.requests_per_s / a.replicas) / (second.requests_per_s / d.replicas)
    return PoolsEstimate(first, second, sent, _limit(rates), balance)
