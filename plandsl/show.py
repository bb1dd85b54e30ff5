"""A plan as `.plan` text: every declaration that it uses, written out, so that compiling the text gives the same plan.

The text leaves out spans, sources, comments, the wording of assumptions, and the common base of unlike gpus. Tables of
measurements are named, not copied: their paths start at the folder of the plan's root file, where the text belongs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, assert_never

import attrs
from attrs import evolve

from plandsl.show_traffic import show_distribution, traffic_lines
from plandsl.spec.engine_bands import EngineBands
from plandsl.spec.engine_limits import LIMITED, LimitsSpec
from plandsl.spec.hardware import (
    ENGINE_BANDS,
    ENGINE_BYTES,
    ENGINE_COUNTS,
    ENGINE_RATES,
    ENGINE_SHARES,
    ENGINE_TIMES,
    RANK_TIMES,
    CalibrationSpec,
    ClusterSpec,
    EngineSpec,
    GpuSpec,
    LinkSpec,
    NodeSpec,
    TableSpec,
    constant_dimension,
)
from plandsl.spec.model import (
    ADAPTERS,
    AMONG,
    LORA_RANK,
    Apply,
    BlockSpec,
    LoraSpec,
    ModelSpec,
    Statement,
    Term,
    Var,
    Weight,
)
from plandsl.spec.plan import PlanSpec, RequireSpec, RuleSpec, ShardingSpec, ShiftSpec, SpeculateSpec, WorkloadSpec
from plandsl.spec.scheduler import SchedulerSpec, TierSpec
from plandsl.units import (
    BYTE_RATE,
    BYTES,
    ENERGY,
    FLOP_RATE,
    MONEY,
    MONEY_RATE,
    NUMBER,
    POWER,
    REQUEST_RATE,
    TIME,
    TOKEN_RATE,
    Dimension,
)

_UNITS = {
    BYTES: "B",
    BYTE_RATE: "B/s",
    FLOP_RATE: "FLOP/s",
    TIME: "s",
    TOKEN_RATE: "tok/s",
    REQUEST_RATE: "req/s",
    MONEY: "USD",
    MONEY_RATE: "USD / 1 s",
    POWER: "W",
    ENERGY: "J",
    Dimension(token=1): "tok",
    Dimension(request=1): "req",
}
_OPERATORS = {"matmul": "@", "add": "+", "sub": "-", "mul": "*"}
_DEGREES = ("dp", "pp", "cp", "sp", "ep", "tp")


def show_plan(plan: PlanSpec) -> str:
    """Model, hardware, sharding, load and plan, each as a declaration; with two pools, the declarations of both."""
    if plan.split is None:
        body = _fields(plan)
        pools = plan.pools
    else:
        pools = _rename_clashes(plan.split.prefill, plan.split.decode)
        body = [f"{name} {{ {', '.join(_fields(pool))} }}" for name, pool in zip(_POOLS, pools, strict=True)]
        rate, latency = _number(plan.split.bandwidth), _number(plan.split.latency)
        body.append(f"transfer {{ bandwidth = {rate} B/s, latency = {latency} s }}")
        if plan.split.kv_transfer is not None:
            body.append(f"kv_transfer = {plan.split.kv_transfer}")
    parts = dict.fromkeys(part for pool in pools for part in _parts(pool))
    return "\n".join([*parts, _declaration("plan", plan.name, [*body, *map(_requirement, plan.requires)])])


_POOLS = ("prefill", "decode")
_NAMED = ("model", "node", "cluster", "sharding", "workload", "calibration", "engine")


def _rename_clashes(prefill: PlanSpec, decode: PlanSpec) -> tuple[PlanSpec, PlanSpec]:
    """The two pools, with parts of the decode pool renamed if a different part of the prefill pool has their name."""
    for name in _NAMED:
        ours, theirs = getattr(prefill, name), getattr(decode, name)
        decode = attrs.evolve(decode, **{name: _distinct(ours, theirs, name)})
    if prefill.shift and decode.shift:
        tensor = _distinct(prefill.shift.tensor, decode.shift.tensor, "sharding")
        decode = attrs.evolve(decode, shift=attrs.evolve(decode.shift, tensor=tensor))
    if prefill.speculate and decode.speculate:
        a, b = prefill.speculate, decode.speculate
        draft, sharding = _distinct(a.draft, b.draft, "model"), _distinct(a.sharding, b.sharding, "sharding")
        decode = attrs.evolve(decode, speculate=attrs.evolve(b, draft=draft, sharding=sharding))
    if prefill.tower and decode.tower:
        decode = attrs.evolve(decode, tower=_distinct(prefill.tower, decode.tower, "sharding"))
    first, gpu = prefill.node.gpu, decode.node.gpu
    if first != gpu and _name(first.name, "gpu") == _name(gpu.name, "gpu"):
        gpu = attrs.evolve(gpu, name=f"{_name(gpu.name, 'gpu')}_decode", bases=())
        decode = attrs.evolve(decode, node=attrs.evolve(decode.node, gpu=gpu))
    return prefill, decode


def _distinct(ours: Any, theirs: Any, kind: str) -> Any:
    """``theirs``, by a name of its own where ``ours`` is another one of that name."""
    if ours and theirs and ours != theirs and _name(ours.name, kind) == _name(theirs.name, kind):
        return attrs.evolve(theirs, name=f"{_name(theirs.name, kind)}_decode")
    return theirs


def _fields(plan: PlanSpec) -> list[str]:
    """The fields of a plan, or of a pool, without its requirements."""
    sharding, calibration, home = plan.sharding, plan.calibration, plan.cluster
    return [
        f"model = {_name(plan.model.name, 'model')}",
        f"node = {_name(plan.node.name, 'node')}" if home is None else f"cluster = {_name(home.name, 'cluster')}",
        f"sharding = {_name(sharding.name, 'sharding')}",
        *([] if plan.shift is None else [_shift(plan.shift)]),
        *([] if plan.speculate is None else [_speculate(plan.speculate)]),
        *([] if plan.tower is None else [f"tower {{ sharding = {_name(plan.tower.name, 'sharding')} }}"]),
        f"workload = {_name(plan.workload.name, 'workload')}",
        *([] if plan.calibrations else [f"calibration = {_name(calibration.name, 'calibration')}"]),
        *([] if plan.kv_residency == "prompts" else [f"kv_residency = {plan.kv_residency}"]),
        f"step_tokens = {plan.step_tokens}",
        *([] if plan.chunked_prefill is None else [f"chunked_prefill = {plan.chunked_prefill}"]),
        f"memory_fraction = {_number(plan.memory_fraction)}",
        f"hop_tensors = {plan.hop_tensors}",
        f"fuse_norms = {_flag(plan.fuse_norms)}",
        f"algorithm = {plan.algorithm}",
        f"router = {plan.router}",
        f"pricing = {plan.pricing}",
        f"overlap = {plan.overlap}",
        f"chunks = {plan.chunks}",
        f"micro_batches = {plan.micro_batches}",
        *([] if plan.engine is None else [f"engine = {_name(plan.engine.name, 'engine')}"]),
        *([f"measured = {_paths(plan.measured)}"] if plan.measured else []),
    ]


def _parts(plan: PlanSpec) -> list[str]:
    """Every declaration that a plan, or a pool, names."""
    home = plan.cluster
    return [
        show_model(plan.model),
        *_hardware(plan),
        *([] if home is None else [show_cluster(home)]),
        *(show_sharding(mode.sharding) for mode in plan.modes),
        *(_draft(plan.speculate) if plan.speculate else ()),
        *([] if plan.tower is None else [show_sharding(plan.tower)]),
        show_workload(plan.workload),
        *([] if plan.engine is None else [show_engine(plan.engine)]),
    ]


def _declaration(kind: str, name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{kind} {_name(name, kind)} {{", *(f"  {line}" for line in lines), "}", ""])


def _name(name: str, kind: str) -> str:
    """``name`` if it is an identifier, else ``the_`` and the kind: an inline declaration may have any name."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f"the_{kind}"


