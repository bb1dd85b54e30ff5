"""How an engine composes steps when requests come over time: its scheduler, and the limits that its users set."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

SchedulerName: TypeAlias = Literal["vllm", "sglang", "trtllm"]
RouterName: TypeAlias = Literal["round_robin", "least_loaded", "two_choices", "prefix", "adapter"]

SCHEDULERS: tuple[SchedulerName, ...] = ("vllm", "sglang", "trtllm")
"""Schedulers, by the engine that has them."""

ROUTERS: tuple[RouterName, ...] = ("round_robin", "least_loaded", "two_choices", "prefix", "adapter")
"""Ways to choose one of several servers for a request."""


WriteName: TypeAlias = Literal["through", "back"]

WRITES: tuple[WriteName, ...] = ("through", "back")
"""When blocks of KV memory are copied to the next tier: as they fill, or when they are evicted."""


class TierSpec(NamedTuple):
    """A tier of KV memory behind that of the GPUs: bytes and bytes per second of each GPU, and seconds of a load."""

    memory: float
    bandwidth: float
    latency: float = 0.0


class Limit(NamedTuple):
    """What a limit of a scheduler may be; a ``whole`` number has a ``least`` one, a ``word`` is one of ``words``."""

    kind: Literal["flag", "whole", "share", "number", "word"]
    least: int = 0
    words: tuple[str, ...] = ()


def scheduler_name(named: SchedulerName | Literal[""], kernels: str) -> SchedulerName:
    """The scheduler of an engine: the one that it names, else that of the library whose kernels run, else vLLM's."""
    if named == "":
        return next((name for name in SCHEDULERS if name == kernels), SCHEDULERS[0])
    return named


AHEAD = {"ahead": Limit("flag")}

LIMITS: dict[SchedulerName, dict[str, Limit]] = {
    "vllm": {
        "order": Limit("word", words=("fcfs", "priority")),
        "chunked": Limit("flag"),
        "long_prompt": Limit("whole"),
        "adaptive": Limit("flag"),
        "whole_prompt": Limit("flag"),
        "watermark": Limit("share"),
        **AHEAD,
    },
    "sglang": {
        "order": Limit("word", words=("fcfs", "priority", "longest_prefix")),
        "prefill_tokens": Limit("whole", least=1),
        "max_joining": Limit("whole", least=1),
        "conservativeness": Limit("number"),
        "mixed": Limit("flag"),
        **AHEAD,
    },
    "trtllm": {
        "room": Limit("word", words=("no_evict", "max_utilisation", "static_batch")),
        "chunked": Limit("flag"),
        "equal": Limit("flag"),
        **AHEAD,
    },
}
"""Scheduler -> the limits that only it has, by the names of `backends.cost.serving`'s policies."""


def mixes_steps(name: SchedulerName, limits: Mapping[str, object]) -> bool:
    """Whether requests decode in steps that have prompts: a scheduler that knows ``mixed`` does so only if told."""
    return bool(limits.get("mixed", "mixed" not in LIMITS[name]))


GRAPHS = SCHEDULERS
"""Engines whose sizes of captured CUDA graphs are known by name."""


class SchedulerSpec(NamedTuple):
    """The scheduler of an engine.

    ``name`` empty: that of the library whose kernels the engine runs. ``limits`` are those that differ from the
    scheduler's own. ``prefix_cache``: blocks of earlier prompts are found again. ``graphs``: sizes to which steps
    of decodes are padded, as of the engine of that name or as listed; empty: none. ``tiers`` keep blocks that GPUs
    evict, written as ``write`` says; empty: as the engine of the scheduler does.
    """

    name: SchedulerName | Literal[""] = ""
    prefix_cache: bool = True
    graphs: SchedulerName | tuple[int, ...] = ()
    limits: tuple[tuple[str, bool | int | float | str], ...] = ()
    tiers: tuple[TierSpec, ...] = ()
    write: WriteName | Literal[""] = ""


OWN_SCHEDULER = SchedulerSpec()
"""The scheduler of the engine's library, with its own limits."""
