"""Counts of a model: parameters, and bytes of KV cache for each token."""

from __future__ import annotations

import math

from plandsl.ir.names import Places
from plandsl.ir.program import Program
from plandsl.spec.formats import item_bytes
from plandsl.values import kept, sum_up


@kept(128)
def parameters(program: Program) -> int:
    """Parameters of the model: every weight once per layer, tied ones once."""
    whole: dict[tuple[str, str], int] = {}
    sizes = dict(program.sizes)
    for region in program.regions:
        for w in region.weights:
            count = region.repeats
            for dim in w.type.names:
                size = sizes[dim]
                assert isinstance(size, int), "weights have fixed sizes"
                count *= size
            key = ("" if region.layers is None else region.name, w.name)
            whole[key] = count
    return sum_up(whole.values())


@kept(128)
def active_parameters(program: Program) -> int:
    """Parameters that a token uses: all but the weights of experts that it does not choose."""
    idle, sizes = 0, dict(program.sizes)
    for region in program.regions if program.imbalance else ():
        places: dict[str, Places] = {}
        for op in region.ops:
            for name in (n for x in op.operands[:1] for n in x.type.names if isinstance(n, Places)):
                places |= {x.name: name for x in op.operands}
        for w in (w for w in region.weights if w.name in places):
            have, chosen = int(sizes[places[w.name]]), places[w.name].chosen
            each = math.prod(int(sizes[dim]) for dim in w.type.names) // have
            idle += region.repeats * each * (have - chosen)
    return parameters(program) - idle


@kept(128)
def kv_bytes_per_token(program: Program) -> float:
    """Bytes that one token adds to the KV cache of the whole model, all layers."""
    sizes = dict(program.sizes)
    total = 0.0
    for region in program.regions:
        for op in region.ops:
            if op.keyword == "cache_write":
                for out in op.results:
                    count = float(region.repeats)
                    for dim in out.type.names[2:]:
                        size = sizes[dim]
                        assert isinstance(size, int), "cached dimensions have fixed sizes"
                        count *= size
                    total += count * item_bytes(out.type.dtype)
    return total
