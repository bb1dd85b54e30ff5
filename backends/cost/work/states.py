"""The work of layers with a state: short convolutions, scans of prompts, and steps that read and write states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from plandsl.backends.cost.forms.recurrence import (
    BAND,
    SCAN_SHARE,
    Shape,
    block_bytes,
    block_flops,
    block_step_flops,
    kernels,
    scan_bytes,
    scan_flops,
    step_flops,
)
from plandsl.backends.cost.machine.machine import Answer, Machine, Rates, form_answer
from plandsl.backends.cost.num import maximum
from plandsl.backends.cost.work.kernel import count_bytes, streaming_rates
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import HERE, Binding, ContextUse, Demand, Path
from plandsl.backends.cost.work.work import Shape as Sizes
from plandsl.ir.extents import Extents
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.states import BLOCKS, BlockState, Recurrence, ShortConv, States, state_bytes
from plandsl.ir.types import Dim, Number, Value
from plandsl.spec.constants import ElementConstants
from plandsl.spec.formats import item_bytes

VECTOR = 16
"""How many times as many FLOP/s matrix units reach in 16 bits as the units that work element by element in 32 bits.

H100: 989 and 67 TFLOP/s (NVIDIA H100 data sheet). Counts where the GPU lists no peak for fp32.
"""


class StateKernel(NamedTuple):
    """An op that reads the state of each request, and writes it: ``max(flops / rate, bytes / bandwidth) + launch``.

    flops = flops_per_row * rows, bytes = bytes_fixed + bytes_per_row * rows + state * (states read and written). A row
    is a token. A prompt reads and writes its state once; a decode step reads it once, and writes it after each token,
    because a later step may go on after any of them. Where blocks of positions hand on what they do to a state, each
    rank moves ``handed`` more bytes of each request.
    """

    op: States | BlockState
    rows: tuple[Dim, ...]
    prefill: bool
    flops_per_row: Number
    bytes_fixed: Number
    bytes_per_row: Number
    state: Number
    rate: float
    bandwidth: float
    launch: float
    handed: Number = 0.0

    def _moved(self, at: Binding, n: Number) -> Number:
        requests = at.rows(self.rows[:1])
        written = requests if self.prefill else n
        return self.bytes_fixed + self.bytes_per_row * n + self.state * (requests + written) + self.handed * requests

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """None: a state has one size whatever the context."""
        return None

    def seconds(self, at: Binding) -> Number:
        """Seconds of its rows."""
        demand = self.demand(at)
        return maximum(demand.arithmetic, demand.memory) + self.launch

    def demand(self, at: Binding) -> Demand:
        """Its FLOPs and bytes."""
        n = at.rows(self.rows)
        return Demand(self.flops_per_row * n, self._moved(at, n), 0.0, self.rate, self.bandwidth)

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """The states of a decode step through the memory."""
        if self.prefill:
            return None
        return self.state * 2 * at.rows(self.rows[:1]) / machine.gpu.bandwidth

    def bound(self, at: Binding, demand: Demand) -> str:
        """The longest of arithmetic, memory traffic and launch."""
        return demand.bound(self.launch)

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """Shares of peaks; the band of a recurrence is wide, because no calibration has rows of it."""
        flat = machine.flat
        if isinstance(self.op, ShortConv):
            fitted = machine.calibration.constants(ElementConstants, "elementwise.any")
            return flat if fitted is None else form_answer(fitted)
        low, high = flat.band or (1.0, 1.0)
        return flat._replace(band=(min(low, BAND[0]), max(high, BAND[1])))

    def path(self, program: Program) -> Path:
        """The bytes stay on the GPU."""
        return HERE

    def pace(self, rates: Rates) -> float:
        """The rate of kernels."""
        return rates.kernels

    def shape(self, at: Binding) -> Sizes:
        """Empty: reports show no sizes."""
        return ()


# ---- from ops


def state_kernel(op: States, site: Site) -> StateKernel:
    """The work of a layer with a state."""
    return _short_conv(op, site) if isinstance(op, ShortConv) else _recurrence(op, site)


def _vector_rate(machine: Machine, dtype: str) -> float:
    """FLOP/s of arithmetic that no matrix unit does."""
    gpu = machine.gpu
    return (gpu.peak("fp32") or (gpu.peak(dtype) or 1.0) / VECTOR) * gpu.clock


def _short_conv(op: ShortConv, site: Site) -> StateKernel:
    """Two FLOPs for each tap; inputs and results move once, and so do the tails of all blocks."""
    fixed, per_row = count_bytes(site, (v.type for v in (*op.xs, *op.outs, *op.weights, *op.biases)))
    flops: Number = 0
    for x, w in zip(op.xs, op.weights, strict=True):
        flops = flops + 2 * site.split(x.type)[0] * site.extents.local(w.type.dims[0])
    m = site.machine
    bandwidth, launch = streaming_rates(m)
    return StateKernel(
        op,
        op.xs[0].type.dims[:2],
        prefill=site.program.phase == PREFILL,
        flops_per_row=flops,
        bytes_fixed=fixed,
        bytes_per_row=per_row,
        state=state_bytes((op,), site.extents),
        rate=_vector_rate(m, op.xs[0].type.dtype),
        bandwidth=bandwidth,
        launch=launch,
        handed=_of_request(op.tails, site),
    )


def _of_request(values: Iterable[Value], site: Site) -> Number:
    """The bytes of ``values`` on a rank for one request."""
    total: Number = 0.0
    for x in values:
        total = total + site.split(x.type)[0] * item_bytes(x.type.dtype)
    return total


def _shape(op: Recurrence | BlockState, site: Site, state: str) -> Shape:
    """The sizes of a recurrence on a rank, whose state has the format ``state``."""
    local, k, v = site.extents.local, op.k.type, op.v.type
    return Shape(
        heads=local(v.dims[2]),
        groups=local(k.dims[2]) if len(k.dims) == 4 else 1,
        n=local(k.dims[-1]),
        p=local(v.dims[-1]) if len(v.dims) == 4 else 1,
        chunk=op.chunk,
        item=item_bytes(v.dtype),
        state=item_bytes(state),
        delta=op.delta,
    )


def block_state(op: BlockState, site: Site) -> StateKernel:
    """What a block does to a state: one kernel, as fast as those of a scan."""
    m, shape, v = site.machine, _shape(op, site, op.out.type.dtype), op.v.type
    fixed, per_row = count_bytes(site, (x.type for x in op.operands))
    bandwidth, launch = streaming_rates(m)
    flops, rate = block_step_flops(shape), _vector_rate(m, v.dtype)
    if not op.scans:
        flops, per_row = block_flops(shape), per_row + block_bytes(shape)
        rate, bandwidth = m.attention_rate(v.dtype, PREFILL), m.gpu.bandwidth * SCAN_SHARE
    return StateKernel(
        op,
        v.dims[:2],
        prefill=True,
        flops_per_row=flops,
        bytes_fixed=fixed,
        bytes_per_row=per_row,
        state=0.0,
        rate=rate,
        bandwidth=bandwidth,
        launch=launch,
        handed=_of_request((op.out,), site),
    )


def _recurrence(op: Recurrence, site: Site) -> StateKernel:
    """A scan of prompts, or a step. One more kernel takes in what other blocks of positions do to the state."""
    m, prefill, v = site.machine, site.program.phase == PREFILL, op.v.type
    shape, blocks = _shape(op, site, op.kept_state.type.dtype), op.role(BLOCKS)
    fixed, per_row = count_bytes(site, (x.type for x in (*op.operands, op.out) if x is not blocks))
    bandwidth, launch = streaming_rates(m)
    matrices = prefill and not op.scans
    once = launch
    flops, rate = step_flops(shape), _vector_rate(m, v.dtype)
    if matrices:
        flops, per_row = scan_flops(shape), per_row + scan_bytes(shape)
        rate, launch = m.attention_rate(v.dtype, PREFILL), launch * kernels(shape)
        bandwidth = m.gpu.bandwidth * SCAN_SHARE
    return StateKernel(
        op,
        v.dims[:2],
        prefill=prefill,
        flops_per_row=flops,
        bytes_fixed=fixed,
        bytes_per_row=per_row,
        state=state_bytes((op,), site.extents),
        rate=rate,
        bandwidth=bandwidth,
        launch=launch if blocks is None else launch + once,
        handed=0.0 if blocks is None else _of_request((blocks,), site),
    )
