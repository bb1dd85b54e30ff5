"""The work of attention over a KV cache: it grows with the context."""

from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from plandsl.backends.cost.forms.attention import (
    Chip,
    Heads,
    chunk_keys,
    decode_seconds,
    mixed_seconds,
    prefill_seconds,
    running_keys,
    visible_pairs,
)
from plandsl.backends.cost.machine.machine import MEASURED_ANSWER, Answer, Machine, Rates, form_answer
from plandsl.backends.cost.machine.measured import Grid
from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import HERE, Binding, ContextUse, Demand, Path, Shape
from plandsl.ir.compute import Attention
from plandsl.ir.extents import Extents
from plandsl.ir.latent import LatentAttention
from plandsl.ir.program import DECODE, PREFILL, Program
from plandsl.ir.types import Dim, Number
from plandsl.spec.constants import (
    DecodeConstants,
    MixedConstants,
    MlaDecodeConstants,
    MlaPrefillConstants,
    PrefillConstants,
)
from plandsl.spec.formats import item_bytes

AttentionConstants: TypeAlias = PrefillConstants | DecodeConstants | MlaPrefillConstants | MlaDecodeConstants


SPARSE_SHARES = {PREFILL: 640 / 989.4, DECODE: 410 / 989.4}
"""The shares of the peak that kernels of sparse attention reach at best.

Source: deepseek-ai/FlashMLA, README, 2025-09-29: "up to 640 TFlops during prefilling and 410 TFlops during decoding",
on Hopper, whose peak in bf16 is 989.4 TFLOP/s.
"""


SPARSE_BAND = (0.7, 2.0)
"""The band of the time of kernels of sparse attention, which no calibration has rows of (assumed)."""


class Queries(NamedTuple):
    """Queries of one kernel of attention: the last ``position`` of ``context`` tokens of each of ``batch`` requests.

    A rank holds ``own`` of the keys. ``window`` (0: none) and ``chunk`` hide keys.
    """

    batch: Number
    position: Number
    context: Number
    own: Number
    causal: bool
    window: int
    chunk: int | None


class Mixed(NamedTuple):
    """A call with ``own`` queries of a prompt behind ``before`` keys, and ``decodes`` queries with ``context`` keys."""

    own: Number
    before: Number
    decodes: Number
    context: Number


class Form(Protocol):
    """Attention with fitted constants, of prefill or of decode."""

    @property
    def constants(self) -> AttentionConstants:
        """The fitted constants."""

    @property
    def chip(self) -> Chip:
        """The GPU."""

    @property
    def prefill(self) -> bool:
        """Whether it times whole prompts, before context parallelism splits them."""

    def seconds(self, q: Queries) -> Number:
        """Seconds of ``q``."""

    def mixed(self, constants: MixedConstants, call: Mixed) -> Number | None:
        """Seconds of one call for both phases; None where no kernel does both."""


class AttentionForm(NamedTuple):
    """Attention with keys and values for each KV head, timed by `forms.attention`."""

    constants: PrefillConstants | DecodeConstants
    chip: Chip
    heads: Heads
    divides: bool

    @property
    def prefill(self) -> bool:
        """Whether the constants are those of prefill."""
        return isinstance(self.constants, PrefillConstants)

    def seconds(self, q: Queries) -> Number:
        """Seconds of ``q``. In decode, queries count as heads of a KV head, and all see what the last one sees."""
        c, chip, heads = self.constants, self.chip, self.heads
        if isinstance(c, PrefillConstants):
            return prefill_seconds(
                c,
                chip,
                shape=heads,
                batch=q.batch,
                position=q.position,
                context=q.context,
                causal=q.causal,
                window=q.window,
                chunk=q.chunk,
            )
        own, window = q.own, q.window and q.window + q.position - 1
        own = own if q.chunk is None else minimum(own, running_keys(q.context, q.chunk) + q.position - 1)
        return decode_seconds(
            c, chip, shape=heads.times(q.position), batch=q.batch, context=own, window=window, divides=self.divides
        )

    def mixed(self, constants: MixedConstants, call: Mixed) -> Number | None:
        """Seconds of both in one call."""
        own, before, decodes, context = call
        return mixed_seconds(
            constants, self.chip, shape=self.heads, chunk=own, before=before, decodes=decodes, context=context
        )


