"""Adapters (LoRA): two small products beside that of a target, and their sum; and a check of what requests name.

Loaded by the first model that has adapters, or load that names some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from attrs import evolve

from plandsl.diagnostics import Diagnostic
from plandsl.ir.adapters import AdapterGemm, show_mix
from plandsl.ir.compute import Gemm, Map
from plandsl.ir.latent import HeadGemm
from plandsl.ir.names import stem
from plandsl.ir.ops import Op
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names
from plandsl.spec.model import ADAPTERS, LORA_RANK, LoraSpec
from plandsl.spec.plan import PlanSpec


def adapt(op: Gemm, lora: LoraSpec, names: Names) -> tuple[list[Op], list[Value]]:
    """``op`` with each request's own ``(x A) B`` added to its result ``x w``, and the matrices A and B.

    A sums over what ``w`` sums over, and B keeps what ``w`` keeps, so each is split as ``w`` is. A target whose inputs
    are split leaves a partial sum in ``x A`` and in ``x w``; they are added before the sum is completed. Inside experts
    A and B have the dimension of experts too.

    Where decode absorbs a weight of the latent cache, what multiplies the queries is ``w`` with its sides exchanged. So
    are A and B: ``(q B) A``, with the heads in B alone.

    Sources: Sheng et al., "S-LoRA: Serving Thousands of Concurrent LoRA Adapters", 2023, section 6; for experts,
    `FusedMoEWithLoRA` in vLLM's lora/layers/fused_moe.py, and the shapes in SGLang's
    lora/triton_ops/per_expert_lora_moe.py; for absorbed weights, SGLang's pull request 25001.
    """
    out, x, w = op.outs[0], op.x, op.weights[0]
    kind = out.type.dtype
    heads = op.over if isinstance(op, HeadGemm) else None
    have = {stem(n) for n in x.type.names}
    apart = [n for n in w.type.names if n in have and n not in x.type.names]  # experts, which are `experts:8` of x
    absorbs = heads is not None and w.type.names[0] not in x.type.names
    inner = [n for n in w.type.names if n in x.type.names and n != heads]
    kept = [n for n in w.type.names if n not in inner and n not in apart]
    if absorbs:  # the matrices are those of the product that unpacks the cache
        inner, kept = [w.type.names[0]], list(w.type.names[1:])
    a = Value(names.fresh(f"{w.name}_a"), tensor(kind, (ADAPTERS, *apart, *inner, LORA_RANK)))
    b = Value(names.fresh(f"{w.name}_b"), tensor(kind, (ADAPTERS, *apart, LORA_RANK, *kept)))
    gone = kept if absorbs else inner
    base = [n for n in x.type.names if n == heads or n not in gone]
    bare = Value(names.fresh(f"{out.name}_bare"), out.type)
    low = Value(names.fresh(f"{out.name}_low"), tensor(kind, (*base, LORA_RANK)))
    wide = Value(names.fresh(f"{out.name}_wide"), out.type)
    product = partial(AdapterGemm, compute=kind, active=lora.active, mix=show_mix(lora.mix))
    first, then = (b, a) if absorbs else (a, b)
    return [
        evolve(op, outs=(bare,)),
        product((low,), x, (first,), over=heads if absorbs else None),
        product((wide,), low, (then,), over=None if absorbs else heads),
        Map(out, (bare, wide), "add"),
    ], [a, b]


def adapt_targets(
    ops: Iterable[Op], weights: Mapping[str, Value], lora: LoraSpec, names: Names
) -> tuple[list[Op], list[Value]]:
    """``ops`` with adapters beside those that multiply by a target, and their matrices; ``weights`` by their names."""
    targets = {weights[name].name for name in lora.targets if name in weights}
    made: list[Op] = []
    matrices: list[Value] = []
    for op in ops:
        if isinstance(op, Gemm) and op.weights[0].name in targets:
            with_sum, added = adapt(op, lora, names)
            made += with_sum
            matrices += added
        else:
            made.append(op)
    return made, matrices


def check_named(plan: PlanSpec) -> Iterator[Diagnostic]:
    """Check that requests name adapters that the model has, and that the plan says how one is loaded (E535)."""
    lora, load = plan.model.lora, plan.workload
    if lora is None:
        why = f"requests of `{load.name}` name adapters, and `{plan.model.name}` has none"
        lora_text = "lora { adapters = 8, rank = 16, targets = all, host_bandwidth = 25 GB/s }"
        hint = f"`model = {plan.model.name} with {{ {lora_text} }}`"
        yield Diagnostic("E535", why, load.span, hint=hint)
    elif lora.host_bandwidth is None:
        why = "requests name adapters, and the plan does not say how fast a GPU loads one"
        hint = "add the bandwidth from host memory to a GPU: `lora { host_bandwidth = 25 GB/s }`"
        yield Diagnostic("E535", why, plan.model.span or load.span, hint=hint)
    else:
        why = "in closed form every adapter that a request names is on its GPU; the simulation loads them"
        yield Diagnostic("N515", why, load.span)