def _number(value: float) -> str:
    """The shortest text that reads back as ``value``."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _flag(value: object) -> str:
    return "true" if value else "false"


# ---- model


def show_model(model: ModelSpec) -> str:
    """A model as text."""
    return _declaration("model", model.name, _model_lines(model))


def _model_lines(model: ModelSpec) -> list[str]:
    lines = [f"layers = {model.layers}", *(f"{name} = {size}" for name, size in _dimensions(model))]
    if model.max_context is not None:
        lines.append(f"max_context = {model.max_context}")
    lines += [
        f"weights = {model.weights}",
        f"activations = {model.activations}",
        f"kv_cache = {model.kv_cache}",
    ]
    if model.state_cache:
        lines.append(f"state_cache = {model.state_cache}")
    if model.index_cache:
        lines.append(f"index_cache = {model.index_cache}")
    if model.compute is not None:
        lines.append(f"compute = {model.compute}")
    if not model.causal:
        lines.append("causal = false")
    lines += _nested([(f"stored.{path}", word) for path, word in model.stored])
    if model.lora is not None:
        held = f"adapters = {model.size(ADAPTERS)}, rank = {model.size(LORA_RANK)}"
        targets = f"targets = [{', '.join(model.lora.targets)}], active = {model.lora.active}"
        lines.append(f"lora {{ {', '.join((held, targets, *_behind(model.lora)))} }}")
    if model.tower is not None:
        lines += ["tower {", *(f"  {line}" for line in _model_lines(model.tower)), "}"]
    lines += _embedding(model)
    for block in model.blocks:
        lines += _block(block, model)
    if model.mtp is not None:
        lines += _mtp(model.mtp, model)
    lines.append(f"head {show_term(model.head)}")
    return lines


def _embedding(model: ModelSpec) -> Iterator[str]:
    entry = show_term(model.entry or model.embedding)
    if not model.prelude:
        yield f"embedding {entry}"
        return
    first, *others = model.prelude
    yield f"embedding {first.target} = {show_term(first.term)} {{"
    yield from (f"  {s.target} = {show_term(s.term)}" for s in others)
    yield f"  {entry}"
    yield "}"


def _behind(lora: LoraSpec) -> Iterator[str]:
    """Where adapters are that are on no GPU."""
    if lora.host_bandwidth is not None:
        yield f"host_bandwidth = {_number(lora.host_bandwidth)} B/s"
    if lora.load_time:
        yield f"load_time = {_number(lora.load_time)} s"
    if lora.host_adapters is not None:
        yield f"host_adapters = {lora.host_adapters}"
    if lora.disk_bandwidth is not None:
        yield f"disk_bandwidth = {_number(lora.disk_bandwidth)} B/s"


def _dimensions(model: ModelSpec) -> Iterator[tuple[str, int]]:
    """The dimensions that the model declares; those of adapters follow from `lora`."""
    hidden = (ADAPTERS, LORA_RANK) if model.lora is not None else ()
    return ((name, size) for name, size in model.sizes if name not in hidden)


def _block(block: BlockSpec, model: ModelSpec) -> Iterator[str]:
    split = ""
    if len(model.blocks) > 1 or block.name != "block":
        first, last = block.layers
        uneven = len(block.every.at) > 1
        if uneven and sum(len(other.every.at) > 1 for other in model.blocks) > 1:
            split = f" {block.name} [layers = [{', '.join(map(str, block.every.select(block.layers)))}]]"
        else:  # one uneven block can do without `layers`: it covers all that no other block names
            split = f" {block.name}" + ("" if uneven else f" [layers = {first}..{last}{block.every}]")
    yield f"block{split} {block.arg}[{', '.join(('tokens', *model.stream))}] {{"
    for statement in block.statements:
        yield f"  {statement.target} = {show_term(statement.term)}"
    yield "}"


def _mtp(mtp: BlockSpec, model: ModelSpec) -> Iterator[str]:
    dims = ", ".join(("tokens", *model.stream))
    yield f"mtp {mtp.arg}[{dims}] with {mtp.token}[{dims}] {{"
    for statement in mtp.statements:
        yield f"  {statement.target} = {show_term(statement.term)}"
    yield "}"


def show_term(term: Term) -> str:
    """A term in the block language."""
    match term:
        case Var():
            return term.name
        case Weight():
            return f"{term.name}[{', '.join(term.dims)}]"
        case Apply() if term.fn in _OPERATORS:
            return f" {_OPERATORS[term.fn]} ".join(_operand(a) for a in term.args)
        case Apply(fn="scale"):
            return f"{_operand(term.args[0])} * {_number(float(term.option('by', 1.0)))}"
        case Apply(fn="earlier"):
            return f"earlier.{term.option('name', '')}"
        case Apply(fn="plus"):
            return f"{_operand(term.args[0])} + {_number(float(term.option('by', 0.0)))}"
        case Apply(fn="recurrence"):
            return f"recurrence({', '.join(_recurrence_arguments(term))})"
        case Apply(fn="attention") if term.option(AMONG, False):
            *args, among = map(show_term, term.args)
            options = (f"{name} = {_option(value)}" for name, value in term.options if name != AMONG)
            return f"attention({', '.join([*args, *options, f'{AMONG} = {among}'])})"
        case Apply():
            options = (f"{name} = {_option(value)}" for name, value in term.options)
            call = f"{term.fn}({', '.join([*map(show_term, term.args), *options])})"
            return f"{call} {{ {', '.join(map(_expert_statement, term.body))} }}" if term.body else call
        case _:
            assert_never(term)


def _recurrence_arguments(term: Apply) -> Iterator[str]:
    """The arguments of a `recurrence`: three tensors, those that the option ``named`` names, and the other options."""
    names = str(term.option("named", "")).split()
    yield from map(show_term, term.args[:3])
    yield from (f"{name} = {show_term(arg)}" for name, arg in zip(names, term.args[3:], strict=True))
    yield from (f"{name} = {_option(value)}" for name, value in term.options if name != "named")


def _expert_statement(statement: Statement) -> str:
    """A statement in the block of `experts`; weights lose the dimension of the experts."""
    text = show_term(_drop_expert_dim(statement.term))
    return f"{statement.target} = {text}" if statement.target else text


def _drop_expert_dim(term: Term) -> Term:
    match term:
        case Weight():
            return term._replace(dims=term.dims[1:])
        case Apply():
            return term._replace(args=tuple(map(_drop_expert_dim, term.args)))
        case Var():
            return term
        case _:
            assert_never(term)


def _operand(term: Term) -> str:
    text = show_term(term)
    return f"({text})" if isinstance(term, Apply) and term.fn in (*_OPERATORS, "scale", "plus") else text


def _option(value: float | str) -> str:
    return _flag(value) if isinstance(value, bool) else value if isinstance(value, str) else _number(value)


# ---- hardware


class _Section:
    """The fields of a declaration; assumed fields are kept separate."""

    def __init__(self, assumed: Iterable[tuple[str, str]]) -> None:
        self.assumed = {path for path, _ in assumed}
        self.known: list[tuple[str, str]] = []
        self.guessed: list[tuple[str, str]] = []

    def put(self, path: str, value: str) -> None:
        """Add a field; a dotted path stands in a section."""
        (self.guessed if path in self.assumed else self.known).append((path, value))

    def lines(self) -> Iterator[str]:
        """All fields."""
        yield from _nested(self.known)
        if self.guessed:
            yield "assumed {"
            yield from (f"  {line}" for line in _nested(self.guessed))
            yield "}"


def _nested(fields: list[tuple[str, str]]) -> Iterator[str]:
    sections: dict[str, list[tuple[str, str]]] = {}
    for path, value in fields:
        head, dot, rest = path.partition(".")
        sections.setdefault(head, []).append((rest, value))
        if not dot:
            yield f"{head} = {value}"
            del sections[head]
    for head, inner in sections.items():
        yield f"{head} {{"
        yield from (f"  {line}" for line in _nested(inner))
        yield "}"


def _hardware(plan: PlanSpec) -> Iterator[str]:
    """The plan's calibrations, GPUs and nodes, each once; each of unlike GPUs names its calibration."""
    taken = {plan.calibration.name: plan.calibration}
    own = {}
    for gpu_name, calibration in plan.calibrations:
        alike = taken.get(calibration.name, calibration) == calibration  # a relative's has wider bands
        own[gpu_name] = calibration if alike else evolve(calibration, name=f"{calibration.name}_{gpu_name}")
        taken[own[gpu_name].name] = own[gpu_name]
    yield from map(show_calibration, taken.values())
    nodes = {node.name: node for _, node in plan.cluster.groups} if plan.cluster else {plan.node.name: plan.node}
    gpus = {gpu.name: gpu for node in nodes.values() for _, gpu in node.groups}
    firsts = [(gpu.name, *gpu.bases)[-1] for gpu in gpus.values()]
    for gpu in gpus.values():
        bases = gpu.bases if firsts.count((gpu.name, *gpu.bases)[-1]) == 1 else ()
        yield show_gpu(evolve(gpu, bases=bases), own[gpu.name].name if own else "")
    yield from map(show_node, nodes.values())


