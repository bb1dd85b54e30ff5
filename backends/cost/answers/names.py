"""Names that people know for the ops of a program: ``qkv``, ``gate_up``, ``down``."""

from __future__ import annotations

from plandsl.ir.collectives import Recv, Send
from plandsl.ir.compute import (
    AddNorm,
    Attention,
    CacheWrite,
    Concat,
    Embed,
    Gemm,
    LastToken,
    Map,
    Norm,
    Quantize,
    Rope,
    Scale,
)
from plandsl.ir.experts import Combine, Dispatch, TopK
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import Region

ELEMENTWISE = (Map, Rope, Concat, Scale, Quantize, CacheWrite, LastToken)


def kind(op: Op) -> str:
    """The word for an op in reports."""
    if isinstance(op, Embed):
        return "embedding"
    if isinstance(op, HeadGemm):
        return "gemm"
    if isinstance(op, LatentAttention):
        return "attention"
    if isinstance(op, Norm | AddNorm):
        return "norm"
    if isinstance(op, ELEMENTWISE) or op.keyword == "slice":
        return "elementwise"
    return op.keyword


def op_names(region: Region) -> list[str]:
    """A name for each op of ``region``, unique among ops of its kind; a collective is named for what it moves.

    Chunks of one op share its name.

    Names of one region do not meet those of another: ``norm`` is the block's, ``head_norm`` the head's.
    """
    place = "" if region.name == "block" else region.name.removeprefix("block.") + "_"
    made: dict[str, str] = {}
    names: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for op in region.ops:
        same = any(d.chunk and d.chunk.part for v in op.results[:1] for d in v.type.dims)
        name = _name(op, made, place)
        if not name.startswith(place.rstrip("_")) and not isinstance(op, Send | Recv):
            name = place + name
        again = seen[kind(op), name] = seen.get((kind(op), name), 0) + (not same)
        names.append(name if again == 1 else f"{name}_{again}")
        made |= dict.fromkeys((v.name for v in op.results), names[-1])
    return names


def _name(op: Op, made: dict[str, str], place: str) -> str:
    if isinstance(op, Gemm):
        bare = [w.name.removeprefix("w_").partition(".")[0] for w in op.weights]  # a rank's part has a number
        return ("" if all(len(n) == 1 for n in bare) else "_").join(bare)
    if isinstance(op, Embed):
        return "embedding"
    if isinstance(op, Norm | AddNorm):
        return op.keyword
    if isinstance(op, LatentAttention):
        return "latent"
    if isinstance(op, Attention | Rope | Concat | Scale | CacheWrite | LastToken):
        return op.keyword
    if isinstance(op, Map) and op.fn != "add":
        return op.fn
    if isinstance(op, Map):
        if op.xs[0].type.partial:
            return "sum"
        return "residual" if op.xs[0].type.names == op.xs[1].type.names else "bias"
    if isinstance(op, TopK | Dispatch | Combine):
        return op.keyword
    source = next((made[x.name] for x in op.operands if x.name in made), op.keyword)
    if isinstance(op, Quantize):
        return f"quantize_{source.removeprefix(place)}"
    return source
