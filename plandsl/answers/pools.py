"""The estimate of two pools of GPUs, one for prefill and one for decode, and of the cache sent between them."""

from __future__ import annotations

from typing import Any, NamedTuple

from plandsl.answers.estimate import Estimate


class Sent(NamedTuple):
    """The KV cache that goes from one pool to the other; ``when``: ``after`` the prefill, or ``layerwise``.

    ``between`` is the cluster whose network it takes, empty for a separate link. ``request`` is the bytes of one
    request. Of these, the busiest port of the prefill pool sends ``sent`` bytes, and the busiest port of the decode
    pool receives ``received``. The cache of a batch takes ``time_s``, of which ``exposed_s`` come after its prefill.
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
    """One pool: its node or cluster (``machine``), the estimate of its plan alone, and the requests/s it sustains."""

    machine: str
    estimate: Estimate
    requests_per_s: float

    def as_json(self) -> dict[str, Any]:
        """The ``prefill`` or ``decode`` object."""
        e = self.estimate
        start = {} if e.start is None else {"start": e.start.as_json()}
        return start | {
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
    """Both pools, the transfer between them, and which of the three limits the rate (``limit``).

    ``balance`` decode replicas would take as many requests/s as one prefill replica gives.
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
