"""What a plan's engine starts with: the KV cache that it will hold, beside what fits in theory."""

from __future__ import annotations

from typing import Any, NamedTuple

from plandsl.answers.occupancy import Memory


class Knob(NamedTuple):
    """One setting that is enough by itself: its path and value as for ``--set``, and the KV tokens that come of it."""

    path: str
    value: str
    kv_tokens: int

    def __str__(self) -> str:
        return f"{self.path} = {self.value}"


class Start(NamedTuple):
    """What ``engine`` starts with, whatever the load.

    ``kv_bytes`` of a GPU are cut into blocks, which hold ``kv_tokens`` of one replica as the engine logs them: the
    stage with the fewest counts. ``band`` has the factors of both in which 80 % of starts lie. ``longest`` is the
    longest request that fits, ``asked`` the length of the plan's requests, ``context`` the model's longest (None: not
    stated). ``graphs`` are bytes of CUDA graphs. ``refused``: why the engine does not start, or empty. Its steps
    have at most ``step_tokens`` and ``max_requests``; ``limited`` says which of them it chose for a smaller GPU.

    ``theory`` is what the plan's own load takes of the fullest GPU, without what an engine adds. ``knobs`` are settings
    each of which is enough, where the load or a requirement on memory does not fit.
    """

    engine: str
    kv_bytes: float
    kv_tokens: int
    band: tuple[float, float] | None
    fitted: bool
    longest: int
    asked: int
    context: int | None
    graphs: float
    refused: str
    theory: Memory
    step_tokens: int
    max_requests: int
    limited: str
    knobs: tuple[Knob, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The ``start`` object."""
        return {
            "kv_cache_bytes_per_gpu": self.kv_bytes,
            "kv_tokens": self.kv_tokens,
            "kv_tokens_band": None if self.band is None else [self.kv_tokens * f for f in self.band],
            "fitted": self.fitted,
            "longest_request_tokens": self.longest,
            "graphs_bytes_per_gpu": self.graphs,
            "refused": self.refused or None,
            "step_tokens": self.step_tokens,
            "max_requests": self.max_requests,
            "limited": self.limited or None,
            "theory": self.theory.as_json() | {"fits": self.theory.total <= self.theory.capacity},
            "enough": [{"set": k.path, "value": k.value, "kv_tokens": k.kv_tokens} for k in self.knobs],
        }
