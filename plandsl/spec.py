"""Resolved declarations: what a `.plan` file means, with names bound, units gone and spans kept.

The grammar makes these values, the passes read them. All quantities are SI.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from attrs import evolve, field, frozen

from plandsl.diagnostics import Span
from plandsl.units import BYTES, NUMBER, TIME, Dimension

BITS = {
    "int32": 32,
    "fp64": 64,
    "fp32": 32,
    "tf32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "fp6": 6,
    "fp4": 4,
    "int4": 4,
    # block formats store one 8-bit scale per 32 elements (OCP Microscaling 1.0), nvfp4 one per 16
    "mxfp8": 8.25,
    "mxfp6": 6.25,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
}
"""Bits per element as stored, scales included."""

ARITHMETIC = {"mxfp8": "fp8", "mxfp6": "fp6", "mxfp4": "fp4", "nvfp4": "fp4"}
"""The matrix peak that a storage format multiplies at, where it is not its own name."""

STEP_DIMENSIONS = ("tokens", "batch", "position", "context", "layers")
"""Dimensions that the compiler knows without a declaration."""


def item_bytes(dtype: str) -> float:
    """Bytes per element of ``dtype`` as stored."""
    return BITS[dtype] / 8


# ---- terms: the expressions of a model's block


class Var(NamedTuple):
    """A value computed before: ``x``, ``h``."""

    name: str
    span: Span | None = None


class Weight(NamedTuple):
    """A parameter tensor where it is used: ``w_q[hidden, heads, head_dim]``."""

    name: str
    dims: tuple[str, ...]
    span: Span | None = None


class Apply(NamedTuple):
    """A function or operator of the block language: ``matmul add mul rms_norm rope silu attention ...``.

    ``body`` are the statements that ``experts`` runs for each token and expert; the last one, without a target, is the
    result. Weights in them have the dimension of the experts first.
    """

    fn: str
    args: tuple[Term, ...]
    options: tuple[tuple[str, int | float | bool | str], ...] = ()
    span: Span | None = None
    body: tuple[Statement, ...] = ()

    def option(self, name: str, default: int | float | bool | str) -> int | float | bool | str:
        """The value of a keyword argument."""
        return dict(self.options).get(name, default)


Term: TypeAlias = "Var | Weight | Apply"


def walk(term: Term) -> Iterator[Term]:
    """A term and all that it is made of; the bodies of `experts` are statements of their own."""
    yield term
    if isinstance(term, Apply):
        for argument in term.args:
            yield from walk(argument)


class Statement(NamedTuple):
    """``target = term`` in a block."""

    target: str
    term: Term
    span: Span | None = None


class Every(NamedTuple):
    """Which layers of a range: those whose number leaves a remainder in ``at`` when divided by ``period``.

    All of them unless said otherwise; ``Every(2, (1,))`` are the odd ones.
    """

    period: int = 1
    at: tuple[int, ...] = (0,)

    @classmethod
    def picking(cls, layers: list[int]) -> tuple[tuple[int, int], Every]:
        """The range that ascending ``layers`` span, and the shortest repetition that gives just them."""
        span = layers[0], layers[-1] + 1
        for period in range(1, span[1] - span[0] + 1):
            every = cls(period, tuple(sorted({n % period for n in layers})))
            if every.count(span) == len(layers):
                return span, every
        raise AssertionError("with a period as long as the range, each layer has a remainder of its own")

    def of(self, layers: tuple[int, int]) -> list[int]:
        """The layers meant in ``layers`` (half-open), in order."""
        if self.period == 1:
            return list(range(*layers))
        return [n for n in range(*layers) if n % self.period in self.at]

    def count(self, layers: tuple[int, int]) -> int:
        """How many they are."""
        first, stop = layers
        if self.period == 1:
            return stop - first
        return sum(len(range(first + (at - first) % self.period, stop, self.period)) for at in self.at)

    def within(self, layers: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int] | None:
        """The range from the first to the last of them that lies in ``bounds``, None where none does."""
        first, stop = max(layers[0], bounds[0]), min(layers[1], bounds[1])
        if self.period > 1:
            found = self.of((first, stop))
            first, stop = (found[0], found[-1] + 1) if found else (0, 0)
        return (first, stop) if first < stop else None

    def __str__(self) -> str:
        """What stands after a range of layers: nothing, `` by 2``, or `` by 6 at 0 1 2 3 4``."""
        if self.period == 1:
            return ""
        return f" by {self.period}" + (f" at {' '.join(map(str, self.at))}" if len(self.at) > 1 else "")


EVERY = Every()
"""All layers of a range."""


class BlockSpec(NamedTuple):
    """A block repeated over ``layers`` (first, one past the last), those of them that ``every`` picks.

    That of an `mtp` gets the embedding of a token too, by the name ``token``.
    """

    name: str
    layers: tuple[int, int]
    arg: str
    statements: tuple[Statement, ...]
    span: Span | None = None
    every: Every = EVERY
    token: str = ""


@frozen
class ModelSpec:
    """A model: sizes of its named dimensions, storage types, and its program as terms.

    ``mtp`` is the block that predicts the token after the next one, which is no part of the model unless it drafts.
    """

    name: str
    layers: int
    sizes: tuple[tuple[str, int], ...]
    weights: str
    activations: str
    kv_cache: str
    compute: str | None
    embedding: Weight
    blocks: tuple[BlockSpec, ...]
    head: Term
    causal: bool = True
    max_context: int | None = None
    mtp: BlockSpec | None = None
    source: str = ""
    span: Span | None = field(default=None, eq=False)

    @property
    def predictor(self) -> ModelSpec | None:
        """The `mtp` as a model of one layer, between the embedding and the head of this one; None without."""
        if self.mtp is None:
            return None
        return evolve(self, name=f"{self.name}_mtp", layers=1, blocks=(self.mtp,), mtp=None)

    @property
    def routed(self) -> bool:
        """Whether a token goes to some experts of many."""
        return any(name == "experts" for name, _ in self.sizes)

    def size(self, dim: str) -> int:
        """Global size of a declared dimension."""
        return dict(self.sizes)[dim]


# ---- hardware


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

FORM_CONSTANTS = {
    "fixed": TIME,
    "step": TIME,
    "split": TIME,
    "latency": TIME,
    "hop": TIME,
    "expert": TIME,
    "row": TIME,
    "each": TIME,
    "ramp": TIME,
    "message": TIME,
    "token": TIME,
    "quant_fixed": TIME,
    "quant_row": TIME,
    "quant_walk": TIME,
    "chain": TIME,
    "half": BYTES,
    "cache": BYTES,
}
"""Constants inside a section such as `gemm { bf16 { ... } }`, where they are not plain numbers."""

CORE = ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective")
"""Sections that every plan asks for; others are read for models and machines that need them."""

FORMS = (
    "gemm",
    "attention_prefill",
    "attention_decode",
    "attention_mixed",
    "mla_prefill",
    "mla_decode",
    "elementwise",
    "collective",
    "collective_nodes",
    "ep_alltoall",
    "moe",
    "grouped_gemm",
)
"""Sections that hold the constants of a fitted form, by dtype or library."""


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


# ---- sharding


class AxisSpec(NamedTuple):
    """One mesh axis; ``sugar`` is the degree that made it (``tp``), or empty if written as `mesh`."""

    name: str
    size: int
    span: Span | None = None
    sugar: str = ""


class RuleSpec(NamedTuple):
    """``dims -> axes``, inside ``region`` or everywhere (``""``)."""

    dims: tuple[str, ...]
    axes: tuple[str, ...]
    region: str = ""
    span: Span | None = None
    sugar: str = ""


class PlaceSpec(NamedTuple):
    """``place axis in node``: no group of ranks along ``axis`` leaves a node."""

    axis: str
    span: Span | None = None


class CutSpec(NamedTuple):
    """How many ``layers`` each stage gets, first to last.

    Where they are ``balanced`` the compiler chooses, and they are empty until it has.
    """

    layers: tuple[int, ...] = ()
    balanced: bool = False
    span: Span | None = None


@frozen
class ShardingSpec:
    """Mesh axes, major first, and rules in the order that gives precedence.

    ``context_form`` says how keys split by ``context`` reach the queries; ``hop_tensors`` None leaves that to the plan.
    ``placed`` axes lie inside a node, and are the innermost. Without a ``cut`` stages differ by one layer at most.
    """

    name: str
    axes: tuple[AxisSpec, ...]
    rules: tuple[RuleSpec, ...]
    replica_axes: tuple[str, ...] = ()
    context_form: str = "ring"
    hop_tensors: int | None = None
    placed: tuple[PlaceSpec, ...] = ()
    span: Span | None = field(default=None, eq=False)
    cut: CutSpec | None = None

    def axis(self, name: str) -> int:
        """Size of an axis; 1 where nobody declared it."""
        return next((a.size for a in self.axes if a.name == name), 1)

    @property
    def ranks(self) -> int:
        """GPUs over all axes."""
        total = 1
        for axis in self.axes:
            total *= axis.size
        return total

    @property
    def replicas(self) -> int:
        """Independent copies of the model."""
        total = 1
        for name in self.replica_axes:
            total *= self.axis(name)
        return total


# ---- load and plan


@frozen
class WorkloadSpec:
    """A load of requests with ``input`` tokens in and ``output`` out.

    Static: ``batch`` requests per in-flight batch. With ``concurrency`` there are always so many in flight, each
    followed by another, ``requests`` in all (None: without end), and ``batch`` means nothing.
    Of the input the share ``reuse`` is in the KV cache before a request comes: in blocks of its own, or in such as all
    requests share (``prefix``; None: not stated, and taken as its own).
    """

    name: str
    input: int
    output: int
    batch: int
    in_flight: int | None = None
    concurrency: int | None = None
    requests: int | None = None
    reuse: float = 0.0
    prefix: str | None = None
    span: Span | None = field(default=None, eq=False)


@frozen
class ShiftSpec:
    """A second sharding that takes the steps of at most ``threshold`` tokens, on the KV cache of the plan's own."""

    tensor: ShardingSpec
    threshold: int
    span: Span | None = field(default=None, eq=False)


