"""A plan: sharding, load and everything else that one estimate needs."""

from __future__ import annotations

from typing import NamedTuple

from attrs import evolve, field, frozen

from plandsl.diagnostics import Span
from plandsl.spec.hardware import IDEAL, CalibrationSpec, ClusterSpec, EngineSpec, GpuSpec, NodeSpec, TableSpec
from plandsl.spec.model import ModelSpec
from plandsl.units import Dimension

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
        if self.split is not None:
            first, then = self.split.prefill.drafting, self.split.decode.drafting
            if first is None or then is None:
                return None
            return evolve(then, split=evolve(self.split, prefill=first, decode=then))
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
