"""Hardware, the calibrations that say how far kernels stay below its peaks, and serving engines."""

from __future__ import annotations

from attrs import evolve, field, frozen

from plandsl.diagnostics import Span
from plandsl.spec.constants import FORMS, C, dimension, read
from plandsl.spec.formats import ARITHMETIC
from plandsl.units import NUMBER, TIME, Dimension


@frozen
class TableSpec:
    """A file of measured kernels, which is read when an estimate is made.

    ``shown`` is its path from the folder of the root file, ``path`` where it lies. ``aliases`` are names of the
    catalog that stand for another gpu as it is: rows may say either.
    """

    shown: str
    path: str
    aliases: tuple[tuple[str, str], ...] = field(default=(), eq=False, repr=False)
    span: Span | None = field(default=None, eq=False)


@frozen
class GpuSpec:
    """One accelerator: bytes, bytes/s, and FLOP/s by dtype (dense).

    ``units`` are its streaming multiprocessors or compute units, None where nobody says. ``measured`` are tables of
    its kernels, ``bases`` the gpus that it was made from, nearest first, up to the catalog's: tables may name those.
    """

    name: str
    memory: float
    bandwidth: float
    compute: tuple[tuple[str, float], ...]
    calibration: str | None = None
    power: float | None = None
    price: float | None = None
    units: int | None = None
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    measured: tuple[TableSpec, ...] = ()
    bases: tuple[str, ...] = ()
    span: Span | None = field(default=None, eq=False)

    def peak(self, dtype: str) -> float | None:
        """Matrix FLOP/s of ``dtype``, or None where the GPU lists none."""
        peaks = dict(self.compute)
        return peaks.get(dtype, peaks.get(ARITHMETIC.get(dtype, dtype)))


@frozen
class LinkSpec:
    """How the GPUs of a node reach each other; bandwidth in bytes/s per direction.

    ``mesh``: per pair. ``switch``, ``pcie``: per GPU port. ``ring``: per neighbour. ``bridge`` are the bytes/s per
    direction of what joins two and two besides, 0 without.
    """

    topology: str
    bandwidth: float
    latency: float
    dims: tuple[int, ...] = ()
    bridge: float = 0.0


@frozen
class NodeSpec:
    """GPUs in one machine and the links between them.

    Of unlike ``gpus`` it has so many of each, in the order of ranks; ``gpu`` is the first, ``count`` all together. GPUs
    of one name are the same.
    """

    name: str
    gpu: GpuSpec
    count: int
    link: LinkSpec
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)
    gpus: tuple[tuple[int, GpuSpec], ...] = ()

    @property
    def groups(self) -> tuple[tuple[int, GpuSpec], ...]:
        """How many of which GPU, in the order of ranks."""
        return self.gpus or ((self.count, self.gpu),)

    @property
    def made_of(self) -> str:
        """``8 x h100_sxm``, ``4 x h100_sxm, 4 x h200_sxm``."""
        return ", ".join(f"{count} x {gpu.name}" for count, gpu in self.groups)


@frozen
class ClusterSpec:
    """``count`` nodes of one kind and the network between them.

    The bandwidth of ``network`` is that of each GPU's port to it: bytes/s per direction, on a mesh to each other node,
    on a ring or torus to each neighbour. GPUs count node by node: rank r is in node ``r // node.count``.
    Of unlike ``nodes``, which have equally many GPUs, it has so many of each, in that order; ``node`` is the first.
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
        """How many of which node, in the order of ranks."""
        return self.nodes or ((self.count, self.node),)

    @property
    def made_of(self) -> str:
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
"""What a calibration may set by itself: shares of a peak, and seconds."""


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
"""Fitted sections that together leave a constant without use."""

CORE = ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective")
"""Sections that every plan asks for; others are read for models and machines that need them."""

TRANSFER = 2.0
"""How much wider the band of a relative's calibration is: on GPUs left out of the fits it came to about this."""


def _part(name: str) -> tuple[str, bool]:
    """The kind of kernel of a constant in sections, or the name of one that stands alone."""
    first, _, rest = name.partition(".")
    return first, "." in rest


