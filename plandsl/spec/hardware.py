"""Hardware, serving engines, and calibrations, which say how far kernels stay below the hardware's peaks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

from attrs import Factory, evolve, field, frozen

from plandsl.diagnostics import Span
from plandsl.spec.constants import BAND, FORMS, C, dimension, read
from plandsl.spec.engine_bands import EngineBands, Served
from plandsl.spec.engine_limits import LIMITED, LimitsSpec, Place
from plandsl.spec.formats import ARITHMETIC
from plandsl.spec.fusions import NARROWEST, FusedSizes
from plandsl.spec.origins import BORROWED, FITTED_HERE, GENERIC, POOLED, UNMEASURED, borrowed_from
from plandsl.spec.power import clock_at
from plandsl.spec.scheduler import OWN_SCHEDULER, SchedulerName, SchedulerSpec, mixes_steps, scheduler_name
from plandsl.units import NUMBER, TIME, Dimension
from plandsl.values import FrozenValue, once


@frozen(eq=False, repr=False, slots=False)
class TableSpec(FrozenValue):
    """A file of measured kernels, which is read when an estimate is made.

    ``shown`` is its path from the folder of the root file, ``path`` its real path. ``aliases`` are pairs of a name in
    the catalog and the gpu that it stands for, unchanged; a row may have either name.
    """

    shown: str
    path: str
    aliases: tuple[tuple[str, str], ...] = field(default=(), eq=False, repr=False)
    span: Span | None = field(default=None, eq=False)


@frozen(eq=False, repr=False, slots=False)
class GpuSpec(FrozenValue):
    """One accelerator: ``memory`` in bytes, ``bandwidth`` in bytes/s, ``compute`` in FLOP/s by dtype (dense).

    ``memory`` is what CUDA or HIP shows a program; ``memory_total`` what nvidia-smi or rocm-smi reports, None if that
    is not known. ``power`` in W is what the GPU may draw; ``power_max`` the power of its board, if that is more;
    ``power_idle`` what it draws without work. ``price`` is USD/s on demand, ``price_reserved`` under a reservation, and
    ``price_source`` says whose prices these are, and of which day.
    ``units`` is the number of streaming multiprocessors or compute units, None if unknown. ``measured`` are tables of
    its kernels. ``bases`` are the gpus that it was made from, nearest first, ending with the catalog's gpu; rows of
    tables may have any of these names. ``p2p`` tells whether its driver lets it reach the memory of a peer over PCIe.
    """

    name: str
    memory: float
    bandwidth: float
    compute: tuple[tuple[str, float], ...]
    memory_total: float | None = None
    calibration: str | None = None
    power: float | None = None
    power_max: float | None = None
    power_idle: float | None = None
    price: float | None = None
    price_reserved: float | None = None
    price_source: str = ""
    units: int | None = None
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    measured: tuple[TableSpec, ...] = ()
    bases: tuple[str, ...] = ()
    p2p: bool = True
    span: Span | None = field(default=None, eq=False)

    @property
    def reported_memory(self) -> float:
        """Bytes that the driver reports, or ``memory`` where that is not known."""
        return self.memory if self.memory_total is None else self.memory_total

    @property
    def clock(self) -> float:
        """The clock under the power limit, relative to the one at the board's power."""
        if self.power is None or self.power_max is None:
            return 1.0
        return clock_at(self.power, self.power_max)

    def peak(self, dtype: str) -> float | None:
        """Matrix FLOP/s of ``dtype`` at the board's power, or None where the GPU lists none."""
        peaks = self._peaks
        return peaks.get(dtype, peaks.get(ARITHMETIC.get(dtype, dtype)))

    @once
    def _peaks(self) -> dict[str, float]:
        """FLOP/s by format, as listed."""
        return dict(self.compute)

    @property
    def narrowest(self) -> str:
        """The format of `NARROWEST` with the fewest bits that it multiplies in; of fp8 and int8, fp8."""
        return next((name for name in reversed(NARROWEST) if self.peak(name) is not None), NARROWEST[0])


