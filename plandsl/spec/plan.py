"""A plan: the sharding, the load and everything else that one estimate needs."""

import operator
from collections.abc import Callable
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

from attrs import evolve, field, frozen

from plandsl.diagnostics import Span
from plandsl.spec.engine_bands import Served
from plandsl.spec.hardware import IDEAL, CalibrationSpec, ClusterSpec, EngineSpec, GpuSpec, NodeSpec, TableSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.origins import POOLED, UNMEASURED
from plandsl.spec.scheduler import RouterName
from plandsl.spec.traffic import Distribution, TrafficSpec
from plandsl.units import Dimension
from plandsl.values import FrozenValue, once, sum_up

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
    """The number of ``layers`` of each stage, first to last.

    With ``balanced`` the compiler chooses the numbers, and ``layers`` is empty until then.
    """

    layers: tuple[int, ...] = ()
    balanced: bool = False
    span: Span | None = None


@frozen(eq=False, repr=False, slots=False)
class ShardingSpec(FrozenValue):
    """Mesh axes, major first, and rules in the order of precedence.

    ``context_form`` says how keys that are split by ``context`` reach the queries. ``hop_tensors``: None where the plan
    gives it. Axes in ``placed`` lie inside a node, and are the innermost. Without a ``cut`` stages differ by
    at most one layer.
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
        """Size of an axis; 1 if it is not declared."""
        return next((a.size for a in self.axes if a.name == name), 1)

    @property
    def ranks(self) -> int:
        """The number of ranks: the product of all axes."""
        total = 1
        for axis in self.axes:
            total *= axis.size
        return total

    @property
    def replicas(self) -> int:
        """The number of independent copies of the model."""
        total = 1
        for name in self.replica_axes:
            total *= self.axis(name)
        return total


# ---- load and plan


TARIFFS = ("on_demand", "reserved")
"""How GPUs are paid: by the hour, or for a term that is agreed on beforehand."""


@frozen(eq=False, repr=False, slots=False)
class WorkloadSpec(FrozenValue):
    """A load of requests, each with ``input`` tokens in and ``output`` tokens out.

    Static load: ``batch`` requests in each in-flight batch. Ongoing load: ``concurrency`` requests are always in
    flight, and the next one replaces a finished one, ``requests`` in all (None: no end); ``batch`` has no meaning.
    The share ``reuse`` of the input is in the KV cache before the request arrives. ``prefix`` says whether these tokens
    take memory in each request (``own``) or once for all (``shared``); None: not stated, counted as ``own``.

    ``demand`` is the requests/s of all users, which as many copies of the plan as needed serve; None: not stated.
    With ``chosen`` the compiler chooses the requests in flight of a copy. ``rate`` is what a copy gets of requests/s
    where the load is steady and stands for requests over time; no plan states it.

    With ``encodes`` nothing comes out of a request: a prompt is a text that an encoder reads. ``output`` is then 1, for
    the step that reads it.

    A prompt has ``images`` on average, of ``image_tokens`` prompt tokens each, which ``input`` counts. Where
    ``drawn_images`` says how many each prompt has, a prompt has no more than fit in it, and ``images`` is their mean.

    With ``traffic`` requests arrive over time, and ``input`` and ``output`` are the rounded means of their lengths (1
    where a file has the lengths).
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
    traffic: TrafficSpec | None = None
    demand: float | None = None
    chosen: bool = False
    rate: float | None = None
    encodes: bool = False
    images: float = 0.0
    image_tokens: int = 0
    drawn_images: "Distribution | None" = None
    span: Span | None = field(default=None, eq=False)

    @property
    def counted(self) -> int:
        """Tokens of a request that throughput, cost and energy count: of an encoder the input, else the output."""
        return self.input if self.encodes else self.output

    @property
    def over_time(self) -> bool:
        """Whether requests arrive over time, rather than as one batch that starts together."""
        return self.traffic is not None or self.concurrency is not None


