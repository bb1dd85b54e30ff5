"""Reads plans: from records to specs."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from attrs import evolve

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar.calibrations import calibration_with
from plandsl.grammar.context import Context
from plandsl.grammar.engines import engine_spec
from plandsl.grammar.hardware import cluster_spec, node_spec
from plandsl.grammar.measured import read_tables
from plandsl.grammar.models import model_spec
from plandsl.grammar.modules import Wrong, catalog_find
from plandsl.grammar.records import Record
from plandsl.grammar.requires import check_load, read_requirements
from plandsl.grammar.schema import Reader
from plandsl.grammar.sharding import fit, sharding_spec
from plandsl.grammar.workloads import workload_spec
from plandsl.spec.formats import base_format
from plandsl.spec.hardware import (
    BY_FORMAT,
    CORE,
    FAMILIES,
    IDEAL,
    CalibrationSpec,
    ClusterSpec,
    EngineSpec,
    GpuSpec,
    NodeSpec,
    family_of,
)
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import TARIFFS, PlanSpec, ShardingSpec, ShiftSpec, SpeculateSpec, WorkloadSpec
from plandsl.spec.scheduler import ROUTERS, RouterName
from plandsl.values import kept

PARTS = ("model", "node", "cluster", "sharding", "workload", "calibration", "engine")
CHUNKED = "chunked_prefill"
SETTINGS = ("kv_residency", "step_tokens", CHUNKED, "memory_fraction", "hop_tensors", "fuse_norms", "algorithm")
PACE = ("overlap", "chunks", "micro_batches", "router", "pricing")
POOLS = ("prefill", "decode")
SPLIT = (*POOLS, "transfer", "kv_transfer")
PLAN = (*PARTS, *SETTINGS, *PACE, "shift", "speculate", "tower", "measured", *SPLIT)

T = TypeVar("T")

ALGORITHMS = ("auto", "ring", "direct", "one_shot", "tree")


# ---- plan


def plan_spec(context: Context, record: Record) -> PlanSpec | None:
    """A plan, with every declaration that it names."""
    reader = Reader(context, record, PLAN)
    if any(name in record.fields for name in SPLIT):
        from plandsl.grammar.split import split_spec

        return split_spec(reader, partial(plan_spec, context))
    model = _part(reader, "model", "model = llama_3_1_70b", model_spec)
    cluster, node = _hardware(reader)
    workload = _part(reader, "workload", "workload { input = 1000, output = 100, batch = 8 }", workload_spec)
    sharding, shift = _shardings(reader, model)
    speculate = _speculate(reader, model, sharding)
    tower = _tower(reader, model, sharding, workload)
    timed = needed_sections(model) | needed_sections(speculate.draft if speculate else None)
    timed |= needed_sections(model.tower if model else None)
    calibration, calibrations = _calibrations(reader, timed, node, cluster)
    chunk = reader.whole(CHUNKED)
    engine = _engine(reader, node, cluster, chunk or 0)
    clauses = read_requirements(reader)
    settings = _settings(reader, sharding, engine or IDEAL, partial(_default_fraction, model, node, sharding, cluster))
    overlap, chunks, micro_batches = _read_overlap(reader)
    pricing = reader.word("pricing", TARIFFS) or TARIFFS[0]
    measured = read_tables(reader)
    if not reader.ok or not (model and node and workload and sharding and calibration):
        return None
    check_load(reader, clauses, workload)
    if workload.encodes and speculate is not None:
        why = "nothing comes out of this load (`output = 0`), so there is nothing to guess"
        reader.fail(Wrong("E481", why, speculate.span, hint="drop `speculate`"))
    if not reader.ok:
        return None
    _warn_too_long(reader, model, workload)
    if model.lora is not None and workload.traffic is not None and workload.traffic.named:
        from plandsl.spec.adapter_mix import mix_of

        model = evolve(model, lora=model.lora._replace(mix=mix_of(workload.traffic)))
    return PlanSpec(
        record.name,
        model=model,
        node=node,
        sharding=sharding,
        workload=workload,
        calibration=calibration,
        requires=clauses,
        kv_residency=settings.kv_residency,
        step_tokens=settings.step_tokens,
        memory_fraction=settings.memory_fraction,
        hop_tensors=settings.hop_tensors,
        fuse_norms=settings.fuse_norms,
        algorithm=settings.algorithm,
        engine=engine,
        measured=measured,
        cluster=cluster,
        shift=shift,
        overlap=overlap,
        chunks=chunks,
        micro_batches=micro_batches,
        speculate=speculate,
        tower=tower,
        chunked_prefill=chunk,
        router=settings.router,
        pricing=pricing,
        span=record.span,
        calibrations=calibrations,
    )


def _engine(reader: Reader, node: NodeSpec | None, cluster: ClusterSpec | None, chunk: int) -> EngineSpec | None:
    """The engine, with the limits that it chooses on the GPUs of the plan: a step holds the plan's ``chunk``."""
    engine, record = _part(reader, "engine", "", engine_spec), reader.declaration("engine")
    if engine is None or record is None or node is None:
        return engine
    chosen = engine.on_gpus(_gpu_specs(node, cluster), stated=record.fields)
    if engine.limits is None or "step_tokens" in record.fields or chunk <= chosen.step_tokens:
        return chosen
    return evolve(chosen, step_tokens=chunk)


