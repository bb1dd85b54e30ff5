"""Kernels: GEMMs, and ops that only move memory."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, Protocol

from plandsl.backends.cost.forms.elementwise import FLAT, kernel_seconds
from plandsl.backends.cost.forms.gemm import Tile, gemm_seconds, has_quantisation, quant_seconds, tiles
from plandsl.backends.cost.machine.machine import MEASURED_ANSWER, Answer, Machine, Rates, form_answer
from plandsl.backends.cost.machine.measured import Line
from plandsl.backends.cost.num import maximum
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import HERE, Binding, ContextUse, Demand, Path, Shape
from plandsl.ir.collectives import Slice
from plandsl.ir.compute import CacheWrite, Gemm, Quantize, Rope
from plandsl.ir.extents import Extents
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Dim, Number, TensorType
from plandsl.spec.constants import ElementConstants, GemmConstants
from plandsl.spec.formats import item_bytes
from plandsl.values import sum_up

SCALED_IN_ROWS = ("gemm.fp8_trtllm",)
"""Sets whose rows quantise in a way that engines do not.

These rows give TensorRT-LLM no scale of the input (aiconfigurator, collector/trtllm/collect_gemm.py), so that it looks
for the largest element, in kernels of their own, before it quantises. Checkpoints state the scale, and then one kernel
quantises (`FP8QDQLinearMethod` in its _torch/modules/linear.py), that of ``static_quant_fp8``.
"""


class Form(Protocol):
    """A kernel with fitted constants."""

    @property
    def constants(self) -> GemmConstants | ElementConstants:
        """The fitted constants."""

    def seconds(self, bandwidth: float, n: Number, moved: Number, per_row: Number) -> Number:
        """Seconds for ``n`` rows of ``per_row`` bytes each, ``moved`` bytes in all, at a nominal ``bandwidth``."""


class GemmForm(NamedTuple):
    """A GEMM timed by `forms.gemm`: n and k are in the tilings, m is the rows."""

    constants: GemmConstants
    tilings: list[Tile]
    units: int

    def seconds(self, bandwidth: float, n: Number, moved: Number, per_row: Number) -> Number:
        """Seconds of ``n`` rows."""
        return gemm_seconds(self.constants, self.tilings, units=self.units, bandwidth=bandwidth, m=n, moved=moved)


class ElementForm(NamedTuple):
    """A kernel of memory traffic timed by `forms.elementwise`; ``rows`` tells whether its blocks work on rows."""

    constants: ElementConstants
    units: int
    rows: bool

    def seconds(self, bandwidth: float, n: Number, moved: Number, per_row: Number) -> Number:
        """Seconds of ``moved`` bytes."""
        return kernel_seconds(self.constants, self.units, bandwidth, moved, per_row if self.rows else 0.0)


class QuantForm(NamedTuple):
    """The quantisation of a GEMM's input, as measured with it: ``width`` elements of a row become ``item`` bytes."""

    constants: GemmConstants
    units: int
    width: Number
    item: float

    def seconds(self, bandwidth: float, n: Number, moved: Number, per_row: Number) -> Number:
        """Seconds of ``n`` rows."""
        c = self.constants
        return quant_seconds(c, self.units, bandwidth, m=n, k=self.width, item=self.item)