class HostPath(NamedTuple):
    """The way through the memory of the host, where GPUs do not reach one another's memory.

    A GPU sends ``rate`` bytes/s at most, and a message takes ``latency`` seconds more than from peer to peer.
    """

    rate: float
    latency: float


HOST_PATH = HostPath(rate=17.8e9, latency=5.1e-6)
"""NCCL between two GPUs whose driver has no access to peers, over PCIe 5 x16: fitted by `benchmarks.host_path`."""


LANE_RATES = {1: 0.25e9, 2: 0.5e9, 3: 8e9 / 8.125, 4: 16e9 / 8.125, 5: 32e9 / 8.125, 6: 8e9 * 236 / 256}
"""Bytes/s of a PCIe lane each way, by generation: 2.5, 5, 8, 16, 32 and 64 GT/s by the base specifications of PCI-SIG.

Of 10 bits 8 are data in generations 1 and 2, of 130 bits 128 up to generation 5, of 256 bytes 236 in generation 6.
"""

LANES = (1, 2, 4, 8, 16)


NEAR_LATENCY, FAR_LATENCY = 2e-6, 5e-6
"""Seconds of a message over NVLink or Infinity Fabric, and over PCIe or a network, as the catalog's nodes assume."""

FAR = ("pcie", "fat_tree", "rail", "dragonfly")
"""Topologies whose messages usually take `FAR_LATENCY`."""


CLOS = ("fat_tree", "rail", "switch", "dragonfly")
"""Networks in which a port reaches every other port, as in the networks that calibrations were fitted on."""


def usual_latency(topology: str) -> float:
    """Seconds of a message over the links of the nodes that were measured, as the catalog states them."""
    return FAR_LATENCY if topology in FAR else NEAR_LATENCY


@frozen(eq=False, repr=False, slots=False)
class LinkSpec(FrozenValue):
    """The link between the GPUs of a node, or the network between nodes; bandwidth in bytes/s per direction.

    The bandwidth of a ``mesh`` is per pair, of ``switch`` and ``pcie`` per GPU port, of a ``ring`` per neighbour.
    ``bridge`` is the bandwidth of bridges that join GPUs in pairs, in bytes/s per direction; 0: no bridges. ``host`` is
    the way through the host's memory over ``pcie``; None where GPUs reach one another. ``dims`` are the sizes of a
    torus, and ``wrap`` tells whether links join the ends of its axes. ``usual`` is the latency of the links that fitted
    constants describe.
    """

    topology: str
    bandwidth: float
    latency: float
    dims: tuple[int, ...] = ()
    bridge: float = 0.0
    host: HostPath | None = None
    wrap: bool = True
    usual: float = field(default=Factory(lambda self: usual_latency(self.topology), takes_self=True))

    @property
    def pair(self) -> LinkSpec | None:
        """The bridge between two GPUs as a link of its own; None without bridges.

        Its messages take the usual time of NVLink, or that of the node where this is shorter.
        """
        if not self.bridge:
            return None
        usual = self.usual * NEAR_LATENCY / usual_latency(self.topology)
        return LinkSpec("mesh", self.bridge, min(self.latency, usual), usual=usual)


def over_network(link: LinkSpec) -> LinkSpec:
    """A network of any topology with the usual latency of networks."""
    return evolve(link, usual=link.usual * FAR_LATENCY / usual_latency(link.topology))


@frozen(eq=False, repr=False, slots=False)
class NodeSpec(FrozenValue):
    """GPUs in one machine and the links between them.

    ``gpus`` is empty if all GPUs are of one kind. Otherwise it gives the number of GPUs of each kind, in the order of
    ranks; ``gpu`` is then the first kind, and ``count`` the total. GPUs with the same name are the same. A node with a
    ``price``, in USD/s, is rented whole. ``overhead`` is W beside each GPU, of hosts, fans and network cards; None: not
    known. ``pue`` is the power of the building over the power of its machines. ``network`` is what a cluster of such
    nodes has between them, unless it states its own; ``host_memory`` is bytes of the host, which nothing reads.
    """

    name: str
    gpu: GpuSpec
    count: int
    link: LinkSpec
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)
    gpus: tuple[tuple[int, GpuSpec], ...] = ()
    price: float | None = None
    price_reserved: float | None = None
    price_source: str = ""
    overhead: float | None = None
    pue: float = 1.0
    network: LinkSpec | None = None
    host_memory: float | None = None

    @property
    def groups(self) -> tuple[tuple[int, GpuSpec], ...]:
        """The number of GPUs of each kind, in the order of ranks."""
        return self.gpus or ((self.count, self.gpu),)

    @property
    def composition(self) -> str:
        """``8 x h100_sxm``, ``4 x h100_sxm, 4 x h200_sxm``."""
        return ", ".join(f"{count} x {gpu.name}" for count, gpu in self.groups)