@frozen(eq=False, repr=False, slots=False)
class ShiftSpec(FrozenValue):
    """``tensor``, a second sharding for steps of at most ``threshold`` tokens, on the KV cache of the first one."""

    tensor: ShardingSpec
    threshold: int
    span: Span | None = field(default=None, eq=False)


@frozen(eq=False, repr=False, slots=False)
class SpeculateSpec(FrozenValue):
    """Speculative decoding: a decode step verifies guessed tokens together with the next token.

    ``acceptance[i]`` is the probability that guess i is right, provided that all guesses before it were right.
    ``draft`` is the model that guesses, one token after another, on the ranks of ``sharding``; None if guesses are
    looked up in earlier tokens. ``own``: the draft is the model's `mtp`, which shares its embedding and head.
    """

    acceptance: tuple[float, ...]
    draft: ModelSpec | None = None
    sharding: ShardingSpec | None = None
    own: bool = False
    span: Span | None = field(default=None, eq=False)

    @property
    def tokens(self) -> int:
        """The number of guesses in a step."""
        return len(self.acceptance)


@frozen(eq=False, repr=False, slots=False)
class SplitSpec(FrozenValue):
    """Two pools of GPUs, one for prefill and one for decode, and the transfer of the KV cache between them.

    ``bandwidth`` is per GPU port in bytes/s, one way; ``latency`` is per message in seconds. They belong to the network
    of the cluster ``between`` that holds both pools, or (``between`` empty) to a separate link. ``kv_transfer``:
    ``after`` the prefill, or ``layerwise`` during it; None: not stated, counted as ``after``.
    """

    prefill: "PlanSpec"
    decode: "PlanSpec"
    bandwidth: float
    latency: float
    kv_transfer: str | None = None
    between: str = ""
    span: Span | None = field(default=None, eq=False)


TIMES = ("ttft", "tpot", "latency")
"""The metrics that are times of a request."""


OF_OUTPUT = ("tpot", "kv_capacity", "cost_output")
"""Metrics that an encoder's plan does not have: no token comes out."""


COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
"""The comparisons of the language, on numbers and arrays."""


ADAPTED = 69 / 35
"""The most by which adapters were seen to slow a server down; bands of engines grow by it where a model has some.

Source: predibase/lorax, issue 333: Mistral 7B on an L40S with one adapter of rank 16, 35 tok/s for 69.
"""


class RequireSpec(NamedTuple):
    """``metric op bound``: ``bound`` in SI units; ``share`` if it was written with ``%``.

    With a ``percentile`` the requirement is about this percentile of the metric over requests: 99 for ``p99(ttft)``.
    """

    text: str
    metric: str
    op: str
    bound: float
    dimension: Dimension
    share: bool
    span: Span | None = None
    percentile: float | None = None

    def holds(self, value: Any) -> Any:
        """Whether ``value``, a number or an array of them in SI units, meets the bound."""
        return COMPARE[self.op](value, self.bound)

    @property
    def over_requests(self) -> bool:
        """Whether only requests over time can meet it: a percentile, or goodput."""
        return self.percentile is not None or self.metric == "goodput"

    @property
    def caps(self) -> bool:
        """Whether it forbids large values."""
        return self.op in ("<", "<=")

    @property
    def caps_time(self) -> bool:
        """Whether it is an upper bound on a time of requests."""
        return self.caps and self.metric in TIMES


