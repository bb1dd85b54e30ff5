"""Which op runs in the kernel of which: the hosts of ops by the patterns of fusions (`plandsl.spec.fusions`).

An op with ``fused`` keeps its own line, operands and results; only its launch, and the values that stay in registers,
are saved. Its host is an earlier op, perhaps in the region before it. Whether an all_reduce shares its kernel depends
on its size, so an op may have names both of fusions that begin with an all_reduce and of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from plandsl.ir.collectives import AllReduce
from plandsl.ir.compute import AddNorm, Attention, CacheWrite, Gemm, Map, Norm, Quantize, Rope
from plandsl.ir.latent import LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import TensorType, Value

WITH_ALL_REDUCE = "all_reduce"
"""How the names of fusions begin that need an all_reduce in a shared kernel."""

SPARED = ("all_reduce", "attention", "gemm", "grouped_gemm")
"""Words of ops whose kernels take the same time whether their result is written by them or by ops inside."""


def show_fused(names: list[str]) -> str | None:
    """Names of fusions as the attribute ``fused``; None without names."""
    return ", ".join(names) or None


def read_fused(op: Op) -> tuple[str, ...]:
    """The fusions by which ``op`` runs in the kernel of its host; empty where it never does."""
    text = getattr(op, "fused", None)
    return tuple(text.split(", ")) if text else ()


def is_residual(op: Op | None) -> bool:
    """Whether ``op`` adds two whole values of one type."""
    return isinstance(op, Map) and op.fn == "add" and op.title == "residual" and op.adds and op.limits is None


def is_bias(op: Op | None) -> bool:
    """Whether ``op`` adds a value of fewer dimensions, and does nothing else."""
    return isinstance(op, Map) and op.fn == "add" and op.title == "bias" and op.limits is None


class Hosts:
    """The ops of a program by what they make and read, and the host of each."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._regions = {id(op): region for region in program.regions for op in region.ops}
        self._made = {(r.name, v.name): op for r in program.regions for op in r.ops for v in op.results}

    def maker(self, op: Op, value: Value) -> Op | None:
        """The op that makes ``value``, an operand of ``op``; None for arguments and weights of a region."""
        return self._made.get((self._regions[id(op)].name, value.name))

    def readers(self, op: Op, value: Value) -> Iterator[Op]:
        """The ops that read ``value``, a result or an operand of ``op``."""
        return (other for other in self._regions[id(op)].ops if value in other.operands)

    def leaves(self, op: Op, value: Value) -> bool:
        """Whether ``value`` is a result of the region of ``op``."""
        return value in self._regions[id(op)].results

    def host(self, op: Op) -> Op | None:
        """The op whose kernel may take up ``op``, whether the engine has such a kernel or not."""
        match op:
            case Norm() if op.sums is not None:  # it comes after its sums, and not after what they are made of
                return None
            case Norm() | AddNorm():
                return self._all_reduce(op) or self._turned_with(op) or self._end_of_layer(op)
            case Map() if is_residual(op):
                return self._all_reduce(op)
            case Map() if is_bias(op):
                made = self.maker(op, op.xs[0])
                return made if isinstance(made, Gemm) else None
            case Quantize():
                made = self.maker(op, op.x)
                return made if isinstance(made, Norm | AddNorm | Map | Attention | LatentAttention) else None
            case Rope():
                norms = [self.maker(op, x) for x in op.xs]
                return norms[0] if all(isinstance(one, Norm) for one in norms) else None
            case CacheWrite():
                return next((one for x in op.xs if isinstance(one := self.maker(op, x), Rope)), None)
            case _:
                return None

    def first_all_reduce(self, op: Op) -> AllReduce | None:
        """The all_reduce that begins the hosts of ``op``, each the host of the next one; None where none does."""
        host = self.host(op)
        return host if host is None or isinstance(host, AllReduce) else self.first_all_reduce(host)

    def _all_reduce(self, op: Op) -> Op | None:
        return next((one for x in op.operands if isinstance(one := self.maker(op, x), AllReduce)), None)

    def _turned_with(self, op: Op) -> Op | None:
        """The norm of the queries, for the norm of the keys: a rotary embedding reads both."""
        for rope in self.readers(op, op.results[0]):
            if isinstance(rope, Rope) and (first := self.host(rope)) is not None and first is not op:
                return first
        return None

    def _end_of_layer(self, op: Op) -> Op | None:
        """The residual addition that ends the layer before, for a norm of the argument of a layer."""
        region = self._regions[id(op)]
        if not isinstance(op, Norm) or op.x not in region.args or region.layers is None:
            return None
        ends = self._ends[region.args.index(op.x)] if region.args.index(op.x) < len(self._ends) else ()
        return ends[0] if ends and all(map(is_residual, ends)) else None

    @cached_property
    def _ends(self) -> list[tuple[Op | None, ...]]:
        """For each result of a layer, the ops that make it, by kind of layer."""
        layers: list[Region] = [r for r in self.program.regions if r.layers is not None]
        return list(zip(*([self._made.get((r.name, v.name)) for v in r.results] for r in layers), strict=False))


