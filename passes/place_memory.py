"""Place memory: find the values that are alive together, and the values that need communication buffers."""

from __future__ import annotations

from attrs import evolve

from plandsl.ir.ops import KEEPS
from plandsl.ir.program import Program, Region
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
    return each_region(program, _place)


def _place(region: Region) -> Region:
    kept = {v.name for op in region.ops if isinstance(op, KEEPS) for v in op.kept}
    kept |= {w.name for w in region.weights}
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
    return evolve(region, live=tuple(x for x in live if x), buffers=buffers)
