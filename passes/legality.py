"""Checks of a plan before it is sharded (degrees divide, ranks exist), and of its program after."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import prod
from typing import Literal, NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Label
from plandsl.ir.chunks import Split
from plandsl.ir.compute import Attention, Gemm
from plandsl.ir.latent import LatentAttention
from plandsl.ir.names import stem
from plandsl.ir.ops import COLLECTIVES
from plandsl.ir.program import Program, Region
from plandsl.ir.skew import Skew, Varying, Zipf, factor
from plandsl.ir.types import PADDED, REPLICATED, Value
from plandsl.passes.build import arithmetic
from plandsl.passes.cut_stages import split_layers, stage_axes
from plandsl.passes.fitting import check_engine, check_load
from plandsl.passes.groups import check_groups, nearest_degrees, refuses_cuts, with_size
from plandsl.spec.earlier import BEFORE, group_starts, spans
from plandsl.spec.formats import GGUF, base_format
from plandsl.spec.model import ADAPTERS, Apply, walk
from plandsl.spec.money import DRAWN, PAID, hosts, power_hint, power_missing, powerless, price_of, unpriced
from plandsl.spec.plan import TARIFFS, AxisSpec, CutSpec, PlanSpec, RuleSpec
from plandsl.values import kept, sum_up

FREE = PADDED | {"tokens", "layers"}

VOCAB_PADDING = 64


def check(plan: PlanSpec, *, drafts: bool = False) -> Iterator[Diagnostic]:
    """Errors that make the plan illegal, and notes on consequences that the plan does not state.

    ``drafts``: the plan is of a draft model, whose adapters requests do not name.
    """
    yield from _ranks(plan)
    if plan.cluster is not None:
        from plandsl.passes.nodes import check_nodes

        yield from check_nodes(plan, plan.cluster)
    yield from check_sizes(plan)
    yield from check_groups(plan, sizes_fit)
    yield from _stages(plan)
    yield from _shared_axes(plan)
    yield from _continues(plan)
    yield from _mixes(plan)
    yield from _parts(plan)
    yield from check_load(plan, _shards(plan, "batch"))
    yield from check_engine(plan)
    yield from _price(plan)
    yield from _peaks(plan)
    if plan.workload.traffic is not None and plan.workload.traffic.named and not drafts:
        from plandsl.passes.adapters import check_named

        yield from check_named(plan)
    if plan.speculate is not None:
        from plandsl.passes.drafts import check_drafts

        yield from check_drafts(plan, plan.speculate)
    tower = plan.tower_plan
    if tower is not None:
        from plandsl.passes.drafts import check_tower

        yield from check_tower(plan, tower)


def check_program(plan: PlanSpec, program: Program) -> Iterator[Diagnostic]:
    """Findings that need the compiled program: repeated sums, axes that split nothing, weights that are whole."""
    yield from _unsplit(plan, program)
    yield from _loads(program)
    yield from _idle(plan, program)
    yield from _chunks(program)
    if plan.model.stateful:
        from plandsl.passes.shard_states import check_states

        yield from check_states(plan, program)
    if plan.model.choices:
        from plandsl.passes.shard_index import check_index

        yield from check_index(plan, program)
    sizes = dict(plan.model.sizes)
    for region in program.regions:
        for op in region.ops:
            if not isinstance(op, Gemm):
                continue
            for dim in sorted(set(op.contracted()) & REPLICATED):
                ways = program.mesh.ways(op.x.type.on(dim))
                if ways > sizes[dim]:
                    why = f"{dim} = {sizes[dim]} over {ways} shards is replicated, but this sums over it"
                    yield Diagnostic("E307", why, op.span, hint=f"split {dim} at most {sizes[dim]} ways")


def _idle(plan: PlanSpec, program: Program) -> Iterator[Diagnostic]:
    """Settings that change nothing here."""
    if plan.overlap == "collectives" and not any(map(_overlaps, program.regions)):
        why = "`overlap = collectives` changes nothing: every op after a collective waits for it"
        hint = "drop it; it helps with routed and shared experts, where `ep` dispatches the routed ones"
        yield Diagnostic("N314", why, plan.span, hint=hint)
    if plan.chunks > 1 and not _has_chunks(program):
        why = f"`chunks = {plan.chunks}` changes nothing: no GEMM is followed by a sum, or preceded by a gather"
        yield Diagnostic("N314", why, plan.span, hint="drop it; under `tp` each layer has two such GEMMs")


def _has_chunks(program: Program) -> bool:
    return any(isinstance(op, Split) for region in program.regions for op in region.ops)


def _overlaps(region: Region) -> bool:
    """Whether a kernel runs between a collective and the first op that reads its result."""
    for i, op in enumerate(region.ops):
        if isinstance(op, COLLECTIVES):
            later = region.ops[i + 1 :]
            first = next((n for n, reader in enumerate(later) if op.out in reader.operands), 0)
            if any(not isinstance(x, COLLECTIVES) for x in later[:first]):
                return True
    return False


def _loads(program: Program) -> Iterator[Diagnostic]:
    """Notes on the assumed load of ranks that share experts."""
    for name, imbalance in program.imbalance:
        dims = {d for r in program.regions for v in r.values().values() for d in v.type.dims if d.name == name}
        ways = max((program.mesh.ways(d.axes) for d in dims), default=1)
        if ways > 1:
            span = next(op.span for r in program.regions for op in r.ops if name in op.results[0].type.names)
            why = f"{ways} ranks share `{stem(name)}`; assumed load: {_shares(imbalance)}"
            hint = "`imbalance = 1.2` in `experts(...)` is the load of the fullest rank over the mean"
            yield Diagnostic("N305", why, span, hint=hint)


def _chunks(program: Program) -> Iterator[Diagnostic]:
    """Notes on the assumed size of the KV cache of attention in chunks."""
    ops = (op for region in program.regions for op in region.ops if isinstance(op, Attention | LatentAttention))
    for op in {op.chunk: op for op in ops if op.chunk is not None}.values():
        why = f"the KV cache of attention in chunks holds at most {op.chunk} tokens of a request (assumed)"
        hint = "an engine that keeps finished chunks needs more: leave `chunk` out to see how much"
        yield Diagnostic("N323", why, op.span, hint=hint)


def _shares(imbalance: Skew) -> str:
    if factor(imbalance) <= 1:
        return "equally many tokens on each"
    if isinstance(imbalance, Zipf):
        return f"experts dealt in turn, the r-th most popular used as r^-{imbalance.exponent:g}"
    if isinstance(imbalance, Varying):
        return f"{imbalance.mean:g} times the mean on the fullest, more than {imbalance.p95:g} times 5 % of the time"
    return f"{imbalance:g} times the mean on the fullest"


def _parts(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Findings on `micro_batches`: each needs a request, and one stage gains nothing from them."""
    parts, load = plan.micro_batches, plan.workload
    if parts == 1:
        return
    if load.concurrency is None and parts > load.batch:
        why = f"{parts} micro-batches of {load.batch} request{'s' if load.batch > 1 else ''}"
        hint = f"at most one for each request: `micro_batches = {load.batch}`"
        yield Diagnostic("E315", why, load.span, hint=hint)
    elif prod(plan.sharding.axis(axis) for axis in stage_axes(plan)) == 1:
        why = f"`micro_batches = {parts}` only reads weights {parts} times, because there is one stage"
        yield Diagnostic("N314", why, plan.span, hint="drop it; it helps where several stages (`pp`) work at once")


