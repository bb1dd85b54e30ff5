"""Schedule: put every op on a stream of its device; each slot waits for the slots that make its operands."""

from __future__ import annotations

from plandsl.ir.program import Program, Region
from plandsl.ir.schedule import Schedule, Slot, Turn
from plandsl.ir.types import Mesh
from plandsl.spec.plan import PlanSpec


def schedule(program: Program, plan: PlanSpec) -> Schedule:
    """Ops keep their order on two streams, kernels and communication; a slot waits for its operands.

    The order depends on structure only, so a backend may play it for one configuration or for an array of them.
    In-flight batches pass the stages one after the other. There are as many as stages, unless the plan says.
    """
    stages = len(program.stages)
    turns = tuple(Turn(s, s - 1 if s else None) for s in range(stages))
    slots = tuple((r.name, _slots(r, program.mesh)) for r in program.regions)
    return Schedule(program, slots, turns, plan.in_flight or stages)


def _slots(region: Region, mesh: Mesh) -> tuple[Slot, ...]:
    made: dict[str, int] = {}
    slots: list[Slot] = []
    rings = region.in_blocks()
    for i, op in enumerate(region.ops):
        after = sorted({made[x.name] for x in op.operands if x.name in made})
        slot = Slot(i, op.facts.stream, tuple(after))
        ring = next((rings[x.name] for x in op.operands if x.name in rings), None)
        if ring is not None:
            turns = made[ring.outs[0].name]
            passed = [n for n in after if n != turns and any(v.name in rings for v in region.ops[n].results)]
            slot = _wait_as_ring(slot, slots[turns], [slots[n] for n in passed])
            if all(v.name not in rings for v in op.results):  # the last slot that a block passes
                slot = slot._replace(along=turns, blocks=mesh.size(ring.axis))
        slots.append(slot)
        made |= {v.name: i for v in op.results}
    return tuple(slots)


def _wait_as_ring(slot: Slot, ring: Slot, passed: list[Slot]) -> Slot:
    """A slot that reads a ring: the first block is there at once, so it waits for the slots that the ring waits for."""
    after = {*slot.after, *ring.after} - {ring.op}
    before = {n for other in passed for n in (other.op, *other.before)}
    return slot._replace(after=tuple(sorted(after)), before=tuple(sorted(before)))