@frozen
class CalibrationSpec:
    """Named constants that tell how far kernels stay below the peaks, and where they come from."""

    name: str
    values: tuple[tuple[str, float], ...]
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)
    _flat: dict[str, float] = field(init=False, eq=False, repr=False)
    _sections: dict[str, dict[str, float]] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        sections: dict[str, dict[str, float]] = {}
        for name, value in self.values:
            section, _, last = name.rpartition(".")
            sections.setdefault(section, {})[last] = value
        object.__setattr__(self, "_flat", dict(self.values))
        object.__setattr__(self, "_sections", sections)

    def get(self, name: str, default: float) -> float:
        """A constant, or ``default`` where this calibration does not set it."""
        return self._flat.get(name, self._flat.get(f"{name}.any", default))

    def needs(self, constant: str) -> bool:
        """Whether ops are timed by ``constant``: not where fitted sections answer for all of them."""
        fitted = {name.split(".")[0] for name, _ in self.values if name.count(".") > 1}
        return not fitted.issuperset(COVERED_BY.get(constant, ("",)))

    def has(self, sections: frozenset[str]) -> bool:
        """Whether it has all of these sections."""
        return sections.issubset(name.partition(".")[0] for name, _ in self.values if "." in name)

    def completed(self, other: CalibrationSpec) -> CalibrationSpec:
        """This one, with what ``other`` has of constants and kinds of kernels that this lacks altogether."""
        have = {_part(name) for name, _ in self.values}
        values = tuple(v for v in other.values if _part(v[0]) not in have)
        assumed = tuple(a for a in other.assumed if _part(a[0]) not in have)
        both = self.values + values
        sections = {name.partition(".")[0] for name, _ in both if "." in name}
        # a share beside sections of its name stands in them, as `gemm { any = 0.6 }`
        named = tuple((f"{name}.any" if name in sections else name, value) for name, value in both)
        return evolve(self, values=named, assumed=self.assumed + assumed)

    def widened(self) -> CalibrationSpec:
        """The same for another GPU than the measured one: errors spread `TRANSFER` times as far, as a logarithm."""
        bands = ("low", "high")
        values = tuple((n, v**TRANSFER if n.rpartition(".")[2] in bands else v) for n, v in self.values)
        return evolve(self, values=values)

    def section(self, path: str) -> dict[str, float]:
        """The constants of one section, by their last name; empty where the calibration lacks it."""
        return self._sections.get(path, {})

    def constants(self, form: type[C], path: str) -> C | None:
        """The constants of ``form`` in one section; None where the calibration lacks it.

        Raises `ValueError` where the section lacks some: those of a `.plan` file never do.
        """
        section = self._sections.get(path)
        return read(form, section) if section else None


ENGINE_RATES = ("prefill", "decode", "links")
ENGINE_SHARES = ("kept_output", "memory_fraction")
ENGINE_TIMES = ("step", "request", "admit", "first", "first_request")
ENGINE_COUNTS = {"step_tokens": 1, "max_requests": 1, "held_back": 0, "kv_block": 1}
ENGINE_BANDS = ("ttft_low", "ttft_high", "tpot_low", "tpot_high", "throughput_low", "throughput_high")
"""Fields of an engine: rates and shares, seconds, whole numbers with the least that each may be, and factors."""


@frozen
class EngineSpec:
    """What a serving engine adds to the kernels of a step, and how it spends the memory.

    ``prefill`` and ``decode`` are the rates of a step's kernels, and ``links`` of its collectives, over those of
    kernels one by one; ``step`` and
    ``request`` are seconds of every step and of each request in it that no kernel hides, ``admit`` of each request
    that joins, ``first`` and ``first_request`` what a first token waits besides (tokenisation, transport), once and
    for each request in flight. ``step_tokens`` is the budget of a step, ``max_requests`` the most requests of one;
    ``held_back`` requests wait although there is room. ``kept_output`` is the share of a request's output that its
    KV cache must have room for when it is admitted. ``kernels`` is the library whose fitted kernels it runs. The
    ``_low`` and ``_high`` are 80 % bands of measured / predicted.
    """

    name: str
    prefill: float = 1.0
    decode: float = 1.0
    links: float = 1.0
    step: float = 0.0
    request: float = 0.0
    admit: float = 0.0
    first: float = 0.0
    first_request: float = 0.0
    step_tokens: int = 8192
    max_requests: int = 1024
    held_back: int = 0
    kept_output: float = 1.0
    memory_fraction: float = 1.0
    reserve: float = 0.0
    kv_block: int = 1
    kernels: str = ""
    ttft_low: float = 1.0
    ttft_high: float = 1.0
    tpot_low: float = 1.0
    tpot_high: float = 1.0
    throughput_low: float = 1.0
    throughput_high: float = 1.0
    source: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    span: Span | None = field(default=None, eq=False)

    def band(self, metric: str, experts: bool) -> tuple[float, float] | None:
        """Factors of ``ttft``, ``tpot`` or ``throughput`` between which 80 % of measurements lie; None: not known.

        Engines are fitted to models without ``experts``; for others the band is `TRANSFER` times as wide.
        """
        low, high = float(getattr(self, f"{metric}_low")), float(getattr(self, f"{metric}_high"))
        wider = TRANSFER if experts else 1.0
        return None if low == high else (low**wider, high**wider)

    @property
    def rates(self) -> tuple[float, float, float]:
        """Of kernels in prefill and in decode, and of collectives."""
        return self.prefill, self.decode, self.links


IDEAL = EngineSpec("none", max_requests=1_000_000)
"""An engine that costs nothing: what a plan without `engine` runs on."""