@frozen
class SpeculateSpec:
    """Tokens guessed ahead, which one decode step verifies together with the one that is due.

    ``acceptance`` has for each guess the chance that it is right where all before it were. ``draft`` is the model that
    guesses, one token after the other, on the ranks of ``sharding``; None where guesses are looked up in what was read
    before. One of the model's ``own`` shares its embedding and head.
    """

    acceptance: tuple[float, ...]
    draft: ModelSpec | None = None
    sharding: ShardingSpec | None = None
    own: bool = False
    span: Span | None = field(default=None, eq=False)

    @property
    def tokens(self) -> int:
        """How many are guessed in a step."""
        return len(self.acceptance)


@frozen
class SplitSpec:
    """A pool of GPUs that computes prompts and one that makes tokens, and how KV cache gets from one to the other.

    ``bandwidth`` is that of each GPU's port, bytes/s one way, and ``latency`` that of a message; both are those of the
    cluster ``between`` whose nodes the pools are, or of a link of their own. ``kv_transfer`` is ``after`` the prefill,
    or ``layerwise`` beside it; None is not stated, and taken as ``after``.
    """

    prefill: PlanSpec
    decode: PlanSpec
    bandwidth: float
    latency: float
    kv_transfer: str | None = None
    between: str = ""
    span: Span | None = field(default=None, eq=False)


