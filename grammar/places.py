"""The fields of a plan and of its sections, for who looks for the place of one."""

from __future__ import annotations

from plandsl.grammar.plans import PLAN, POOLS
from plandsl.grammar.sharding import KNOWN, SUGAR
from plandsl.grammar.workloads import PREFIX, STATIC, TRAFFIC

SECTIONS: dict[str, tuple[str, ...]] = {
    "": PLAN,
    "sharding": KNOWN,
    "workload": (*STATIC, "requests", *PREFIX, *TRAFFIC),
    "engine": ("max_requests", "prefix_cache", "graph_sizes", "kv_block", "kv_tiers", "scheduler"),
    "model": ("weights", "activations", "kv_cache", "compute", "max_context"),
}
"""The fields that may stand in the wrong section, by the section of a plan that has them; "" is the plan itself."""

WHOLE = ("plan", "search", *POOLS)
"""Kinds of records that have these sections."""

DEGREES = tuple(SUGAR)
"""The fields of a sharding that multiply to its ranks."""