def _continues(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Findings on prompts computed in parts: the model must be causal, and reused tokens need cache blocks."""
    if not plan.has_cached_prompts:
        return
    for term in (part for b in plan.model.blocks for s in b.statements for part in walk(s.term)):
        if isinstance(term, Apply) and term.fn == "attention" and not term.option("causal", plan.model.causal):
            why = "prompts are computed in parts, but here a token sees later tokens"
            yield Diagnostic("E320", why, term.span, "not causal", hint="compute prompts whole")
    if plan.workload.reuse and plan.workload.prefix is None:
        why = "each request is assumed to hold its reused tokens in its own blocks"
        hint = "write `prefix = shared` to hold them once, or `prefix = own` to state this"
        yield Diagnostic("N320", why, plan.workload.span, hint=hint)


def _mixes(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Errors in `chunked_prefill`: a step must have room for a prompt beside a token of each running request.

    In a pool that only computes prompts, and in an engine that does not mix steps, no request runs beside them.
    """
    load, budget = plan.workload, plan.chunked_prefill
    if budget is None or plan.kv_residency == "prompts" or not plan.effective_engine.mixes_steps:
        return
    running = -(-load.batch // _shards(plan, "batch"))
    if load.concurrency is None and running >= budget:
        why = f"a step of {budget} tokens has no room for a prompt beside {running} running requests"
        yield Diagnostic(
            "E324", why, load.span, hint=f"`chunked_prefill = {2 * running}` or more, or a smaller `batch`"
        )


class _Layout(NamedTuple):
    """The axes that split ``tokens``, those that split anything, and the weights of layers that an axis may split."""

    tokens: frozenset[str]
    split: frozenset[str]
    weights: tuple[Value, ...]


@kept(128)
def _layout(program: Program) -> _Layout:
    values = [v for region in program.regions for v in region.values().values()]
    routers = {stem(name) for name, _ in program.imbalance}  # every rank needs the scores of all experts
    layers = [w for region in program.regions if region.layers for w in region.weights]
    return _Layout(
        frozenset(a for v in values for d in v.type.dims if d.name in PADDED for a in d.axes),
        frozenset().union(*(v.type.axes for v in values)),
        tuple(w for w in layers if len(w.type.dims) > 1 and w.type.names[-1] not in routers),
    )


def _unsplit(plan: PlanSpec, program: Program) -> Iterator[Diagnostic]:
    """Findings on ranks that repeat work: an axis splits no tensor, or splits only some of the weights."""
    tokens, split, weights = _layout(program)
    used = {*split, *program.stage_axes, *plan.sharding.replica_axes}
    named = {a for rule in plan.sharding.rules for a in rule.axes}
    for axis in plan.sharding.axes:
        if axis.size == 1 or axis.name not in named:
            continue
        if axis.name not in used:
            why = f"`{axis.name}` splits nothing, so its {axis.size} ranks do the same work"
            yield Diagnostic("W301", why, axis.span, hint="name dimensions that the model has")
        elif any(axis.name in w.type.axes for w in weights):
            whole = [w for w in weights if axis.name not in w.type.axes]
            if whole:
                distinct = list(dict.fromkeys(f"`{w.name}`" for w in whole))
                names = ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")
                first = next(d for d in whole[0].type.names if d != "hidden" or len(whole[0].type.dims) == 1)
                why = f"no rule splits {names}: whole on all {axis.size} ranks of `{axis.name}`"
                hint = "" if axis.name in tokens else f"for example `{first} -> {axis.name}`"
                yield Diagnostic("N304", why, axis.span, hint=hint)


def _ranks(plan: PlanSpec) -> Iterator[Diagnostic]:
    ranks, have, home = plan.sharding.ranks, plan.gpus, plan.cluster or plan.node
    if ranks > have:
        degrees = " * ".join(f"{a.name} {a.size}" for a in plan.sharding.axes)
        labels = (Label(home.span, f"`{home.name}` has {have}"),) if home.span else ()
        larger = "a larger node" if plan.cluster is None else "more nodes"
        hint = f"lower a degree until their product is at most {have}, or take {larger}"
        why = f"{ranks} ranks on {have} GPUs ({degrees})"
        largest = max(plan.sharding.axes, key=lambda a: a.size)
        yield Diagnostic("E302", why, largest.span or plan.sharding.span, "this many ranks", hint, labels=labels)
    elif ranks < have:
        yield Diagnostic("N301", f"{have - ranks} of {have} GPUs of `{home.name}` stay idle", plan.sharding.span)


def _cuts(plan: PlanSpec, dim: str) -> Iterator[list[int]]:
    """For each region, the sizes of the axes that cut ``dim``, major first; the region's own rules come first."""
    for region in dict.fromkeys(r.region for r in plan.sharding.rules):
        inside = [r for r in plan.sharding.rules if region and r.region == region]
        everywhere = [r for r in plan.sharding.rules if not r.region]
        axes = dict.fromkeys(a for r in (*inside, *everywhere) if dim in r.dims for a in r.axes)
        yield [plan.sharding.axis(a) for a in axes]


def _replicates(size: int, cut: list[int]) -> bool:
    """Whether cutting ``size`` axis by axis leaves equal parts; single items may be replicated."""
    for ways in cut:
        if size % ways and ways % size:
            return False
        size = max(1, size // ways)
    return True


def _shards(plan: PlanSpec, dim: str) -> int:
    """The largest number of shards that the rules of any region cut ``dim`` into."""
    return max((prod(cut) for cut in _cuts(plan, dim)), default=1)


def _asking(plan: PlanSpec, dim: str) -> tuple[RuleSpec, AxisSpec | None]:
    rule = next(r for r in plan.sharding.rules if dim in r.dims)
    return rule, next((a for a in plan.sharding.axes if a.name in rule.axes and a.size > 1), None)


def check_sizes(plan: PlanSpec) -> Iterator[Diagnostic]:
    """An error (E301) for each axis whose size does not divide the dimensions that it splits; E487 on adapters."""
    sizes = dict(plan.model.sizes)
    wrong: dict[AxisSpec | RuleSpec, list[str]] = {}
    for dim in _split_dims(plan):
        if dim == ADAPTERS:
            hint = f"leave `{ADAPTERS}` out: the weights of adapters are split as those of their targets are"
            rule, _ = _asking(plan, dim)
            yield Diagnostic("E487", f"`{ADAPTERS}` cannot be split: a rank has its part of each", rule.span, hint=hint)
            continue
        size, ways, (rule, axis) = sizes[dim], _shards(plan, dim), _asking(plan, dim)
        match _how_split(plan, dim, size):
            case "whole":
                pass
            case "padded":
                padded = _padded_vocab(plan, size)
                why = (
                    f"{plan.engine.name if plan.engine else ''} pads {dim} = {size:,} to {padded:,} before it is split"
                )
                yield Diagnostic("N346", why, rule.span)
            case "copied":
                why = f"{dim} = {size} over {ways} shards: {ways // size} ranks hold each"
                yield Diagnostic("N302", why, rule.span)
            case _:
                wrong.setdefault(axis or rule, []).append(dim)
    for dims in wrong.values():
        yield _does_not_divide(plan, dims)


def sizes_fit(plan: PlanSpec) -> bool:
    """Whether `check_sizes` finds no error."""
    sizes = dict(plan.model.sizes)
    return all(dim != ADAPTERS and _how_split(plan, dim, sizes[dim]) for dim in _split_dims(plan))


def _split_dims(plan: PlanSpec) -> list[str]:
    """The dimensions with a size that rules split, each once; `ADAPTERS` too."""
    sizes = dict(plan.model.sizes)
    named = dict.fromkeys(d for r in plan.sharding.rules for d in r.dims)
    return [d for d in named if d == ADAPTERS or (d in sizes and d not in FREE)]


def _how_split(plan: PlanSpec, dim: str, size: int) -> Literal["whole", "padded", "copied", ""]:
    """How the rules split a dimension: into equal parts, or so once padded, or with copies of items; empty if not."""
    ways = _shards(plan, dim)
    if size % ways == 0:
        return "whole"
    if dim == plan.model.embedding.dims[0] and _padded_vocab(plan, size) % ways == 0:
        return "padded"
    return "copied" if dim in REPLICATED and all(_replicates(size, cut) for cut in _cuts(plan, dim)) else ""


def _padded_vocab(plan: PlanSpec, size: int) -> int:
    """The vocabulary as the engine holds it.

    vLLM (`vocab_parallel_embedding.py`) and SGLang pad it to a multiple of `VOCAB_PADDING`.
    """
    return -(-size // VOCAB_PADDING) * VOCAB_PADDING if refuses_cuts(plan.engine) else size


def _does_not_divide(plan: PlanSpec, dims: list[str]) -> Diagnostic:
    rule, axis = _asking(plan, dims[0])
    sizes = [f"{d} = {plan.model.size(d)}" for d in dims]
    listed = sizes[0] if len(sizes) == 1 else f"{', '.join(sizes[:-1])} and {sizes[-1]}"
    ways = _shards(plan, dims[0])
    what = f"{axis.sugar} = {axis.size}" if axis and axis.sugar else f"{ways} shards"
    why = f"{listed} of `{plan.model.name}` cannot be split by {what}"
    good = _degrees(plan, rule, axis, dims)
    hint = f"nearest degrees that divide: {', '.join(map(str, good))}" if good else f"split {dims[0]} over another axis"
    labels = []
    if axis is not None and axis.span and rule.span and axis.span != rule.span:
        labels.append(Label(rule.span, f"{dims[0]} is split by this rule"))
    if plan.model.span:
        labels.append(Label(plan.model.span, f"{listed} here"))
    span = (axis.span if axis else None) or rule.span or plan.sharding.span
    label = f"{plan.model.size(dims[0])} / {ways} is not whole"
    return Diagnostic("E301", why, span, label, hint, labels=tuple(labels))


def _degrees(plan: PlanSpec, rule: RuleSpec, axis: AxisSpec | None, dims: list[str]) -> list[int]:
    """The nearest degrees of ``axis``, below and above, that divide every dimension it splits, and fit the GPUs."""
    if axis is None:
        return []
    sizes = dict(plan.model.sizes)
    asked = {*dims, *(d for r in plan.sharding.rules if axis.name in r.axes for d in r.dims)}
    named = [name for name in _split_dims(plan) if name in asked and name != ADAPTERS]
    divided = [sizes[name] for name in named if name not in REPLICATED and name != plan.model.embedding.dims[0]]

    def fits(n: int) -> bool:
        if any(size % n for size in divided):
            return False
        trial = with_size(plan, axis, n)
        return all(_how_split(trial, name, sizes[name]) for name in named)

    largest = min(max(sizes[name] for name in named), plan.gpus * axis.size // max(1, plan.sharding.ranks))
    return nearest_degrees(axis, largest, fits)


def _stages(plan: PlanSpec) -> Iterator[Diagnostic]:
    stages = 1
    for axis in stage_axes(plan):
        stages *= plan.sharding.axis(axis)
    layers, cut = plan.model.layers, plan.sharding.cut
    rule = next((r for r in plan.sharding.rules if "layers" in r.dims), None)
    if rule is None:
        if cut is not None:
            hint = "add `pp = 2`, or a rule such as `layers -> stage`; or drop `cut`"
            yield Diagnostic("E312", "no rule cuts the layers into stages", cut.span, "into which stages?", hint)
    elif stages > layers:
        why = f"{stages} stages, but `{plan.model.name}` has only {layers} layers"
        yield Diagnostic("E303", why, rule.span, "layers are cut here", f"use at most {layers} stages")
    elif stages > len(groups := group_starts(plan.model)):
        why = f"{stages} stages, but the layers of `{plan.model.name}` are {len(groups)} groups that share values"
        yield Diagnostic("E567", why, rule.span, "layers are cut here", f"use at most {len(groups)} stages")
    elif cut is not None:
        yield from _cut(plan, cut, rule, stages)
    elif layers % stages or len(groups) < layers:
        yield from _uneven(plan, rule, split_layers(layers, stages, groups))


def _uneven(plan: PlanSpec, rule: RuleSpec, ranges: list[tuple[int, int]]) -> Iterator[Diagnostic]:
    """A note (N303) on stages of different lengths."""
    lengths = [stop - start for start, stop in ranges]
    most, least = max(lengths), min(lengths)
    if most - least > 1:
        why = f"{plan.model.layers} layers over {len(lengths)} stages, which do not part layers that share values: "
        yield Diagnostic("N303", why + ", ".join(map(str, lengths)), rule.span)
    elif most > least:
        stages, many = len(lengths), lengths.count(most)
        why = f"{plan.model.layers} layers over {stages} stages: {many} of {most} and {stages - many} of {least}"
        yield Diagnostic("N303", why, rule.span)


def _cut(plan: PlanSpec, cut: CutSpec, rule: RuleSpec, stages: int) -> Iterator[Diagnostic]:
    """Errors in a written cut: it needs a part for each stage, and the parts must add up to the model's layers."""
    layers, name = plan.model.layers, plan.model.name
    if cut.balanced:
        if layers > limits.MAX_BALANCED:
            why = f"`{name}` has {layers:,} layers, and at most {limits.MAX_BALANCED:,} are balanced"
            hint = limits.MAX_BALANCED.hint("write the cut out: `cut = [48, 32]`", layers)
            yield Diagnostic("E214", why, cut.span, hint=hint)
        return
    starts = group_starts(plan.model)
    even = ", ".join(str(b - a) for a, b in split_layers(layers, stages, starts))
    hint = f"`cut = [{even}]` is even, `cut = balanced` the fastest"
    if len(cut.layers) != stages:
        parts = f"{len(cut.layers)} part{'s' if len(cut.layers) > 1 else ''}"
        labels = (Label(rule.span, f"{stages} stages"),) if rule.span else ()
        why = (
            f"the cut has {parts}, and there {'are' if stages > 1 else 'is'} {stages} stage{'s' if stages > 1 else ''}"
        )
        yield Diagnostic("E312", why, cut.span, "one part for each stage", hint, labels=labels)
    elif sum_up(cut.layers) != layers:
        labels = (Label(plan.model.span, f"{layers} layers"),) if plan.model.span else ()
        why = f"the cut has {sum_up(cut.layers)} layers in all, but `{name}` has {layers}"
        sums = f"{' + '.join(map(str, cut.layers))} = {sum_up(cut.layers)}"
        yield Diagnostic("E312", why, cut.span, sums, hint, labels=labels)
    elif parted := [end for end in accumulate(cut.layers[:-1]) if end not in starts]:
        taken, made, read = next(s for s in spans(plan.model) if BEFORE < s[1] < parted[0] <= s[2])
        why = f"the cut before layer {parted[0]} parts layer {read} from layer {made}, whose `{taken}` it takes"
        yield Diagnostic("E567", why, cut.span, hint=hint)


def _shared_axes(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Errors (E308) on an axis that cuts the layers or counts replicas, and splits a dimension as well."""
    stages = {a: r for r in plan.sharding.rules if "layers" in r.dims for a in r.axes}
    for rule in plan.sharding.rules:
        dims = [d for d in rule.dims if d != "layers"]
        if "layers" in rule.dims and rule.region:
            why = f"layers are cut everywhere, not inside {rule.region}"
            yield Diagnostic("E308", why, rule.span, hint="move the rule out of `in ... { }`")
        for axis in (a for a in rule.axes if dims and plan.sharding.axis(a) > 1):
            hint = f"give {', '.join(dims)} an axis of their own"
            if axis in stages:
                other = stages[axis]
                labels = (Label(other.span, "layers are cut over it here"),) if other.span and other is not rule else ()
                why = f"`{axis}` cuts the layers, so its ranks cannot share {', '.join(dims)} as well"
                yield Diagnostic("E308", why, rule.span, hint=hint, labels=labels)
            elif axis in plan.sharding.replica_axes:
                why = f"`{axis}` counts independent replicas (`dp`), so no dimension can be split over it"
                yield Diagnostic("E308", why, rule.span, hint=hint)


def _price(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Requirements on money and energy: of GPUs without a price by the plan's tariff (E309) or a power (E463)."""
    for r in plan.requires:
        free = unpriced(plan) if r.metric in PAID else []
        if free:
            names = " and ".join(f"`{name}`" for name in free)
            tariff, name = ("", "price") if plan.pricing == TARIFFS[0] else ("reserved ", "price_reserved")
            why = f"{names} ha{'ve' if len(free) > 1 else 's'} no {tariff}price, so there is no cost"
            hint = f"give it one: `node = ... with {{ gpu {{ {name} = 2 USD/h }} }}`"
            if plan.kinds != (plan,):
                hint = f"give each one: `gpu priced = {free[0]} with {{ {name} = 2 USD/h }}`"
            yield Diagnostic("E309", why, r.span, hint=hint)
        lacks = powerless(plan) if r.metric in DRAWN else None
        if lacks:
            yield Diagnostic("E463", power_missing(*lacks), r.span, hint=power_hint(lacks[1]))
    for pool in plan.pools:
        yield from _two_prices(pool)
    if plan.pricing != TARIFFS[0] and (free := unpriced(plan)):
        why = f"no reserved price of `{free[0]}` is known, so there is no cost: state `gpu {{ price_reserved }}`"
        yield Diagnostic("N465", why, plan.span)


def _two_prices(plan: PlanSpec) -> Iterator[Diagnostic]:
    """A node with a price of its own, on GPUs whose price the plan states as well (N463)."""
    for node in dict.fromkeys(node for node, _ in hosts(plan) if price_of(node, plan.pricing) is not None):
        stated = [gpu.name for _, gpu in node.groups if gpu.price is not None and not gpu.price_source]
        if stated:
            why = f"the price of node `{node.name}` counts, not that of its GPUs `{stated[0]}`"
            yield Diagnostic("N463", why, node.span)


def _peaks(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Peaks of GPUs: none for a dtype (E304), a faster dtype on some (N312), a power limit that lowers them (N315)."""
    model, common = plan.model, plan.common_gpu
    gpus = {kind.node.gpu.name: kind.node.gpu for kind in plan.kinds}.values()
    for gpu in gpus:
        for dtype in dict.fromkeys((arithmetic(model, common), model.activations)):
            if gpu.peak(dtype) is None:
                hint = f"it lists {', '.join(n for n, _ in gpu.compute) or 'none'}"
                if dtype == "bf16" and gpu.peak("fp16") is not None:
                    hint += f": `model = {model.name} with {{ weights = fp16, activations = fp16 }}`"
                why = f"`{gpu.name}` lists no {dtype} peak"
                yield Diagnostic("E304", why, model.span, f"multiplies in {dtype}", hint)
    for gpu in gpus:
        if gpu.power_max is not None:
            why = (
                f"power of `{gpu.name}` {gpu.power:g} of {gpu.power_max:g} W: clock {gpu.clock:.2f}, by a law "
                "fitted to GEMMs of an RTX PRO 6000, whose error the bands do not contain"
            )
            yield Diagnostic("N315", why, gpu.span)
    if model.lora is not None:
        why = "no kernel of adapters is measured: times are rooflines, and bands of engines twice as wide"
        yield Diagnostic("N487", why, model.span)
    if unpacked := [word for word in dict.fromkeys(map(base_format, model.formats)) if word in GGUF]:
        words = " and ".join(unpacked[:4]) + (", ..." if len(unpacked) > 4 else "")
        why = f"no kernel of {words} is measured: times are those of weights of about as many bits, bytes are exact"
        yield Diagnostic("N485", why, model.span)
    for stored in dict.fromkeys(map(base_format, model.formats)):
        compute = arithmetic(model, common, stored)
        if any(arithmetic(model, gpu, stored) != compute for gpu in gpus):
            lacking = " and ".join(f"`{gpu.name}`" for gpu in gpus if gpu.peak(stored) is None)
            why = f"all GPUs multiply in {compute}, because {lacking} has no peak for {stored}"
            yield Diagnostic("N312", why, model.span, hint=f"write `compute = {compute}` in the model to state this")
