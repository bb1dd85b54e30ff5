"""What a plan is estimated to do: typed results, in SI units, with the machine form of language.md section 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from attrs import frozen

from plandsl.communication import NO_CALLS, Communication
from plandsl.diagnostics import Diagnostic


@frozen
class OpTime:
    """One op of a phase on the busiest stage: ``count`` runs in one pass, ``time_s`` for all of them.

    ``shape``, ``flops`` and ``bytes`` are of one run on one device; ``layer`` says which layer of the cost
    backend answered (measured, fitted, constant or roofline), ``bound`` what bounds it (compute, memory, link or
    latency). ``gpu`` is the slowest of unlike ones, whose time it is. ``band`` holds measured / predicted for 80 % of
    the kernels that the calibration was judged on, None where it does not say. ``wire`` is the bytes that
    one rank sends over the links in one run of a collective.
    """

    op: str
    name: str
    count: int
    time_s: float
    flops: float
    bytes: float
    bound: str
    layer: str
    shape: tuple[tuple[str, int], ...] = ()
    axis: str = ""
    algorithm: str = ""
    communicates: bool = False
    band: tuple[float, float] | None = None
    nodes: int = 1
    gpu: str = ""
    wire: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The entry of ``ops``."""
        out: dict[str, Any] = {"op": self.op, "name": self.name, "count": self.count}
        if self.communicates:
            out |= {"axis": self.axis, "algorithm": self.algorithm, "bytes": self.bytes}
        else:
            out |= {"shape": dict(self.shape)} if self.shape else {}
            out |= {"flops": self.flops, "bytes": self.bytes}
        out |= {"nodes": self.nodes} if self.nodes > 1 else {}
        out |= {"gpu": self.gpu} if self.gpu else {}
        out |= {"time_s": self.time_s, "bound": self.bound, "layer": self.layer}
        return out | ({"band": list(self.band)} if self.band else {})


class PhaseEstimate(NamedTuple):
    """Where one phase's time goes: compute + communication + bubble + engine + waiting + mixed + draft = time.

    The first three are along the way of one batch. ``communication_s`` is what no compute hides; ``overlapped_s`` ran
    beside compute. ``bubble_s`` is the wait for the slowest stage. ``engine_s`` is what the serving engine adds;
    ``waiting_s`` is a first token's wait for room and for other prefills, ``mixed_s`` what prefills of other requests
    add to a decode step, ``draft_s`` what a model takes that guesses tokens ahead.
    ``idle_share`` is the part of the time that the average GPU does nothing, once all in-flight batches are going.
    ``band`` holds the factors between which 80 % of measurements lie.
    """

    time_s: float
    compute_s: float
    communication_s: float
    overlapped_s: float
    bubble_s: float
    idle_share: float
    mfu: float
    mbu: float
    ops: tuple[OpTime, ...]
    engine_s: float = 0.0
    waiting_s: float = 0.0
    mixed_s: float = 0.0
    draft_s: float = 0.0
    band: tuple[float, float] | None = None

    @property
    def comm_share(self) -> float:
        """Exposed communication as a share of the time."""
        return self.communication_s / self.time_s if self.time_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """The ``prefill`` or ``decode`` object."""
        return {
            "time_s": self.time_s,
            "compute_s": self.compute_s,
            "communication_s": self.communication_s,
            "overlapped_s": self.overlapped_s,
            "bubble_s": self.bubble_s,
            "engine_s": self.engine_s,
            "waiting_s": self.waiting_s,
            "mixed_s": self.mixed_s,
            **({"draft_s": self.draft_s} if self.draft_s else {}),
            "comm_share": self.comm_share,
            "idle_share": self.idle_share,
            "mfu": self.mfu,
            "mbu": self.mbu,
            "ops": [op.as_json() for op in self.ops],
        }


class Memory(NamedTuple):
    """Bytes on one GPU, by part."""

    weights: float
    kv_cache: float
    activations: float
    buffers: float
    capacity: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.kv_cache + self.activations + self.buffers

    def as_json(self) -> dict[str, float]:
        """The ``memory_per_gpu_bytes`` object."""
        return {
            "total": self.total,
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "activations": self.activations,
            "buffers": self.buffers,
            "capacity": self.capacity,
        }


