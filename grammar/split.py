"""Reads two pools of GPUs in one plan: `prefill { ... }`, `decode { ... }` and the `transfer` between them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from plandsl.diagnostics import Label, Span
from plandsl.grammar.hardware import cluster_spec
from plandsl.grammar.modules import Wrong
from plandsl.grammar.plans import PACE, PARTS, POOLS, SETTINGS, SPLIT
from plandsl.grammar.records import Layer, Record, merge
from plandsl.grammar.schema import Reader
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import PlanSpec, SplitSpec, WorkloadSpec
from plandsl.units import BYTE_RATE, TIME
from plandsl.values import sum_up

SHORT = {"batch": ("workload", "batch"), "in_flight": ("workload", "in_flight"), "nodes": ("cluster", "count")}
"""Short forms of fields in a pool: `batch = 4` stands for `workload { batch = 4 }`."""

POOL = (*PARTS, *SETTINGS, *PACE, "shift", "speculate", "tower", "measured", *SHORT)
EXAMPLES = {
    "prefill": "prefill { node = h100_8, sharding { tp = 4, dp = 2 } }",
    "decode": "decode { node = h200_8, sharding { tp = 8 } }",
    "transfer": "transfer { bandwidth = 50 GB/s, latency = 10 us }",
}

Link = tuple[float, float, str]


def split_spec(plan: Reader, whole: Callable[[Record], PlanSpec | None]) -> PlanSpec | None:
    """A plan whose phases run on two pools of GPUs. ``whole`` reads the plan of one pool from its record.

    A pool has all fields of the plan; the fields in its own braces override them.
    """
    sections = {name: plan.section(name, EXAMPLES[name]) for name in POOLS}
    kv_transfer = plan.word("kv_transfer", ("after", "layerwise"))
    pools = {name: whole(_pool(plan, section)) for name, section in sections.items() if section}
    if not plan.ok or len(pools) < len(POOLS):
        return None
    prefill, decode = (pools[name] for name in POOLS)
    link = _link(plan, sections)
    if prefill is None or decode is None:
        return None
    _check_agreement(plan, prefill, decode)
    if decode.workload.encodes:
        why = "nothing comes out of this load (`output = 0`), so there is nothing for a decode pool"
        plan.fail(
            Wrong("E481", why, plan.record.fields["decode"][-1].name.span, hint="one pool: `node` and `sharding`")
        )
    if link is None or not plan.ok:
        return None
    prefill = evolve(prefill, kv_residency="prompts")
    bandwidth, latency, between = link
    split = SplitSpec(
        prefill,
        decode,
        bandwidth=bandwidth,
        latency=latency,
        kv_transfer=kv_transfer,
        between=between,
        span=plan.record.span,
    )
    return evolve(decode, shift=None, split=split)


def _pool(plan: Reader, section: Record) -> Record:
    """The record of a pool as a plan: the fields of the plan, overridden by the fields of the pool."""
    reader = Reader(plan.context, section, POOL)
    plan.ok &= reader.ok
    base = plan.record.copy_as(plan.record.name, plan.record.span, plan.record.unit)
    base.fields = {name: layers for name, layers in base.fields.items() if name not in SPLIT}
    over = section.copy_as(plan.record.name, section.span, section.unit)
    over.fields = {name: layers for name, layers in section.fields.items() if name in POOL and name not in SHORT}
    for mine, other in (("node", "cluster"), ("cluster", "node")):
        if mine in over.fields:
            base.fields.pop(other, None)
    made = merge(base, over)
    for name, (part, field) in SHORT.items():
        if (layer := reader.layer(name)) and part in made.fields:
            inside = Record(part, made.name, layer.name.span, layer.unit)
            inside.fields = {field: (layer._replace(name=layer.name._replace(text=field)),)}
            made.fields[part] = (*made.fields[part], Layer(layer.name, inside, layer.unit))
        elif layer and part == "cluster":
            hint = "put `cluster = NAME` outside the pools, or give the pool a `node`"
            plan.fail(Wrong("E321", "`nodes` needs a cluster, and the plan has none", layer.name.span, hint=hint))
    return made


def _link(plan: Reader, sections: dict[str, Record | None]) -> Link | None:
    """Port bandwidth, latency and cluster name of the link between pools: `transfer`, or the network of the cluster."""
    if "transfer" in plan.record.fields:
        section = plan.section("transfer")
        if section is None:
            return None
        reader = Reader(plan.context, section, ("bandwidth", "latency"))
        bandwidth = reader.number("bandwidth", BYTE_RATE, "bandwidth = 50 GB/s")
        latency = reader.number("latency", TIME, "latency = 10 us", zero=True)
        plan.ok &= reader.ok
        return None if bandwidth is None or latency is None else (bandwidth, latency, "")
    both = [s for s in sections.values() if s and "cluster" not in s.fields and "node" not in s.fields]
    if "cluster" not in plan.record.fields or len(both) < len(POOLS):
        plan.report_missing("transfer", EXAMPLES["transfer"])
        return None
    return _cluster_link(plan, both)


def _cluster_link(plan: Reader, sections: list[Record]) -> Link | None:
    """The network of the cluster, if both pools are parts of it."""
    record = plan.declaration("cluster")
    cluster = plan.context.make(cluster_spec, record) if record else None
    if cluster is None:
        return None
    counts = [Reader(plan.context, s, None).whole("nodes") for s in sections]
    span = plan.record.fields["cluster"][-1].name.span
    if None in counts:
        hint = f"give each pool `nodes = N`, {cluster.count} in all, or each pool a `node` and the plan a `transfer`"
        why = f"the pools do not say how many of the {cluster.count} nodes each has"
        plan.fail(Wrong("E321", why, span, hint=hint))
    elif sum_up(n for n in counts if n) > cluster.count:
        asked = " + ".join(map(str, counts))
        hint = f"use {cluster.count} nodes in all, or a larger cluster"
        why = f"the pools need {asked} nodes of `{cluster.name}`, which has {cluster.count}"
        plan.fail(Wrong("E321", why, span, hint=hint))
    return cluster.network.bandwidth, cluster.network.latency, cluster.name


def _check_agreement(plan: Reader, prefill: PlanSpec, decode: PlanSpec) -> None:
    """Check that both pools have the same model, formats and requests: one pool reads the cache of the other."""
    a, b = prefill.workload, decode.workload
    for what, ours, theirs in (
        ("models", _shape(prefill.model), _shape(decode.model)),
        ("`kv_cache` formats", prefill.model.kv_cache, decode.model.kv_cache),
        ("formats of states", _state_formats(prefill.model), _state_formats(decode.model)),
        ("guesses", _guesses(prefill), _guesses(decode)),
        ("requests", _requests(a), _requests(b)),
    ):
        if ours != theirs:
            labels = (Label(_name_span(plan, "prefill"), "the pool that writes the cache"),)
            why = f"the pools have different {what}, but decode continues the requests of prefill"
            hint = "give the field outside the pools, for both; `batch`, `weights` and `compute` may differ"
            plan.fail(Wrong("E322", why, _name_span(plan, "decode"), labels=labels, hint=hint))

    if "attention" not in decode.model.called and not decode.model.stateful:
        why = f"model `{decode.model.name}` has neither KV cache nor states to transfer"
        plan.fail(Wrong("E322", why, _name_span(plan, "decode"), hint="use one pool"))


def _state_formats(model: ModelSpec) -> set[tuple[str, str]]:
    """The format of the states of each function that keeps one; convolutions keep tokens, as `activations` says."""
    kept = {"recurrence": model.state_cache or model.activations}
    return {(term.fn, kept.get(term.fn, model.activations)) for term in model.stateful}


def _guesses(plan: PlanSpec) -> tuple[object, ...] | None:
    """The model that drafts and its chances: what it has read of a prompt goes to the other pool too."""
    guesses = plan.speculate
    return None if guesses is None or guesses.draft is None else (guesses.acceptance, *_shape(guesses.draft))


def _requests(load: WorkloadSpec) -> tuple[object, ...]:
    return load.input, load.output, load.reuse, load.prefix, load.traffic


def _shape(model: ModelSpec) -> tuple[object, ...]:
    before = model.embedding, model.prelude, model.entry
    return model.layers, model.sizes, before, model.blocks, model.head, model.causal


def _name_span(plan: Reader, name: str) -> Span:
    return plan.record.fields[name][-1].name.span
