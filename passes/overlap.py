"""Overlap: reorder ops so that kernels run during collectives that they do not wait for."""

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
    """With `overlap = collectives`, start collectives early, and run the kernels that do not wait for them meanwhile.

    Before:  %h.1 : bf16[...] = all_to_all %h {...}
             %y : bf16[...] = grouped_gemm %h.1, %w_down
             %s : bf16[...] = gemm %x, %w_shared
    After:   %h.1 : bf16[...] = all_to_all %h {...}
             %s : bf16[...] = gemm %x, %w_shared
             %y : bf16[...] = grouped_gemm %h.1, %w_down
    """
    if plan.overlap == "none":
        return program
    return each_region(program, lambda region: evolve(region, ops=Order(region.ops, program.mesh).order()))


class Order:
    """List scheduling of one region by structure only, so that one order serves every load.

    Among the ops whose operands are made, the order is: collectives; then kernels that wait for no running collective,
    the kernel with the most collectives on a path after it first; then the kernel whose collectives started earliest.
    Ties keep their order. Along an axis of one rank nothing travels, and nothing waits.
    """

    def __init__(self, ops: Sequence[Op], mesh: Mesh) -> None:
        self.ops = ops
        made = {v.name: i for i, op in enumerate(ops) for v in op.results}
        self.needs = [{made[x.name] for x in op.operands if x.name in made} for op in ops]
        self.linked = [_travels(op, mesh) for op in ops]
        self.ahead = self._count_ahead()
        self.sent: dict[int, int] = {}  # collectives, numbered in the order of their start; a link runs one at a time
        self.arrived = 0  # the number of collectives known to be done

    def _count_ahead(self) -> list[int]:
        """For each op, the most collectives on a path that starts at it (itself included)."""
        ahead = [int(linked) for linked in self.linked]
        for i in reversed(range(len(self.ops))):
            for need in self.needs[i]:
                ahead[need] = max(ahead[need], ahead[i] + self.linked[need])
        return ahead

    def order(self) -> tuple[Op, ...]:
        """The ops in the order in which they run."""
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
        return max(self._count_awaited(i) - self.arrived, 0), -self.ahead[i], i

    def _count_awaited(self, i: int) -> int:
        """The number of collectives that must be done before kernel ``i`` starts; a ring feeds it while it runs."""
        found = (n for n in self.needs[i] if self.linked[n] and not isinstance(self.ops[n], Ring))
        return max((self.sent[n] for n in found), default=0)

    def _start(self, i: int) -> None:
        if self.linked[i]:
            self.sent[i] = len(self.sent) + 1
        else:
            self.arrived = max(self.arrived, self._count_awaited(i))


def _travels(op: Op, mesh: Mesh) -> bool:
    return isinstance(op, Along) and op.facts.stream == LINK and mesh.ways(op.axes) > 1
