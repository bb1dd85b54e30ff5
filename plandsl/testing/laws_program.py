"""Laws about programs: which rank holds and computes which part, and that every pass keeps the meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from math import isclose, prod

from plandsl.driver import CompiledPlan, compile_text
from plandsl.fields import changes
from plandsl.ir.collectives import AllGather, AllToAll, Slice
from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.names import Blocks, Places, stem
from plandsl.ir.ops import KEEPS, cache_name
from plandsl.ir.program import PHASES, Part, Program, Region, verify
from plandsl.ir.skew import Skew, Zipf, chances, factor
from plandsl.ir.states import States
from plandsl.ir.text import read, show
from plandsl.ir.types import (
    PADDED,
    REPLICATED,
    Dim,
    Mesh,
    TensorType,
    Value,
    own_pieces,
    pieces,
    shard_range,
)
from plandsl.passes import steps
from plandsl.passes.fuse import fuse
from plandsl.passes.runner import Pass
from plandsl.show import show_plan
from plandsl.spec.formats import item_bytes
from plandsl.spec.model import ADAPTERS
from plandsl.testing.compare import same
from plandsl.values import sum_up

Key = tuple[str, str]
"""A weight: its region and its name."""


def _final_programs(plan: CompiledPlan) -> Iterator[Program]:
    yield from (plan.prefill.program, plan.decode.program)


def _sizes(program: Program, plan: CompiledPlan) -> dict[str, int]:
    """Every dimension as a number, for the plan's own load."""
    load = plan.spec.workload
    bind = {"batch": load.batch, "input": load.input, "context": load.input + 1, "queries": plan.spec.queries}
    blocks = {n: program.mesh.ways(n.axes) for n, _ in program.sizes if isinstance(n, Blocks)}
    return {n: bind[s] if isinstance(s, str) else s for n, s in program.sizes if n not in blocks} | blocks


@lru_cache(maxsize=2)
def _programs(plan: CompiledPlan, phase: str) -> tuple[tuple[Pass, Program], ...]:
    """Each pass with the program that it leaves; laws ask for the same plan one after the other."""
    made = steps(plan.spec, phase, check=False)
    return tuple((step, found if isinstance(found, Program) else found.program) for step, found in made)


# ---- who holds what


def shards_tile_each_tensor(plan: CompiledPlan) -> None:
    """Together, the ranks hold every element of every tensor, each in the same number of copies."""
    for program in _final_programs(plan):
        sizes = _sizes(program, plan)
        types = {v.type for region in program.regions for v in region.values().values()}
        for type_ in types:
            here = sizes | _chunk_rows(type_, program, sizes)
            if all(here.values()):  # a chunk may have no rows left, and then no rank holds any
                _check_tiles(type_, program.mesh, sizes, here)


def _check_tiles(type_: TensorType, mesh: Mesh, sizes: Mapping[str, int], here: Mapping[str, int]) -> None:
    held = Counter(
        tuple(_block_range(d, mesh, sizes, rank) for d in type_.dims) for rank in range(mesh.ranks)
    )  # block -> ranks that hold it
    held = Counter({block: n for block, n in held.items() if all(a < b for a, b in block)})
    assert len(set(held.values())) == 1, f"{type_}: some elements have more copies than others, {held}"
    for i, dim in enumerate(type_.dims):
        ranges = sorted({block[i] for block in held})
        ends = [0, *(end for pair in ranges for end in pair), here[dim.name]]
        assert all(a == b for a, b in zip(ends[::2], ends[1::2], strict=True)), f"{type_}: {dim} lies as {ranges}"
    whole = prod(here[n] for n in type_.names)
    assert sum_up(prod(b - a for a, b in block) for block in held) == whole, f"{type_}: {held}"


def _block_range(dim: Dim, mesh: Mesh, sizes: Mapping[str, int], rank: int) -> tuple[int, int]:
    at = mesh.coordinates(rank)
    if dim.chunk:
        before, own = own_pieces(dim, sizes[dim.name], mesh, at)
        return before, before + sum_up(b - a for a, b in own)
    return shard_range(dim.name, sizes[dim.name], [(at[a], mesh.size(a)) for a in dim.axes])


def caches_stay_where_they_are(plan: CompiledPlan) -> None:
    """KV cache and states have the same layout in both phases, so that decode reads what prefill wrote."""
    before, after = (_cache_types(program) for program in _final_programs(plan))
    assert before == after, f"{before} after prefill, {after} in decode"


def _cache_types(program: Program) -> dict[tuple[str, str, int], TensorType]:
    """What each op keeps, by its region, the cache and the place among what the op keeps; ops have any order."""
    ops = [(r.name, op) for r in program.regions for op in r.ops]
    kept = ((name, op) for name, op in ops if isinstance(op, KEEPS))
    return {(name, cache_name(op), i): v.type for name, op in kept for i, v in enumerate(op.kept)}


# ---- who computes what