@frozen(eq=False, repr=False, slots=False)
class ClusterSpec(FrozenValue):
    """``count`` nodes of one kind and the network between them.

    The bandwidth of ``network`` is per GPU port, in bytes/s per direction: on a mesh to each other node, on a ring or
    torus to each neighbour. GPUs are numbered node by node: rank r is in node ``r // node.count``.
    ``nodes`` is empty if all nodes are of one kind. Otherwise it gives the number of nodes of each kind, in the order
    of ranks; ``node`` is then the first kind. All nodes have equally many GPUs.
    """

    name: str
    node: NodeSpec
    count: int
    network: LinkSpec
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)
    nodes: tuple[tuple[int, NodeSpec], ...] = ()

    @property
    def groups(self) -> tuple[tuple[int, NodeSpec], ...]:
        """The number of nodes of each kind, in the order of ranks."""
        return self.nodes or ((self.count, self.node),)

    @property
    def composition(self) -> str:
        """``4 x h100_8``, ``2 x h100_8, 2 x h200_8``."""
        return ", ".join(f"{count} x {node.name}" for count, node in self.groups)


CONSTANTS = {
    "gemm": NUMBER,
    "attention_prefill": NUMBER,
    "attention_decode": NUMBER,
    "hbm": NUMBER,
    "link": NUMBER,
    "launch": TIME,
    "launch_elementwise": TIME,
    "launch_collective": TIME,
    "low": NUMBER,
    "high": NUMBER,
}
"""Constants of a calibration outside sections, with their dimension: shares of a peak, and seconds."""


OF_LINKS = ("collective", "collective_nodes", "ep_alltoall", "launch_collective")
"""Parts of a calibration that time what travels between GPUs."""


@lru_cache(maxsize=4096)
def constant_dimension(path: str) -> Dimension | None:
    """The dimension of a calibration's constant, such as ``launch`` or ``gemm.bf16.fixed``; None: nothing uses it."""
    first, *inner = path.split(".")
    return dimension(first, inner[-1]) if len(inner) > 1 and first in FORMS else CONSTANTS.get(first)


COVERED_BY = {
    "gemm": ("gemm",),
    "attention_prefill": ("attention_prefill",),
    "attention_decode": ("attention_decode",),
    "hbm": ("gemm", "attention_prefill", "attention_decode", "elementwise"),
    "link": ("collective",),
    "launch": ("gemm", "attention_prefill", "attention_decode"),
    "launch_elementwise": ("elementwise",),
    "launch_collective": ("collective",),
    "low": ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective"),
    "high": ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective"),
}
"""Constant -> the fitted sections that together replace it."""

CORE = ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective")
"""Sections that every plan needs; other sections are read only for models and machines that need them."""

TRANSFER = 2.0
"""Factor by which a band (as a logarithm) widens on another GPU where no `MARGINS` were fitted, for weights without
rows of their own, and for servers on several nodes.
"""

MARGINS_OF = "bands"
"""The section of a kind that holds its `MARGINS`: ``gemm.bands``."""

MORE = "_more"
"""What the name of a GPU's second calibration ends in."""


LIBRARIES = ("trtllm", "modular", "cutlass", "triton", "deepgemm", "marlin", "aiter")
"""Libraries with sets of their own: a set is named by a format, or by a format and a library."""

