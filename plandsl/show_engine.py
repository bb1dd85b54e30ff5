"""An engine as `.plan` text; `plandsl.show` writes the rest of a plan."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from plandsl.show_words import Section, declaration, percentage, show_flag, show_list, show_number
from plandsl.spec.engine_bands import EngineBands
from plandsl.spec.engine_limits import LIMITED, LimitsSpec
from plandsl.spec.hardware import (
    ENGINE_BANDS,
    ENGINE_BYTES,
    ENGINE_COUNTS,
    ENGINE_RATES,
    ENGINE_SHARES,
    ENGINE_TIMES,
    RANK_TIMES,
    EngineSpec,
)
from plandsl.spec.scheduler import SchedulerSpec, TierSpec


def show_engine(engine: EngineSpec) -> str:
    """An engine as text."""
    section = Section(engine.assumed)
    for name in attrs.fields_dict(EngineSpec):
        value = getattr(engine, name)
        if value is None:
            continue
        if name in (*ENGINE_TIMES, *RANK_TIMES):
            section.put(name, f"{show_number(value)} s")
        elif name in ENGINE_BYTES:
            section.put(name, f"{show_number(value)} B")
        elif name in ENGINE_SHARES:
            section.put(name, percentage(value))
        elif name in ENGINE_COUNTS or name in ENGINE_BANDS or name in ENGINE_RATES or name == "states":
            section.put(name, show_number(value))
        elif name == "limits":
            for path, text in _limits(value):
                section.put(path, text)
        elif name == "bands":
            for path, text in _bands(value):
                section.put(path, text)
        elif name == "fraction_of":
            section.put(name, value)
        elif name == "graphs_in_budget":
            section.put(name, show_flag(value))
        elif name == "fusions":
            section.put(name, show_list(value))
        elif name == "fused_sizes":
            section.put("fused_sizes.ranks", show_list(map(str, value.ranks)))
            for format_, sizes in value.bytes:
                section.put(f"fused_sizes.{format_}", show_list(f"{show_number(size)} B" for size in sizes))
    if engine.kernels:
        section.put("kernels", engine.kernels)
    for name, text in _scheduler(engine.scheduler):
        section.put(name, text)
    return declaration("engine", engine.name, section.lines())


def _limits(limits: LimitsSpec) -> Iterator[tuple[str, str]]:
    """Fields of the limits that an engine chooses."""
    yield f"limits.{limits.of}", show_list(f"{show_number(bound)} B" for bound in limits.bounds)
    for name in LIMITED:
        if limits.values(name):
            yield f"limits.{name}", show_list(map(str, limits.values(name)))
    if limits.small:
        yield "limits.small", show_list(f'"{word}"' for word in limits.small)


def _bands(bands: EngineBands) -> Iterator[tuple[str, str]]:
    """Fields of the bands of an engine."""
    for name, words in (("gpus", bands.gpus), ("models", bands.models)):
        if words:
            yield f"bands.{name}", show_list(f'"{word}"' for word in words)
    for path, factors in bands.factors:
        yield f"bands.{path}", show_list(map(show_number, factors))


def _scheduler(scheduler: SchedulerSpec) -> Iterator[tuple[str, str]]:
    """Fields of an engine that say how it composes steps, where they differ from the default."""
    if scheduler.name:
        yield "scheduler", scheduler.name
    if not scheduler.prefix_cache:
        yield "prefix_cache", "false"
    if scheduler.graphs:
        graphs = scheduler.graphs
        yield "graph_sizes", graphs if isinstance(graphs, str) else show_list(map(str, graphs))
    if scheduler.tiers:
        yield "kv_tiers", show_list(show_list(_tier(tier)) for tier in scheduler.tiers)
    if scheduler.write:
        yield "kv_write", scheduler.write
    for name, value in scheduler.limits:
        yield (
            name,
            value if isinstance(value, str) else show_flag(value) if isinstance(value, bool) else show_number(value),
        )


def _tier(tier: TierSpec) -> Iterator[str]:
    yield f"{show_number(tier.memory)} B"
    yield f"{show_number(tier.bandwidth)} B/s"
    if tier.latency:
        yield f"{show_number(tier.latency)} s"
