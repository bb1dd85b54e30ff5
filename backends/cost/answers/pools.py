"""The estimate of two pools: each phase from its pool, the memory of the fuller one, rates and their balance."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.answers.communication import TRANSFER, Calls, Communication
from plandsl.answers.estimate import BANDED, Band, Estimate
from plandsl.answers.pools import Pool, Sent
from plandsl.answers.pools import Pools as PoolsEstimate
from plandsl.backends.cost.answers.communication import communication
from plandsl.backends.cost.answers.estimate import estimate_servers, requirement
from plandsl.backends.cost.answers.spent import spend
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.pools import Pools, Rates
from plandsl.diagnostics import Diagnostic
from plandsl.ir.collectives import Send
from plandsl.spec.plan import SplitSpec
from plandsl.units import show_rate


def estimate_pools(model: Deployment, metrics: Metrics, notes: Sequence[Diagnostic] = ()) -> Estimate:
    """The estimate of two pools."""
    assert isinstance(model, Pools), "a transfer lies between two pools"
    plan, load = model.plan, model.plan.workload
    alone = model.alone(metrics, load.input, load.output)
    a, d = (estimate_servers(pool, own) for pool, own in zip(model.pools, alone, strict=True))
    rates = model.rates(metrics, load.input, load.output)
    wait = float(metrics.sent)
    decode = d.decode._replace(time_s=float(metrics.tpot), waiting_s=wait)
    fuller = max(a.memory, d.memory, key=lambda held: held.total / held.capacity)
    spent = spend(model, metrics, a.prefill, decode)
    pools = _pools(model, a, d, rates)
    return d._replace(
        gpus=model.gpus,
        ttft_s=float(metrics.ttft),
        tpot_s=float(metrics.tpot),
        latency_s=float(metrics.latency),
        throughput_tokens_per_s=float(metrics.throughput),
        memory=fuller,
        prefill=a.prefill,
        decode=decode,
        requires=tuple(
            requirement(r, metrics, a.prefill, decode, spent.values) for r in plan.requires if not r.over_requests
        ),
        notes=tuple(notes),
        assumed=_pool_assumptions(model.split, a, d),
        calibration=", ".join(dict.fromkeys((a.calibration, d.calibration))),
        cost_usd_per_mtok=None if spent.money is None else spent.money.usd_per_mtok,
        money=spent.money,
        energy=spent.energy,
        fleet=spent.fleet,
        bands=_bands(a, d, metrics, rates, wait),
        pools=pools,
        communication=_communication(model, metrics, pools.sent),
    )


def _communication(model: Pools, metrics: Metrics, sent: Sent) -> Communication:
    """The calls of both pools, and the transfer between them."""
    output = model.plan.workload.output
    within = communication(metrics, output, model.decode.gain)
    share = sent.exposed_s / max(output - 1, 1) / float(metrics.tpot)
    return Communication((*within.rows, _transfer_calls(sent, share)))


def _transfer_calls(sent: Sent, share: float) -> Calls:
    """The KV cache of one request on its way between two pools: its bytes, and the bytes through the busiest port."""
    return Calls(
        phase=TRANSFER, op=Send.facts.word, axis=sent.between, algorithm=sent.when, nodes=1, part="", calls=1,
        payload=sent.request, wire=sent.sent, time_s=sent.time_s, share=share, per_request=sent.sent,
    )  # fmt: skip


def _pool_assumptions(split: SplitSpec, a: Estimate, d: Estimate) -> tuple[tuple[str, str, str], ...]:
    """The assumptions of both pools and of the link, whose ports are taken to reach their bandwidth."""
    link = [(split.between or "transfer", "bandwidth", f"{show_rate(split.bandwidth)} a port, reached in full")]
    if split.kv_transfer is None:
        link.append(("transfer", "kv_transfer", "after the prefill"))
    return tuple(dict.fromkeys((*a.assumed, *d.assumed, *link)))


def _bands(a: Estimate, d: Estimate, m: Metrics, rates: Rates, wait: float) -> tuple[tuple[str, Band], ...]:
    """Bands: TTFT from the prefill pool, TPOT from the decode pool plus the transfer, throughput from the limit."""
    ttft, step = a.band("ttft_s"), d.band("tpot_s")
    if ttft is None or step is None:
        return ()
    tpot, steps = (step[0] + wait, step[1] + wait), float(m.latency - m.ttft) / float(m.tpot)
    latency = ttft[0] + steps * tpot[0], ttft[1] + steps * tpot[1]
    limits = {"prefill": (a.ttft_s, ttft), "transfer": (1.0, (1.0, 1.0)), "decode": (float(m.tpot), tpot)}
    value, (low, high) = limits[rates.limit]
    rate = float(m.throughput) * value / high, float(m.throughput) * value / low
    return tuple(zip(BANDED, (ttft, tpot, latency, rate), strict=True))


def _pools(model: Pools, a: Estimate, d: Estimate, rates: Rates) -> PoolsEstimate:
    """Each pool's estimate and rate, the transfer, and the decode replicas that one prefill replica feeds."""
    split, moved = model.split, rates.moved
    sent = Sent(
        split.kv_transfer or "after",
        split.between,
        bandwidth=split.bandwidth,
        latency=split.latency,
        request=float(moved.request),
        sent=float(moved.sent),
        received=float(moved.received),
        time_s=float(moved.seconds),
        exposed_s=float(moved.exposed),
        requests_per_s=float(rates.transfer),
    )
    first, second = (
        Pool(pool.plan.machine, e, float(rate))
        for pool, e, rate in ((model.prefill, a, rates.prefill), (model.decode, d, rates.decode))
    )
    balance = (first.requests_per_s / a.replicas) / (second.requests_per_s / d.replicas)
    return PoolsEstimate(first, second, sent, rates.limit, balance)
