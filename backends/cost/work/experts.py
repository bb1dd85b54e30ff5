"""The work of a mixture of experts: grouped GEMMs, and the exchange of tokens between ranks that hold experts.

Loaded for programs with experts. Where a calibration has constants of fused layers (`forms.moe`), the GEMMs of a layer
share the seconds of the layer, and kernels between them take none; otherwise each op is a roofline of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial, reduce
from typing import NamedTuple

from plandsl.backends.cost.forms.attention import Chip
from plandsl.backends.cost.forms.collective import HOST_PORT, late_seconds, port_bandwidth
from plandsl.backends.cost.forms.dispatch import (
    UNITS,
    Traffic,
    busy_units,
    direct_traffic,
    dispatch_seconds,
    packed_traffic,
)
from plandsl.backends.cost.forms.moe import Layer, Load, moe_seconds, popular_experts
from plandsl.backends.cost.machine.machine import Answer, Machine, Rates, as_unpacked, form_answer
from plandsl.backends.cost.num import are_numbers, maximum
from plandsl.backends.cost.work.exchange import Exchange, Fastest, node_form
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import HERE, Binding, ContextUse, Demand, Path, Shape
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.collectives import AllToAll
from plandsl.ir.experts import Combine, Dispatch, GroupedGemm, TopK
from plandsl.ir.extents import Extents
from plandsl.ir.names import Places
from plandsl.ir.ops import COLLECTIVES, Op
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.skew import Zipf, busiest_experts, chances
from plandsl.ir.types import PADDED, Dim, Number, TensorType, routed
from plandsl.spec.constants import DispatchConstants, MoeConstants
from plandsl.spec.formats import BITS, base_format, item_bytes
from plandsl.spec.hardware import LIBRARIES, over_network
from plandsl.values import sum_up

TILE = 16
"""Rows of the smallest matrix instruction (``mma.m16n8k16``, ``mfma_16x16x16``): experts' rows are padded to it."""

OWN = {
    "trtllm": ("trtllm", "cutlass"),
    "vllm": ("triton", "aiter", "marlin"),
    "sglang": ("triton", "aiter", "deepgemm"),
}
"""Libraries that an engine prefers."""

GROUPS = 32
"""The most groups of experts, each of about one popularity."""

WIDE = 2.0
"""Bytes of an element in the measurements of dispatch and combine."""

SETS = {
    "bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16"), "fp8": ("fp8_block", "fp8", "fp8_token", "mxfp8"),
    "mxfp8": ("mxfp8", "fp8_block", "fp8"), "int8": ("int8", "w8a8_int8_or_fp8"), "nvfp4": ("nvfp4", "mxfp4"),
    "mxfp4": ("mxfp4", "nvfp4"), "fp4": ("nvfp4", "mxfp4"),
}  # fmt: skip
"""Fitted dtypes, best first, by the dtype a layer multiplies in. Published fp8 weights have a scale for each block."""

UNPACKED = {
    ("mxfp4", 16): ("w4a16_mxfp4", "bf16_mxfp4"), ("int4", 16): ("w4a16", "bf16_int4"),
    ("mxfp4", 8): ("w4a8_mxfp4", "fp8_mxfp4"), ("int4", 8): ("w4a8",), ("fp8", 16): ("w8a16",),
    ("int8", 16): ("w8a16",),
}  # fmt: skip
"""Fitted dtypes, best first, by the format of weights and the bits of activations where weights are narrower."""

UNPACKED_ALIKE = {("fp8", 16): ("w4a16", "bf16_int4"), ("int8", 16): ("w4a16", "bf16_int4"), ("int4", 16): ("w8a16",)}
"""What such a layer takes without rows of its own: kernels that unpack alike, else the form of weights that are not
unpacked. Bytes are its own.
"""


class ExpertForm(NamedTuple):
    """A fused layer of experts with fitted constants; this op has the ``share`` of the layer's weights."""

    constants: MoeConstants
    chip: Chip
    layer: Layer
    share: float