class Place(NamedTuple):
    """Where an op runs: ``inside`` the kernel of its host, or in one that it launches.

    It reads and writes ``touched`` in memory. ``spared`` is what its kernel no longer writes, though the time of the op
    that launches it has it: a result of `SPARED`.
    """

    inside: bool
    touched: tuple[TensorType, ...]
    spared: tuple[TensorType, ...]


class Kernels:
    """Which ops of a program share a kernel, while its all_reduces share theirs (``shared``) and otherwise."""

    def __init__(self, program: Program) -> None:
        self.hosts = Hosts(program)
        self._leads: dict[tuple[int, bool], Op] = {}
        self._places: dict[tuple[int, bool], Place] = {}

    @classmethod
    def of(cls, program: Program) -> Kernels | None:
        """The kernels of a program; None where no op shares one."""
        shares = any(read_fused(op) for region in program.regions for op in region.ops)
        return cls(program) if shares else None

    def place(self, op: Op, shared: bool) -> Place:
        """Where ``op`` runs."""
        if (found := self._places.get((id(op), shared))) is None:
            parts = tuple(self._touched(op, shared)), tuple(self._spared(op, shared))
            found = self._places[id(op), shared] = Place(self._joins(op, shared), *parts)
        return found

    def lead(self, op: Op, shared: bool) -> Op:
        """The op that launches the kernel of ``op``."""
        if (found := self._leads.get((id(op), shared))) is None:
            host = self.hosts.host(op) if self._joins(op, shared) else None
            found = self._leads[id(op), shared] = op if host is None else self.lead(host, shared)
        return found

    def _joins(self, op: Op, shared: bool) -> bool:
        """Whether ``op`` runs in the kernel of its host."""
        names, host = read_fused(op), self.hosts.host(op)
        if not names or host is None:
            return False
        summed = shared and self.hosts.first_all_reduce(op) is not None
        reduces = summed and (isinstance(host, AllReduce) or self._joins(host, shared))
        return any(name.startswith(WITH_ALL_REDUCE) == reduces for name in names)

    def _source(self, op: Op, x: Value) -> Op | None:
        """The op that makes an operand; for a norm at the begin of a layer, the addition that ends the one before."""
        made = self.hosts.maker(op, x)
        return self.hosts.host(op) if made is None and isinstance(op, Norm) and x == op.x else made

    def _stays(self, op: Op, value: Value, shared: bool) -> bool:
        """Whether ``value``, a result or an operand of ``op``, is read in the kernel of ``op`` alone."""
        readers, lead = list(self.hosts.readers(op, value)), self.lead(op, shared)
        return bool(readers) and not self.hosts.leaves(op, value) and all(self.lead(r, shared) is lead for r in readers)

    def _touched(self, op: Op, shared: bool) -> Iterator[TensorType]:
        """What ``op`` reads from memory and writes to it."""
        lead = self.lead(op, shared)
        for x in op.operands:
            source = self._source(op, x)
            if source is None or self.lead(source, shared) is not lead:
                yield x.type
        shapes = [x.type.dims for x in op.xs] if isinstance(op, CacheWrite) else [v.type.dims for v in op.results]
        for out, dims in zip(op.results, shapes, strict=True):
            if not self._stays(op, out, shared):
                yield TensorType(out.type.dtype, dims)

    def _spared(self, op: Op, shared: bool) -> Iterator[TensorType]:
        """What the kernel of ``op`` writes no more, though its time has it."""
        lead = self.lead(op, shared)
        if self.hosts.host(op) is lead and lead.facts.word in SPARED:
            yield from (x.type for x in op.operands if x in lead.results and self._stays(op, x, shared))
