"""Prompts that are partly in the KV cache already: the cached tokens of a prompt, and the shared ones among them."""

from __future__ import annotations

from plandsl.backends.cost.num import minimum
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

ROUNDING = 1e-9
"""Tokens by which a share written in per cent may be off."""


def reused_tokens(plan: PlanSpec, input_: Number) -> Number:
    """Cached tokens of a prompt of ``input_`` tokens.

    Engines find whole blocks, and compute the last token in any case, for its logits. Source: vLLM, "Automatic prefix
    caching" (docs.vllm.ai/en/latest/design/prefix_caching).
    """
    if not plan.workload.reuse:
        return 0
    block = plan.effective_engine.kv_block
    return minimum((plan.workload.reuse * input_ + ROUNDING) // block, (input_ - 1) // block) * block


def shared_tokens(plan: PlanSpec, input_: Number) -> Number:
    """Cached tokens that all requests find in the same blocks."""
    return reused_tokens(plan, input_) if plan.workload.prefix == "shared" else 0