class StageGpus(NamedTuple):
    """How many of which GPUs a stage lies on, over all replicas, and which of them has the least memory."""

    gpus: tuple[tuple[str, int], ...]
    smallest: str

    def __str__(self) -> str:
        return ", ".join(f"{count} x {name}" for name, count in self.gpus)

    def as_json(self) -> dict[str, Any]:
        """What a stage of unlike GPUs has beside its memory."""
        return {"gpus": dict(self.gpus), "smallest": self.smallest}


class Requirement(NamedTuple):
    """A ``require`` and whether it held."""

    text: str
    value: float
    ok: bool


class Load(NamedTuple):
    """An ongoing load on one replica: requests that run and that wait for room, and the parts of TTFT and TPOT.

    A first token waits ``queue_s`` for room, ``line_s`` for prefills before its own and ``start_s`` for those of the
    crowd that came first, on average; ``first_s`` is the engine's share of it.
    """

    concurrency: int
    running: float
    waiting: float
    queue_s: float
    line_s: float
    start_s: float
    prefill_s: float
    first_s: float

    def as_json(self) -> dict[str, Any]:
        """The ``load`` object."""
        return {name: getattr(self, name) for name in LOAD}


class Used(NamedTuple):
    """A cluster of ``nodes`` nodes called ``node`` with ``gpus`` each, of which the plan uses ``used``."""

    name: str
    node: str
    nodes: int
    used: int
    gpus: int

    def as_json(self) -> dict[str, Any]:
        """The ``cluster`` object."""
        out = {"name": self.name, "node": self.node, "nodes": self.nodes}
        return out | {"nodes_used": self.used, "gpus_per_node": self.gpus}


class Reuse(NamedTuple):
    """Tokens of each prompt that are in the KV cache already, in blocks of its ``own`` or ``shared`` by all."""

    tokens: int
    prefix: str

    def as_json(self) -> dict[str, Any]:
        """The ``reuse`` object."""
        return {"tokens": self.tokens, "prefix": self.prefix}


class Mode(NamedTuple):
    """One sharding of two: what the plan would take with it alone."""

    sharding: str
    mesh: tuple[tuple[str, int], ...]
    ttft_s: float
    tpot_s: float

    def as_json(self) -> dict[str, Any]:
        """The ``base`` or ``tensor`` object."""
        return {"sharding": self.sharding, "mesh": dict(self.mesh), "ttft_s": self.ttft_s, "tpot_s": self.tpot_s}


class Shift(NamedTuple):
    """Two shardings on one cache: ``base`` takes steps of more than ``threshold`` tokens, ``tensor`` the others.

    ``prefill`` and ``decode`` name the one that the phase takes. From ``prefill_tokens`` tokens of one request, and
    from ``decode_tokens`` requests in a step, ``base`` is the faster; None where it never is.
    """

    threshold: int
    prefill: str
    decode: str
    base: Mode
    tensor: Mode
    prefill_tokens: int | None
    decode_tokens: int | None

    def as_json(self) -> dict[str, Any]:
        """The ``shift`` object."""
        return {
            "threshold": self.threshold,
            "prefill": self.prefill,
            "decode": self.decode,
            "base": self.base.as_json(),
            "tensor": self.tensor.as_json(),
            "crossover": {"prefill_tokens": self.prefill_tokens, "decode_tokens": self.decode_tokens},
        }


class Speculated(NamedTuple):
    """Tokens guessed ahead by the model ``draft`` (None: looked up), each right with its chance of ``acceptance``.

    A step brings a request ``tokens_per_step`` and takes ``step_s``, of which ``draft_s`` are the draft's; its prefill
    adds ``draft_prefill_s`` to TTFT, its weights ``draft_weights_bytes`` to a GPU. Without guesses TPOT is
    ``plain_tpot_s``, which ``break_even`` as the acceptance of every guess comes to; None: none does.
    """

    draft: str | None
    mesh: tuple[tuple[str, int], ...]
    acceptance: tuple[float, ...]
    tokens_per_step: float
    step_s: float
    draft_s: float
    draft_prefill_s: float
    draft_weights_bytes: float
    plain_tpot_s: float
    break_even: float | None

    @property
    def draft_share(self) -> float:
        """The draft's part of a step's time."""
        return self.draft_s / self.step_s if self.step_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """The ``speculate`` object."""
        return {
            "draft": self.draft,
            "mesh": dict(self.mesh),
            "tokens": len(self.acceptance),
            "acceptance": list(self.acceptance),
            "tokens_per_step": self.tokens_per_step,
            "step_s": self.step_s,
            "draft_s": self.draft_s,
            "draft_share": self.draft_share,
            "draft_prefill_s": self.draft_prefill_s,
            "draft_weights_bytes": self.draft_weights_bytes,
            "plain_tpot_s": self.plain_tpot_s,
            "break_even_acceptance": self.break_even,
        }


