"""Prompts of which a part is in the KV cache already: what is left to compute, and what the part takes of memory."""

from __future__ import annotations

from plandsl.backends.cost.num import minimum
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

ROUNDING = 1e-9
"""Of a token: what a share written in per cent may be off by."""


def reused_tokens(plan: PlanSpec, input_: Number) -> Number:
    """Tokens of a prompt of ``input_`` whose keys and values are in the cache.

    Engines find whole blocks, and compute the last token in any case, for its logits. Source: vLLM, "Automatic prefix
    caching" (docs.vllm.ai/en/latest/design/prefix_caching).
    """
    if not plan.workload.reuse:
        return 0
    block = plan.runs_on.kv_block
    return minimum((plan.workload.reuse * input_ + ROUNDING) // block, (input_ - 1) // block) * block


def shared_tokens(plan: PlanSpec, input_: Number) -> Number:
    """Tokens of it that all requests find in the same blocks."""
    return reused_tokens(plan, input_) if plan.workload.prefix == "shared" else 0
