"""What each op of a program asks of a device: FLOPs, bytes and payload, affine in the rows it works on.

A row is one token (or one request, in the head); everything else about an op is fixed by the model, the mesh
and the machine, so it is worked out once. Binding a batch then costs a few multiplications per op.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

from plandsl.backends.cost.forms.attention import Chip, Heads
from plandsl.backends.cost.forms.collective import EXCHANGES
from plandsl.backends.cost.forms.elementwise import FLAT
from plandsl.backends.cost.forms.gemm import Tile, tiles
from plandsl.backends.cost.machine.links import COLLECTIVES, Algorithm, all_gather, choose, fabric, send
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
from plandsl.ir.compute import Attention, CacheWrite, Gemm
from plandsl.ir.experts import GroupedGemm
from plandsl.ir.extents import Extents
from plandsl.ir.latent import LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.rule import Regular
from plandsl.ir.types import PADDED, Dim, Number, TensorType
from plandsl.spec.formats import BITS, item_bytes
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, GpuSpec, LinkSpec
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.machine.measured import Grid, Line
    from plandsl.backends.cost.machine.tables import Measured
    from plandsl.backends.cost.work.crossing import Crossing
    from plandsl.backends.cost.work.experts import DispatchForm, Experts, Mixtures
    from plandsl.backends.cost.work.latent import LatentForm

STEP = PADDED
"""Dimensions that change from step to step: their local sizes are bound late."""


class GemmForm(NamedTuple):
    """A GEMM whose constants a calibration has fitted: `forms.gemm` gives its seconds."""

    constants: dict[str, float]
    tilings: list[Tile]
    units: int


class AttentionForm(NamedTuple):
    """Attention whose constants a calibration has fitted: `forms.attention` gives its seconds."""

    constants: dict[str, float]
    chip: Chip
    heads: Heads
    prefill: bool
    divides: bool


class ElementForm(NamedTuple):
    """A kernel of memory traffic whose constants a calibration has fitted; ``rows`` tells whether it walks rows."""

    constants: dict[str, float]
    units: int
    rows: bool


class ExchangeForm(NamedTuple):
    """A collective as libraries run it: constants and whether they are those of an engine's own all_reduce."""

    libraries: tuple[tuple[str, dict[str, float], bool], ...]
    link: LinkSpec
    op: str


class Kernel(NamedTuple):
    """An op on the compute units: ``max(flops / rate, bytes / bandwidth) + launch`` seconds, or those of ``form``.

    flops = flops_per_row * rows, bytes = bytes_fixed + bytes_per_row * rows; ``rate`` in FLOP/s and
    ``bandwidth`` in bytes/s are those achieved (nominal where a form knows better). A ``table`` is asked first.
    """

    op: Op
    rows: tuple[Dim, ...]
    flops_per_row: Number
    bytes_fixed: Number
    bytes_per_row: Number
    rate: float
    bandwidth: float
    launch: float
    form: GemmForm | ElementForm | None = None
    table: Line | None = None