def work_is_shared_out(plan: CompiledPlan) -> None:
    """Over all devices, GEMMs do the FLOPs of the unsharded model, times copies, times the padding of the step.

    Where experts are split, every rank counts as the fullest rank.
    """
    for program, (_, plain) in zip(_final_programs(plan), (_programs(plan, p)[0] for p in PHASES), strict=True):
        sizes = _sizes(program, plan)
        sizes |= {n: n.chosen for n, _ in program.imbalance}
        wanted = _logical_flops(plain, sizes)
        timed = plan.cost.pools[0].main.prefill if program.phase == "prefill" else plan.cost.pools[0].main.decode
        extents = Extents(program, {**sizes, "input": sizes["position"], "queries": sizes["position"]})
        found: dict[Key, float] = dict.fromkeys(wanted, 0.0)
        for parts in program.stages:
            for part in parts:
                stored = _stored_weights(program.region(part.region))
                for op, work in zip(program.region(part.region).ops, timed.work[part.region], strict=True):
                    if isinstance(op, Gemm):
                        rows = extents.product(getattr(work, "rows", ()))
                        done = getattr(work, "flops_per_row", 0.0) * rows * _stage_ranks(program)
                        here = sizes | _chunk_rows(op.x.type, program, sizes)
                        if not all(here.values()):  # this chunk has no rows left
                            continue
                        even = sum_up(
                            _copies(op.x, w, program, here, extents) * _flops(op.x, w, here) for w in op.weights
                        )
                        assert isclose(done, even, rel_tol=1e-12), f"{op.keyword} {op.x}: {done} of {even} FLOPs"
                        for w in op.weights:
                            found[part.region, stored.get(w.name, w.name)] += part.repeats * _flops(op.x, w, here)
        assert found == wanted, "stages do other work than the model"


def _stored_weights(region: Region) -> dict[str, str]:
    """The stored weight of each value that is a weight, or a rank's part of a weight, by name."""
    names = {w.name: w.name for w in region.weights}
    for op in region.ops:
        for x in op.operands:
            if isinstance(op, AllGather | AllToAll | Slice) and x.name in names:
                names |= {out.name: names[x.name] for out in op.results}
    return names


def _logical_flops(plain: Program, sizes: Mapping[str, int]) -> dict[Key, float]:
    out: dict[Key, float] = {}
    for region in plain.regions:
        for op in region.ops:
            if isinstance(op, Gemm):
                for w in op.weights:
                    key = (region.name, w.name)
                    out[key] = out.get(key, 0.0) + region.repeats * _flops(op.x, w, sizes)
    return out


def _flops(x: Value, w: Value, sizes: Mapping[str, int]) -> float:
    """FLOPs of a GEMM, ``2 m n k``; for experts, of the experts of each token, for adapters of that of each request."""
    names = {stem(n): n for n in (*w.type.names, *x.type.names) if n != ADAPTERS}
    return 2.0 * prod(sizes[n] for n in names.values())