class Softmax(NamedTuple):
    """Attention over a KV cache; its work depends on the context as well.

    flops = flops_per_pair * visible pairs, bytes = queries and results + visible keys and values. ``context`` is the
    dimension of keys, whose axes split them over ranks. Keys from a ring come in ``blocks``: one kernel for each block,
    and each kernel reads the queries and writes the results. A query that picked its keys sees at most ``picks`` of
    them (0: it sees all), which lie evenly on the ranks that share the context.
    """

    op: Attention | LatentAttention
    position: Dim
    batch: Dim
    flops_per_pair: Number
    bytes_per_row: Number
    bytes_per_key: Number
    rate: float
    bandwidth: float
    launch: float
    form: Form | None = None
    table: Grid | None = None
    context: Dim = Dim("context")
    blocks: Number = 1
    picks: int = 0

    @property
    def reach(self) -> int:
        """The most keys that a query sees by its window and by its choice; 0 without either."""
        return min(self.op.window or self.picks, self.picks or self.op.window)

    @property
    def rows(self) -> tuple[Dim, ...]:
        """A row is a query."""
        return self.batch, self.position

    def queries(self, at: Binding) -> Queries:
        """The queries of its kernel; ranks hold equal numbers of keys."""
        op, extents = self.op, at.extents
        own = at.context / extents.ways(self.context.axes) if self.context.axes else at.context
        batch, position = extents.local(self.batch), extents.sizes[self.position.name]
        return Queries(batch, position, context=at.context, own=own, causal=op.causal, window=op.window, chunk=op.chunk)

    def modelled_seconds(self, at: Binding) -> Number:
        """Seconds by the calibrated model: a fitted form, or arithmetic on visible pairs against bytes moved once."""
        if self.form is None:
            demand = self._demand(at)
            return maximum(demand.arithmetic, demand.memory) + self.launch * self.blocks
        q = self.queries(at)
        if self.picks:
            return maximum(self.form.seconds(self._apart(q, at)), self._demand(at).arithmetic)
        whole = self.form.seconds(q)
        if not self.form.prefill:
            return whole
        split = at.extents.ways((*self.position.axes, *self.context.axes))
        time = whole if isinstance(split, int) and split == 1 else whole / split
        if isinstance(self.blocks, int) and self.blocks == 1:
            return time
        return time + (self.blocks - 1) * self.launch  # a kernel for each block

    def _apart(self, q: Queries, at: Binding) -> Queries:
        """Queries that picked their keys, as requests of one query each: a kernel reads the keys of each apart."""
        own = minimum(q.own, self.reach / at.extents.ways(self.context.axes))
        if q.chunk is not None:
            own = minimum(own, q.chunk)
        return q._replace(batch=q.batch * q.position, position=1, own=own, window=0, chunk=None)

    def mixed(self, machine: Machine, call: Mixed) -> Number | None:
        """Seconds of one call for a chunk of a prompt and for decodes, which both read whole keys of one cache.

        None where no kernel does both, or where the calibration has no constants for it.
        """
        constants = machine.calibration.constants(MixedConstants, f"attention_mixed.{self.op.q.type.dtype}")
        whole = isinstance(self.op, Attention) and not self.reach and not self.context.axes
        if self.form is None or not whole or constants is None:
            return None
        return self.form.mixed(constants, call)

    def _demand(self, at: Binding) -> Demand:
        """FLOPs and bytes on one rank. Ranks get equal work of split positions (zigzag) and of split keys.

        With a window or a chunk, though, all keys that a query sees may lie on one rank.
        """
        q, extents = self.queries(at), at.extents
        split = extents.ways((*self.position.axes, *self.context.axes))
        pairs = visible_pairs(q.position, q.context, q.causal, q.window, q.chunk) / split
        if self.picks:
            pairs = minimum(pairs, visible_pairs(q.position, q.context, q.causal, self.reach) / split)
        keys = minimum(q.own, q.position + q.window - 1) if q.window else q.own
        if q.chunk is not None:
            keys = minimum(q.own, chunk_keys(q.position, q.context, q.chunk))
        if self.picks:
            keys = minimum(keys, q.position * self.reach / extents.ways(self.context.axes))
        elif (q.window or q.chunk is not None) and self.context.axes:
            pairs = maximum(pairs, keys)
        rows = self.bytes_per_row * extents.local(self.position) * self.blocks
        flops, moved = self.flops_per_pair * q.batch * pairs, q.batch * (rows + self.bytes_per_key * keys)
        return Demand(flops, moved, 0.0, self.rate, self.bandwidth)

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """The window counts keys of all ranks together; so does a choice, whose keys lie evenly on them."""
        if self.picks:
            return ContextUse(self.batch, self.reach, self.op.chunk)
        return ContextUse(self.batch, self.op.window * extents.ways(self.context.axes), self.op.chunk)

    def seconds(self, at: Binding) -> Number:
        """Seconds by a table where one answers, else by the calibrated model."""
        if self.table is None:
            return self.modelled_seconds(at)
        q = self.queries(at)
        return self.table.seconds(q.batch, q.position, q.own, partial(self.modelled_seconds, at))

    def demand(self, at: Binding) -> Demand:
        """FLOPs and bytes, on average over contexts."""
        flops: Number = 0.0
        moved: Number = 0.0
        for weight, context in at.contexts:
            one = self._demand(at.at(context))
            flops, moved = flops + weight * one.flops, moved + weight * one.moved
        return Demand(flops, moved, 0.0, self.rate, self.bandwidth)

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """Arithmetic on visible pairs, and the keys and values that were in the cache before this step.

        Caches of 8 bits may be multiplied as they are, at the peak of fp8.
        """
        q, ask = self.queries(at), self.demand(at)
        rows = self.bytes_per_row * at.extents.local(self.position) * self.blocks
        before = maximum(q.context - q.position, 0) / maximum(q.context, 1)
        read = maximum(ask.moved - q.batch * rows, 0.0) * before / machine.gpu.bandwidth
        peak = max(machine.peak(self.op.q.type.dtype), (machine.gpu.peak("fp8") or 0.0) * machine.gpu.clock)
        return maximum(ask.flops / peak, read)

    def bound(self, at: Binding, demand: Demand) -> str:
        """The longest of arithmetic, memory traffic and launch."""
        return demand.bound(self.launch)

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """A table (in a decode step, at the mean context), a form, or shares of peaks."""
        batch, position = at.extents.local(self.batch), at.extents.sizes[self.position.name]
        if self.table is not None and self.table.at(batch, position, at.context) > 0:
            return MEASURED_ANSWER
        answer = machine.flat if self.form is None else form_answer(self.form.constants, self.seconds(at))
        return widened(answer) if self.picks else answer

    def path(self, program: Program) -> Path:
        """The bytes stay on the GPU."""
        return HERE

    def pace(self, rates: Rates) -> float:
        """The rate of kernels."""
        return rates.kernels

    def shape(self, at: Binding) -> Shape:
        """Empty: reports show no sizes."""
        return ()