def show_gpu(gpu: GpuSpec, calibration: str = "") -> str:
    """A gpu as text. A gpu made from others becomes an alias of the first, so that tables may name any of them."""
    section = _Section(gpu.assumed)
    if calibration:
        section.known.append(("calibration", _name(calibration, "calibration")))
    section.put("memory", f"{_number(gpu.memory)} B")
    if gpu.memory_total is not None:
        section.put("memory_total", f"{_number(gpu.memory_total)} B")
    section.put("bandwidth", f"{_number(gpu.bandwidth)} B/s")
    if gpu.units is not None:
        section.put("units", str(gpu.units))
    for dtype, peak in gpu.compute:
        section.put(f"compute.{dtype}", f"{_number(peak)} FLOP/s")
    if gpu.power is not None:
        section.put("power", f"{_number(gpu.power)} W")
    if not gpu.p2p:
        section.put("p2p", "off")
    if gpu.power_max is not None:
        section.put("power_max", f"{_number(gpu.power_max)} W")
    if gpu.power_idle is not None:
        section.put("power_idle", f"{_number(gpu.power_idle)} W")
    _put_prices(section, gpu)
    if gpu.measured:
        section.put("measured", _paths(gpu.measured))
    *names, first = (gpu.name, *gpu.bases)
    aliases = (f"gpu {_name(alias, 'gpu')} = {_name(base, 'gpu')}\n" for alias, base in pairwise((*names, first)))
    return "".join((_declaration("gpu", first, section.lines()), *aliases))


