"""What a plan takes up: bytes on a GPU, GPUs of a stage, nodes of a cluster, and the requests of an ongoing load."""

from __future__ import annotations

from typing import Any, NamedTuple


class Memory(NamedTuple):
    """Bytes on one GPU, by part; those of ``adapters`` (LoRA) are among the bytes of ``weights``."""

    weights: float
    kv_cache: float
    activations: float
    buffers: float
    capacity: float
    adapters: float = 0.0

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.kv_cache + self.activations + self.buffers

    def as_json(self) -> dict[str, float]:
        """The ``memory_per_gpu_bytes`` object."""
        return {
            "total": self.total,
            "weights": self.weights,
            **({"adapters": self.adapters} if self.adapters else {}),
            "kv_cache": self.kv_cache,
            "activations": self.activations,
            "buffers": self.buffers,
            "capacity": self.capacity,
        }


class StateUse(NamedTuple):
    """States of requests, which have one size whatever the requests' lengths.

    ``request`` is the bytes of a request's state over all GPUs, ``gpu`` the bytes of all states on the fullest GPU, as
    the engine holds them. A request has ``copies``: for guessed tokens, and for the prefix cache.
    """

    request: float
    gpu: float
    copies: int

    def as_json(self) -> dict[str, Any]:
        """The ``states`` object."""
        return {"bytes_per_request": self.request, "bytes_per_gpu": self.gpu, "copies": self.copies}


class StageGpus(NamedTuple):
    """The GPUs of a stage over all replicas, as pairs of (name, count), and the one with the least memory."""

    gpus: tuple[tuple[str, int], ...]
    smallest: str

    def __str__(self) -> str:
        return ", ".join(f"{count} x {name}" for name, count in self.gpus)

    def as_json(self) -> dict[str, Any]:
        """What an entry of ``stages`` has beside its memory where GPUs are unlike."""
        return {"gpus": dict(self.gpus), "smallest": self.smallest}


class ClusterUse(NamedTuple):
    """The cluster of a plan: ``nodes`` nodes called ``node`` with ``gpus`` GPUs each, of which ``used`` are in use."""

    name: str
    node: str
    nodes: int
    used: int
    gpus: int

    def as_json(self) -> dict[str, Any]:
        """The ``cluster`` object."""
        out = {"name": self.name, "node": self.node, "nodes": self.nodes}
        return out | {"nodes_used": self.used, "gpus_per_node": self.gpus}


class Load(NamedTuple):
    """An ongoing load on one replica: requests that run, requests that wait for room, and the parts of TTFT.

    On average, a first token waits ``queue_s`` for room, ``line_s`` for prefills before its own, and ``start_s`` for
    the prefills of the requests that all start at the beginning. The engine adds ``first_s`` to TTFT.
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
        return self._asdict()


class Reuse(NamedTuple):
    """Tokens of each prompt that are in the KV cache already: each prompt has its ``own``, or they are ``shared``."""

    tokens: int
    prefix: str

    def as_json(self) -> dict[str, Any]:
        """The ``reuse`` object."""
        return {"tokens": self.tokens, "prefix": self.prefix}