class RequireSpec(NamedTuple):
    """``metric op bound``: bound in SI; ``share`` where it was written with ``%``."""

    text: str
    metric: str
    op: str
    bound: float
    dimension: Dimension
    share: bool
    span: Span | None = None


@frozen
class PlanSpec:
    """Everything one estimate needs. With a ``split``, the other fields are those of its decode pool.

    On unlike GPUs each has one of ``calibrations``, by its name, unless the plan itself picks one for all;
    ``calibration`` is that of the first.
    """

    name: str
    model: ModelSpec
    node: NodeSpec
    sharding: ShardingSpec
    workload: WorkloadSpec
    calibration: CalibrationSpec
    requires: tuple[RequireSpec, ...] = ()
    kv_residency: str = "all_batches"
    step_tokens: int = 8192
    memory_fraction: float = 1.0
    hop_tensors: int = 1
    fuse_norms: bool = True
    algorithm: str = "auto"
    engine: EngineSpec | None = None
    measured: tuple[TableSpec, ...] = ()
    cluster: ClusterSpec | None = None
    shift: ShiftSpec | None = None
    overlap: str = "none"
    chunks: int = 1
    micro_batches: int = 1
    speculate: SpeculateSpec | None = None
    split: SplitSpec | None = None
    chunked_prefill: int | None = None
    span: Span | None = field(default=None, eq=False)
    calibrations: tuple[tuple[str, CalibrationSpec], ...] = ()

    @property
    def kinds(self) -> tuple[PlanSpec, ...]:
        """A plan for each kind of GPU that ranks stand on, as if all were of that kind: itself where they are."""
        if not self.node.gpus and (self.cluster is None or not self.cluster.nodes):
            return (self,)
        from plandsl.ir.kinds import kinds

        return kinds(self)

    @property
    def common(self) -> GpuSpec:
        """The GPU; of unlike ones the first, with the peaks of those formats that all of them multiply in."""
        first, *others = (kind.node.gpu for kind in self.kinds)
        if not others:
            return first
        return evolve(first, compute=tuple(p for p in first.compute if all(gpu.peak(p[0]) for gpu in others)))

    @property
    def queries(self) -> int:
        """Tokens of each request in a decode step: the one that is due, and those guessed after it."""
        return 1 if self.speculate is None else 1 + self.speculate.tokens

    @property
    def drafting(self) -> PlanSpec | None:
        """The plan of the model that guesses tokens ahead, where there is one: the same load on the same GPUs."""
        if self.speculate is None or self.speculate.draft is None or self.speculate.sharding is None:
            return None
        draft, sharding = self.speculate.draft, self.speculate.sharding
        return evolve(self, model=draft, sharding=sharding, requires=(), shift=None, speculate=None)

    @property
    def pools(self) -> tuple[PlanSpec, ...]:
        """A plan for each pool of GPUs: itself, or that of prefill and that of decode."""
        return (self,) if self.split is None else (self.split.prefill, self.split.decode)

    @property
    def modes(self) -> tuple[PlanSpec, ...]:
        """A plan for each sharding it holds: itself; with a `shift`, that of large steps and that of the others."""
        if self.split is not None:
            return tuple(mode for pool in self.pools for mode in pool.modes)
        if self.shift is None:
            return (self,)
        return evolve(self, shift=None), evolve(self, shift=None, sharding=self.shift.tensor)

    @property
    def continues(self) -> bool:
        """Whether a prefill step may find tokens of its requests in the cache."""
        return self.workload.reuse > 0 or self.chunked_prefill is not None

    @property
    def gpus(self) -> int:
        """GPUs of the node, or of all nodes of the cluster."""
        return self.node.count * (self.cluster.count if self.cluster else 1)

    @property
    def machine(self) -> str:
        """The node's name, or the cluster's with what it is made of; so with unlike GPUs in a node."""
        if self.cluster is not None:
            return f"{self.cluster.name} ({self.cluster.made_of})"
        return f"{self.node.name} ({self.node.made_of})" if self.node.gpus else self.node.name

    @property
    def runs_on(self) -> EngineSpec:
        """The serving engine: an ideal one where the plan names none."""
        return self.engine or IDEAL

    @property
    def in_flight(self) -> int | None:
        """In-flight batches of one replica where the workload states them; None: as many as stages."""
        return self.workload.in_flight
