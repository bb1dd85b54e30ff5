"""Strategies for serving engines: the time that they add to steps, their memory, their schedulers and tiers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.spec.fusions import FUSIONS
from plandsl.spec.hardware import EngineSpec
from plandsl.testing.traffic import schedulers

RATES = ("prefill", "decode", "links")
SECONDS = ("step", "step_rank", "step_node", "request", "admit", "first", "first_request")
BYTES = ("reserve", "context", "communicators", "libraries", "all_reduce", "workspace", "states", "logit", "graphs")


@composite
def engines(draw: DrawFn) -> EngineSpec:
    """An engine on the kernels of stand-alone benchmarks. Many of its figures are left as they are by default."""
    names = draw(st.lists(st.sampled_from((*RATES, *SECONDS, *BYTES)), unique=True, max_size=6))
    figures: dict[str, Any] = {name: draw(_figure(name)) for name in names}
    return EngineSpec(
        name="e",
        step_tokens=draw(st.sampled_from((8192, 2048, 512))),
        max_requests=draw(st.sampled_from((1024, 256, 8))),
        kept_output=draw(st.sampled_from((1.0, 0.5))),
        memory_fraction=draw(st.sampled_from((None, 0.9))),
        graph_layer=draw(st.sampled_from((0.0, 1e6))),
        graphs_in_budget=draw(st.booleans()),
        kv_block=draw(st.sampled_from((1, 16, 64))),
        fusions=tuple(name for name in FUSIONS if draw(st.integers(0, 3)) == 0),
        scheduler=draw(schedulers()),
        **figures,
    )


def _figure(name: str) -> SearchStrategy[float]:
    if name in RATES:
        return st.integers(50, 100).map(lambda share: share / 100)
    if name in SECONDS:
        return st.integers(0, 50).map(lambda span: span * (1e-6 if "request" in name or "rank" in name else 1e-4))
    return st.integers(0, 30).map(lambda many: many * (1e8 if name not in ("states", "logit") else 1.0))
