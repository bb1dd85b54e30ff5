"""Kernels of adapters (LoRA): grouped products with a small rank.

Loaded by the first model that has adapters.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.machine.machine import Answer, Machine, Rates
from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.work.experts import Mixtures, crowd_loads
from plandsl.backends.cost.work.kernel import count_bytes
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import HERE, Binding, ContextUse, Demand, Path, Shape
from plandsl.ir.adapters import AdapterGemm, distinct
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.types import Dim, Number
from plandsl.spec.model import ADAPTERS
from plandsl.values import sum_up


class Experts(NamedTuple):
    """What an adapter has inside experts: matrices of ``local`` experts on the fullest rank.

    ``crowd`` has (number of experts, chance that a token chooses one of them) there.
    """

    local: Number
    crowd: tuple[tuple[Number, Number], ...]


class Adapters(NamedTuple):
    """Products of requests with the matrices of their own adapters: a roofline that reads each matrix once.

    No calibration has measurements of these kernels, so ``rate`` is the share of peak of large GEMMs, and ``launch`` is
    what the smallest GEMM takes. ``each`` is the bytes of one adapter on a rank; ``batch`` the dimension of requests.
    """

    op: AdapterGemm
    rows: tuple[Dim, ...]
    batch: Dim
    flops_per_row: Number
    each: Number
    bytes_per_row: Number
    rate: float
    bandwidth: float
    launch: float
    experts: Experts | None = None

    def met(self, at: Binding) -> Number:
        """The different adapters that a step reads: at most `active`, and what its requests name."""
        requests = maximum(at.requests(self.batch), 1)
        named = requests if self.op.mix is None else distinct(self.op.mix, requests)
        return minimum(self.op.active, named)

    def read(self, at: Binding) -> Number:
        """Bytes of matrices. Inside experts, each adapter's share of the tokens touches its own experts of it."""
        met = self.met(at)
        if self.experts is None:
            return self.each * met
        tokens = at.rows(self.rows) / maximum(met, 1)
        touched = sum_up(load.touched for load in crowd_loads(self.experts.crowd, tokens))
        return self.each * met * touched / self.experts.local

    def _moved(self, at: Binding) -> Number:
        return self.read(at) + self.bytes_per_row * at.rows(self.rows)

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """None: it does not depend on the context."""
        return None

    def seconds(self, at: Binding) -> Number:
        """Seconds of its rows."""
        moved = self._moved(at)
        return at.time_rows(
            self.rows, lambda n: maximum(self.flops_per_row * n / self.rate, moved / self.bandwidth) + self.launch
        )

    def demand(self, at: Binding) -> Demand:
        """Its FLOPs and bytes."""
        return Demand(self.flops_per_row * at.rows(self.rows), self._moved(at), 0.0, self.rate, self.bandwidth)

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """Its FLOPs at the peak, or its matrices through the memory."""
        n = at.rows(self.rows)
        read = self.read(at) / machine.gpu.bandwidth
        return maximum(self.flops_per_row * n / machine.peak(self.op.compute), read) * (n > 0)

    def bound(self, at: Binding, demand: Demand) -> str:
        """The longest of arithmetic, memory traffic and launch."""
        return demand.bound(self.launch)

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """Shares of peaks."""
        return machine.flat

    def path(self, program: Program) -> Path:
        """The bytes stay on the GPU."""
        return HERE

    def pace(self, rates: Rates) -> float:
        """The rate of kernels."""
        return rates.kernels

    def shape(self, at: Binding) -> Shape:
        """m, n and k of one product; inside experts, m counts tokens."""
        op, extents = self.op, at.extents
        k = extents.product(op.x.type.dim(n) for n in op.contracted())
        n = sum_up(extents.elements(out.type) for out in op.outs)
        m = at.rows(self.rows)
        return (("m", int(m)), ("n", int(n / maximum(m, 1))), ("k", int(k)))


def adapter_products(op: AdapterGemm, site: Site, mixtures: Mixtures | None) -> Adapters:
    """``2 m n k`` FLOPs, inputs and outputs once, and the matrices of the adapters that a step has.

    Inside experts a row is a token, which has inputs and outputs at each of its experts.
    """
    m, extents = site.machine, site.extents
    held = extents.product([op.weights[0].type.dim(ADAPTERS)])
    k = extents.product(op.x.type.dim(n) for n in op.contracted())
    outputs = sum_up(site.split(out.type)[0] for out in op.outs)
    _, per_row = count_bytes(site, (op.x.type, *(out.type for out in op.outs)))
    fitted = m.gemm_constants(op.weights[0].type.dtype, op.compute)
    return Adapters(
        op,
        site.split(op.x.type)[1],
        op.x.type.dim("batch"),
        flops_per_row=2 * k * outputs,
        each=sum_up(extents.bytes(w.type) for w in op.weights) / held,
        bytes_per_row=per_row,
        rate=m.gemm_rate(op.compute),
        bandwidth=m.bandwidth,
        launch=m.launch if fitted is None else fitted.fixed,
        experts=Experts(*mixtures.crowd_of(op)) if mixtures is not None and op.meets_experts else None,
    )
