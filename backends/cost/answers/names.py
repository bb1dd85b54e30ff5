"""Short names for the ops of a program: ``qkv``, ``gate_up``, ``down``."""

from __future__ import annotations

from plandsl.ir.collectives import Recv, Send
from plandsl.ir.compute import Gemm, Quantize
from plandsl.ir.ops import Op
from plandsl.ir.program import Region
from plandsl.values import kept


@kept(512)
def op_names(region: Region) -> tuple[str, ...]:
    """A name for each op of ``region``, unique among ops of its kind; a collective has its tensor's name.

    Chunks of one op share its name. Names differ between regions: ``norm`` is the block's, ``head_norm`` the head's.
    """
    place = f"{region.name.own}_" if region.name.own else ""
    made: dict[str, str] = {}
    names: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for op in region.ops:
        same = any(d.chunk and d.chunk.part for v in op.results[:1] for d in v.type.dims)
        name = _name(op, made, place)
        if not name.startswith(place.rstrip("_")) and not isinstance(op, Send | Recv):
            name = place + name
        again = seen[op.facts.word, name] = seen.get((op.facts.word, name), 0) + (not same)
        names.append(name if again == 1 else f"{name}_{again}")
        made |= dict.fromkeys((v.name for v in op.results), names[-1])
    return tuple(names)


def _name(op: Op, made: dict[str, str], place: str) -> str:
    if isinstance(op, Gemm):
        bare = [w.name.removeprefix("w_").partition(".")[0] for w in op.weights]  # a rank's part has a number
        return ("" if all(len(n) == 1 for n in bare) else "_").join(bare)
    if op.title and not isinstance(op, Quantize):
        return op.title
    source = next((made[x.name] for x in op.operands if x.name in made), op.keyword)
    return f"quantize_{source.removeprefix(place)}" if isinstance(op, Quantize) else source
