"""The KV cache of one request on its way between two pools: what each rank sends, and to which ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.answers.communication import TRANSFER
from plandsl.answers.flows import Flows
from plandsl.backends.cost.answers.ranks import Sums, rank_blocks, ranks_per_node, stage_ranks
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.prefix import shared_tokens
from plandsl.backends.cost.deployments.transfer import Kept, Key
from plandsl.ir.ops import KEEPS, cache_name
from plandsl.ir.types import TensorType, block_range
from plandsl.spec.plan import PlanSpec
from plandsl.values import sum_up

Box = tuple[tuple[float, float], ...]
"""The part of each dimension of a cached tensor that a rank holds."""


class Holder(NamedTuple):
    """A rank that holds a part of a request's cache: its ``layers`` of a tensor, and the ``box`` of each."""

    rank: int
    stage: int
    layers: frozenset[int]
    box: Box


def transfer_flows(model: Deployment, size: int | None) -> Flows:
    """The cache of one request, from replica 0 of the prefill pool to replica 0 of the decode pool.

    The busiest sender sends what the table of communication says. `Transfer` tells how many bytes a sender sends. Each
    receiver gets the part of the cache that sender and receiver both hold, copies of replicated heads too.
    """
    transfer = model.transfer
    assert transfer is not None, "a transfer lies between two pools"
    split = transfer.split
    sides = [(pool.plan, pool.memory) for pool in model.pools]
    tokens = float(model.plan.workload.input - shared_tokens(split.prefill, model.plan.workload.input))
    copies = {key: kept.copies for stage in transfer.receiver for key, kept in stage.items()}
    per_node = ranks_per_node(sides[0][0]), ranks_per_node(sides[1][0])
    blocks = [rank_blocks(memory.program.mesh, each, size) for (_, memory), each in zip(sides, per_node, strict=True)]
    sums = Sums(len(blocks[0][0]), len(blocks[1][0]))
    for key in copies:
        givers, takers = (list(_holders(plan, memory, key)) for plan, memory in sides)
        for giver in givers:
            kept: Kept = transfer.sender[giver.stage][key]
            sent = float(kept.bytes(tokens) * copies[key] / kept.ports)
            weights = [_common(giver, taker) for taker in takers]
            for taker, weight in zip(takers, weights, strict=True):
                if weight:
                    sums.add((giver.rank,), (taker.rank,), split.between, sent * weight / sum_up(weights))
    cells = sums.cells()
    between = sum_up(cell.bytes for cell in cells)
    return Flows(TRANSFER, blocks[0], blocks[1], per_node, cells, between_nodes=between)


def _holders(plan: PlanSpec, memory: MemoryModel, key: Key) -> Iterator[Holder]:
    """The ranks of replica 0 that hold a part of the first request's cached tensor ``key``."""
    region, cache, i = key
    program = memory.program
    for stage, replicas in enumerate(stage_ranks(plan, program)):
        parts = [part for part in program.stages[stage] if part.region == region]
        layers = frozenset(n for part in parts if part.layers for n in part.every.select(part.layers))
        drafted = region not in {r.name for r in program.regions}  # every rank of the replica keeps its part
        for rank in replicas[0] if layers or drafted else []:
            box = () if drafted else _box(memory, rank, _cached_type(memory, region, cache, i))
            if box is not None:
                yield Holder(rank, stage, layers, box)


def _cached_type(memory: MemoryModel, region: str, cache: str, i: int) -> TensorType:
    ops = next(r for r in memory.program.regions if r.name == region).ops
    found = next(op for op in ops if isinstance(op, KEEPS) and cache_name(op) == cache)
    return found.kept[i].type


def _box(memory: MemoryModel, rank: int, type_: TensorType) -> Box | None:
    """The part of each dimension that ``rank`` holds, batch aside; None where it holds other requests."""
    mesh = memory.program.mesh
    at = mesh.coordinates(rank)
    found = []
    for dim in type_.dims:
        ways, index = mesh.ways(dim.axes), mesh.index(at, dim.axes)
        if dim.name == "batch":
            if index:
                return None
        elif dim.name == "context":
            found.append((index / ways, (index + 1) / ways))
        else:
            found.append(block_range(dim.name, int(memory.extents.sizes[dim.name]), index, ways))
    return tuple(found)


def _common(a: Holder, b: Holder) -> float:
    """How much of a cached tensor both hold; ranks that keep a draft's cache count as one another's."""
    if not a.layers or not b.layers:
        return 1.0
    common = float(len(a.layers & b.layers))
    for (low, high), (first, last) in zip(a.box, b.box, strict=True):
        common *= max(min(high, last) - max(low, first), 0)
    return common