FAMILIES = {
    "bf16": "16", "fp16": "16", "fp8": "fp8", "fp8_block": "fp8", "fp8_token": "fp8", "mxfp8": "fp8", "int8": "int8",
    "w8a8_int8_or_fp8": "int8", "fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4", "fp6": "fp6", "mxfp6": "fp6",
}  # fmt: skip
"""Formats in which weights are multiplied as they are stored, and the family of formats that stand in for it."""

BY_FORMAT = ("gemm", "moe")
"""Sections with a set for each format of weights, which are completed family by family."""


def family_of(kind: str, format_: str) -> str:
    """What a calibration must have to time weights of a format: ``gemm/fp8``; a set of weights that are unpacked first
    stands for itself alone.
    """
    return f"{kind}/{FAMILIES.get(format_, format_)}"


@lru_cache(maxsize=4096)
def _part(name: str) -> tuple[str, bool]:
    """The part of a calibration that a constant completes, and whether the constant is in a section."""
    first, _, rest = name.partition(".")
    inner, dot, _ = rest.rpartition(".")
    if not dot or first not in BY_FORMAT:
        return first, "." in rest
    format_, _, library = inner.rpartition("_")
    return family_of(first, format_ if library in LIBRARIES else inner), True


@lru_cache(maxsize=4096)
def _split_path(name: str) -> tuple[str, str]:
    """The section of a calibration's constant, and its name there; figures of an explanation make many calibrations."""
    section, _, last = name.rpartition(".")
    return section, last