def _put_prices(section: _Section, of: GpuSpec | NodeSpec) -> None:
    for name in ("price", "price_reserved"):
        if (price := getattr(of, name)) is not None:
            section.put(name, f"{_number(price)} USD / 1 s")
    if of.price_source:
        section.put("price_source", f'"{of.price_source}"')


def _paths(tables: Iterable[TableSpec]) -> str:
    return _list(f'"{table.shown}"' for table in tables)


def _list(items: Iterable[str]) -> str:
    return f"[{', '.join(items)}]"


def show_node(node: NodeSpec) -> str:
    """A node as text, which names its gpu."""
    section = _Section(node.assumed)
    if node.gpus:
        section.put("gpus", _list(f"{count} * {_name(gpu.name, 'gpu')}" for count, gpu in node.gpus))
    else:
        section.put("gpu", _name(node.gpu.name, "gpu"))
        section.put("count", str(node.count))
    _put_link(section, "link", node.link)
    if node.link.bridge:
        section.put("link.bridge", f"{_number(node.link.bridge)} B/s")
    if node.link.topology == "pcie" and all(gpu.p2p for _, gpu in node.groups) != (node.link.host is None):
        section.put("link.p2p", "on" if node.link.host is None else "off")
    if node.network:
        _put_link(section, "network", node.network)
    if node.host_memory is not None:
        section.put("host_memory", f"{_number(node.host_memory)} B")
    _put_prices(section, node)
    if node.overhead is not None:
        section.put("overhead", f"{_number(node.overhead)} W")
    if node.pue != 1:
        section.put("pue", _number(node.pue))
    return _declaration("node", node.name, section.lines())


