"""Laws about growth: more layers, more requests, longer contexts, wider formats, larger memories."""

from __future__ import annotations

from math import isclose

import numpy as np
from attrs import evolve

from plandsl.backends.cost.answers.figures import change_pools, larger_memory
from plandsl.driver import CompiledPlan
from plandsl.ir.compute import Gemm
from plandsl.spec.formats import item_bytes
from plandsl.spec.model import BlockSpec, Every, ModelSpec
from plandsl.spec.plan import PlanSpec
from plandsl.testing.compare import SLACK, compiled
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.values import sum_up

BATCHES = (1, 2, 3, 4, 8, 17, 64, 257)
LENGTHS = (1, 2, 5, 16, 100, 1000, 4097)

ROUNDING = 1e-9
"""The share of a time by which sums over layers may differ."""


# ---- layers


def layers_add_up(plan: CompiledPlan) -> None:
    """Twice the layers take twice the time and memory of the layers: the third copy of them adds what the second adds.

    That holds for the time of all stages together, without hops, in a prefill and in a decode step, and for their
    weights and KV cache. Where there is one stage and a batch starts together, twice the layers are never more than
    twice the TTFT and the TPOT. Of requests always in flight fewer are then in what takes equally long, such as the
    engine's part of a first token, and more in steps, so that each token may wait for more of them.
    """
    model = plan.spec.model
    if plan.spec.sharding.cut is not None and not plan.spec.sharding.cut.balanced:
        raise DoesNotApply("its `cut` says how many layers each stage has")
    if len(plan.spec.kinds) > 1 and len(plan.prefill.program.stages) > 1:
        raise DoesNotApply("its stages are on unlike GPUs, so that the time of a layer depends on its stage")
    made = [plan, *(compiled(evolve(plan.spec, model=_copies(model, n), requires=())) for n in (2, 3))]
    found = [_sums(each) for each in made]
    for name, (once, twice, thrice) in {name: [one[name] for one in found] for name in found[0]}.items():
        second, third = twice - once, thrice - twice
        assert isclose(second, third, rel_tol=1e-6, abs_tol=ROUNDING * thrice), (
            f"{name}: {once:g} once, {second:g} more twice, and {third:g} more thrice"
        )
        assert once <= twice * SLACK <= 2 * once * SLACK**2, f"{name}: {once:g}, and {twice:g} with twice the layers"
    if len(plan.prefill.program.stages) == 1 and plan.cost.own.served is None:
        for name in ("ttft",) if plan.spec.workload.encodes else ("ttft", "tpot"):
            once, twice = (float(getattr(each.cost.evaluate(), name)) for each in made[:2])
            assert once <= twice * SLACK, f"{name} is {once:g} s, with twice the layers {twice:g} s"
            assert twice <= 2 * once * SLACK, f"{name} is {once:g} s, with twice the layers {twice:g} s"


BINDS = {"prefill": ("batch", "input", "context"), "decode": ("batch", "context", "queries")}
"""The sizes that a step of each phase has."""


def _sums(plan: CompiledPlan) -> dict[str, float]:
    """Seconds of the stages of each phase together, and what all stages hold."""
    model, load = plan.cost.pools[0], plan.spec.workload
    length, stages = load.input + load.output, range(len(model.memory.weights))
    found = {
        "bytes of weights": float(sum_up(model.memory.weights)),
        "bytes of KV cache": float(sum_up(model.memory.kv_per_request(stage, length) for stage in stages)),
    }
    sizes = {"batch": load.batch, "input": load.input, "context": load.input, "queries": 1}
    asked = {"prefill": (model.main.prefill, load.input), "decode": (model.main.decode, load.input + 1)}
    for phase, (timed, context) in list(asked.items())[: 1 if load.encodes else 2]:
        bind = {name: sizes[name] for name in BINDS[phase]}
        times = timed.at(bind, 1, [(1.0, float(context))])
        found[f"seconds of {phase}"] = float(sum_up(stage.span for stage in times.stages))
    return found


def _copies(model: ModelSpec, n: int) -> ModelSpec:
    """``model`` with its layers ``n`` times, one copy after the other; weights keep the formats of their blocks."""
    blocks = sorted((_moved(b, copy, model.layers) for copy in range(n) for b in model.blocks), key=lambda b: b.layers)
    names = {block.name for block in model.blocks}
    stored = []
    for path, word in model.stored:
        first, dot, rest = path.partition(".")
        copies = [_copied(first, copy) for copy in range(n)] if first in names else [first]
        stored += [(f"{name}{dot}{rest}", word) for name in copies]
    return evolve(model, layers=n * model.layers, blocks=tuple(blocks), stored=tuple(sorted(stored)))


def _copied(name: str, copy: int) -> str:
    return f"{name}_{copy + 1}" if copy else name


def _moved(block: BlockSpec, copy: int, layers: int) -> BlockSpec:
    chosen = [layer + copy * layers for layer in block.every.select(block.layers)]
    span, every = Every.from_layers(chosen)
    return block._replace(name=_copied(block.name, copy), layers=span, every=every)


# ---- requests and tokens


