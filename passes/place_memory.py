"""Place memory: find the values that are alive together, and the values that need communication buffers."""

from __future__ import annotations

from attrs import evolve

from plandsl.ir.earlier import Earlier
from plandsl.ir.names import EMBEDDING, RECV, RegionName
from plandsl.ir.ops import KEEPS
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Value
from plandsl.passes.rewrite import each_region
from plandsl.spec.plan import PlanSpec


def place_memory(program: Program, plan: PlanSpec) -> Program:
    """Record, for every region, the largest sets of values alive at once and the buffers of its collectives.

    Weights, caches and states are left out, because they live as long as the model or a request does. The sizes decide
    which set is the largest in bytes, so every set is kept that is not a subset of another.

    After:   region block[0..80](...) -> %x.2 {
               ...
               live x, gate, up
               buffers x.1, x.3
             }
    """
    through = _values_between(program)
    return each_region(program, lambda region: _place(region, through.get(region.name, ())))


def _values_between(program: Program) -> dict[RegionName, tuple[Value, ...]]:
    """What is alive while a region runs because a later layer, or the region itself, takes it from an earlier layer."""
    made: dict[str, tuple[int, Value]] = {}
    last: dict[str, int] = {}
    for region in program.regions:
        first, stop = region.layers or ((0, 0) if region.name == EMBEDDING else (0, -1))
        kept = {v for op in region.ops if isinstance(op, KEEPS) for v in op.kept}
        for name, value in region.handed:
            if value not in kept and region.name != RECV:
                made.setdefault(name, (first, value))
        for op in region.ops:
            if isinstance(op, Earlier):
                last[op.made] = max(last.get(op.made, 0), stop)
    found: dict[RegionName, tuple[Value, ...]] = {}
    for region in program.regions:
        if region.layers is not None:
            start, stop = region.layers
            alive = (
                value
                for name, (first, value) in made.items()
                if name not in region.gives and stop > first and start < last[name]
            )
            found[region.name] = tuple(alive)
    return found


def _place(region: Region, through: tuple[Value, ...]) -> Region:
    kept = {v.name for op in region.ops if isinstance(op, KEEPS) for v in op.kept}
    kept |= {w.name for w in region.weights}
    kept |= {op.out.name for op in region.ops if isinstance(op, Earlier)}  # counted as ``through``, or as a cache
    last: dict[str, int] = {}
    for i, op in enumerate(region.ops):
        last |= dict.fromkeys((x.name for x in op.operands), i)
    last |= dict.fromkeys((v.name for v in region.results), len(region.ops))
    alive = {v.name for v in region.args}
    sets: list[frozenset[str]] = []
    for i, op in enumerate(region.ops):
        alive |= {v.name for v in op.results}
        sets.append(frozenset(alive - kept))
        alive -= {name for name in alive if last.get(name, -1) <= i}
    largest = [s for s in dict.fromkeys(sets) if not any(s < other for other in sets)]
    order = {name: i for i, name in enumerate(region.values())}
    live = tuple(tuple(sorted(s, key=order.__getitem__)) for s in largest)
    buffers = tuple(v.name for op in region.ops if op.facts.buffered for v in op.results)
    return evolve(region, live=tuple(x for x in live if x), buffers=buffers, through=through)