def show_cluster(cluster: ClusterSpec) -> str:
    """A cluster as text, which names its node."""
    section = _Section(cluster.assumed)
    if cluster.nodes:
        section.put("nodes", _list(f"{count} * {_name(node.name, 'node')}" for count, node in cluster.nodes))
    else:
        section.put("node", _name(cluster.node.name, "node"))
        section.put("count", str(cluster.count))
    _put_link(section, "network", cluster.network)
    return _declaration("cluster", cluster.name, section.lines())


def _put_link(section: _Section, name: str, link: LinkSpec) -> None:
    section.put(f"{name}.topology", _topology(link))
    section.put(f"{name}.bandwidth", f"{_number(link.bandwidth)} B/s")
    section.put(f"{name}.latency", f"{_number(link.latency)} s")
    if not link.wrap:
        section.put(f"{name}.wrap", "off")


def _topology(link: LinkSpec) -> str:
    return f"{link.topology}({', '.join(map(str, link.dims))})" if link.dims else link.topology


def show_calibration(calibration: CalibrationSpec) -> str:
    """A calibration as text."""
    section = _Section(calibration.assumed)
    for name, value in calibration.values:
        unit = {TIME: " s", BYTES: " B"}.get(constant_dimension(name) or NUMBER, "")
        section.put(name, _number(value) + unit)
    return _declaration("calibration", calibration.name, section.lines())


