"""What a plan occupies: bytes on a GPU, GPUs of a stage, nodes of a cluster, and room for requests."""

from __future__ import annotations

from typing import Any, NamedTuple


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
    """The GPUs of a stage over all replicas, by name and number, and the one with the least memory."""

    gpus: tuple[tuple[str, int], ...]
    smallest: str

    def __str__(self) -> str:
        return ", ".join(f"{count} x {name}" for name, count in self.gpus)

    def as_json(self) -> dict[str, Any]:
        """The fields ``gpus`` and ``smallest`` of a stage of unlike GPUs."""
        return {"gpus": dict(self.gpus), "smallest": self.smallest}


class Used(NamedTuple):
    """A cluster of ``nodes`` nodes called ``node`` with ``gpus`` GPUs each; the plan uses ``used`` of the nodes."""

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

    On average a first token waits ``queue_s`` for room, ``line_s`` for prefills before its own, and ``start_s`` for
    prefills of the crowd that arrives at the start. ``prefill_s`` is its own prefill; the engine adds ``first_s``.
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
    """Tokens of each prompt that are already in the KV cache, in its ``own`` blocks or in blocks ``shared`` by all."""

    tokens: int
    prefix: str

    def as_json(self) -> dict[str, Any]:
        """The ``reuse`` object."""
        return {"tokens": self.tokens, "prefix": self.prefix}
