"""Breakdowns of the times of two pools: terms labelled with their pool, and terms of the transfer."""

from __future__ import annotations

from attrs import evolve

from plandsl.answers.explanation import DUST, Breakdown, Term
from plandsl.backends.cost.answers.responses import BUBBLE, CROWD, PORT
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.pools import Pools
from plandsl.ir.program import DECODE, PREFILL
from plandsl.values import sum_up

KEPT = "KV cache"
"""The name of the transfer's terms."""


def transfer_terms(model: Deployment, metrics: Metrics) -> list[Term]:
    """The terms of a token's wait for the cache: the message, its bytes, and other transfers."""
    assert isinstance(model, Pools), "a transfer lies between two pools"
    split, load = model.split, model.plan.workload
    tokens = max(load.output - 1, 1)
    moved = model.rates(metrics, load.input, load.output).moved
    bound = "network" if split.between else "transfer"
    message = split.latency / tokens
    bytes_ = float(moved.exposed) / tokens - message
    port = 0.0 if metrics.served is None else float(metrics.served.port)
    found = (
        Term(
            DECODE, "transfer", op="transfer", name=KEPT, value=bytes_, bound=bound, bytes=float(moved.sent), runs=1.0
        ),
        Term(DECODE, "transfer", op="message", name=f"{KEPT}, latency", value=message, bound="message", runs=1.0),
        Term(DECODE, "transfer", op="wait", name=PORT, value=port, bound="wait"),
    )
    return [term._replace(part="transfer") for term in found if term.value > DUST * float(metrics.tpot)]


def label_pools(whole: Breakdown) -> Breakdown:
    """``whole`` with the pool as the ``part`` of each term that has none."""
    named = (t if t.part else t._replace(part=f"{t.phase} pool") for t in whole.terms)
    return evolve(whole, terms=tuple(named))


def per_token(model: Deployment, metrics: Metrics, ttft: Breakdown, tpot: Breakdown) -> Breakdown:
    """Seconds per output token: the time of a request over the tokens of all requests that are there at once.

    Under an ongoing load, the time is the whole stay (Little). With batches it is the stay in the limiting pool:

        prefill  (period + admit batch) / (replicas in_flight batch output)
        decode   (output - 1) TPOT / (replicas in_flight batch output)
    """
    assert isinstance(model, Pools), "a transfer lies between two pools"
    load, total = model.plan.workload, 1 / float(metrics.throughput)
    if metrics.served is not None:
        weight = 1 / (float(load.concurrency or 0) * load.output)
        once = [t for t in ttft.terms if t.name != CROWD]  # the crowd at the start does not recur
        found = [t.times(weight) for t in once] + [t.times(weight * (load.output - 1)) for t in tpot.terms]
        rest = Term(DECODE, "the end of the run", op="wait", name="the end of the run", value=0.0, bound="wait")
    else:
        found, rest = _limiting_terms(model, metrics, ttft, tpot)
    left = total - sum_up(t.value for t in found)
    found.append(rest._replace(value=left))
    return Breakdown("per_token", total, tuple(t for t in found if abs(t.value) > DUST * total))


def _limiting_terms(model: Pools, metrics: Metrics, ttft: Breakdown, tpot: Breakdown) -> tuple[list[Term], Term]:
    """The terms of a token in the limiting pool or transfer, and the term for the rest."""
    load = model.plan.workload
    limit = model.rates(metrics, load.input, load.output).limit
    bubble = Term(limit, BUBBLE, op="bubble", name=BUBBLE, value=0.0, bound="bubble", part=f"{limit} pool")
    if limit == "transfer":
        bound = "network" if model.split.between else "transfer"
        return [], Term(DECODE, "transfer", op="transfer", name=KEPT, value=0.0, bound=bound, part="transfer")
    if limit == "decode":
        places = model.decode.n * model.decode.in_flight * float(metrics.batch)
        return [t.times(max(load.output - 1, 1) / places / load.output) for t in tpot.terms], bubble
    first, engine = float(metrics.joined), model.prefill.plan.effective_engine
    places = model.prefill.n * model.prefill.in_flight * first
    admitted = Term(
        PREFILL, "engine", op="engine", name="engine", value=engine.admit * first, bound="engine", part="prefill pool"
    )
    once = [*(t for t in ttft.terms if t.bound not in ("engine", "ranks", "bubble")), admitted]
    return [t.times(1 / places / load.output) for t in once if t.value > 0], bubble