@frozen(eq=False, repr=False, slots=False)
class CalibrationSpec(FrozenValue):
    """Named constants that say how far kernels stay below the peaks, and the source of the constants.

    ``taken`` names the calibration of each part (`_part`) that came from another one. ``origins`` says where the
    constants of each part come from, seen from the GPU that the calibration was `placed_on`.
    """

    name: str
    values: tuple[tuple[str, float], ...]
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)
    taken: tuple[tuple[str, str], ...] = field(default=(), eq=False)
    origins: tuple[tuple[str, str], ...] = field(default=(), eq=False)
    _flat: dict[str, float] = field(init=False, eq=False, repr=False)
    _sections: dict[str, dict[str, float]] = field(init=False, eq=False, repr=False)
    _read: dict[tuple[object, str], object] = field(init=False, eq=False, repr=False)
    _placed: dict[tuple[str, ...], CalibrationSpec] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        sections: dict[str, dict[str, float]] = {}
        for name, value in self.values:
            section, last = _split_path(name)
            sections.setdefault(section, {})[last] = value
        object.__setattr__(self, "_flat", dict(self.values))
        object.__setattr__(self, "_sections", sections)
        object.__setattr__(self, "_read", {})
        object.__setattr__(self, "_placed", {})

    def get(self, name: str, default: float) -> float:
        """The constant ``name``, or ``default`` if this calibration does not set it."""
        return self._flat.get(name, self._flat.get(f"{name}.any", default))

    def needs(self, constant: str) -> bool:
        """Whether the times of some ops depend on ``constant``: false if fitted sections replace it."""
        return not self._fitted.issuperset(COVERED_BY.get(constant.removesuffix(".any"), ("",)))

    @once
    def _fitted(self) -> frozenset[str]:
        """The kinds of its sections."""
        return frozenset(name.split(".")[0] for name, _ in self.values if name.count(".") > 1)

    @once
    def given(self) -> frozenset[str]:
        """The first parts of the names of its values."""
        return frozenset(name.split(".")[0] for name, _ in self.values)

    def has(self, sections: frozenset[str]) -> bool:
        """Whether this calibration has all of these sections, or families of sets (`family_of`)."""
        return sections <= self._timed

    @once
    def _timed(self) -> frozenset[str]:
        """Its sections, and the families of its sets."""
        families = (_part(f"{path}.") for path in self.sections if "." in path)
        parts = (path.partition(".")[0] for path in self.sections if path)
        return frozenset((*parts, *(part for part, inside in families if inside)))

    def fill_from(self, other: CalibrationSpec) -> CalibrationSpec:
        """This calibration, with the constants and sections of ``other`` that this one lacks.

        Of sections with a set for each format, it takes the families that it lacks, with wider bands: they are shares
        of peaks that other GPUs reach. A set of weights that are unpacked first comes only with its whole section.
        """
        have = {_part(name) for name, _ in self.values}
        kinds = {part.partition("/")[0] for part, inside in have if inside and "/" in part}
        values: tuple[tuple[str, float], ...] = ()
        for value in other.values:
            part, inside = _part(value[0])
            kind, _, family = part.partition("/")
            if (part, inside) not in have and (kind not in kinds or family in FAMILIES.values()):
                values += (value,)
        filled = {name for name, _ in values}
        assumed = tuple(a for a in other.assumed if a[0] in filled)
        both = self.values + values
        sections = {name.partition(".")[0] for name, _ in both if "." in name}
        # a share `gemm` beside a section `gemm` becomes the constant `gemm.any`
        named = tuple((f"{name}.any" if name in sections else name, value) for name, value in both)
        told = ((f"{name}.any" if name in sections else name, text) for name, text in (*self.assumed, *assumed))
        parts = dict.fromkeys(_part(name)[0] for name, _ in values)
        taken = (*((part, other.name) for part in parts), *self.taken)  # of one part twice, the first counts
        return evolve(self, values=named, assumed=tuple(told), taken=taken)

    def origin(self, part: str, own: Collection[str] = ()) -> str:
        """Where the constants of a part come from: `FITTED_HERE`, borrowed from a GPU, `POOLED` or `GENERIC`.

        ``own`` are the names of the plan's GPU, whose calibration is called as it is.
        """
        lender = dict(self.taken).get(part, self.name)
        if lender in (POOLED, GENERIC):
            return lender
        if lender == UNMEASURED:
            return GENERIC
        name = lender.removesuffix(MORE)
        return FITTED_HERE if name in own else borrowed_from((name,))

    def placed_on(self, own: tuple[str, ...]) -> CalibrationSpec:
        """The calibration for the GPU with the names ``own``: sets that it borrows have wider bands.

        By the `MARGINS` of their kind, or where it has none to the power `TRANSFER`.
        """
        if own not in self._placed:
            self._placed[own] = self._place_on(own)
        return self._placed[own]

    def _place_on(self, own: Collection[str]) -> CalibrationSpec:
        parts = [_part(name) for name, _ in self.values]
        origins = {part: self.origin(part, own) for part, _ in parts}
        lent = {part for part, origin in origins.items() if origin.startswith(BORROWED)}
        values = self.values
        if lent:
            placed = [
                self._widened(*value) if inside and part in lent else (value,)
                for value, (part, inside) in zip(values, parts, strict=True)
            ]
            values = tuple(value for some in placed for value in some)
        return evolve(self, values=values, origins=tuple(origins.items()))

    def _widened(self, name: str, value: float) -> tuple[tuple[str, float], ...]:
        """A constant of a borrowed set: its band is wider, and the same for all sizes."""
        section, _, last = name.rpartition(".")
        kind, _, inner = section.partition(".")
        if inner == MARGINS_OF or last not in BAND:
            return ((name, value),)
        if last not in ("low", "high"):
            return ()
        margin = self.section(f"{kind}.{MARGINS_OF}").get(f"lent_{last}")
        return ((name, value**TRANSFER if margin is None else value * margin),)

    @property
    def sections(self) -> Collection[str]:
        """The names of its sections."""
        return self._sections.keys()

    def section(self, path: str) -> dict[str, float]:
        """The constants of one section, by the last part of their name; empty if the calibration lacks the section."""
        return self._sections.get(path, {})

    def constants(self, form: type[C], path: str) -> C | None:
        """The constants of ``form`` in one section; None where the calibration lacks it.

        Raises `ValueError` where the section lacks some: those of a `.plan` file never do.
        """
        if (form, path) not in self._read:
            section = self._sections.get(path)
            if section:
                section = self.section(f"{path.partition('.')[0]}.{MARGINS_OF}") | section
                origin = dict(self.origins).get(_part(f"{path}.")[0], FITTED_HERE)
            self._read[form, path] = read(form, section, origin) if section else None
        return cast(C | None, self._read[form, path])