class Kernel(NamedTuple):
    """An op on the compute units: ``max(flops / rate, bytes / bandwidth) + launch`` seconds, or those of ``form``.

    flops = flops_per_row * rows, bytes = bytes_fixed + bytes_per_row * rows; ``rate`` in FLOP/s and
    ``bandwidth`` in bytes/s are what kernels reach (nominal where there is a form). A ``table`` answers first.
    """

    op: Op
    rows: tuple[Dim, ...]
    flops_per_row: Number
    bytes_fixed: Number
    bytes_per_row: Number
    rate: float
    bandwidth: float
    launch: float
    form: Form | None = None
    table: Line | None = None

    def modelled_seconds(self, n: Number) -> Number:
        """Seconds of ``n`` rows by the calibrated model."""
        moved = self.bytes_fixed + self.bytes_per_row * n
        if self.form is not None:
            return self.form.seconds(self.bandwidth, n, moved, self.bytes_per_row)
        return maximum(self.flops_per_row * n / self.rate, moved / self.bandwidth) + self.launch

    def _seconds(self, at: Binding, n: Number) -> Number:
        """Seconds of ``n`` rows: measured where a table answers."""
        return at.modelled(self, n) if self.table is None else self.table.seconds(n, partial(at.modelled, self, n))

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """None: a kernel does not depend on the context."""
        return None

    def seconds(self, at: Binding) -> Number:
        """Seconds of its rows."""
        return at.time_rows(self.rows, partial(self._seconds, at))

    def demand(self, at: Binding) -> Demand:
        """Its FLOPs and bytes."""
        n = at.rows(self.rows)
        moved = self.bytes_fixed + self.bytes_per_row * n
        return Demand(self.flops_per_row * n, moved, 0.0, self.rate, self.bandwidth)

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """The bound of a GEMM; other kernels find their bytes in a cache."""
        if not isinstance(self.op, Gemm):
            return None
        fitted = self.form.constants if self.form is not None and self.table is None else None
        within = isinstance(fitted, GemmConstants) and max(fitted.compute, fitted.memory) <= 1
        if within and pace <= 1:
            return None
        n = at.rows(self.rows)
        read = self.bytes_fixed / machine.gpu.bandwidth
        return maximum(self.flops_per_row * n / machine.peak(self.op.compute), read) * (n > 0)

    def bound(self, at: Binding, demand: Demand) -> str:
        """The longest of arithmetic, memory traffic and launch."""
        return demand.bound(self.launch)

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """A table, a form, or shares of peaks."""
        if self.table is not None and self.table.at(at.rows(self.rows)) > 0:
            return MEASURED_ANSWER
        if self.form is None:
            return machine.flat
        whole = not isinstance(self.form, QuantForm)  # its constants are of a GEMM with its quantisation
        return form_answer(self.form.constants, at.modelled(self, at.rows(self.rows)) if whole else None)

    def path(self, program: Program) -> Path:
        """The bytes stay on the GPU."""
        return HERE

    def pace(self, rates: Rates) -> float:
        """The rate of kernels."""
        return rates.kernels

    def shape(self, at: Binding) -> Shape:
        """m, n and k of a GEMM."""
        op = self.op
        if not isinstance(op, Gemm):
            return ()
        m, k = map(at.rows, op.sides)
        n = sum_up([at.rows(out.type.dims) for out in op.outs]) // max(m, 1)
        return (("m", int(m)), ("n", int(n)), ("k", int(k)))


# ---- from ops


def no_kernel(op: Op, rows: tuple[Dim, ...], bandwidth: float) -> Kernel:
    """The work of an op that takes no time."""
    return Kernel(
        op, rows, flops_per_row=0.0, bytes_fixed=0.0, bytes_per_row=0.0, rate=1.0, bandwidth=bandwidth, launch=0.0
    )


def count_bytes(site: Site, touched: Iterable[TensorType]) -> tuple[Number, Number]:
    """The bytes of tensors that have no rows, and the bytes that the others have in each row."""
    fixed: Number = 0.0
    per_row: Number = 0.0
    for type_ in touched:
        elements, own = site.split(type_)
        size = elements * item_bytes(type_.dtype)
        if own:
            per_row = per_row + size
        else:
            fixed = fixed + size
    return fixed, per_row


def streaming_rates(machine: Machine) -> tuple[float, float]:
    """Bytes/s and launch of a kernel that streams through the memory, as other element-wise kernels there."""
    fitted = machine.calibration.constants(ElementConstants, "elementwise.any")
    if fitted is None:
        return machine.bandwidth, machine.launch_elementwise
    return machine.gpu.bandwidth * fitted.memory, fitted.fixed


def memory_kernel(op: Op, site: Site, main: TensorType, touched: Iterable[TensorType]) -> Kernel:
    """A kernel of memory traffic alone: it reads or writes every tensor in ``touched`` once."""
    _, rows = site.split(main)
    fixed, per_row = count_bytes(site, touched)
    m = site.machine
    name = op.measured_as
    find = partial(m.calibration.constants, ElementConstants)
    constants = find(f"elementwise.{name}") or find("elementwise.any")
    kernel = partial(Kernel, op, rows, flops_per_row=0.0, bytes_fixed=fixed, bytes_per_row=per_row, rate=1.0)
    if constants and m.gpu.units is not None:
        form = ElementForm(constants, m.gpu.units, name not in FLAT)
        return kernel(bandwidth=m.gpu.bandwidth, launch=constants.fixed, form=form)
    return kernel(bandwidth=m.bandwidth, launch=m.launch_elementwise)


