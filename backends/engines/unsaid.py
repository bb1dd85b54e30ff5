"""What a plan says and an engine is not told: remarks (W500), or errors (E503) where the program would be another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from plandsl.backends.engines.commands import range_ratio
from plandsl.backends.engines.degrees import read_degrees
from plandsl.backends.engines.modules import OWN, more_targets
from plandsl.backends.engines.sent import Sent, sent_lengths
from plandsl.backends.engines.server import Degrees, Lora
from plandsl.backends.engines.towers import read_tower
from plandsl.backends.engines.trtllm import fill_qkv
from plandsl.backends.engines.vllm import lora_rank
from plandsl.diagnostics import Diagnostic, PlanError, Span
from plandsl.show_traffic import arrivals_word
from plandsl.spec.model import LORA_RANK, LoraSpec, inside_experts
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.rates import arrivals_of, has_sessions
from plandsl.spec.scheduler import SchedulerName, SchedulerSpec, scheduler_name
from plandsl.spec.traffic import Arrivals, AtOnce, Fixed, Steady, Traced, TrafficSpec

LEFT: dict[str, tuple[object, ...]] = {
    "overlap": ("none",),
    "chunks": (1,),
    "micro_batches": (1,),
    "algorithm": ("auto",),
    "kv_residency": ("all_batches", "prompts"),  # a pool of prefill holds prompts alone in engines too
    "hop_tensors": (1,),
    "fuse_norms": (True,),
    "router": ("round_robin",),
}
"""Fields of a plan that no engine takes as an argument, and their values that ask for nothing."""


INDEX_KEYS = "fp8_128"
"""The format in which engines keep the keys of an index: fp8 with a scale of 4 bytes for each 128 elements.

Source: vllm-project/vllm, model_executor/models/deepseek_v2.py (`Indexer`): `head_dim + head_dim // 128 * 4` bytes.
"""


def find_unsaid(plan: PlanSpec, engine: SchedulerName, sources: Mapping[str, str]) -> list[Diagnostic]:
    """Remarks (W500) on a pool: what the engine decides by itself."""
    out = [*_fields(plan, sources), *_places(plan, sources), *_machine(plan, sources)]
    return [*out, *_model(plan, engine, sources), *_scheduler(plan, engine, sources)]


def find_unsaid_between(plan: PlanSpec, engine: SchedulerName, sources: Mapping[str, str]) -> list[Diagnostic]:
    """Remarks (W500) on the whole plan: the transfer between two pools, and the load that the benchmark sends."""
    return [*_transfer(plan), *_load(plan, engine, sources)]


def check_program(plan: PlanSpec, engine: SchedulerName, sources: Mapping[str, str]) -> None:
    """Raise `PlanError` (E503) at what would be another program in the engine."""
    if plan.workload.encodes and engine == "trtllm":
        why = "`output = 0`: trtllm-serve has no encoders, it makes tokens"
        at = plan.workload.span or plan.span
        raise PlanError([Diagnostic("E503", why, at, hint="vLLM and SGLang serve encoders: `--to vllm`")])
    _check_draft(plan, engine)


def find_field(plan: PlanSpec, name: str, sources: Mapping[str, str]) -> Span | None:
    """Where a plan's text sets a field: its own line, or the plan where the field comes from elsewhere."""
    at = plan.span
    if at is None or at.file not in sources:
        return at
    lines = sources[at.file].split("\n")
    for number in range(at.line, min(at.end_line, len(lines)) + 1):
        if found := re.search(rf"\b{name}\b\s*=", lines[number - 1].split("#")[0]):
            return Span(at.file, number, found.start() + 1, number, found.start() + 1 + len(name))
    return at


def _remark(why: str, at: Span | None, hint: str = "the engine decides by itself") -> Diagnostic:
    return Diagnostic("W500", why, at, hint=hint)