ENGINE_RATES = ("prefill", "decode", "links")
ENGINE_SHARES = ("kept_output", "memory_fraction")
ENGINE_TIMES = ("step", "request", "admit", "first", "first_request")
RANK_TIMES = ("step_rank", "step_node")
ENGINE_COUNTS = {"step_tokens": 1, "max_requests": 1, "kv_block": 1}
ENGINE_BYTES = (
    "reserve", "context", "communicators", "libraries", "all_reduce", "workspace", "logit", "graphs", "graph_layer",
)  # fmt: skip
ENGINE_BANDS = (
    "ttft_low", "ttft_high", "tpot_low", "tpot_high", "throughput_low", "throughput_high", "kv_low", "kv_high",
)  # fmt: skip
"""Fields of an engine: rates, shares, seconds, seconds by which more ranks lengthen a step, whole numbers with their
least value, bytes, and factors of bands.
"""

FRACTIONS = ("device", "free_before", "free_after")
"""What `memory_fraction` is a share of.

``device``: the whole memory; weights, cache, activations and buffers are inside (vLLM). ``free_before``: what is free
before weights are loaded; weights and cache are inside, the rest lives beside it (SGLang). ``free_after``: what is free
after loading and a profiled step; the cache alone is inside (TensorRT-LLM).
"""