def show_engine(engine: EngineSpec) -> str:
    """An engine as text."""
    section = _Section(engine.assumed)
    for name in attrs.fields_dict(EngineSpec):
        value = getattr(engine, name)
        if value is None:
            continue
        if name in (*ENGINE_TIMES, *RANK_TIMES):
            section.put(name, f"{_number(value)} s")
        elif name in ENGINE_BYTES:
            section.put(name, f"{_number(value)} B")
        elif name in ENGINE_SHARES:
            section.put(name, _percent(value))
        elif name in ENGINE_COUNTS or name in ENGINE_BANDS or name in ENGINE_RATES or name == "states":
            section.put(name, _number(value))
        elif name == "limits":
            for path, text in _limits(value):
                section.put(path, text)
        elif name == "bands":
            for path, text in _bands(value):
                section.put(path, text)
        elif name == "fraction_of":
            section.put(name, value)
        elif name == "graphs_in_budget":
            section.put(name, _flag(value))
        elif name == "fusions":
            section.put(name, _list(value))
        elif name == "fused_sizes":
            section.put("fused_sizes.ranks", _list(map(str, value.ranks)))
            for format_, sizes in value.bytes:
                section.put(f"fused_sizes.{format_}", _list(f"{_number(size)} B" for size in sizes))
    if engine.kernels:
        section.put("kernels", engine.kernels)
    for name, text in _scheduler(engine.scheduler):
        section.put(name, text)
    return _declaration("engine", engine.name, section.lines())


def _limits(limits: LimitsSpec) -> Iterator[tuple[str, str]]:
    """Fields of the limits that an engine chooses."""
    yield f"limits.{limits.of}", _list(f"{_number(bound)} B" for bound in limits.bounds)
    for name in LIMITED:
        if limits.values(name):
            yield f"limits.{name}", _list(map(str, limits.values(name)))
    if limits.small:
        yield "limits.small", _list(f'"{word}"' for word in limits.small)


def _bands(bands: EngineBands) -> Iterator[tuple[str, str]]:
    """Fields of the bands of an engine."""
    for name, words in (("gpus", bands.gpus), ("models", bands.models)):
        if words:
            yield f"bands.{name}", _list(f'"{word}"' for word in words)
    for path, factors in bands.factors:
        yield f"bands.{path}", _list(map(_number, factors))


def _scheduler(scheduler: SchedulerSpec) -> Iterator[tuple[str, str]]:
    """Fields of an engine that say how it composes steps, where they differ from the default."""
    if scheduler.name:
        yield "scheduler", scheduler.name
    if not scheduler.prefix_cache:
        yield "prefix_cache", "false"
    if scheduler.graphs:
        graphs = scheduler.graphs
        yield "graph_sizes", graphs if isinstance(graphs, str) else _list(map(str, graphs))
    if scheduler.tiers:
        yield "kv_tiers", _list(_list(_tier(tier)) for tier in scheduler.tiers)
    if scheduler.write:
        yield "kv_write", scheduler.write
    for name, value in scheduler.limits:
        yield name, value if isinstance(value, str) else _flag(value) if isinstance(value, bool) else _number(value)


def _tier(tier: TierSpec) -> Iterator[str]:
    yield f"{_number(tier.memory)} B"
    yield f"{_number(tier.bandwidth)} B/s"
    if tier.latency:
        yield f"{_number(tier.latency)} s"


# ---- sharding


def _shift(shift: ShiftSpec) -> str:
    return f"shift {{ tensor = {_name(shift.tensor.name, 'sharding')}, threshold = {shift.threshold} }}"