def _gpu_specs(node: NodeSpec, cluster: ClusterSpec | None) -> list[GpuSpec]:
    """Each kind of GPU of a node or cluster."""
    nodes = (node,) if cluster is None else tuple(one for _, one in cluster.groups)
    return [gpu for one in nodes for _, gpu in one.groups]


def _hardware(reader: Reader) -> tuple[ClusterSpec | None, NodeSpec | None]:
    """The cluster and its node; or None and the node of a plan without a cluster."""
    if "cluster" not in reader.record.fields:
        return _with_unique_names(None, _part(reader, "node", "node = mi325x_8", node_spec))
    if layer := reader.layer("node"):
        labels = (Label(layer.name.span, "the node"),)
        why = "a plan has a cluster or a node, not both"
        hint = "drop one of the two"
        reader.fail(Wrong("E202", why, reader.record.fields["cluster"][-1].name.span, hint=hint, labels=labels))
    cluster = _part(reader, "cluster", "", cluster_spec)
    return _with_unique_names(cluster, cluster.node if cluster else None)


def _with_unique_names(
    cluster: ClusterSpec | None, node: NodeSpec | None
) -> tuple[ClusterSpec | None, NodeSpec | None]:
    """The same hardware, in which different GPUs and nodes have different names."""
    if node is None or not (node.gpus or (cluster and cluster.nodes)):
        return cluster, node
    from plandsl.grammar.unlike import give_unique_names

    node, cluster = give_unique_names(node, cluster)
    return cluster, node


def _warn_too_long(reader: Reader, model: ModelSpec, workload: WorkloadSpec) -> None:
    length = workload.input if workload.encodes else workload.input + workload.output
    if model.max_context is not None and length > model.max_context:
        message = f"requests of {length:,} tokens exceed the context of `{model.name}`, {model.max_context:,}"
        span = reader.record.fields["workload"][-1].name.span
        reader.context.library.record(Wrong("W203", message, span))
    table = model.longest_position
    if table is not None and length > table[0]:
        span = reader.record.fields["workload"][-1].name.span
        message = f"requests of {length:,} tokens, but `{table[1]}` has {table[0]:,} positions"
        reader.fail(Wrong("E480", message, span, hint=f"requests of at most {table[0]:,} tokens, input and output"))


def _part(reader: Reader, kind: str, example: str, make: Callable[[Context, Record], T | None]) -> T | None:
    record = reader.declaration(kind, example)
    if record is None:
        return None
    part = reader.attempt(lambda: reader.context.make(make, record))
    reader.ok &= part is not None
    return part


def _sharding(reader: Reader, model: ModelSpec | None) -> ShardingSpec | None:
    if "sharding" not in reader.record.fields:
        return ShardingSpec("none", (), ())
    spec = _part(reader, "sharding", "", sharding_spec)
    return fit(reader.context, spec, model) if spec and model else None


