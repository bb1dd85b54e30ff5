"""Latent attention in both phases: prefill unpacks what the cache holds, decode absorbs the weights that would.

``c`` stands for keys ``c w_uk`` and values ``c w_uv``. So ``q (c w_uk)`` is ``(q w_uk) c``, and a mean of values is
``w_uv`` of a mean of ``c``: with one query per request it is cheaper to unpack that than all that was cached
(DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.diagnostics import Span
from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names


class Latent(NamedTuple):
    """The operands of one attention: queries, what the cache holds of this step, and the weights that unpack it."""

    queries: tuple[Value, Value]
    cached: tuple[Value, Value]
    weights: tuple[Value, Value]
    cache: str
    causal: bool
    window: int
    chunk: int | None
    span: Span | None


def latent_attention(x: Latent, name: str, phase: str, stored: str, compute: str, names: Names) -> list[Op]:
    """The ops of one attention, whose cache is ``stored`` in that dtype; the last one makes the result ``name``.

    In prefill    %c, %kr = cache_write ...; %keys, %values = gemm %c, %w_uk, %w_uv; latent_attention of them
    In decode     %absorbed = head_gemm %q, %w_uk; latent_attention of %absorbed and %c; head_gemm with %w_uv
    """
    q, q_rope = x.queries
    w_uk, w_uv = x.weights
    held = (tensor(stored, ("batch", "context", part.type.names[-1])) for part in x.cached)
    c, kr = (Value(names.fresh(wish), t) for wish, t in zip(("latents", "rope_keys"), held, strict=True))
    rank, heads, nope = w_uk.type.names
    kept = (*q.type.names[:-1],)

    def made(wish: str, *dims: str) -> Value:
        return Value(names.fresh(wish), tensor(q.type.dtype, dims))

    ops: list[Op] = [CacheWrite((c, kr), x.cached, x.cache, span=x.span)]
    if phase == PREFILL:
        keys = made("keys", "batch", "context", heads, nope)
        values = made("values", "batch", "context", heads, w_uv.type.names[-1])
        ops += [Gemm((out,), c, (w,), compute, span=x.span) for out, w in ((keys, w_uk), (values, w_uv))]
        out = made(name, *kept, w_uv.type.names[-1])
        ops.append(LatentAttention(out, q, q_rope, keys, kr, values, nope, x.causal, x.window, x.chunk, span=x.span))
        return ops
    absorbed, mean = made("absorbed", *kept, rank), made("mean", *kept, rank)
    out = made(name, *kept, w_uv.type.names[-1])
    return [
        *ops,
        HeadGemm((absorbed,), q, (w_uk,), compute, over=heads, span=x.span),
        LatentAttention(mean, absorbed, q_rope, c, kr, c, nope, x.causal, x.window, x.chunk, span=x.span),
        HeadGemm((out,), mean, (w_uv,), compute, over=heads, span=x.span),
    ]