class Sent(NamedTuple):
    """KV cache on its way from one pool to the other, ``when``: ``after`` the prefill or ``layerwise``.

    ``between`` is the cluster whose network it takes, empty for a link of its own. ``request`` is the bytes of one
    request, ``sent`` and ``received`` those that the busiest port of either side moves for it; ``time_s`` is that of a
    batch, of which ``exposed_s`` come after its prefill.
    """

    when: str
    between: str
    bandwidth: float
    latency: float
    request: float
    sent: float
    received: float
    time_s: float
    exposed_s: float
    requests_per_s: float

    def as_json(self) -> dict[str, Any]:
        """The ``transfer`` object."""
        return {
            "kv_transfer": self.when,
            "between": self.between or None,
            "bandwidth_bytes_per_s": self.bandwidth,
            "latency_s": self.latency,
            "bytes_per_request": self.request,
            "sent_bytes_per_port": self.sent,
            "received_bytes_per_port": self.received,
            "time_s": self.time_s,
            "exposed_s": self.exposed_s,
            "requests_per_s": self.requests_per_s,
        }


class Pool(NamedTuple):
    """One pool of GPUs: the ``machine`` it is, what its plan comes to by itself, and the requests/s it sustains."""

    machine: str
    estimate: Estimate
    requests_per_s: float

    def as_json(self) -> dict[str, Any]:
        """The ``prefill`` or ``decode`` object."""
        e = self.estimate
        return {
            "machine": self.machine,
            "gpus": e.gpus,
            "replicas": e.replicas,
            "mesh": dict(e.mesh),
            "batch": e.batch,
            "in_flight": e.in_flight,
            "fits": e.fits,
            "memory_per_gpu_bytes": e.memory.as_json(),
            "kv_capacity_tokens": e.kv_capacity_tokens,
            "max_batch": e.max_batch,
            "requests_per_s": self.requests_per_s,
        }


class Pools(NamedTuple):
    """Both pools, what passes between them, and which of the three limits the rate.

    ``balance`` decode replicas would take just what one of prefill gives.
    """

    prefill: Pool
    decode: Pool
    sent: Sent
    limit: str
    balance: float

    def as_json(self) -> dict[str, Any]:
        """The ``pools`` object."""
        return {
            "prefill": self.prefill.as_json(),
            "decode": self.decode.as_json(),
            "transfer": self.sent.as_json(),
            "limited_by": self.limit,
            "decode_replicas_per_prefill_replica": self.balance,
        }


LOAD = ("concurrency", "running", "waiting", "queue_s", "line_s", "start_s", "prefill_s", "first_s")

Band = tuple[float, float]