def _shardings(reader: Reader, model: ModelSpec | None) -> tuple[ShardingSpec | None, ShiftSpec | None]:
    """The sharding of the plan, and the `shift` to a second one if the plan has it."""
    if "shift" not in reader.record.fields:
        return _sharding(reader, model), None
    from plandsl.grammar.shift import shift_spec

    return shift_spec(reader, model, partial(_sharding, reader, model))


def _speculate(reader: Reader, model: ModelSpec | None, sharding: ShardingSpec | None) -> SpeculateSpec | None:
    """The speculative decoding of the plan; None if it has none."""
    if "speculate" not in reader.record.fields:
        return None
    from plandsl.grammar.speculate import speculate_spec

    return speculate_spec(reader, model, sharding)


def _tower(
    reader: Reader, model: ModelSpec | None, sharding: ShardingSpec | None, workload: WorkloadSpec | None
) -> ShardingSpec | None:
    """The sharding of the model's tower; None for most models."""
    has_images = workload is not None and workload.images > 0
    if "tower" not in reader.record.fields and (model is None or model.tower is None) and not has_images:
        return None
    from plandsl.grammar.towers import tower_sharding

    return tower_sharding(reader, model, sharding, workload)


def _calibrations(
    reader: Reader, timed: frozenset[str], node: NodeSpec | None, cluster: ClusterSpec | None
) -> tuple[CalibrationSpec | None, tuple[tuple[str, CalibrationSpec], ...]]:
    """The calibration, and for unlike GPUs the calibration of each by name.

    A plan that names no calibration has the one that its GPU names, else `generic`. With unlike GPUs, the first result
    is the calibration of the first GPU.
    """
    record = reader.declaration("calibration")
    if record or node is None:
        gpus = () if node is None else (node.gpu.name, *node.gpu.bases)
        return _calibration(reader, timed, cluster, record, None, own=gpus), ()
    found: dict[str, CalibrationSpec] = {}
    for name, gpu in _gpus(reader, node, cluster):
        if name not in found and (own := _calibration(reader, timed, cluster, None, gpu)):
            found[name] = own
    return next(iter(found.values()), None), tuple(found.items()) if len(found) > 1 else ()


def _gpus(reader: Reader, node: NodeSpec, cluster: ClusterSpec | None) -> Iterator[tuple[str, Record]]:
    """The name of each GPU of a valid node or cluster, and its declaration."""
    if cluster is None:
        nodes = zip((node,), _members(reader, reader.record, "node"), strict=True)
    else:
        (home,) = _members(reader, reader.record, "cluster")
        nodes = zip((one for _, one in cluster.groups), _members(reader, home, "node"), strict=False)
    for spec, record in nodes:
        for (_, gpu), own in zip(spec.groups, _members(reader, record, "gpu"), strict=False):
            yield gpu.name, own


def _members(reader: Reader, record: Record, kind: str) -> list[Record]:
    """The records that a record names in the field ``kind``, or lists in the field ``kind + s``."""
    if f"{kind}s" in record.fields:
        from plandsl.grammar.unlike import members

        return [found for _, found in members(Reader(reader.context, record, None), kind)]
    found = reader.context.records.section(record, kind, kind)
    assert found is not None, "a spec was made of it"
    return [found]


def _calibration(
    reader: Reader,
    timed: frozenset[str],
    cluster: ClusterSpec | None,
    record: Record | None,
    gpu: Record | None,
    own: tuple[str, ...] = (),
) -> CalibrationSpec | None:
    """The calibration that ``record`` declares, else the one that ``gpu`` names, else `generic`.

    It is completed until it has the sections ``timed``. ``own`` are the names of the GPU, where no record has them.
    """  # fmt: skip
    named = (gpu.name, *gpu.bases) if gpu else own
    relative = False
    if record is None and gpu and "calibration" in gpu.fields:
        record = reader.attempt(lambda: reader.context.records.section(gpu, "calibration", "calibration"))
        relative = gpu.fields["calibration"][-1].assumed
    record = record or _generic(reader)
    if record is None:
        return CalibrationSpec("generic", ())
    found = reader.context.make(calibration_with(timed), record)
    if found and cluster is not None and cluster.count > 1 and not found.has(BETWEEN):
        wider = reader.context.make(calibration_with(timed | BETWEEN), record)
        found = wider if wider and wider.has(BETWEEN) else found
    return found.placed_on(named if relative else (*named, found.name)) if found else None


