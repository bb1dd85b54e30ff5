"""Blocks of KV memory of an engine that keeps states of requests in them: a block is at least as large as a state.

vLLM cuts one pool into blocks of one size for all layers. A layer with a state takes a whole block for each state, and
blocks of attention layers are raised to as many tokens as fill a state, in multiples of the block that attention
kernels work on: `HybridAttentionMambaModelConfig` in vllm/model_executor/models/config.py,

    block = kernel block * ceil(bytes of a state / (kernel block * bytes of a token))

SGLang and TensorRT-LLM keep states in memory of their own.
"""

from __future__ import annotations

from attrs import evolve

from plandsl.ir.compute import CacheWrite
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.states import state_bytes, token_bytes
from plandsl.spec.plan import PlanSpec


def raise_block(plan: PlanSpec, program: Program) -> PlanSpec:
    """``plan`` with the block of its engine raised to a state of ``program``; itself where nothing has to be raised."""
    engine = plan.engine
    if engine is None or engine.kv_block == 1 or not plan.blocks_hold_states:
        return plan
    extents = Extents(program, {"batch": 1, "input": 1, "context": 1, "queries": 1})
    states = [state_bytes(region.ops, extents, plan.queries - 1) for region in program.regions]
    tokens = [token_bytes(op.outs, extents) for r in program.regions for op in r.ops if isinstance(op, CacheWrite)]
    if not any(states) or not tokens:
        return plan
    least = engine.kv_block * -(-max(states) // (engine.kv_block * min(tokens)))
    return evolve(plan, engine=evolve(engine, kv_block=int(least))) if least > engine.kv_block else plan
