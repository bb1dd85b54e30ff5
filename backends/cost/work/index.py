"""The work of picking keys for sparse attention. The first plan whose model has an `index` loads this module.

Sources: the kernels `fp8_mqa_logits` and `fp8_paged_mqa_logits` of deepseek-ai/DeepGEMM, which write the scores of all
keys in 32 bits, and a kernel of vLLM or SGLang that reads them and keeps the best.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.forms.attention import chunk_keys, visible_pairs
from plandsl.backends.cost.machine.machine import Answer, Machine, Rates
from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.work.attention import SPARSE_SHARES, widened
from plandsl.backends.cost.work.kernel import count_bytes, streaming_rates
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import HERE, Binding, ContextUse, Demand, Path, Shape
from plandsl.ir.extents import Extents
from plandsl.ir.index import PickKeys
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.types import Dim, Number
from plandsl.spec.formats import base_format, item_bytes

KEPT_SCORE = 8
"""Bytes of a score of 32 bits that one kernel writes and the next one reads."""

KERNELS = 2
"""Kernels one after the other: scores, and the choice of the best."""


class KeyPicks(NamedTuple):
    """Scores of all keys that queries see, and the choice of the best.

    seconds = max(flops / rate, bytes / bandwidth) + launch, with flops = flops_per_pair * visible pairs, and bytes =
    queries and picks + visible keys + scores of the pairs.
    """

    op: PickKeys
    batch: Dim
    position: Dim
    flops_per_pair: Number
    bytes_per_row: Number
    bytes_per_key: Number
    rate: float
    bandwidth: float
    launch: float

    @property
    def rows(self) -> tuple[Dim, ...]:
        """A row is a query."""
        return self.batch, self.position

    def _keys(self, at: Binding) -> Number:
        """The keys of a request that its queries see; on every rank all of them."""
        op, position = self.op, at.extents.sizes[self.position.name]
        if op.chunk is not None:
            return minimum(at.context, chunk_keys(position, at.context, op.chunk))
        return minimum(at.context, position + op.window - 1) if op.window else at.context

    def _demand(self, at: Binding) -> Demand:
        """FLOPs and bytes on one rank. Ranks get equal work of split positions (zigzag)."""
        op, extents = self.op, at.extents
        position = extents.sizes[self.position.name]
        pairs = visible_pairs(position, at.context, op.causal, op.window, op.chunk) / extents.ways(self.position.axes)
        rows = self.bytes_per_row * extents.local(self.position)
        batch = extents.local(self.batch)
        moved = batch * (rows + self.bytes_per_key * self._keys(at) + KEPT_SCORE * pairs)
        return Demand(self.flops_per_pair * batch * pairs, moved, 0.0, self.rate, self.bandwidth)

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """As attention: all keys are scored."""
        return ContextUse(self.batch, self.op.window, self.op.chunk)

    def seconds(self, at: Binding) -> Number:
        """Seconds of both kernels."""
        demand = self._demand(at)
        return maximum(demand.arithmetic, demand.memory) + self.launch

    def demand(self, at: Binding) -> Demand:
        """FLOPs and bytes, on average over contexts."""
        flops: Number = 0.0
        moved: Number = 0.0
        for weight, context in at.contexts:
            one = self._demand(at.at(context))
            flops, moved = flops + weight * one.flops, moved + weight * one.moved
        return Demand(flops, moved, 0.0, self.rate, self.bandwidth)

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """The keys through the memory that were in the cache before this step."""
        position = at.extents.sizes[self.position.name]
        before = maximum(self._keys(at) - position, 0)
        return at.extents.local(self.batch) * self.bytes_per_key * before / machine.gpu.bandwidth

    def bound(self, at: Binding, demand: Demand) -> str:
        """The longest of arithmetic, memory traffic and launch."""
        return demand.bound(self.launch)

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """Shares of peaks, in a wide band."""
        return widened(machine.flat)

    def path(self, program: Program) -> Path:
        """The bytes stay on the GPU."""
        return HERE

    def pace(self, rates: Rates) -> float:
        """The rate of kernels."""
        return rates.kernels

    def shape(self, at: Binding) -> Shape:
        """Empty: reports show no sizes."""
        return ()


def key_picks(op: PickKeys, site: Site) -> KeyPicks:
    """``2 heads dim`` FLOPs for each pair of query and key.

    They are multiplied in the format of the cached keys if the GPU lists a peak for it. The queries are converted to
    this format first, in a kernel that counts with these. That scores reach the share of the peak that sparse attention
    reaches in prefill is assumed.
    """
    m, stored = site.machine, base_format(op.k.type.dtype)
    narrow = m.gpu.peak(stored) is not None
    multiplied = stored if narrow else op.q.type.dtype
    batch, position, heads, width = op.q.type.dims
    flops = 2 * site.extents.local(heads) * site.extents.local(width)
    queries = count_bytes(site, (op.q.type,))[1]
    _, per_row = count_bytes(site, (x.type for x in (op.q, op.out, *((op.w,) if op.w else ()))))
    converts = narrow and stored != base_format(op.q.type.dtype)
    if converts:
        per_row = per_row + 2 * queries * item_bytes(stored) / item_bytes(op.q.type.dtype)
    bandwidth, launch = streaming_rates(m)
    return KeyPicks(
        op,
        batch,
        position,
        flops_per_pair=flops,
        bytes_per_row=per_row,
        bytes_per_key=site.extents.local(width) * item_bytes(op.k.type.dtype),
        rate=min(m.attention_rate(multiplied, PREFILL), SPARSE_SHARES[PREFILL] * m.peak(multiplied)),
        bandwidth=bandwidth,
        launch=launch * (KERNELS + converts),
    )