class FusedLayer(NamedTuple):
    """All GEMMs of a fitted layer together, with the experts of the fullest rank."""

    form: ExpertForm
    crowd: tuple[tuple[Number, Number], ...]

    def modelled_seconds(self, n: Number) -> Number:
        """Seconds of ``n`` tokens."""
        form = self.form
        return moe_seconds(form.constants, form.chip, form.layer, n, crowd_loads(self.crowd, n))


class Tokens(NamedTuple):
    """Useful FLOPs of some tokens, FLOPs with padded rows, and bytes."""

    flops: Number
    padded: Number
    moved: Number


class Experts(NamedTuple):
    """A grouped GEMM: it reads the weights of touched experts, and pads each expert's rows to whole tiles.

    A row is a token that may go to the experts of this rank. The fullest rank gets ``pairs`` pairs of token and expert
    for each row. ``flops_per_row`` counts useful FLOPs; ``bytes_weights`` are the weights of all ``local`` experts,
    ``bytes_per_pair`` the input and output of a pair. ``crowd`` has (number of experts, chance that a token chooses one
    of them) for the fullest rank.
    """

    op: GroupedGemm
    rows: tuple[Dim, ...]
    flops_per_row: Number
    pairs: Number
    local: Number
    bytes_weights: Number
    bytes_per_pair: Number
    rate: float
    bandwidth: float
    launch: float
    crowd: tuple[tuple[Number, Number], ...]
    form: ExpertForm | None = None

    def tokens(self, n: Number) -> Tokens:
        """FLOPs and bytes of ``n`` tokens.

        `crowd_loads` says which experts get any. The fullest rank has at least one pair. The rows of a touched expert
        fill tiles of `TILE` rows, the last of which is half empty on average (`forms.moe.Load`).
        """
        pairs = maximum(self.pairs * n, 1.0)
        given = crowd_loads(self.crowd, n)
        tiled = sum_up(load.tiles(TILE) for load in given) * TILE
        each = self.flops_per_row / self.pairs
        moved = self.weights_read(n) + self.bytes_per_pair * pairs
        return Tokens(each * pairs, each * tiled, moved)

    def weights_read(self, n: Number) -> Number:
        """Bytes of the weights of the experts that get any of ``n`` tokens."""
        return self.bytes_weights / self.local * sum_up(load.touched for load in crowd_loads(self.crowd, n))

    def modelled_seconds(self, n: Number) -> Number:
        """Seconds of ``n`` tokens: this op's share of the fitted layer, or a roofline."""
        form = self.form
        if form is None:
            ask = self.tokens(n)
            return maximum(ask.padded / self.rate, ask.moved / self.bandwidth) + self.launch
        return FusedLayer(form, self.crowd).modelled_seconds(n) * form.share

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """None: it does not depend on the context."""
        return None

    def seconds(self, at: Binding) -> Number:
        """Seconds of its tokens. Layers of experts are measured as a whole, so no table has a single op."""
        if self.form is None:
            return at.time_rows(self.rows, self.modelled_seconds)
        layer, share = FusedLayer(self.form, self.crowd), self.form.share
        alike = id(self.form.chip), id(self.crowd)  # each layer has a chip of its own, and its GEMMs share a crowd
        return at.time_rows(self.rows, lambda n: at.modelled(layer, n, alike) * share)

    def demand(self, at: Binding) -> Demand:
        """Useful FLOPs, and bytes."""
        flops, _, moved = self.tokens(at.rows(self.rows))
        return Demand(flops, moved, 0.0, self.rate, self.bandwidth)

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """Useful FLOPs, and the weights of touched experts."""
        n = at.rows(self.rows)
        flops = self.flops_per_row / self.pairs * maximum(self.pairs * n, 1.0)
        read = self.weights_read(n) / machine.gpu.bandwidth
        return maximum(flops / machine.peak(self.op.compute), read) * (n > 0)

    def bound(self, at: Binding, demand: Demand) -> str:
        """The longest of arithmetic, memory traffic and launch."""
        return demand.bound(self.launch)

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """A form, or shares of peaks."""
        if self.form is None:
            return machine.flat
        return form_answer(self.form.constants, self.modelled_seconds(at.rows(self.rows)) / self.form.share)

    def path(self, program: Program) -> Path:
        """The bytes stay on the GPU: exchanges of tokens are ops of their own."""
        return HERE

    def pace(self, rates: Rates) -> float:
        """The rate of kernels."""
        return rates.kernels

    def shape(self, at: Binding) -> Shape:
        """Empty: reports show no sizes."""
        return ()


