"""Overlap: an order in which collectives are under way while ops run that do not wait for them."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from plandsl.ir.base import LINK
from plandsl.ir.collectives import Along, Ring
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Mesh
from plandsl.passes.rewrite import each_region
from plandsl.spec.plan import PlanSpec


def overlap(program: Program, plan: PlanSpec) -> Program:
    """With `overlap = collectives`, start collectives early, and run beside them what does not wait for them.

    Before:  %h.1 : bf16[...] = all_to_all %h {...}
             %y : bf16[...] = grouped_gemm %h.1, %w_down
             %s : bf16[...] = gemm %x, %w_shared
    After:   %h.1 : bf16[...] = all_to_all %h {...}
             %s : bf16[...] = gemm %x, %w_shared
             %y : bf16[...] = grouped_gemm %h.1, %w_down
    """
    if plan.overlap == "none":
        return program
    return each_region(program, lambda region: evolve(region, ops=Order(region.ops, program.mesh).listed()))


class Order:
    """List scheduling of one region by structure alone, so that one order serves every load.

    Of what has its operands, collectives come first; then kernels that wait for none under way, those first that lead
    to most collectives in a row; then the kernel whose collectives have been under way longest. Ties keep their order.
    Along an axis of one rank nothing travels, and nothing waits.
    """

    def __init__(self, ops: Sequence[Op], mesh: Mesh) -> None:
        self.ops = ops
        made = {v.name: i for i, op in enumerate(ops) for v in op.results}
        self.needs = [{made[x.name] for x in op.operands if x.name in made} for op in ops]
        self.linked = [_travels(op, mesh) for op in ops]
        self.ahead = self._ahead()
        self.sent: dict[int, int] = {}  # collectives in the order of their start; a link takes them one by one
        self.arrived = 0  # as many of them are known to be over

    def _ahead(self) -> list[int]:
        """Collectives on the longest way from each op on, itself among them."""
        ahead = [int(linked) for linked in self.linked]
        for i in reversed(range(len(self.ops))):
            for need in self.needs[i]:
                ahead[need] = max(ahead[need], ahead[i] + self.linked[need])
        return ahead

    def listed(self) -> tuple[Op, ...]:
        """The ops in the order that they run in."""
        missing = [len(needs) for needs in self.needs]
        readers: list[list[int]] = [[] for _ in self.ops]
        for i, needs in enumerate(self.needs):
            for need in needs:
                readers[need].append(i)
        ready = {i for i, n in enumerate(missing) if not n}
        out: list[Op] = []
        while ready:
            i = min(ready, key=self._rank)
            ready.remove(i)
            self._start(i)
            out.append(self.ops[i])
            for reader in readers[i]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready.add(reader)
        return tuple(out)

    def _rank(self, i: int) -> tuple[int, int, int]:
        if self.linked[i]:
            return -1, -self.ahead[i], i
        return max(self._waits(i) - self.arrived, 0), -self.ahead[i], i

    def _waits(self, i: int) -> int:
        """How many collectives are over before kernel ``i`` can start; one around a ring feeds it meanwhile."""
        found = (n for n in self.needs[i] if self.linked[n] and not isinstance(self.ops[n], Ring))
        return max((self.sent[n] for n in found), default=0)

    def _start(self, i: int) -> None:
        if self.linked[i]:
            self.sent[i] = len(self.sent) + 1
        else:
            self.arrived = max(self.arrived, self._waits(i))


def _travels(op: Op, mesh: Mesh) -> bool:
    return isinstance(op, Along) and op.facts.stream == LINK and mesh.ways(op.axes) > 1
