"""Building latent attention: prefill unpacks the cache, decode absorbs the unpacking weights into queries and results.

The cached ``c`` stands for keys ``c w_uk`` and values ``c w_uv``. So ``q (c w_uk) = (q w_uk) c``, and
``mean(c w_uv) = mean(c) w_uv``. With one query per request, unpacking the mean is cheaper than unpacking the cache
(DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from plandsl.diagnostics import Span
from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names

if TYPE_CHECKING:
    from plandsl.passes.build import Scores


class Latent(NamedTuple):
    """The operands of one attention: queries, this step's values for the cache, and the unpacking weights."""

    queries: tuple[Value, Value]
    cached: tuple[Value, Value]
    weights: tuple[Value, Value]
    cache: str
    scores: Scores
    among: Value | None
    span: Span | None


def latent_attention(
    x: Latent, name: str, phase: str, stored: str, compute: Callable[[Value], str], names: Names
) -> list[Op]:
    """The ops of one attention, whose cache has dtype ``stored``; the last op makes the result ``name``.

    ``compute`` gives the dtype in which a GEMM with a weight multiplies. Where queries pick their keys, prefill leaves
    the cache packed too: each query reads other keys, so that kernels of sparse attention gather packed ones
    (DeepSeek-AI, "DeepSeek-V3.2", arXiv 2512.02556: DSA is built on the MQA mode of MLA).

    In prefill    %c, %kr = cache_write ...; %keys, %values = gemm %c, %w_uk, %w_uv; latent_attention of them
    In decode,
    among keys    %absorbed = head_gemm %q, %w_uk; latent_attention of %absorbed and %c; head_gemm with %w_uv
    """
    q, q_rope = x.queries
    w_uk, w_uv = x.weights
    held = (tensor(stored, ("batch", "context", part.type.names[-1])) for part in x.cached)
    c, kr = (Value(names.fresh(wish), t) for wish, t in zip(("latents", "rope_keys"), held, strict=True))
    rank, heads, nope = w_uk.type.names
    kept = (*q.type.names[:-1],)

    def make(wish: str, *dims: str) -> Value:
        return Value(names.fresh(wish), tensor(q.type.dtype, dims))

    attention = partial(LatentAttention, scaled=nope, among=x.among, **x.scores, span=x.span)
    ops: list[Op] = [CacheWrite((c, kr), x.cached, x.cache, span=x.span)]
    if phase == PREFILL and x.among is None:
        keys = make("keys", "batch", "context", heads, nope)
        values = make("values", "batch", "context", heads, w_uv.type.names[-1])
        ops += [Gemm((out,), c, (w,), compute(w), span=x.span) for out, w in ((keys, w_uk), (values, w_uv))]
        out = make(name, *kept, w_uv.type.names[-1])
        return [*ops, attention(out=out, q=q, q_rope=q_rope, k=keys, k_rope=kr, v=values)]
    absorbed, mean = make("absorbed", *kept, rank), make("mean", *kept, rank)
    out = make(name, *kept, w_uv.type.names[-1])
    return [
        *ops,
        HeadGemm((absorbed,), q, (w_uk,), compute(w_uk), over=heads, span=x.span),
        attention(out=mean, q=absorbed, q_rope=q_rope, k=c, k_rope=kr, v=c),
        HeadGemm((out,), mean, (w_uv,), compute(w_uv), over=heads, span=x.span),
    ]