def memory_grows_with_the_load(plan: CompiledPlan) -> None:
    """More requests or longer ones never take less memory, and a rank holds whole requests.

    On each stage, the KV cache of a batch is that of one request times the requests of the fullest rank, and every
    longer request takes at least as much; weights stay. Activations grow with the batch. Where requests share a prefix,
    they hold it once, beside the rest of each.
    """
    load, memory = plan.spec.workload, plan.cost.pools[0].memory
    length = load.input + load.output
    batches, lengths = np.array(BATCHES, dtype=float), np.array(LENGTHS, dtype=float)
    shared = load.prefix == "shared"
    for stage in range(len(memory.weights)):
        ways = float(memory.ways(stage))
        held = [memory.held(stage, batch, length, load.input, 1) for batch in BATCHES]
        alone = memory.held(stage, 1, length, load.input, 1)
        before = float(memory.held(stage, 0, length, load.input, 1).kv_cache) if shared else 0.0
        for batch, now in zip(BATCHES, held, strict=True):
            wanted = before + (float(alone.kv_cache) - before) * -(-batch // ways)
            found = float(now.kv_cache)
            assert isclose(found, wanted, rel_tol=ROUNDING), (
                f"stage {stage}: {batch} requests hold {found}, not {wanted}"
            )
        _check_grows(f"memory of stage {stage} over batches {BATCHES}", [each.total for each in held])
        _check_grows(f"cache of stage {stage} over lengths {LENGTHS}", memory.kv_per_request(stage, lengths))
        assert len({float(each.weights) for each in held}) == 1, f"stage {stage}: weights depend on the batch"
    _check_grows(
        f"memory over batches {BATCHES}", np.broadcast_to(plan.cost.evaluate(batch=batches).memory, batches.shape)
    )


def _check_grows(what: str, values: object) -> None:
    found = np.asarray(values, dtype=float)
    assert np.all(np.diff(found) >= -ROUNDING * np.abs(found[1:])), f"{what}: {found}"


# ---- bits


def fewer_bits_take_less_memory(plan: CompiledPlan) -> None:
    """Weights of fewer bits never take more memory, nor does a KV cache of fewer; the first leave room for more.

    The formats are compared with one `compute`, so that activations keep theirs, and with one cut: the cut that is the
    fastest with fewer bits may fill a stage more.
    """
    spec = change_pools(evolve(plan.spec, requires=()), _with_its_cut)
    model = evolve(spec.model, compute=spec.model.activations, stored=(), kv_cache=spec.model.activations)
    formats = sorted(WEIGHTS, key=item_bytes)
    made = [CompiledPlan(evolve(spec, model=evolve(model, weights=word)), ()) for word in formats]
    stages = range(len(made[0].cost.pools[0].memory.weights))
    for stage in stages:
        found = [float(each.cost.pools[0].memory.weights[stage]) for each in made]
        told = f"weights of stage {stage} in {formats}"
        _check_grows(told, found)
        assert found[0] < found[-1] or not _has_products(plan, stage), f"{told} always take {found[0]} bytes"
    room = [float(each.cost.evaluate().max_batch) for each in made]
    assert room == sorted(room, reverse=True), f"largest batches with weights in {formats}: {room}"
    length = plan.spec.workload.input + plan.spec.workload.output
    narrow = CompiledPlan(evolve(made[-1].spec, model=evolve(made[-1].spec.model, kv_cache="fp8")), ())
    for stage in stages:
        less, more = (float(each.cost.pools[0].memory.kv_per_request(stage, length)) for each in (narrow, made[-1]))
        assert less <= more * SLACK, (
            f"stage {stage}: a request takes {less} bytes in fp8, {more} in {model.activations}"
        )


WEIGHTS = ("fp4", "fp8", "bf16")
"""Formats of weights that are compared."""


def _with_its_cut(spec: PlanSpec) -> PlanSpec:
    """The same plan, but its balanced cut stays as it is."""
    sharding = spec.sharding
    if sharding.cut is None or not sharding.cut.layers:
        return spec
    return evolve(spec, sharding=evolve(sharding, cut=sharding.cut._replace(balanced=False)))


def _has_products(plan: CompiledPlan, stage: int) -> bool:
    program = plan.prefill.program
    regions = (program.region(part.region) for part in program.stages[stage])
    return any(isinstance(op, Gemm) for region in regions for op in region.ops)


def more_memory_is_never_worse(plan: CompiledPlan) -> None:
    """On GPUs with half as much memory again nothing is slower, as much fits, and no batch or cache is smaller.

    An engine that chooses its limits by the memory of the GPU keeps those of the plan.
    """
    spec = plan.spec
    before, after = plan.cost.evaluate(), plan.cost.on(larger_memory(spec, 1.5)).evaluate()
    for name in ("max_batch", "kv_capacity", "throughput"):
        was, now = float(getattr(before, name)), float(getattr(after, name))
        assert now * SLACK >= was, f"{name} is {was:g}, with more memory {now:g}"
    for name in ("ttft",) if spec.workload.encodes else ("ttft", "tpot"):
        was, now = float(getattr(before, name)), float(getattr(after, name))
        assert now <= was * SLACK, f"{name} is {was:g} s, with more memory {now:g} s"
    assert after.fits or not before.fits, "it fits, and with more memory it does not"