def _show(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fields(plan: PlanSpec, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    for name, plain in LEFT.items():
        value = getattr(plan, name)
        if value not in plain:
            why = f"no argument of an engine says `{name} = {_show(value)}`: it is left out"
            yield _remark(why, find_field(plan, name, sources))


def _places(plan: PlanSpec, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    """Where ranks lie, and how split keys reach the queries."""
    sharding = plan.sharding
    for place in sharding.placed:
        why = f"no argument of an engine says `place {place.axis} in node`: it numbers ranks in its own order"
        yield _remark(why, place.span, "engines put the ranks of tensor parallelism side by side")
    order = [axis for axis in sharding.axes if axis.size > 1]
    inner = [axis for axis in order if any(axis.name in r.axes and "heads" in r.dims for r in sharding.rules)]
    if plan.step_ranks[1] > 1 and inner and order[-1] not in inner:
        why = f"the plan has `{order[-1].name}` inside `{inner[-1].name}`, and an engine has heads innermost"
        yield _remark(why, inner[-1].span, "name the axis of heads last, so that its ranks are neighbours")
    if any("context" in rule.dims for rule in sharding.rules):
        why = f"no argument of an engine says `context_form = {sharding.context_form}`: it is left out"
        yield _remark(why, find_field(plan, "context_form", sources))


def _machine(plan: PlanSpec, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    kinds = list(dict.fromkeys(kind.node.gpu.name for kind in plan.kinds))
    if len(kinds) > 1:
        why = f"engines take all GPUs for alike, and the plan has {' and '.join(kinds)}"
        hint = "list the GPUs in the plan's order (CUDA_VISIBLE_DEVICES); each gets the room of the smallest"
        yield _remark(why, find_field(plan, "cluster" if plan.cluster else "node", sources), hint)


def _model(plan: PlanSpec, engine: SchedulerName, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    model, at = plan.model, find_field(plan, "model", sources)
    if model.compute is not None:
        why = f"no argument of an engine says `compute = {model.compute}`: its kernels choose by the stored formats"
        yield _remark(why, at)
    if model.tower is not None and plan.tower is not None and _is_split(plan):
        if engine == "trtllm":
            yield _remark(f"how the tower `{model.tower.name}` lies on the ranks is left to the engine", at)
        elif read_tower(plan) is None:
            why = f"engines split the tower like the model, or give each rank whole images; `{model.tower.name}` lies "
            hint = "`tower { sharding { mesh gpu = N; batch -> gpu } }` over the ranks of a stage, or no `tower`"
            yield _remark(why + "otherwise", at, hint)
    if model.choices and (kept := model.index_cache or model.activations) != INDEX_KEYS:
        why = f"engines keep index keys in {INDEX_KEYS}, and the plan counts with `index_cache = {kept}`"
        yield _remark(why, at)
    if model.lora is not None:
        yield from _adapters(plan, model.lora, engine, at)


HOST_LORAS: dict[SchedulerName, str] = {"vllm": "--max-cpu-loras", "trtllm": "max_cpu_loras"}
"""What bounds the adapters in host memory, in engines that bound them unless they are told."""


def _is_split(plan: PlanSpec) -> bool:
    """Whether the tower, or the model over whose ranks an engine splits it, lies on several ranks of a stage."""
    model, tower = read_degrees(plan.modes[0]), plan.tower
    own = any(axis.size > 1 and axis.name not in tower.replica_axes for axis in tower.axes) if tower else False
    return own or model.ranks > model.pipeline * model.attention


def _adapters(plan: PlanSpec, lora: LoraSpec, engine: SchedulerName, at: Span | None) -> Iterator[Diagnostic]:
    inside = {w.name for w in inside_experts(s.term for block in plan.model.blocks for s in block.statements)}
    yield from _targets(lora.targets, sorted(inside & set(lora.targets)), engine, at)
    wished = plan.model.size(LORA_RANK)
    if engine == "vllm" and (rank := lora_rank(Lora(0, wished), plan)) != wished:
        yield _remark(f"vLLM reserves memory for rank {rank}, the next that it has after {wished}", at)
    traffic = plan.workload.traffic
    if traffic is not None and traffic.named:
        yield _remark(
            "the benchmark names no adapters", at, "send requests to the adapters' names in the plan's shares"
        )
        if lora.host_adapters is None and engine in HOST_LORAS:
            why = (
                f"the plan has all adapters in host memory; the engine has fewer unless `{HOST_LORAS[engine]}` says so"
            )
            yield _remark(why, at, "set it to the number of your adapters, or write `host_adapters` in `lora`")


def _targets(
    targets: tuple[str, ...], inside: Sequence[str], engine: SchedulerName, at: Span | None
) -> Iterator[Diagnostic]:
    """What an engine has room for beside the weights with adapters, some of which are ``inside`` experts."""
    if engine == "trtllm":
        if added := fill_qkv(targets):
            yield _remark(f"TensorRT-LLM holds zeros for {' and '.join(added)}: it adapts q, k and v together", at)
    elif engine == "vllm" and (more := more_targets(targets, inside)):
        why = f"vLLM has room for adapters of {' and '.join(more)} too: they share a module with a target"
        yield _remark(why, at, "no argument of vLLM parts them")
    elif inside or not set(targets) <= set(OWN):
        why = f"which weights have adapters ({', '.join(targets)}) is said by the adapters' own files"
        yield _remark(why, at, "load adapters with these targets; the engine has room for all that it can adapt")


def _scheduler(plan: PlanSpec, engine: SchedulerName, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    if plan.engine is None:
        return
    scheduler, at = plan.engine.scheduler, find_field(plan, "engine", sources)
    yield from _tiers(scheduler, engine, at)
    if scheduler.graphs and scheduler.graphs != scheduler_name(scheduler.name, plan.engine.kernels):
        yield _remark("`graph_sizes` are left out: the engine captures its own", at)


OWN_WRITE: dict[SchedulerName, str] = {"vllm": "through", "trtllm": "back"}
"""When engines copy blocks to host memory that have no argument for it; `cost/serving/tiers.py` has the sources."""


def _tiers(scheduler: SchedulerSpec, engine: SchedulerName, at: Span | None) -> Iterator[Diagnostic]:
    """What an engine is not told of memory behind the KV cache."""
    if not scheduler.tiers:
        return
    first, *more = scheduler.tiers
    speed = f"{first.bandwidth / 1e9:g} GB/s" + (f" and {first.latency * 1e6:g} us" if first.latency else "")
    yield _remark(f"host memory is as fast as your machine is: the plan counts with {speed}", at, "nothing says it")
    if more:
        sizes = " and ".join(f"{tier.memory / 1e9:g} GB" for tier in more)
        why = (
            f"no argument of an engine gives the size of a tier behind host memory: {sizes} of `kv_tiers` are left out"
        )
        yield _remark(why, at, "add the engine's storage backend, which depends on your disks")
    if engine == "sglang" and (size := first.memory / 1e9) != max(1, round(size)):
        yield _remark(f"SGLang counts host memory in whole GB: {size:g} GB become {max(1, round(size))}", at)
    if scheduler.write and OWN_WRITE.get(engine, scheduler.write) != scheduler.write:
        own = "as they fill" if OWN_WRITE[engine] == "through" else "as they are evicted"
        yield _remark(f"no argument says `kv_write = {scheduler.write}`: {engine} copies blocks {own}", at)


def _check_draft(plan: PlanSpec, engine: SchedulerName) -> None:
    """Raise `PlanError` (E503) for a draft model that lies on the ranks otherwise than engines lay it."""
    speculate, draft = plan.speculate, plan.draft_plan if plan.split is None else None
    if speculate is None or draft is None or speculate.own:
        return
    base, own = read_degrees(plan.modes[0]), read_degrees(draft)
    stage = base._replace(pipeline=1, replicas=1, layers=())  # a draft runs whole on the ranks of a stage
    alone = own._replace(replicas=1) == Degrees(tensor=own.tensor)
    if own._replace(replicas=1) == stage or (alone and (engine == "vllm" or own.tensor == base.tensor)):
        return
    what = "over tensor parallel ranks alone" if engine == "vllm" else "over the model's own ranks"
    why = f"{engine} lays a draft model {what}, and the plan lays it otherwise"
    at = speculate.sharding.span if speculate.sharding is not None else None
    raise PlanError([Diagnostic("E503", why, at or speculate.span, hint="leave the draft's `sharding` out")])


def _transfer(plan: PlanSpec) -> Iterator[Diagnostic]:
    split = plan.split
    if split is None:
        return
    speed = f"{split.bandwidth / 1e9:g} GB/s and {split.latency * 1e6:g} us"
    over = f" over the network of `{split.between}`" if split.between else ""
    why = f"the transfer is as fast as your network is: the plan counts with {speed}{over}"
    yield _remark(why, split.span, "no argument of an engine says it")
    if split.kv_transfer is not None:
        why = f"no argument says `kv_transfer = {split.kv_transfer}`: the connector decides when blocks move"
        yield _remark(why, split.span)


def _load(plan: PlanSpec, engine: SchedulerName, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    """What the benchmark does not repeat of a load."""
    load = plan.workload
    at = load.span or plan.span
    for why in _load_texts(load, engine):
        yield _remark(why, at, "send this load with a program of your own")
    if load.demand is not None:
        why = f"the file starts the copies of the sharding, and not those that a demand of {load.demand:g} req/s needs"
        yield _remark(why, at, "start as many as `planc compile` says")


def _load_texts(load: WorkloadSpec, engine: SchedulerName) -> Iterator[str]:
    if load.images:
        images = f"{load.images:g} in a prompt, of {load.image_tokens:g} tokens each"
        yield f"the benchmark sends no images: {images}, are left out"
    if load.reuse > 0 and engine == "sglang":
        yield "SGLang's benchmark sends whole prompts: `reuse` is left out"
    elif load.reuse > 0 and load.prefix == "own":
        yield "the benchmark sends one prefix for all requests, and not `prefix = own`"
    if load.traffic is not None:
        yield from _traffic_texts(load, load.traffic, engine)


def _traffic_texts(load: WorkloadSpec, traffic: TrafficSpec, engine: SchedulerName) -> Iterator[str]:
    yield from _arrivals_texts(arrivals_of(load), engine)
    if traffic.duration is not None:
        yield "the benchmark stops by the number of requests, and not after `duration`"
    if traffic.trace is not None and traffic.trace.speed != 1:
        yield f"the benchmark plays the trace as it is, and not at `speed = {traffic.trace.speed:g}`"
    if has_sessions(load):
        yield _conversations(sent_lengths(load), engine)
    if traffic.classes:
        yield "the benchmark has no classes: it sends the mean lengths of all requests"
    mixed = [one for one in traffic.lengths or () if not isinstance(one, Fixed)]
    if mixed and range_ratio(load) == "0":
        yield "the benchmark has no distribution like the plan's: it sends the mean lengths"


def _arrivals_texts(arrivals: Sequence[Arrivals], engine: SchedulerName) -> Iterator[str]:
    """What the benchmark sends in place of arrivals that it does not have; of one load, or of each of its classes."""
    other = [one for one in arrivals if not _is_sent(one, len(arrivals) == 1 and engine != "sglang")]
    if not other:
        return
    traced = [isinstance(one, Traced) for one in arrivals]
    sent = "at a mean rate, as a Poisson process"
    if any(traced):
        sent = "all at once" if all(traced) else f"{sent}, without the requests of `trace_rate`"
    words = " and ".join(dict.fromkeys(f"`{arrivals_word(one)}`" for one in other))
    yield f"the benchmark has no arrivals like {words}: it sends {sent}"


def _is_sent(arrivals: Arrivals, bursty: bool) -> bool:
    """Whether a benchmark has such arrivals: all at once, Poisson, or gamma gaps where it may be ``bursty``."""
    if isinstance(arrivals, Steady):
        return arrivals.shape == 1 or (bursty and arrivals.shape is not None)
    return isinstance(arrivals, AtOnce)


def _conversations(sent: Sent, engine: SchedulerName) -> str:
    """What the benchmark sends in place of the turns of conversations."""
    why = "the benchmark has no conversations: it sends each turn by itself and waits for no answer"
    if not sent.earlier:
        return why
    before = f"{sent.earlier} tokens of system prompt and earlier turns"
    if engine == "sglang":
        return f"{why}; of its {sent.earlier + sent.new} tokens, which are all new, {before} would be in the cache"
    return f"{why}; before its {sent.new} new tokens are {before}, which all requests share"