def _generic(reader: Reader) -> Record | None:
    found = catalog_find("calibration", "generic")
    if found is None:
        return None
    reader.context.library.enter(found[1])
    return reader.context.records.of_declaration(*found)


@kept(256)
def needed_sections(model: ModelSpec | None) -> frozenset[str]:
    """The sections of a calibration that give the times of a model's ops, and the families of its formats."""
    if model is None:
        return frozenset(CORE)
    needed = (*CORE, *(section for name, sections in NEEDS.items() if name in model.called for section in sections))
    stored = (model.compute,) if model.compute else map(base_format, model.formats)
    formats = [f for f in (*stored, model.activations) if f in FAMILIES]
    return frozenset((*needed, *(family_of(kind, f) for kind in BY_FORMAT if kind in needed for f in formats)))


BETWEEN = frozenset(("collective_nodes",))
"""Sections that a plan on several nodes also uses, if a calibration has them."""

NEEDS = {"experts": ("moe",), "latent": ("mla_prefill", "mla_decode")}
"""Sections beside the core that functions of a block need."""


class _Settings(NamedTuple):
    """Settings of a plan, named as the fields that set them."""

    kv_residency: str
    step_tokens: int
    memory_fraction: float
    hop_tensors: int
    fuse_norms: bool
    algorithm: str
    router: RouterName


def _default_fraction(
    model: ModelSpec | None,
    node: NodeSpec | None,
    sharding: ShardingSpec | None,
    cluster: ClusterSpec | None,
    engine: EngineSpec,
    step_tokens: int,
) -> float:
    """The share of a GPU's memory that an engine uses where nothing states it; of unlike GPUs the smallest counts."""
    if engine.fraction_of != "free_before" or model is None or node is None or sharding is None:
        return 1.0
    from plandsl.spec.fractions import default_fraction

    memory = min(gpu.reported_memory for gpu in _gpu_specs(node, cluster))
    ranks = sharding.ranks // sharding.replicas
    return default_fraction(engine, memory, ranks, step_tokens, latent="latent" in model.called)


def _settings(
    reader: Reader,
    sharding: ShardingSpec | None,
    engine: EngineSpec,
    default_fraction: Callable[[EngineSpec, int], float],
) -> _Settings:
    """The settings of a plan; the sharding or the engine gives the defaults of some."""
    residency = reader.word("kv_residency", ("all_batches", "one_batch")) or "all_batches"
    stated = reader.whole("step_tokens", least=0)
    step_tokens = engine.step_tokens if stated is None else stated
    fraction = reader.read("memory_fraction", reader.share) or engine.memory_fraction
    hops = reader.whole("hop_tensors", most=2) or (sharding.hop_tensors if sharding else None) or 1
    fuse_norms = reader.flag("fuse_norms", True)
    algorithm = reader.word("algorithm", ALGORITHMS) or "auto"
    word = reader.word("router", ROUTERS)
    router = next((name for name in ROUTERS if name == word), ROUTERS[0])
    return _Settings(
        kv_residency=residency,
        step_tokens=step_tokens,
        memory_fraction=default_fraction(engine, step_tokens) if fraction is None else fraction,
        hop_tensors=hops,
        fuse_norms=fuse_norms,
        algorithm=algorithm,
        router=router,
    )


def _read_overlap(reader: Reader) -> tuple[str, int, int]:
    """`overlap`, `chunks` and `micro_batches`."""
    beside = reader.word("overlap", ("none", "collectives")) or "none"
    return beside, reader.whole("chunks", most=limits.MAX_CHUNKS) or 1, reader.whole("micro_batches") or 1