def rope_kernel(op: Rope, site: Site) -> Kernel:
    """A rotary embedding of the first elements of a dimension: in place, so that it moves those alone."""
    made = memory_kernel(op, site, op.outs[0].type, op.touches)
    return made._replace(bytes_per_row=made.bytes_per_row * turned_share(op, site.extents))


def turned_share(op: Rope, extents: Extents) -> float:
    """The share of elements that a rotary embedding turns."""
    return 1.0 if op.first is None else op.first / extents.local(op.xs[0].type.dims[-1])


def gemm_kernel(op: Gemm, site: Site) -> Kernel:
    """``2 m n k`` FLOPs; weights, inputs and outputs move once."""
    k = site.extents.product(op.x.type.dim(n) for n in op.contracted())
    inputs, rows = site.split(op.x.type)
    outputs: Number = 0
    weights: Number = 0.0
    bytes_out: Number = 0.0
    for out, w in zip(op.outs, op.weights, strict=True):
        n, _ = site.split(out.type)
        outputs = outputs + n
        bytes_out = bytes_out + n * item_bytes(out.type.dtype)
        weights = weights + site.extents.bytes(w.type)
    per_row = inputs * item_bytes(op.x.type.dtype) + bytes_out
    # dimensions of x that are neither rows nor contracted (heads of a per-head GEMM) multiply the work
    flops = 2 * k * outputs
    m = site.machine
    kernel = partial(Kernel, op, rows, flops_per_row=flops, bytes_fixed=weights, bytes_per_row=per_row)
    if constants := m.gemm_constants(op.weights[0].type.dtype, op.compute):
        peak, units = m.peak(op.compute), m.gpu.units
        assert units is not None, "constants come only for a GPU whose units are known"
        packing = m.packing(op.weights[0].type.dtype, op.compute)
        form = GemmForm(constants, tiles(constants, units, peak, outputs, k, packing=packing), units)
        rate = peak * min(1.0, constants.compute)
        return kernel(rate=rate, bandwidth=m.gpu.bandwidth, launch=constants.fixed, form=form)
    return kernel(rate=m.gemm_rate(op.compute), bandwidth=m.bandwidth, launch=m.launch)


def quantize_kernel(op: Quantize, site: Site) -> Kernel:
    """A kernel that quantises rows for GEMMs; timed with their constants where these include it.

    So a GEMM and its quantisation together take what the rows of both measured.
    """
    made, m, dtype = memory_kernel(op, site, op.out.type, op.touches), site.machine, op.out.type.dtype
    constants = m.gemm_constants(dtype, dtype)
    if constants is None or m.gpu.units is None or not has_quantisation(constants):
        return made
    if m.gemm_set(dtype, dtype) in SCALED_IN_ROWS:
        return made
    width, _ = site.split(op.out.type)
    form = QuantForm(constants, m.gpu.units, width, item_bytes(dtype))
    return made._replace(bandwidth=m.gpu.bandwidth, launch=constants.quant_fixed, form=form)


def slice_kernel(op: Slice, site: Site) -> Kernel:
    """Reads and writes a rank's part; along an axis of size 1 there is nothing to do."""
    made = memory_kernel(op, site, op.out.type, [op.out.type, op.out.type])
    cuts = site.extents.mesh[op.axis] > 1
    form = made.form if cuts is not False else None
    fixed, per_row = made.bytes_fixed * cuts, made.bytes_per_row * cuts
    return made._replace(bytes_fixed=fixed, bytes_per_row=per_row, launch=made.launch * cuts, form=form)


def cache_kernel(op: CacheWrite, site: Site) -> Kernel:
    """Reads new keys and values once and writes them once, in the cache's format."""
    written = (TensorType(o.type.dtype, x.type.dims) for o, x in zip(op.outs, op.xs, strict=True))
    return memory_kernel(op, site, op.xs[0].type, [*(x.type for x in op.xs), *written])
