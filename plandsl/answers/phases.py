"""Where the time of a phase goes, op by op: typed results, in SI units, and their JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from attrs import frozen

from plandsl.values import FrozenValue


@frozen(eq=False, repr=False, slots=False)
class OpTime(FrozenValue):
    """One op of a phase on the busiest stage: ``count`` runs in one pass, ``time_s`` for all of them.

    ``shape``, ``flops`` and ``bytes`` are of one run on one device; ``layer`` says which layer of the cost
    backend answered (measured, fitted, constant or roofline), ``bound`` what bounds it (compute, memory, link or
    latency). With unlike GPUs, ``gpu`` names the slowest one, which decides the time. ``band`` holds measured /
    predicted for 80 % of the kernels that the calibration was judged on, None where the calibration has no band.
    ``origin`` says where the constants come from: fitted here, borrowed from another GPU, pooled, generic or measured.
    ``wire`` is the bytes that one rank sends over the links in one run of a collective. An op that is ``fused`` runs in
    the kernel of an op before it, and has the bytes and the time that it adds there.
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
    fused: bool = False
    origin: str = ""

    def as_json(self) -> dict[str, Any]:
        """The entry of ``ops``."""
        out: dict[str, Any] = {"op": self.op, "name": self.name, "count": self.count}
        if self.communicates:
            out |= {"axis": self.axis, "algorithm": self.algorithm, "bytes": self.bytes}
        else:
            out |= {"shape": dict(self.shape)} if self.shape else {}
            out |= {"flops": self.flops, "bytes": self.bytes}
        out |= {"nodes": self.nodes} if self.nodes > 1 else {}
        out |= {"fused": True} if self.fused else {}
        out |= {"gpu": self.gpu} if self.gpu else {}
        out |= {"time_s": self.time_s, "bound": self.bound, "layer": self.layer}
        out |= {"origin": self.origin} if self.origin else {}
        return out | ({"band": list(self.band)} if self.band else {})


class PhaseEstimate(NamedTuple):
    """Where one phase's time goes: compute + communication + bubble + engine + waiting + mixed + draft = time.

    Compute and communication are summed over all stages, on the way of one batch. ``communication_s`` is what no
    compute hides; ``overlapped_s`` ran beside compute and is no part of the sum. ``bubble_s`` is the wait for the
    slowest stage. ``engine_s`` is what the serving engine adds; ``waiting_s`` is a first token's wait for room and for
    other prefills. Prefills of other requests add ``mixed_s`` to a decode step; it is negative where steps mixed with
    prompts are shorter than full decode steps. A draft model takes ``draft_s``, and a tower
    ``tower_s``.
    ``idle_share`` is the share of time in which the average GPU does nothing, with all in-flight batches under way.
    ``mfu`` and ``mbu`` are over all GPUs of a replica; ``ops`` are those of the busiest stage.
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
    tower_s: float = 0.0
    band: tuple[float, float] | None = None

    @property
    def without_band(self) -> tuple[str, ...]:
        """The ops whose errors nobody knows, the longest first."""
        return tuple(op.name for op in sorted(self.ops, key=lambda op: -op.time_s) if op.band is None)

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
            **({"tower_s": self.tower_s} if self.tower_s else {}),
            "comm_share": self.comm_share,
            "idle_share": self.idle_share,
            "mfu": self.mfu,
            "mbu": self.mbu,
            "ops": [op.as_json() for op in self.ops],
        }