def _speculate(speculate: SpeculateSpec) -> str:
    fields = [f"acceptance = [{', '.join(map(_number, speculate.acceptance))}]"]
    if speculate.draft is not None and speculate.sharding is not None:
        fields.append(f"draft = {'mtp' if speculate.own else _name(speculate.draft.name, 'model')}")
        fields.append(f"sharding = {_name(speculate.sharding.name, 'sharding')}")
    return f"speculate {{ {', '.join(fields)} }}"


def _draft(speculate: SpeculateSpec) -> Iterator[str]:
    """The declarations that `speculate` names."""
    if speculate.draft is not None and speculate.sharding is not None:
        if not speculate.own:
            yield show_model(speculate.draft)
        yield show_sharding(speculate.sharding)


def show_sharding(sharding: ShardingSpec) -> str:
    """A sharding as text; a degree is written at the place of its first rule."""
    written = [f"{a.name} = {a.size}" for a in sharding.axes if not a.sugar]
    lines = [f"mesh {', '.join(written)}"] if written else []
    left = {a.sugar: a.size for a in sharding.axes if a.sugar}
    done: set[str] = set()
    for rule in sharding.rules:
        if rule.sugar and rule.sugar not in done:
            done.add(rule.sugar)
            lines.append(f"{rule.sugar} = {left.pop(rule.sugar, None) or _size(sharding, rule)}")
        elif not rule.sugar:
            lines.append(_rule(rule))
    # degrees without rules: replicas, and degrees whose dimensions the model lacks
    lines += [f"{sugar} = {left[sugar]}" for sugar in _DEGREES if sugar in left]
    if sharding.placed:
        lines.append(f"place {', '.join(place.axis for place in sharding.placed)} in node")
    if cut := sharding.cut:
        lines.append(f"cut = {'balanced' if cut.balanced else _list(map(str, cut.layers))}")
    if sharding.context_form != "ring":
        lines.append(f"context_form = {sharding.context_form}")
    if sharding.hop_tensors is not None:
        lines.append(f"hop_tensors = {sharding.hop_tensors}")
    return _declaration("sharding", sharding.name, lines)


def _size(sharding: ShardingSpec, rule: RuleSpec) -> int:
    """The size of a degree whose axis `mesh` declares too."""
    return sharding.axis(rule.axes[-1])


def _rule(rule: RuleSpec) -> str:
    text = f"{', '.join(rule.dims)} -> {', '.join(rule.axes)}"
    return f"in {rule.region} {{ {text} }}" if rule.region else text


# ---- load and requirements


def show_workload(load: WorkloadSpec) -> str:
    """A workload as text."""
    fields = [] if load.traffic else [f"input = {load.input}", f"output = {0 if load.encodes else load.output}"]
    if load.concurrency is not None:
        fields.append(f"concurrency = {load.concurrency}")
    elif load.traffic is None and not load.chosen:
        fields.append(f"batch = {load.batch}")
    for name in ("in_flight", "requests"):
        if (value := getattr(load, name)) is not None:
            fields.append(f"{name} = {value}")
    if load.demand is not None:
        fields.append(f"demand = {_number(load.demand)} req/s")
    if load.reuse:
        fields.append(f"reuse = {_percent(load.reuse)}")
    if load.prefix is not None:
        fields.append(f"prefix = {load.prefix}")
    if load.images:
        each = _number(load.images) if load.drawn_images is None else show_distribution(load.drawn_images, _number)
        fields += [f"images = {each}", f"image_tokens = {load.image_tokens}"]
    if load.traffic is not None:
        fields += traffic_lines(load.traffic, _number, _percent, _requirement, load.encodes)
    return _declaration("workload", load.name, fields)


def _requirement(r: RequireSpec) -> str:
    bound = _percent(r.bound) if r.share else f"{_number(r.bound)} {_UNITS.get(r.dimension, '')}".strip()
    asked = r.metric if r.percentile is None else f"p{_number(r.percentile).replace('.', '_')}({r.metric})"
    return f"require {asked} {r.op} {bound}"


def _percent(share: float) -> str:
    """A percentage that reads back as ``share`` exactly, if there is one: rounding of ``share * 100`` may lose it."""
    wish = share * 100
    near = (round(wish, 9), wish, math.nextafter(wish, 0), math.nextafter(wish, math.inf))
    return f"{_number(next((p for p in near if p / 100 == share), wish))} %"