@frozen(eq=False, repr=False, slots=False)
class EngineSpec(FrozenValue):
    """The time that a serving engine adds to the kernels of a step, and its use of memory.

    ``prefill``, ``decode`` and ``links``: engine throughput relative to stand-alone kernels, for kernels in prefill,
    kernels in decode, and collectives. ``step``: seconds added to every step; ``request``: to a step for each request
    in it; ``admit``: for each request that joins. Kernels do not hide these. ``step_rank`` and ``step_node``: seconds
    that a step takes longer for each rank behind the first that computes it, and where its ranks are on several nodes
    (the engine tells every rank what to compute, and waits for the last one). ``first`` and ``first_request``: seconds
    added to the first token (tokenisation, transport), once and for each request in flight. ``step_tokens`` is the
    token budget of a step, ``max_requests`` the most requests in a step; by ``limits`` the engine chooses them where
    nothing states them, and a plan's engine has those of its GPUs.
    ``kept_output``: a request is admitted if the KV cache has room for this share of its output. ``kernels`` is the
    library whose fitted kernels the engine runs. ``fusions`` names ops that it runs in one kernel; ``fused_sizes`` says
    up to which size an all_reduce shares its kernel (None: at every size). ``scheduler`` composes the steps of a
    simulation. ``..._low`` and ``..._high`` bound the 80 % band of measured / predicted; ``bands`` has bands by what is
    served.

    ``memory_fraction`` is a share of what ``fraction_of`` says; None: 1, or SGLang's own formula (`default_fraction`).
    Bytes on each GPU (`deployments/profile.py` has the formulas): ``context`` is taken before the engine measures
    anything, ``communicators`` too where there are several ranks; ``libraries`` and ``all_reduce`` are taken beside
    the framework; ``workspace``, ``states`` hidden states and ``logit`` bytes for each sampled row and entry of the
    vocabulary are part of the profiled step. ``graphs`` and ``graph_layer`` (for each layer) are inside the fraction
    with ``graphs_in_budget``. ``reserve`` is anything else inside the fraction.
    """

    name: str
    prefill: float = 1.0
    decode: float = 1.0
    links: float = 1.0
    step: float = 0.0
    step_rank: float = 0.0
    step_node: float = 0.0
    request: float = 0.0
    admit: float = 0.0
    first: float = 0.0
    first_request: float = 0.0
    step_tokens: int = 8192
    max_requests: int = 1024
    limits: LimitsSpec | None = None
    bands: EngineBands | None = None
    kept_output: float = 1.0
    memory_fraction: float | None = None
    fraction_of: str = "device"
    reserve: float = 0.0
    context: float = 0.0
    communicators: float = 0.0
    libraries: float = 0.0
    all_reduce: float = 0.0
    workspace: float = 0.0
    states: float = 0.0
    logit: float = 0.0
    graphs: float = 0.0
    graph_layer: float = 0.0
    graphs_in_budget: bool = False
    kv_block: int = 1
    kernels: str = ""
    fusions: tuple[str, ...] = ()
    fused_sizes: FusedSizes | None = None
    scheduler: SchedulerSpec = OWN_SCHEDULER
    ttft_low: float = 1.0
    ttft_high: float = 1.0
    tpot_low: float = 1.0
    tpot_high: float = 1.0
    throughput_low: float = 1.0
    throughput_high: float = 1.0
    kv_low: float = 1.0
    kv_high: float = 1.0
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)

    def band(self, metric: str, served: Served | None = None) -> tuple[float, float] | None:
        """The band of measured / predicted with 80 % of measurements, or None.

        ``metric`` is ``ttft``, ``tpot``, ``throughput`` or ``kv`` (bytes of KV cache). A band that the engine states by
        itself holds whatever is ``served``, and for models with experts both its factors are raised to the power
        `TRANSFER`; else the band is that of the class in `bands`. On several nodes it is raised again: no row has any.
        """
        low, high = float(getattr(self, f"{metric}_low")), float(getattr(self, f"{metric}_high"))
        wider = TRANSFER if served is not None and served.nodes > 1 else 1.0
        if low != high:
            wider *= TRANSFER if served is not None and served.experts else 1.0
            return low**wider, high**wider
        found = self.bands.find(metric, served) if self.bands and served is not None else None
        return None if found is None else (found[0] ** wider, found[1] ** wider)

    def rank_seconds(self, ranks: int, nodes: int) -> float:
        """Seconds that a step of ``ranks`` ranks on ``nodes`` nodes takes longer than a step of one rank."""
        return self.step_rank * (ranks - 1) + self.step_node * (nodes > 1)

    def on_ranks(self, ranks: int, nodes: int) -> EngineSpec:
        """The engine with the seconds of so many ranks in ``step``, and in ``first`` for the step of the prompt."""
        more = self.rank_seconds(ranks, nodes)
        if not more:
            return self
        return evolve(self, step=self.step + more, first=self.first + more, step_rank=0.0, step_node=0.0)

    def place(self, gpus: Iterable[GpuSpec]) -> Place | None:
        """The place of ``gpus`` in the engine's `limits`, None without; of unlike GPUs the first place."""
        limits = self.limits
        if limits is None:
            return None
        sizes = ((gpu.memory if limits.of == "memory" else gpu.reported_memory, gpu) for gpu in gpus)
        return min(limits.place(size, (gpu.name, *gpu.bases)) for size, gpu in sizes)

    def on_gpus(self, gpus: Iterable[GpuSpec], stated: Collection[str] = ()) -> EngineSpec:
        """The engine with the limits that it chooses on ``gpus``, but for those that are ``stated``."""
        limits, place = self.limits, self.place(gpus)
        if limits is None or place is None:
            return self
        chosen: dict[str, Any] = {n: limits.values(n)[place.at] for n in LIMITED if limits.values(n)}
        return evolve(self, **{name: value for name, value in chosen.items() if name not in stated})

    @property
    def scheduler_name(self) -> SchedulerName:
        """The scheduler that composes the steps of a simulation."""
        return scheduler_name(self.scheduler.name, self.kernels)

    @property
    def mixes_steps(self) -> bool:
        """Whether requests decode in steps that have prompts of others; else they wait until no prompt waits."""
        return mixes_steps(self.scheduler_name, dict(self.scheduler.limits))

    @property
    def rates(self) -> tuple[float, float, float]:
        """Engine throughput relative to stand-alone kernels, for prefill, decode and collectives."""
        return self.prefill, self.decode, self.links

    @property
    def paces(self) -> tuple[str, FusedSizes | None, tuple[float, float, float]]:
        """All of the engine on which the seconds of a compiled program's kernels depend."""
        return self.kernels, self.fused_sizes, self.rates


IDEAL = EngineSpec("none", max_requests=1_000_000)
"""The engine of a plan without `engine`: it adds no time."""
