"""Chunk: cut a GEMM and the collective next to it by rows, so that the two run at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from attrs import evolve

from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import AllGather, AllReduce, ReduceScatter
from plandsl.ir.compute import Gemm, Quantize
from plandsl.ir.names import group_of
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Chunk, Value
from plandsl.passes.rewrite import Names, count_uses, each_region, replace_fields, substitute
from plandsl.spec.plan import PlanSpec


def chunk(program: Program, plan: PlanSpec) -> Program:
    """With `chunks = n`, cut each GEMM that a collective feeds or follows into n by rows, and the collective too.

    The GEMM of one chunk runs during the collective of the chunk before it. Each GEMM reads all of the weights.

    Before:  %y : bf16[batch, position, hidden]{+tensor} = gemm %u, %w_down
             %z : bf16[batch, position, hidden] = all_reduce %y {axis = "tensor"}
    After:   %u.1, %u.2 : ..., ... = split %u {dim = "position", over = ""}
             %y.1 : bf16[batch, position 0/2, hidden]{+tensor} = gemm %u.1, %w_down
             %z.1 : bf16[batch, position 0/2, hidden] = all_reduce %y.1 {axis = "tensor"}
             %y.2 : bf16[batch, position 1/2, hidden]{+tensor} = gemm %u.2, %w_down
             %z.2 : bf16[batch, position 1/2, hidden] = all_reduce %y.2 {axis = "tensor"}
             %z : bf16[batch, position, hidden] = join %z.1, %z.2 {dim = "position"}
    """
    if plan.chunks == 1:
        return program
    return each_region(program, lambda region: _Chunker(program, region, plan.chunks).run())


class _Chain(NamedTuple):
    """Ops that work row by row: an all_gather before the kernels, the kernels, and a collective sum after them."""

    before: tuple[Op, ...]
    kernels: tuple[Op, ...]
    behind: tuple[Op, ...]

    @property
    def ops(self) -> tuple[Op, ...]:
        """All ops in order; each reads the result of the one before."""
        return (*self.before, *self.kernels, *self.behind)


class _Chunker:
    """Cuts the chains of one region."""

    def __init__(self, program: Program, region: Region, count: int) -> None:
        self.program, self.region, self.count = program, region, count
        self.names = Names(region.values())
        self.made = {v.name: op for op in region.ops for v in op.results}
        self.reader = {x.name: op for op in region.ops for x in op.operands}
        many = count_uses(region.ops)
        self.once = {name for name, n in many.items() if n == 1}.difference(v.name for v in region.results)

    def run(self) -> Region:
        """The region with every chain that has rows to cut replaced, at the place of its first op."""
        at: dict[int, list[Op]] = {}
        gone: set[int] = set()
        for op in self.region.ops:
            chain = self._chain(op) if type(op) is Gemm else None
            if chain is None or (found := self._rows(chain)) is None:
                continue
            early, late = self._cut(chain, *found)
            at[id(chain.ops[0])] = early if chain.before else [*early, *late]
            if chain.before:
                at[id(op)] = late
            gone |= {id(x) for x in chain.ops}
        if not gone:
            return self.region
        ops = (new for op in self.region.ops for new in at.get(id(op), () if id(op) in gone else (op,)))
        return evolve(self.region, ops=tuple(ops))

    def _chain(self, gemm: Gemm) -> _Chain | None:
        """A GEMM with the all_gather that only it reads (perhaps quantized), and with the sum of its result."""
        kernels: list[Op] = [gemm]
        x = gemm.x
        while x.name in self.once and isinstance(op := self.made.get(x.name), Quantize):
            kernels.insert(0, op)
            x = op.x
        op = self.made.get(x.name)
        gathers = isinstance(op, AllGather) and x.name in self.once and self._travels(op)
        before = (op,) if op is not None and gathers else ()
        after = self.reader.get(gemm.outs[0].name) if len(gemm.outs) == 1 and gemm.outs[0].name in self.once else None
        sums = isinstance(after, AllReduce | ReduceScatter) and self._travels(after)
        behind = (after,) if after is not None and sums else ()
        if not before:
            kernels = [gemm]
        return _Chain(before, tuple(kernels), behind) if before or behind else None

    def _travels(self, op: AllGather | AllReduce | ReduceScatter) -> bool:
        return self.program.mesh.ways(op.axes) > 1

    def _rows(self, chain: _Chain) -> tuple[str, tuple[str, ...]] | None:
        """The dimension to cut, and the most axes that split it anywhere in the chain.

        It is the last of ``batch`` and ``position`` with more than one row: positions in prefill, requests in decode.
        """
        start, end = chain.ops[0].operands[0].type, chain.ops[-1].results[0].type
        rows = [n for n in ("batch", "position") if n in start.names and n in end.names and self.program.size(n) != 1]
        if not rows:
            return None
        short, over = sorted((start.on(rows[-1]), end.on(rows[-1])), key=len)
        return (rows[-1], over) if over[: len(short)] == short else None

    def _cut(self, chain: _Chain, dim: str, over: tuple[str, ...]) -> tuple[list[Op], list[Op]]:
        """The ops before the kernels, for all chunks (links run them in turn), then the other ops and the joins."""
        start = chain.ops[0].operands[0]
        chunks = [Chunk(i, self.count, over) for i in range(self.count)]
        parts = tuple(self._part(start, dim, piece) for piece in chunks)
        early: list[Op] = [Split(parts, start, dim, group_of(over))]
        fed: list[dict[str, Value]] = [{start.name: part} for part in parts]
        for piece in chunks:
            early += self._copies(chain.before, dim, piece, fed[piece.part])
        late: list[Op] = []
        for piece in chunks:
            late += self._copies((*chain.kernels, *chain.behind), dim, piece, fed[piece.part])
        late += [Join(out, tuple(f[out.name] for f in fed), dim) for out in chain.ops[-1].results]
        return early, late

    def _copies(self, ops: tuple[Op, ...], dim: str, piece: Chunk, fed: dict[str, Value]) -> Iterator[Op]:
        """``ops`` on one chunk; ``fed`` maps each value to its chunk, and gets the results added."""
        for op in ops:
            for out in op.results:
                fed[out.name] = self._part(out, dim, piece)
            outs = tuple(fed[out.name] for out in op.results)
            results = outs if type(getattr(op, op.RESULTS[0])) is tuple else outs[0]
            yield replace_fields(substitute(op, fed), {op.RESULTS[0]: results})

    def _part(self, value: Value, dim: str, piece: Chunk) -> Value:
        return Value(self.names.fresh(value.name), value.type.chunked(dim, piece))