# ---- from ops


def attention(op: Attention, site: Site) -> Softmax:
    """``2 (d_qk + d_v)`` FLOPs per head and visible pair of query and key."""
    batch, position, heads, head_dim = op.q.type.dims
    local = site.extents.local
    d_qk, d_v, kv_heads = local(head_dim), local(op.v.type.dims[-1]), local(op.k.type.dims[2])
    per_row = local(heads) * (d_qk * item_bytes(op.q.type.dtype) + d_v * item_bytes(op.out.type.dtype))
    per_key = kv_heads * (d_qk * item_bytes(op.k.type.dtype) + d_v * item_bytes(op.v.type.dtype))
    flops = 2 * (d_qk + d_v) * local(heads)
    form = fitted_form(op, site, Heads(local(heads), kv_heads, (d_qk + d_v) / 2, per_row, per_key))
    rate, bandwidth, launch = reached_rates(op, site, form)
    made = Softmax(
        op, position, batch,
        flops_per_pair=flops, bytes_per_row=per_row, bytes_per_key=per_key,
        rate=rate, bandwidth=bandwidth, launch=launch, form=form, picks=picked_keys(op, site),
    )  # fmt: skip
    context = op.k.type.dims[1]
    if not context.axes and not site.rings:
        return made
    blocks = site.extents.mesh[site.rings[op.k]] if op.k in site.rings else 1
    return made._replace(context=context, blocks=blocks)


def widened(answer: Answer) -> Answer:
    """An answer for a kernel of sparse attention: its band is at least `SPARSE_BAND`."""
    low, high = answer.band or (1.0, 1.0)
    return answer._replace(band=(min(low, SPARSE_BAND[0]), max(high, SPARSE_BAND[1])))


def picked_keys(op: Attention | LatentAttention, site: Site) -> int:
    """The number of keys that a query picked; 0 where it sees all."""
    return 0 if op.among is None else int(site.extents.sizes[op.among.type.names[-1]])


def reached_rates(op: Attention | LatentAttention, site: Site, form: Form | None) -> tuple[float, float, float]:
    """FLOP/s, bytes/s and launch of attention, from ``form`` and the nominal bandwidth or from shares of peaks."""
    m, dtype, phase = site.machine, op.q.type.dtype, site.program.phase
    most = m.peak(dtype) * (1.0 if op.among is None else SPARSE_SHARES[phase])
    if form is None:
        return min(m.attention_rate(dtype, phase), most), m.bandwidth, m.launch
    return min(form.chip.peak * min(1.0, form.constants.compute), most), m.gpu.bandwidth, form.constants.fixed


def fitted_form(op: Attention | LatentAttention, site: Site, shape: Heads) -> AttentionForm | None:
    """The fitted form of this attention, for the nearest dtypes; None where the calibration has none."""
    m, q, cache = site.machine, op.q.type.dtype, op.k.type.dtype
    phase = site.program.phase
    if m.gpu.units is None or (op.among is not None and phase == PREFILL):  # forms of prefill are for keys in a row
        return None
    stored = {"bf16": "bf16", "fp16": "fp16"}.get(cache, "fp8")
    form: type[PrefillConstants] | type[DecodeConstants]
    if phase == PREFILL:
        form = PrefillConstants
        names = [q if stored == q else f"{q}_{stored}", q, "bf16", "fp16"]
    else:
        form = DecodeConstants
        names = [f"{stored}_window", stored, "bf16", "fp16"] if op.window else [stored, "bf16", "fp16"]
    for name in (f"{n}{library}" for n in names for library in m.suffixes):
        if constants := m.calibration.constants(form, f"attention_{phase}.{name}"):
            chip = Chip(m.gpu.units, m.peak(q), m.gpu.bandwidth)
            return AttentionForm(constants, chip, shape, not name.startswith(f"{stored}_window"))
    return None