def _chunk_rows(type_: TensorType, program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """The rows of each chunked dimension of ``type_``, over all ranks."""
    chunks = (d for d in type_.dims if d.chunk)
    return {d.name: sum_up(b - a for a, b in pieces(d, sizes[d.name], program.mesh)) for d in chunks}


def _fullest_share(skew: Skew, ways: int, experts: int, chosen: int) -> float:
    """The share of a token's experts on the fullest of ``ways`` ranks."""
    if isinstance(skew, Zipf):
        each = chances(skew.exponent, experts, chosen)
        return max(sum_up(each[rank::ways]) for rank in range(ways)) / chosen
    return min(factor(skew), ways, experts / chosen) / ways


def _copies(x: Value, w: Value, program: Program, sizes: Mapping[str, int], extents: Extents) -> float:
    """How often a product is computed: by ranks that hold the same parts, and on padding."""
    times = float(_stage_ranks(program))
    imbalance = dict(program.imbalance)
    for dim in {stem(d.name): d for d in (*w.type.dims, *x.type.dims)}.values():
        ways, size = program.mesh.ways(dim.axes), sizes[dim.name]
        if isinstance(dim.name, Places):  # a rank has at most as many experts of a token as it holds
            have = dict(program.sizes)[dim.name.experts]
            times *= _fullest_share(imbalance[dim.name], ways, int(have), size)
            continue
        if dim.name in REPLICATED and size < ways:
            ways = size
        times /= ways
        times *= extents.local(dim) * ways / size if dim.name in PADDED else 1
    return times


def _stage_ranks(program: Program) -> int:
    return program.mesh.ranks // len(program.stages)


def weights_and_cache_are_shared_out(plan: CompiledPlan) -> None:
    """Over all devices, weights, KV cache and states take the bytes of the whole model times their copies."""
    program, tower = plan.prefill.program, plan.tower
    if tower is not None:
        weights_and_cache_are_shared_out(tower)
    added = tower.cost.pools[0].memory.weights[0] if tower is not None else 0  # on the GPUs of every stage
    sizes, memory = _sizes(program, plan), plan.cost.pools[0].memory
    for stage, parts in enumerate(program.stages):
        held = _stage_ranks(program) * (memory.weights[stage] - added)
        wanted = sum_up(times * _bytes_everywhere(w, program, sizes) for w, times in _weights(program, parts))
        assert isclose(held, wanted, rel_tol=1e-12), f"stage {stage} holds {held} of {wanted} bytes of weights"
        states = memory.main.state_per_request(stage)
        cached = _stage_ranks(program) * (memory.kv_per_request(stage, memory.block) - states) / memory.block
        wanted = sum_up(times * _bytes_everywhere(v, program, sizes) for v, times in _caches(program, parts))
        windows = any(c.window for c in memory.caches[stage])
        assert windows or isclose(cached, wanted, rel_tol=1e-12), f"stage {stage}: cache {cached} of {wanted}"
        if states and not plan.spec.blocks_hold_states:
            held = _stage_ranks(program) * states / memory.main.states
            kept = _states(program, parts)
            wanted = sum_up(times * _bytes_everywhere(v, program, sizes) for v, times in kept)
            assert isclose(held, wanted, rel_tol=1e-12), f"stage {stage} holds {held} of {wanted} bytes of states"


def _weights(program: Program, parts: tuple[Part, ...]) -> Iterator[tuple[Value, int]]:
    shared: set[Value] = set()  # embedding and head may be one tensor
    for part in parts:
        region = program.region(part.region)
        if region.layers is not None:
            yield from ((w, part.repeats) for w in region.weights)
        shared |= set() if region.layers is not None else set(region.weights)
    yield from ((w, 1) for w in shared)


def _caches(program: Program, parts: tuple[Part, ...]) -> Iterator[tuple[Value, int]]:
    for part in parts:
        for op in program.region(part.region).ops:
            if isinstance(op, CacheWrite) and not op.transient:
                yield from ((v, part.repeats) for v in op.outs)


def _states(program: Program, parts: tuple[Part, ...]) -> Iterator[tuple[Value, int]]:
    for part in parts:
        for op in program.region(part.region).ops:
            if isinstance(op, States):
                yield from ((v, part.repeats) for v in op.kept)


def _bytes_everywhere(value: Value, program: Program, sizes: Mapping[str, int]) -> float:
    """Bytes of one token of a value on all ranks of a stage, copies included."""
    fixed = [d for d in value.type.dims if d.name not in PADDED]
    out = _stage_ranks(program) * item_bytes(value.type.dtype)
    for dim in fixed:
        ways, size = program.mesh.ways(dim.axes), sizes[dim.name]
        out *= 1 if dim.name in REPLICATED and size < ways else size / ways
    return out


# ---- passes


def passes_keep_their_promises(plan: CompiledPlan) -> None:
    """After every pass the program verifies, and the promises of all passes so far still hold."""
    for phase in PHASES:
        promises: list[Pass] = []
        for step, program in _programs(plan, phase):
            findings = [d.message for d in verify(program)]
            assert not findings, f"after {step.name}: {findings}"
            promises += [step] if step.leaves is not None else []
            for promise in promises:
                broken = [op for r in program.regions for op in r.ops if promise.leaves and not promise.leaves(op)]
                assert not broken, f"after {step.name}, {promise.name} no longer holds: {broken}"
            _check_regions_join(program)


def _check_regions_join(program: Program) -> None:
    """Along every stage, the results of a region have the types of the next region's arguments."""
    for parts in program.stage_parts:
        regions: list[Region] = [program.region(p.region) for p in parts]
        for before, after in pairwise(regions):
            if after.args:
                assert [v.type for v in before.results[:1]] == [v.type for v in after.args], after.name


def fusing_twice_is_fusing_once(plan: CompiledPlan) -> None:
    """`fuse` does not change its own result."""
    for phase in PHASES:
        fused = next(program for step, program in _programs(plan, phase) if step.name == "fuse")
        assert fuse(fused, plan.spec) == fused


def text_reads_back(plan: CompiledPlan) -> None:
    """A program after any pass, and the plan itself, are the same after they are written and read."""
    for phase in PHASES:
        before = None
        for step, program in _programs(plan, phase):
            assert program is before or read(show(program)) == program, f"after {step.name}"
            before = program
    if plan.spec.kv_residency == "prompts":  # a pool of prefill has no text of its own
        return
    (again,) = compile_text(show_plan(plan.spec))
    left = ", ".join(change.path for change in changes(plan.spec, again.spec))
    assert same(again.spec, plan.spec), f"the text reads back as another plan: {left or 'in what no field says'}"


def sharded_equals_unsharded(plan: CompiledPlan) -> None:
    """Run on small dimensions, the sharded program computes what the unsharded one does, token by token."""
    verdict = plan.verify()
    assert verdict.ok, verdict.message