class Softmax(NamedTuple):
    """Attention over a KV cache; its work depends on the context as well.

    flops = flops_per_pair * heads rows * visible pairs; bytes = queries and results + visible keys and values.
    ``context`` is the part of it that a rank attends to. Keys that come around a ring come in ``blocks``: there are as
    many kernels, and queries and results are read and written by each.
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
    form: AttentionForm | LatentForm | None = None
    table: Grid | None = None
    context: Dim = Dim("context")
    blocks: Number = 1


class Exchange(NamedTuple):
    """An op on the links: the fastest of ``ways`` for payload_per_row * rows bytes, plus ``launch``.

    Between several ``nodes`` of a cluster a `Crossing` times it. All that happens ``times`` over; ``kernel`` is what
    each rank does with the result where that is no part of the collective itself.
    """

    op: Op
    axis: str
    ranks: Number
    rows: tuple[Dim, ...]
    payload_per_row: Number
    ways: list[Algorithm]
    launch: float
    form: ExchangeForm | DispatchForm | Crossing | None = None
    table: Line | None = None
    nodes: int = 1
    times: Number = 1
    kernel: Kernel | None = None


Work: TypeAlias = "Kernel | Softmax | Exchange | Experts"


OWN = {
    "vllm": ("vllm", "quickreduce"),
    "sglang": ("sglang", "quickreduce"),
    "trtllm": ("trtllm",),
    "aiter": ("aiter", "quickreduce"),
}
"""All_reduces that the engines with these kernels bring along, where they were measured (quickreduce: on AMD)."""

ANY = ("vllm", "sglang", "trtllm", "aiter", "quickreduce")
"""Those of an engine that nobody named: the fastest."""


class Machine:
    """A GPU, its links and its calibration: the rates that are really reached.

    ``rates`` are those of an engine's kernels in prefill and decode, and of its collectives, over those by themselves.
    """

    def __init__(
        self, gpu: GpuSpec, link: LinkSpec, calibration: CalibrationSpec, algorithm: str = "auto", kernels: str = ""
    ) -> None:
        self.gpu, self.link, self.calibration, self.algorithm = gpu, link, calibration, algorithm
        self.kernels = kernels
        self.rates = (1.0, 1.0, 1.0)
        self.cluster: ClusterSpec | None = None
        self.measured: Measured | None = None
        self.suffixes = ("_trtllm", "") if kernels == "trtllm" else ("", "_trtllm")
        get = calibration.get
        self.bandwidth = gpu.bandwidth * get("hbm", 1.0)
        self.launch = get("launch", 0.0)
        self.launch_elementwise = get("launch_elementwise", self.launch)
        self.launch_collective = get("launch_collective", self.launch)

    def gemm_rate(self, dtype: str) -> float:
        """FLOP/s of a large GEMM in ``dtype``."""
        peak = self.gpu.peak(dtype)
        assert peak is not None, f"legality checked that {self.gpu.name} multiplies in {dtype}"
        return peak * self.calibration.get(f"gemm.{dtype}", self.calibration.get("gemm", 1.0))

    def attention_rate(self, dtype: str, phase: str) -> float:
        """FLOP/s of attention arithmetic in ``dtype``."""
        peak = self.gpu.peak(dtype)
        assert peak is not None, f"legality checked that {self.gpu.name} multiplies in {dtype}"
        share = self.calibration.get("attention_prefill", 1.0)
        return peak * (share if phase == "prefill" else self.calibration.get("attention_decode", share))

    def gemm_constants(self, weights: str, compute: str) -> dict[str, float]:
        """The fitted constants of a GEMM that stores ``weights`` and multiplies in ``compute``; empty without."""
        if self.gpu.units is None:
            return {}
        stored = {8: "w8a16", 4: "w4a16"}.get(int(BITS[weights])) if BITS[weights] < BITS[compute] else None
        for name in (stored, compute, {"bf16": "fp16"}.get(compute)):
            for suffix in self.suffixes:
                if name and (found := self.calibration.section(f"gemm.{name}{suffix}")):
                    return found
        return {}

    @classmethod
    def of(cls, plan: PlanSpec) -> Machine:
        """The machine that a plan runs on."""
        machine = cls(plan.node.gpu, plan.node.link, plan.calibration, plan.algorithm, plan.runs_on.kernels)
        machine.rates = plan.runs_on.rates
        machine.cluster = plan.cluster
        if plan.measured or plan.node.gpu.measured:
            from plandsl.backends.cost.machine.tables import Measured

            machine.measured = Measured.of(plan)
        return machine


class Costing:
    """Turns the ops of one program into `Work` on one machine."""

    def __init__(self, program: Program, machine: Machine, extents: Extents) -> None:
        self.program, self.machine, self.extents = program, machine, extents
        self.mixtures: Mixtures | None = None
        self.rings = {v: op.axis for r in program.regions for op in r.ops if isinstance(op, Ring) for v in op.outs}
        if program.imbalance:
            from plandsl.backends.cost.work.experts import Mixtures

            self.mixtures = Mixtures(program, machine, extents)

    def work(self, op: Op) -> Work:
        """What ``op`` asks for, and the table that answers where it was measured."""
        if self.mixtures is not None and self.mixtures.fused(op):
            rows = tuple(d for d in op.results[0].type.dims if d.name in STEP)
            return Kernel(op, rows, 0.0, 0.0, 0.0, 1.0, self.machine.gpu.bandwidth, 0.0)
        made = self.within(op)
        if self.machine.cluster is None or not isinstance(made, Exchange):
            return made
        from plandsl.backends.cost.work.crossing import across

        return across(made, self, self.machine.cluster)

    def within(self, op: Op) -> Work:
        """The same where all ranks are in one node."""
        if self.machine.measured is None or isinstance(op, GroupedGemm):
            return self._work(op)
        from plandsl.backends.cost.work.lookup import attach

        return attach(self._work(op), self, self.machine.measured)

    def _work(self, op: Op) -> Work:
        """A row is the product of the step's dimensions in its main operand."""
        match op:
            case GroupedGemm():
                assert self.mixtures is not None, "a program with experts has an imbalance for them"
                return self.mixtures.gemm(op)
            case Gemm():
                return self._gemm(op)
            case Attention():
                return self._attention(op)
            case LatentAttention():
                from plandsl.backends.cost.work.latent import latent_attention

                return latent_attention(op, self)
            case Regular():
                return self._moves(op, op.results[0].type, op.touches)
            case CacheWrite():
                return self._cache_write(op)
            case Slice():
                made = self._moves(op, op.out.type, [op.out.type, op.out.type])
                cuts = self.extents.mesh[op.axis] > 1  # an axis of size 1 costs nothing
                form = made.form if cuts is not False else None
                fixed, per_row = made.bytes_fixed * cuts, made.bytes_per_row * cuts
                return made._replace(bytes_fixed=fixed, bytes_per_row=per_row, launch=made.launch * cuts, form=form)
            case AllReduce() | ReduceScatter() | AllGather() | AllToAll():
                return self._collective(op)
            case Rescale():
                return self._rescale(op)
            case Ring():
                return self._ring(op)
            case Send():
                f = fabric(self.machine.link, self.machine.calibration.get("link", 1.0))
                return self._exchange(op, "", 2, op.x.type, op.tensors, send(f))
            case Split() | Join():  # views: nothing runs
                _, rows = self._split(op.operands[0].type)
                return Kernel(op, rows, 0.0, 0.0, 0.0, 1.0, self.machine.bandwidth, 0.0)
            case Recv():  # the sender is charged for the hop
                return Exchange(op, "", 2, (), 0.0, [Algorithm("direct", 0.0, 0.0)], 0.0)
            case Reshard():
                raise AssertionError("reshard reached the cost backend")
            case _:
                assert_never(op)

    def _split(self, type_: TensorType) -> tuple[Number, tuple[Dim, ...]]:
        """Elements per row on one rank, and the dimensions that make the rows."""
        rows = tuple(d for d in type_.dims if d.name in STEP)
        return self.extents.product(d for d in type_.dims if d.name not in STEP), rows

    def _moves(self, op: Op, main: TensorType, touched: Iterable[TensorType]) -> Kernel:
        """An op that is all memory traffic: every tensor in ``touched`` is read or written once."""
        _, rows = self._split(main)
        fixed: Number = 0.0
        per_row: Number = 0.0
        for type_ in touched:
            elements, own = self._split(type_)
            size = elements * item_bytes(type_.dtype)
            if own:
                per_row = per_row + size
            else:
                fixed = fixed + size
        m = self.machine
        name = op.measured_as
        constants = m.calibration.section(f"elementwise.{name}") or m.calibration.section("elementwise.any")
        if constants and m.gpu.units is not None:
            form = ElementForm(constants, m.gpu.units, name not in FLAT)
            return Kernel(op, rows, 0.0, fixed, per_row, 1.0, m.gpu.bandwidth, constants["fixed"], form)
        return Kernel(op, rows, 0.0, fixed, per_row, 1.0, m.bandwidth, m.launch_elementwise)

    def _gemm(self, op: Gemm) -> Kernel:
        """``2 m n k`` FLOPs; weights, inputs and outputs move once."""
        k = self.extents.product(op.x.type.dim(n) for n in op.contracted())
        inputs, rows = self._split(op.x.type)
        outputs: Number = 0
        weights: Number = 0.0
        bytes_out: Number = 0.0
        for out, w in zip(op.outs, op.weights, strict=True):
            n, _ = self._split(out.type)
            outputs = outputs + n
            bytes_out = bytes_out + n * item_bytes(out.type.dtype)
            weights = weights + self.extents.bytes(w.type)
        per_row = inputs * item_bytes(op.x.type.dtype) + bytes_out
        # dimensions of x that are neither rows nor contracted (heads of a per-head GEMM) multiply the work
        flops = 2 * k * outputs
        m = self.machine
        if constants := m.gemm_constants(op.weights[0].type.dtype, op.compute):
            peak, units = m.gpu.peak(op.compute), m.gpu.units
            assert peak is not None, "legality checked the peak"
            assert units is not None, "constants come only for a GPU whose units are known"
            form = GemmForm(constants, tiles(constants, units, peak, outputs, k), units)
            rate = peak * min(1.0, constants["compute"])
            return Kernel(op, rows, flops, weights, per_row, rate, m.gpu.bandwidth, constants["fixed"], form)
        return Kernel(op, rows, flops, weights, per_row, m.gemm_rate(op.compute), m.bandwidth, m.launch)

    def _cache_write(self, op: CacheWrite) -> Kernel:
        """Read once and written once, as the cache stores it; a latent cache may be filled by attention itself."""
        written = [TensorType(o.type.dtype, x.type.dims) for o, x in zip(op.outs, op.xs, strict=True)]
        made = self._moves(op, op.xs[0].type, [x.type for x in op.xs] + written)
        if len(op.outs[0].type.dims) == 3:
            from plandsl.backends.cost.work.latent import writes_itself

            if writes_itself(op, self):
                return made._replace(bytes_fixed=0.0, bytes_per_row=0.0, launch=0.0, form=None)
        return made

    def _attention(self, op: Attention) -> Softmax:
        """``2 (d_qk + d_v)`` FLOPs per head and visible pair of query and key."""
        batch, position, heads, head_dim = op.q.type.dims
        local = self.extents.local
        d_qk, d_v = local(head_dim), local(op.v.type.dims[-1])
        per_row = local(heads) * (d_qk * item_bytes(op.q.type.dtype) + d_v * item_bytes(op.out.type.dtype))
        per_key = local(op.k.type.dims[2]) * (d_qk * item_bytes(op.k.type.dtype) + d_v * item_bytes(op.v.type.dtype))
        m = self.machine
        rate = m.attention_rate(op.q.type.dtype, self.program.phase)
        flops = 2 * (d_qk + d_v) * local(heads)
        shape = Heads(local(heads), local(op.k.type.dims[2]), (d_qk + d_v) / 2, per_row, per_key)
        form = self.attention_form(op, shape)
        made = Softmax(op, position, batch, flops, per_row, per_key, rate, m.bandwidth, m.launch)
        if form is not None:
            rate = form.chip.peak * min(1.0, form.constants["compute"])
            fixed = form.constants["fixed"]
            made = Softmax(op, position, batch, flops, per_row, per_key, rate, m.gpu.bandwidth, fixed, form)
        context = op.k.type.dims[1]
        if not context.axes and not self.rings:
            return made
        blocks = self.extents.mesh[self.rings[op.k]] if op.k in self.rings else 1
        return made._replace(context=context, blocks=blocks)

    def attention_form(self, op: Attention | LatentAttention, shape: Heads) -> AttentionForm | None:
        """The fitted form of this attention, where the calibration has one: nearest dtypes first."""
        m, q, cache = self.machine, op.q.type.dtype, op.k.type.dtype
        prefill = self.program.phase == "prefill"
        if m.gpu.units is None:
            return None
        stored = {"bf16": "bf16", "fp16": "fp16"}.get(cache, "fp8")
        if prefill:
            names = [q if stored == q else f"{q}_{stored}", q, "bf16", "fp16"]
        else:
            names = [f"{stored}_window", stored, "bf16", "fp16"] if op.window else [stored, "bf16", "fp16"]
        for name in (f"{n}{library}" for n in names for library in self.machine.suffixes):
            section = f"attention_{self.program.phase}.{name}"
            if constants := m.calibration.section(section):
                peak = m.gpu.peak(q)
                assert peak is not None, "legality checked the peak"
                chip = Chip(m.gpu.units, peak, m.gpu.bandwidth)
                return AttentionForm(constants, chip, shape, prefill, not name.startswith(f"{stored}_window"))
        return None

    def _collective(self, op: AllReduce | ReduceScatter | AllGather | AllToAll) -> Exchange:
        """Payloads as nccl-tests count them: total output of an all_gather, else the rank's buffer."""
        ranks = self.extents.ways(op.axes)
        traffic = self.mixtures.exchange(op) if self.mixtures is not None and isinstance(op, AllToAll) else None
        f = fabric(self.machine.link, self.machine.calibration.get("link", 1.0), self.program.mesh.stride(op.axes[-1]))
        ways = choose(COLLECTIVES[op.keyword](f, ranks), self.machine.algorithm)
        if traffic is not None:
            launch, form = self.machine.launch_collective, traffic.form or self._libraries(op)
            return Exchange(op, op.axis, ranks, traffic.rows, traffic.payload_per_row, ways, launch, form)
        main = op.out.type if isinstance(op, AllGather) else op.x.type
        if isinstance(op, AllToAll) and self._grows(op):
            main = op.out.type  # heads that are replicated in the exchange
        return self._exchange(op, op.axis, ranks, main, 1, ways)

    def _grows(self, op: AllToAll) -> bool:
        dim = op.x.type.dim(op.split)
        return dim.name not in STEP and bool(self.extents.ways(op.out.type.on(op.split)) > self.extents.sizes[dim.name])

    def _exchange(
        self, op: Op, axis: str, ranks: Number, main: TensorType, tensors: int, ways: list[Algorithm]
    ) -> Exchange:
        elements, rows = self._split(main)
        payload = elements * item_bytes(main.dtype) * tensors
        m = self.machine
        return Exchange(op, axis, ranks, rows, payload, ways, m.launch_collective, self._libraries(op))

    def _rescale(self, op: Rescale) -> Exchange:
        """An all_gather of the statistics, `STATISTIC` bytes for each row of each rank, and a pass over the means."""
        ranks = self.extents.mesh[op.axis]
        f = fabric(self.machine.link, self.machine.calibration.get("link", 1.0), self.program.mesh.stride(op.axis))
        rows, means = TensorType("fp32", op.x.type.dims[:-1]), self._moves(op, op.out.type, [op.x.type, op.out.type])
        ways = choose(all_gather(f, ranks), self.machine.algorithm)
        made = self._exchange(op, op.axis, ranks, rows, 1, ways)
        return made._replace(payload_per_row=made.payload_per_row * ranks, kernel=means)

    def _ring(self, op: Ring) -> Exchange:
        """``n - 1`` messages to the next rank, each of one rank's part of all that travels."""
        f = fabric(self.machine.link, self.machine.calibration.get("link", 1.0), self.program.mesh.stride(op.axis))
        main, *others = (x.type for x in op.xs)
        made = self._exchange(op, op.axis, 2, main, 1, send(f))
        payload = made.payload_per_row
        for type_ in others:
            payload = payload + self._split(type_)[0] * item_bytes(type_.dtype)
        return made._replace(payload_per_row=payload, times=self.extents.mesh[op.axis] - 1)

    def _libraries(self, op: Op) -> ExchangeForm | None:
        """What engines run: their own all_reduce or the vendor's library, whichever is faster."""
        m = self.machine
        word = op.measured_as
        names = ["nccl_exchange"] if word in EXCHANGES else ["nccl"]
        names += OWN.get(m.kernels, ANY) if word == "all_reduce" else ()
        found = [(n, m.calibration.section(f"collective.{n}"), not n.startswith("nccl")) for n in names]
        found = [f for f in found if f[1]]
        return ExchangeForm(tuple(found), m.link, word) if found and m.algorithm == "auto" else None