@frozen(eq=False, repr=False, slots=False)
class PlanSpec(FrozenValue):
    """Everything that one estimate needs. With a ``split``, the other fields belong to the decode pool.

    With unlike GPUs, ``calibrations`` gives the calibration of each GPU by name, unless the plan names one for all;
    ``calibration`` is the calibration of the first GPU. ``router`` shares requests over time between replicas.
    ``pricing`` is the tariff by which GPUs are paid, one of `TARIFFS`. ``tower`` is the sharding of the model's tower.
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
    tower: ShardingSpec | None = None
    split: SplitSpec | None = None
    chunked_prefill: int | None = None
    router: RouterName = "round_robin"
    pricing: str = TARIFFS[0]
    span: Span | None = field(default=None, eq=False)
    calibrations: tuple[tuple[str, CalibrationSpec], ...] = ()

    @once
    def unloaded(self) -> "PlanSpec":
        """The plan under a load without lengths: plans that differ in its numbers alone have the same schedules.

        It is one object for equal plans, so that what is made of it can be kept by its identity.
        """
        own = self.workload
        load = WorkloadSpec("", 1, 1, 1, in_flight=own.in_flight, reuse=float(own.reuse > 0), encodes=own.encodes)
        return _only(
            evolve(self, name="", workload=load, requires=(), pricing=TARIFFS[0], router="round_robin", span=None)
        )

    @property
    def kinds(self) -> "tuple[PlanSpec, ...]":
        """One plan for each kind of GPU, as if all GPUs were of that kind; the plan itself if all are of one kind."""
        if not self.node.gpus and (self.cluster is None or not self.cluster.nodes):
            return (self,)
        from plandsl.ir.kinds import kinds

        return kinds(self)

    @property
    def common_gpu(self) -> GpuSpec:
        """The GPU; with unlike GPUs the first one, with only the peaks of formats that all of them list."""
        first, *others = (kind.node.gpu for kind in self.kinds)
        if not others:
            return first
        return evolve(first, compute=tuple(p for p in first.compute if all(gpu.peak(p[0]) for gpu in others)))

    @property
    def queries(self) -> int:
        """Tokens of each request in a decode step: the next token, and the guesses after it."""
        return 1 if self.speculate is None else 1 + self.speculate.tokens

    def cut_prompt(self, step: int | None) -> tuple[int, ...]:
        """Where prompts are cut into parts: behind their reused tokens, then every ``step`` tokens, if it is given."""
        load = self.workload
        before = min(max(int(load.reuse * load.input), 1), load.input - 1) if load.reuse else 0
        return tuple(cut for cut in range(before, load.input, step or load.input) if cut)

    @property
    def draft_plan(self) -> "PlanSpec | None":
        """The plan of the draft model, with the same load on the same GPUs; None without a draft model."""
        if self.split is not None:
            first, then = self.split.prefill.draft_plan, self.split.decode.draft_plan
            if first is None or then is None:
                return None
            return evolve(then, split=evolve(self.split, prefill=first, decode=then))
        if self.speculate is None or self.speculate.draft is None or self.speculate.sharding is None:
            return None
        draft, sharding = self.speculate.draft, self.speculate.sharding
        return evolve(self, model=draft, sharding=sharding, requires=(), shift=None, speculate=None, tower=None)

    @property
    def tower_plan(self) -> "PlanSpec | None":
        """The plan of the tower: an encoder whose requests are the images of a batch; None without a tower.

        A step of it holds the patches of the images of a step of the model.
        """
        if self.split is not None:
            return self.split.prefill.tower_plan
        model, load = self.model.tower, self.workload
        if model is None or self.tower is None:
            return None
        images = WorkloadSpec(
            load.name,
            input=max(load.image_tokens, 1) * model.merged,
            output=1,
            batch=max(ceil(load.images * load.batch), 1),
            encodes=True,
            span=load.span,
        )
        return evolve(
            self,
            model=model,
            sharding=self.tower,
            workload=images,
            requires=(),
            kv_residency="all_batches",
            step_tokens=self.step_tokens * model.merged,
            shift=None,
            micro_batches=1,
            speculate=None,
            tower=None,
            chunked_prefill=None,
        )

    @property
    def pools(self) -> "tuple[PlanSpec, ...]":
        """The plans of the prefill pool and the decode pool; the plan itself if it has no pools."""
        return (self,) if self.split is None else (self.split.prefill, self.split.decode)

    @property
    def modes(self) -> "tuple[PlanSpec, ...]":
        """One plan for each sharding: with a `shift`, the plan of large steps and the plan of small steps."""
        if self.split is not None:
            return tuple(mode for pool in self.pools for mode in pool.modes)
        if self.shift is None:
            return (self,)
        return evolve(self, shift=None), evolve(self, shift=None, sharding=self.shift.tensor)

    @property
    def has_cached_prompts(self) -> bool:
        """Whether tokens of a request may be in the cache before a prefill step of the request."""
        return self.workload.reuse > 0 or self.chunked_prefill is not None

    @property
    def gpus(self) -> int:
        """The number of GPUs of the node, or of all nodes of the cluster."""
        return self.node.count * (self.cluster.count if self.cluster else 1)

    @property
    def ranks(self) -> int:
        """The number of GPUs that the plan uses, in both of its pools."""
        return sum_up(pool.sharding.ranks for pool in self.pools)

    @property
    def machine(self) -> str:
        """The name of the node or the cluster; the name of a cluster, or of a node with unlike GPUs, has its parts."""
        if self.cluster is not None:
            return f"{self.cluster.name} ({self.cluster.composition})"
        return f"{self.node.name} ({self.node.composition})" if self.node.gpus else self.node.name

    @property
    def step_ranks(self) -> tuple[int, int]:
        """The ranks that compute a step together, and the number of nodes that they take."""
        ranks = self.sharding.ranks // self.sharding.replicas
        return ranks, -(-ranks // self.node.count)

    @property
    def full_step(self) -> int:
        """Tokens of the largest step that memory has to hold: an engine's are bounded by chunks of prompts too."""
        chunk = None if self.engine is None else self.chunked_prefill
        return self.step_tokens if chunk is None else min(self.step_tokens, chunk)

    @once
    def effective_engine(self) -> EngineSpec:
        """The serving engine, with the time of a step on the plan's ranks; `IDEAL` if the plan names none."""
        return (self.engine or IDEAL).on_ranks(*self.step_ranks)

    @property
    def blocks_hold_states(self) -> bool:
        """Whether the engine keeps the states of requests in the blocks of its KV cache."""
        return self.engine is not None and self.effective_engine.scheduler_name == "vllm"

    @property
    def rank_seconds(self) -> float:
        """Seconds that the engine adds to a step since it has several ranks; part of the `effective_engine`."""
        return (self.engine or IDEAL).rank_seconds(*self.step_ranks)

    def engine_band(self, metric: str, jittered: bool | None = None) -> tuple[float, float] | None:
        """The engine's band for ``ttft``, ``tpot`` or ``throughput`` of what this plan serves, or None.

        ``jittered``: requests differ in length; None: as those of a load over time do. On chips whose kernels nobody
        measured it is as wide as the band of their round figures, at least.
        """
        found = self.effective_engine.band(metric, self.served(jittered))
        if found is None or metric == "kv":
            return found
        low, high = found
        if self.calibration.name == UNMEASURED:
            own = self.calibration.get("low", 1.0), self.calibration.get("high", 1.0)
            own = (1 / own[1], 1 / own[0]) if metric == "throughput" else own
            low, high = min(low, own[0]), max(high, own[1])
        if self.model.lora is None:
            return low, high
        return (low / ADAPTED, high) if metric == "throughput" else (low, high * ADAPTED)

    @property
    def engine_origin(self) -> str:
        """Where the engine's constants come from (`plandsl/spec/origins.py`); empty where it does not say."""
        engine = self.effective_engine
        if engine.bands is None:
            return ""
        return POOLED if "step" in dict(engine.assumed) else engine.bands.origin(self.served())

    def served(self, jittered: bool | None = None) -> Served:
        """What the bands of the engine depend on."""
        gpus = tuple(dict.fromkeys((kind.node.gpu.name, *kind.node.gpu.bases) for kind in self.kinds))
        differs = self.workload.traffic is not None if jittered is None else jittered
        return Served(gpus, self.model.name, experts=self.model.routed, jittered=differs, nodes=self.step_ranks[1])

    @property
    def in_flight(self) -> int | None:
        """The number of in-flight batches of one replica; None: as many as there are stages."""
        return self.workload.in_flight


@lru_cache(256)
def _only(plan: PlanSpec) -> PlanSpec:
    """One object for equal plans."""
    return plan