class Estimate(NamedTuple):
    """Everything that is known about one plan."""

    plan: str
    gpus: int
    replicas: int
    mesh: tuple[tuple[str, int], ...]
    batch: int
    in_flight: int
    ttft_s: float
    tpot_s: float
    latency_s: float
    throughput_tokens_per_s: float
    memory: Memory
    stages: tuple[Memory, ...]
    layers: tuple[tuple[int, int], ...]
    kv_capacity_tokens: int
    max_batch: int
    parameters: int
    kv_bytes_per_token: float
    prefill: PhaseEstimate
    decode: PhaseEstimate
    requires: tuple[Requirement, ...]
    notes: tuple[Diagnostic, ...]
    assumed: tuple[tuple[str, str, str], ...]
    calibration: str
    cost_usd_per_mtok: float | None = None
    engine: str | None = None
    load: Load | None = None
    kv_block: int = 1
    bands: tuple[tuple[str, Band], ...] = ()
    active_parameters: int | None = None
    cluster: Used | None = None
    shift: Shift | None = None
    stage_gpus: tuple[StageGpus, ...] = ()
    speculate: Speculated | None = None
    reuse: Reuse | None = None
    pools: Pools | None = None
    communication: Communication = NO_CALLS

    @property
    def fits(self) -> bool:
        """Whether the fullest GPU of every stage, and of every pool, holds its part."""
        return all(held.total <= held.capacity for held in (*self.stages, self.memory))

    def band(self, metric: str) -> Band | None:
        """Where 80 % of measurements of one of `BANDED` would lie; None where the calibration does not say."""
        return dict(self.bands).get(metric)

    @property
    def throughput_per_gpu_tokens_per_s(self) -> float:
        """Output tokens per second and GPU."""
        return self.throughput_tokens_per_s / self.gpus

    @property
    def ok(self) -> bool:
        """It fits and every requirement held."""
        return self.fits and all(r.ok for r in self.requires)

    def _gpus(self) -> list[dict[str, Any]]:
        return [gpus.as_json() for gpus in self.stage_gpus] or [{} for _ in self.stages]

    def as_json(self) -> dict[str, Any]:
        """One entry of ``plans``."""
        out = {
            "plan": self.plan,
            "fits": self.fits,
            "gpus": self.gpus,
            "replicas": self.replicas,
            "mesh": dict(self.mesh),
            "batch": self.batch,
            "in_flight": self.in_flight,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "latency_s": self.latency_s,
            "throughput_tokens_per_s": self.throughput_tokens_per_s,
            "throughput_per_gpu_tokens_per_s": self.throughput_per_gpu_tokens_per_s,
            "memory_per_gpu_bytes": self.memory.as_json(),
            "stages": [
                {"layers": list(layers), "memory_per_gpu_bytes": m.as_json()} | gpus
                for layers, m, gpus in zip(self.layers, self.stages, self._gpus(), strict=True)
            ],
            "kv_capacity_tokens": self.kv_capacity_tokens,
            "max_batch": self.max_batch,
            "parameters": self.parameters,
            "active_parameters": self.parameters if self.active_parameters is None else self.active_parameters,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "prefill": self.prefill.as_json(),
            "decode": self.decode.as_json(),
            "communication": self.communication.as_json(),
            "requires": [{"text": r.text, "value": r.value, "ok": r.ok} for r in self.requires],
            "notes": [_note(d) for d in self.notes],
            "calibration": self.calibration,
            "assumed": [{"entry": e, "field": f, "value": v} for e, f, v in self.assumed],
        }
        for metric in BANDED:
            found = self.band(metric)
            out[f"{metric}_band"] = None if found is None else list(found)
        if self.engine is not None:
            out |= {"engine": self.engine, "kv_blocks": self.kv_capacity_tokens // self.kv_block}
        if self.cluster is not None:
            out["cluster"] = self.cluster.as_json()
        if self.shift is not None:
            out["shift"] = self.shift.as_json()
        if self.speculate is not None:
            out["speculate"] = self.speculate.as_json()
        if self.pools is not None:
            out["pools"] = self.pools.as_json()
        if self.reuse is not None:
            out["reuse"] = self.reuse.as_json()
        if self.load is not None:
            out["load"] = self.load.as_json()
        if self.cost_usd_per_mtok is not None:
            out["cost_usd_per_mtok"] = self.cost_usd_per_mtok
        return out


BANDED = ("ttft_s", "tpot_s", "latency_s", "throughput_tokens_per_s")
"""Metrics that come with a band."""


def _note(diagnostic: Diagnostic) -> dict[str, Any]:
    out: dict[str, Any] = {"code": diagnostic.code, "message": diagnostic.message}
    if diagnostic.span is not None:
        out |= {"file": diagnostic.span.file, "line": diagnostic.span.line, "column": diagnostic.span.column}
    return out


def alike(a: Estimate, b: Estimate, metric: str) -> bool:
    """Whether each of two estimates lies in the band of the other: they cannot be told apart by this metric."""
    ours, theirs = a.band(metric), b.band(metric)
    if ours is None or theirs is None:
        return False
    x, y = getattr(a, metric), getattr(b, metric)
    return bool(ours[0] <= y <= ours[1] and theirs[0] <= x <= theirs[1])


def comparisons(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Each pair of plans that bands do not tell apart, and by which metrics."""
    out = []
    for i, a in enumerate(estimates):
        for b in estimates[i + 1 :]:
            if same := [m for m in BANDED if alike(a, b, m)]:
                out.append({"plans": [a.plan, b.plan], "within_band": same})
    return out