def crowd_loads(crowd: Sequence[tuple[Number, Number]], n: Number) -> Sequence[Load]:
    """How ``n`` tokens fall on experts of unlike popularity.

    An expert of chance p expects ``p n`` tokens, and gets any with the chance ``1 - (1 - p)^n``. Experts of
    neighbouring popularity form at most `GROUPS` groups. The fullest rank has at least one pair and touches at least
    one expert, even of no token; the two limits scale pairs and touched experts separately. Each GEMM of a layer asks
    for the same.
    """
    if are_numbers(n, *crowd[0], *crowd[-1]):
        return _crowd_loads(tuple(crowd), n)
    return _make_crowd_loads(crowd, n)


NO_TOKEN = 1e-9
"""Tokens that fall on experts as none would: so few that only the two limits count."""


def _make_crowd_loads(crowd: Sequence[tuple[Number, Number]], n: Number) -> Sequence[Load]:
    n = maximum(n, NO_TOKEN)
    met = [(there, p, 1 - (1 - p) ** n) for there, p in crowd]
    more = maximum(1 / (sum_up(there * p for there, p, _ in met) * n), 1.0)
    further = maximum(1 / sum_up(there * any_ for there, _, any_ in met), 1.0)
    size = -(-len(crowd) // GROUPS)
    made = []
    for first in range(0, len(crowd), size):
        part = met[first : first + size]
        experts = sum_up(there for there, _, _ in part)
        tokens = sum_up(there * p for there, p, _ in part) * n * more
        touched = sum_up(there * any_ for there, _, any_ in part) * further
        made.append(Load(experts, tokens / maximum(experts, 1), touched))
    return made


_crowd_loads = lru_cache(maxsize=4096)(_make_crowd_loads)
"""`crowd_loads` of numbers, which are asked for again and again."""


class DispatchForm(NamedTuple):
    """Dispatch or combine by a library, timed by `forms.dispatch`.

    Prefill uses the kernels for throughput, decode the kernels for latency. ``copy`` is the bytes of a token, ``load``
    the load of the fullest rank over the mean; ``out`` where tokens go to experts, not back. The ranks stand on
    ``nodes`` nodes; between nodes a byte takes ``far`` times as long as over the port of `forms.dispatch`.
    """

    name: str
    constants: DispatchConstants
    machine: Machine
    copy: Number
    load: Number
    topk: Number
    experts: Number
    prefill: bool
    out: bool
    nodes: int = 1
    far: float = 1.0

    def seconds(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Seconds for ``rows`` tokens of each of ``ranks``."""
        tokens, walk = rows * self.load, self.copy / WIDE
        link, units = self.machine.link, self.machine.gpu.units
        assert units is not None, "constants come only for a GPU whose units are known"
        traffic = self._scale_far(self._traffic(ranks, tokens))
        if self.prefill:
            walked, busy, waits = tokens * walk, UNITS, 0.0 * tokens
        else:
            walked = (tokens if self.out else traffic.copies) * walk
            busy, waits = busy_units(self.experts, units), self.experts
        inside, constants = ranks / self.nodes, self._late_constants()
        return dispatch_seconds(
            constants, link, inside=inside, t=traffic, walked=walked, copy=self.copy, units=busy, waits=waits
        )

    def _late_constants(self) -> DispatchConstants:
        """The constants with a message over the links of the node and of the network."""
        cluster = self.machine.cluster if self.nodes > 1 else None
        links = (self.machine.link,) if cluster is None else (self.machine.link, over_network(cluster.network))
        return self.constants._replace(fixed=reduce(late_seconds, links, self.constants.fixed))

    def _traffic(self, ranks: Number, tokens: Number) -> Traffic:
        """What a rank sends: a copy for each rank that needs the token, or for each expert."""
        if self.prefill:
            return packed_traffic(
                tokens, self.copy, ranks=ranks, nodes=self.nodes, experts=self.experts, topk=self.topk
            )
        return direct_traffic(tokens, self.copy, ranks, self.nodes, self.topk)

    def _scale_far(self, traffic: Traffic) -> Traffic:
        """``traffic`` with the bytes to other nodes converted to the port of `forms.dispatch`."""
        return traffic if self.nodes == 1 else traffic._replace(far=traffic.far * self.far)

    def fastest(self, ranks: Number, payload: float) -> Fastest:
        """The library. The payload is the copies of tokens that the fullest rank sends or gets."""
        if not payload:
            return Fastest(self.name, 0.0, self.constants)
        sent = self._traffic(ranks, payload / (self.topk * self.copy))
        return Fastest(self.name, (sent.near + sent.far) / payload, self.constants)

    def least(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """A message, and the bytes of the copies on the busier of the links and the network."""
        sent, link, inside = self._traffic(ranks, rows * self.load), self.machine.link, ranks / self.nodes
        near = link.latency + sent.near / port_bandwidth(link, inside)
        cluster = self.machine.cluster if self.nodes > 1 else None
        return near if cluster is None else maximum(near, cluster.network.latency + sent.far * self.far / HOST_PORT)

    @property
    def port(self) -> float:
        """Bytes/s of the links or the network; units of the GPU take time for each byte too."""
        cluster = self.machine.cluster if self.nodes > 1 else None
        return (self.machine.link if cluster is None else cluster.network).bandwidth

    def span_nodes(self, nodes: int, port: float) -> DispatchForm:
        """The same library between nodes: it sends over the network itself."""
        return self._replace(nodes=nodes, far=HOST_PORT / port)


class Mixtures:
    """The layers of experts of one program, on one machine."""

    def __init__(self, site: Site) -> None:
        self.site, self.machine, self.extents = site, site.machine, site.extents
        program = site.program
        self.imbalance = dict(program.imbalance)
        self.counts: dict[str, int | str] = {name: size for name, size in program.sizes if name in self.imbalance}
        self.prefill = program.phase == PREFILL
        self._forms: dict[int, ExpertForm] = {}
        self._fused: set[int] = set()
        for region in program.regions:
            for ops in site.once(("layers", region.name), partial(_layers_of_experts, region.ops)):
                self._fit(ops)

    def is_fused(self, op: Op) -> bool:
        """Whether the seconds of ``op`` are in those of a fitted layer."""
        return id(op) in self._fused

    def gemm(self, op: GroupedGemm) -> Experts:
        """A grouped GEMM."""
        made, m, form = self.site.once(("gemm", id(op)), partial(self._gemm, op)), self.machine, self._forms.get(id(op))
        rate, bandwidth, launch = m.gemm_rate(op.compute), m.bandwidth, m.launch
        if form is not None:
            rate, bandwidth, launch = form.chip.peak, m.gpu.bandwidth, form.constants.fixed * form.share
        return made._replace(rate=rate, bandwidth=bandwidth, launch=launch, form=form)

    def _gemm(self, op: GroupedGemm) -> Experts:
        """A grouped GEMM on any machine, without rates."""
        extents = self.extents
        rows = tuple(d for d in op.x.type.dims if d.name in PADDED)
        pairs = extents.local(op.x.type.dim(routed(op.x.type)))
        per_pair = _pair_width(op.x.type, extents) * item_bytes(op.x.type.dtype)
        flops: Number = 0.0
        inner = op.contracted()
        for out, w in zip(op.outs, op.weights, strict=True):
            columns = _pair_width(out.type, extents)
            flops = flops + 2.0 * columns * extents.product(d for d in w.type.dims if d.name in inner)
            per_pair = per_pair + columns * item_bytes(out.type.dtype)
        weights = sum_up(extents.bytes(w.type) for w in op.weights)
        return Experts(
            op,
            rows,
            flops_per_row=flops * pairs,
            pairs=pairs,
            local=_local_experts(op, extents),
            bytes_weights=weights,
            bytes_per_pair=per_pair,
            rate=1.0,
            bandwidth=1.0,
            launch=0.0,
            crowd=self._crowd(op, pairs),
        )

    def crowd_of(self, op: AdapterGemm) -> tuple[Number, tuple[tuple[Number, Number], ...]]:
        """Inside experts: the experts of the fullest rank, and their chances."""
        place = routed(op.x.type)
        local = self.extents.local(op.weights[0].type.dim(place.experts))
        return local, self._crowd(op, self.extents.local(op.x.type.dim(place)))

    def _crowd(self, op: GroupedGemm | AdapterGemm, pairs: Number) -> tuple[tuple[Number, Number], ...]:
        """The experts of the fullest rank with their chances; one value for all GEMMs of such a layer."""
        place = routed(op.x.type)
        key = "crowd", op.x.type.dim(place), op.weights[0].type.dim(place.experts)
        return self.site.once(key, lambda: self._find_crowd(op, pairs))

    def _find_crowd(self, op: GroupedGemm | AdapterGemm, pairs: Number) -> tuple[tuple[Number, Number], ...]:
        place = routed(op.x.type)
        skew = self.imbalance[place]
        if not isinstance(skew, Zipf):
            local = self.extents.local(op.weights[0].type.dim(place.experts))
            return tuple(popular_experts(pairs, local, int(self.counts[place])))
        everyone = chances(skew.exponent, int(self.counts[place]), place.chosen)
        return tuple(busiest_experts(everyone, self.extents.ways(op.x.type.dim(place).axes)))

    # ---- fitted layers

    def _fit(self, ops: list[Op]) -> None:
        """Find the constants of a layer and give each GEMM its share of the layer's seconds."""
        gemms = [op for op in ops if isinstance(op, GroupedGemm)]
        constants = self._constants(gemms[0])
        shape = self.site.once(("layer", id(gemms[0])), partial(self._layer, gemms))
        if constants is None or shape is None:
            return
        peak, units = self.machine.peak(gemms[0].compute), self.machine.gpu.units
        assert units is not None, "constants come only for a GPU whose units are known"
        chip = Chip(units, peak, self.machine.gpu.bandwidth)
        elements = [self.site.once(("elements", id(op)), partial(_weight_elements, op, self.extents)) for op in gemms]
        whole = sum_up(elements)
        for op, own in zip(gemms, elements, strict=True):
            self._forms[id(op)] = ExpertForm(constants, chip, shape, own / whole)
        self._fused |= {id(op) for op in ops if not isinstance(op, (GroupedGemm, AdapterGemm, *COLLECTIVES))}

    def _layer(self, gemms: list[GroupedGemm]) -> Layer | None:
        """The sizes of a layer that the form fits: one GEMM up, perhaps gated, and one down; None for others."""
        if len(gemms) != 2 or len(gemms[1].outs) != 1:
            return None
        up, down = gemms
        inter = self.extents.product(down.weights[0].type.dim(n) for n in down.contracted())
        hidden = self.extents.product(up.weights[0].type.dim(n) for n in up.contracted())
        place = routed(up.x.type)
        stored, given = up.weights[0].type.dtype, up.x.type.dtype
        return Layer(
            hidden, inter, topk=place.chosen, n_experts=self.counts[place], local=_local_experts(up, self.extents),
            weight_bytes=item_bytes(stored), input_bytes=item_bytes(given), gates=len(up.weights),
        )  # fmt: skip

    def _constants(self, op: GroupedGemm) -> MoeConstants | None:
        """The fitted constants of a layer."""
        path = self.fitted_set(op)
        if path is None:
            return None
        found = self.machine.calibration.constants(MoeConstants, path)
        assert found is not None, "the calibration has the set"
        stored, width = base_format(op.weights[0].type.dtype), BITS[op.compute]
        names = UNPACKED.get((stored, int(width)), ())
        own = BITS[stored] >= width or any(path.startswith(f"moe.{name}_") for name in names)
        return found if own else as_unpacked(found)

    def fitted_set(self, op: GroupedGemm) -> str | None:
        """The section of the nearest fitted layer: by format first, then by the engine's preferred libraries."""
        m, stored, width = self.machine, base_format(op.weights[0].type.dtype), BITS[op.compute]
        if m.gpu.units is None:
            return None
        names = SETS.get(op.compute, (op.compute,))
        if BITS[stored] < width:
            key = stored, int(width)
            names = (*UNPACKED.get(key, ()), *UNPACKED_ALIKE.get(key, ()), *names)
        libraries = dict.fromkeys((*OWN.get(m.kernels, ()), *LIBRARIES))
        paths = (f"moe.{name}_{library}" for name in names for library in libraries)
        return next((path for path in paths if path in m.calibration.sections), None)

    # ---- tokens between ranks

    def exchange(self, op: AllToAll) -> Exchange | None:
        """The exchange of an all_to_all between tokens and experts, with the payload of the fullest rank.

        None for an all_to_all without experts.
        """
        out = op.split in self.imbalance
        if not out and op.gather not in self.imbalance:
            return None
        tokens, there, place = (op.x.type, op.out.type, op.split) if out else (op.out.type, op.x.type, op.gather)
        extents, ranks = self.extents, self.extents.ways(op.axes)
        mean = extents.local(tokens.dim(place))
        fullest = extents.local(there.dim(place)) * ranks / mean
        rows = tuple(d for d in tokens.dims if d.name in PADDED)
        copy = _pair_width(tokens, extents) * item_bytes(tokens.dtype)
        form = self._dispatch(op, mean, copy, fullest, out) or node_form(op, self.site)
        return Exchange(
            op,
            op.axis,
            ranks=ranks,
            rows=rows,
            payload_per_row=mean * copy * fullest,
            form=form,
            rate=self.machine.rates[2],
        )

    def _dispatch(self, op: AllToAll, topk: Number, copy: Number, load: Number, out: bool) -> DispatchForm | None:
        """The library for dispatch and combine; None where the calibration has none, or through the host's memory."""
        m = self.machine
        if m.gpu.units is None or m.algorithm != "auto" or m.link.host is not None:
            return None
        mode = "deepep_normal" if self.prefill else "deepep_low_latency"
        for name in (mode if out else f"{mode}_combine", "ports"):
            if constants := m.calibration.constants(DispatchConstants, f"ep_alltoall.{name}"):
                experts = self.counts[op.split if out else op.gather]
                return DispatchForm(
                    name,
                    constants,
                    machine=m,
                    copy=copy,
                    load=load,
                    topk=topk,
                    experts=experts,
                    prefill=self.prefill,
                    out=out,
                )
        return None


def _layers_of_experts(ops: Iterable[Op]) -> list[list[Op]]:
    """The ops of each layer of experts, from the choice of experts to the sum of their results."""
    found: list[list[Op]] = []
    for op in ops:
        if isinstance(op, TopK):
            found.append([])
        if found and (op.meets_experts or isinstance(op, TopK | Dispatch | Combine)):
            found[-1].append(op)
    return [layer for layer in found if any(isinstance(op, GroupedGemm) for op in layer)]


def _pair_width(type_: TensorType, extents: Extents) -> Number:
    """Elements of a pair of token and expert on one rank."""
    return extents.product(d for d in type_.dims if d.name not in PADDED and not isinstance(d.name, Places))


def _local_experts(op: GroupedGemm, extents: Extents) -> Number:
    """Experts of a rank."""
    return extents.local(op.weights[0].type.dim(routed(op.x.type).experts))


def _weight_elements(op: GroupedGemm, extents: Extents) -> Number:
    return sum_up(extents.elements(w.type) for w in op.weights)
