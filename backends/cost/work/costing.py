"""From the ops of a program to `Work`: FLOPs, bytes and payload, affine in the rows of an op.

A row is one token (or one request, in the head). All else about an op depends on the model, the mesh and the machine
only and is computed once. Binding a batch then takes a few multiplications per op.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, assert_never

from plandsl.backends.cost.machine.machine import Machine, Side
from plandsl.backends.cost.work import exchange, kernel
from plandsl.backends.cost.work.attention import attention
from plandsl.backends.cost.work.kernel import Kernel
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import Work
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Recv,
    ReduceScatter,
    Rescale,
    Reshard,
    Ring,
    Send,
    Slice,
)
from plandsl.ir.compute import AddNorm, Attention, CacheWrite, Gemm, Ids, Map, Norm, Quantize, Rope
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.experts import GroupedGemm
from plandsl.ir.extents import Extents
from plandsl.ir.fusions import Kernels
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.rule import Regular
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv

if TYPE_CHECKING:
    from plandsl.backends.cost.work.experts import Mixtures


def sides_of(op: Op) -> tuple[Side, ...]:
    """The sides of a machine that the work of ``op`` depends on."""
    match op:
        case AllReduce() | ReduceScatter() | AllGather() | AllToAll() | Ring() | Send() | Recv():
            return LINKS
        case Gemm() | GroupedGemm() | Attention() | LatentAttention():
            return ARITHMETIC
        case Quantize() | ShortConv() | Recurrence() | BlockState() | PickKeys():
            return KERNELS
        case Regular() | CacheWrite() | BlockTail() | Slice() | Split() | Join() | Ids() | Earlier():
            return TRAFFIC
        case Rescale() | Reshard():
            return ALL
        case _:
            assert_never(op)


JOINED = (Norm, AddNorm, Map, Rope, Quantize, CacheWrite)
"""Ops that may share a kernel."""

ALL: tuple[Side, ...] = ("links", "traffic", "arithmetic")
LINKS: tuple[Side] = ("links",)
ARITHMETIC: tuple[Side] = ("arithmetic",)
TRAFFIC: tuple[Side] = ("traffic",)
KERNELS: tuple[Side, ...] = ("traffic", "arithmetic")


class Costing:
    """Turns the ops of one program into `Work` on one machine. ``kernels``: the ones that its ops share, if any."""

    def __init__(self, program: Program, machine: Machine, extents: Extents, kernels: Kernels | None) -> None:
        self.site, self.machine, self.kernels = Site.of(program, machine, extents), machine, kernels

    def on(self, machine: Machine) -> Costing:
        """The same program on another machine; what its ops ask of the sizes alone is found once."""
        other = copy(self)
        other.site, other.machine = self.site._replace(machine=machine), machine
        other.__dict__.pop("mixtures", None)
        return other

    @cached_property
    def mixtures(self) -> Mixtures | None:
        """The layers of experts; None for a program without experts."""
        if not self.site.program.imbalance:
            return None
        from plandsl.backends.cost.work.experts import Mixtures

        return Mixtures(self.site)

    def work(self, op: Op) -> Work:
        """The work of ``op``; on a cluster it may cross the network, and it may run in the kernel of another op."""
        made = self._work_by_itself(op)
        if self.kernels is None or not isinstance(op, JOINED) or not isinstance(made, Kernel):
            return made
        from plandsl.backends.cost.work.joined import join

        return join(made, self.site, self.kernels, self._work_by_itself)

    def _work_by_itself(self, op: Op) -> Work:
        """The work of ``op`` in a kernel of its own."""
        if self.mixtures is not None and self.mixtures.is_fused(op):
            return kernel.no_kernel(op, self.site.split(op.results[0].type)[1], self.machine.gpu.bandwidth)
        made = self.work_in_node(op)
        if self.machine.cluster is None:
            return made
        from plandsl.backends.cost.work.crossing import cross_nodes

        return cross_nodes(made, self.site, self.machine.cluster)

    def constants_of(self, op: Gemm) -> str:
        """The section of the calibration that times a GEMM, or words for none."""
        if isinstance(op, GroupedGemm):
            assert self.mixtures is not None, "a program with experts has an imbalance for them"
            found = self.mixtures.fitted_set(op)
        else:
            found = self.machine.gemm_set(op.weights[0].type.dtype, op.compute)
        return found or f"shares of peaks in {op.compute}"

    def work_in_node(self, op: Op) -> Work:
        """The work of ``op`` where all ranks are in one node, with its table of measurements."""
        made = self._work_of(op)
        if self.machine.measured is None:
            return made
        from plandsl.backends.cost.work.lookup import attach

        return attach(made, self.site, self.machine.measured)

    def _work_of(self, op: Op) -> Work:
        """The work of ``op`` in one node, without a table."""
        site = self.site
        match op:
            case GroupedGemm():
                assert self.mixtures is not None, "a program with experts has an imbalance for them"
                return self.mixtures.gemm(op)
            case AdapterGemm():
                from plandsl.backends.cost.work.adapters import adapter_products

                return adapter_products(op, site, self.mixtures)
            case Gemm():
                return kernel.gemm_kernel(op, site)
            case Attention():
                return attention(op, site)
            case LatentAttention():
                from plandsl.backends.cost.work.latent import latent_attention

                return latent_attention(op, site)
            case PickKeys():
                from plandsl.backends.cost.work.index import key_picks

                return key_picks(op, site)
            case Quantize():
                return kernel.quantize_kernel(op, site)
            case ShortConv() | Recurrence():
                from plandsl.backends.cost.work.states import state_kernel

                return state_kernel(op, site)
            case BlockState():
                from plandsl.backends.cost.work.states import block_state

                return block_state(op, site)
            case BlockTail():  # it copies a few tokens of each request
                return kernel.memory_kernel(op, site, op.out.type, (op.out.type, op.out.type))
            case Rope(first=int()):
                return kernel.rope_kernel(op, site)
            case Item():  # a view
                return kernel.no_kernel(op, site.split(op.operands[0].type)[1], self.machine.bandwidth)
            case Regular():
                return kernel.memory_kernel(op, site, op.results[0].type, op.touches)
            case CacheWrite():
                return self._cache_write(op)
            case Slice():
                return kernel.slice_kernel(op, site)
            case AllToAll():
                return (self.mixtures and self.mixtures.exchange(op)) or exchange.collective(op, site)
            case AllReduce() | ReduceScatter() | AllGather():
                return exchange.collective(op, site)
            case Rescale():
                return exchange.rescale(op, site)
            case Ring():
                return exchange.ring(op, site)
            case Send():
                return exchange.send_hop(op, site)
            case Recv():
                return exchange.recv(op)
            case Split() | Join():  # views
                return kernel.no_kernel(op, site.split(op.operands[0].type)[1], self.machine.bandwidth)
            case Ids() | Earlier():  # a step's input, or what is there already
                return kernel.no_kernel(op, site.split(op.out.type)[1], self.machine.bandwidth)
            case Reshard():
                raise AssertionError("reshard reached the cost backend")
            case _:
                assert_never(op)

    def _cache_write(self, op: CacheWrite) -> Kernel:
        """A kernel that fills the cache; none where the kernel of latent attention fills it."""
        made = kernel.cache_kernel(op, self.site)
        if op.transient:
            return kernel.no_kernel(op, made.rows, made.bandwidth)
        if len(op.outs[0].type.dims) != 3:
            return made
        from plandsl.backends.cost.work.latent import fills_cache

        return kernel.no_kernel(op, made.rows, made.bandwidth) if fills_cache(op, self.site) else made
