"""Adapters (LoRA): two small products beside that of a target, and their sum; and a check of what requests name.

Loaded by the first model that has adapters, or load that names some.
"""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.diagnostics import Diagnostic
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.compute import Map
from plandsl.ir.ops import Op
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names
from plandsl.spec.model import ADAPTERS, LORA_RANK
from plandsl.spec.plan import PlanSpec


def adapt(out: Value, x: Value, w: Value, names: Names, active: int) -> tuple[list[Op], list[Value]]:
    """The ops that add each request's own ``(x A) B`` to ``out``, which is ``x w``, and the matrices A and B.

    A sums over what ``w`` sums over, and B keeps what ``w`` keeps, so each is split as ``w`` is. A target whose inputs
    are split leaves a partial sum in ``x A`` and in ``x w``; they are added before the sum is completed.

    Source: Sheng et al., "S-LoRA: Serving Thousands of Concurrent LoRA Adapters", 2023, section 6.
    """
    kind = out.type.dtype
    inner = [n for n in w.type.names if n in x.type.names]
    kept = [n for n in w.type.names if n not in inner]
    base = [n for n in x.type.names if n not in inner]
    a = Value(names.fresh(f"{w.name}_a"), tensor(kind, (ADAPTERS, *inner, LORA_RANK)))
    b = Value(names.fresh(f"{w.name}_b"), tensor(kind, (ADAPTERS, LORA_RANK, *kept)))
    low = Value(names.fresh(f"{out.name}_low"), tensor(kind, (*base, LORA_RANK)))
    wide = Value(names.fresh(f"{out.name}_wide"), out.type)
    total = Value(names.fresh(f"{out.name}_adapted"), out.type)
    return [
        AdapterGemm((low,), x, (a,), kind, active=active),
        AdapterGemm((wide,), low, (b,), kind, active=active),
        Map(total, (out, wide), "add"),
    ], [a, b]


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
