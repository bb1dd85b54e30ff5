"""The work of latent attention. The first plan whose model has latent attention loads this module.

GEMMs that unpack keys and values in prefill, and absorbed GEMMs in decode, are ops of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.forms.attention import Chip, Heads
from plandsl.backends.cost.forms.mla import KEY, LATENT, LATENT_VALUE, VALUE, mla_decode_seconds, mla_prefill_seconds
from plandsl.backends.cost.num import ceil_div
from plandsl.backends.cost.work.attention import Mixed, Queries, Softmax, fitted_form, picked_keys, reached_rates
from plandsl.backends.cost.work.cached import cache_sources
from plandsl.backends.cost.work.site import Site
from plandsl.ir.compute import CacheWrite
from plandsl.ir.latent import LatentAttention
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Number
from plandsl.spec.constants import MixedConstants, MlaDecodeConstants, MlaPrefillConstants
from plandsl.spec.formats import item_bytes

PADDED_HEADS = 64
"""Kernels of sparse latent attention pad the heads of a rank to a multiple of this.

Source: vllm-project/vllm, v1/attention/backends/mla/flashmla_sparse.py: "FP8 decode kernel only supports h_q = 64 or
128, so we need to pad".
"""

UNPACKED = KEY, VALUE
PACKED = LATENT, LATENT_VALUE


class LatentForm(NamedTuple):
    """Latent attention with fitted constants, timed by `forms.mla`."""

    constants: MlaPrefillConstants | MlaDecodeConstants
    chip: Chip
    heads: Number
    item: float
    cache_item: float

    @property
    def prefill(self) -> bool:
        """Whether the constants are those of prefill."""
        return isinstance(self.constants, MlaPrefillConstants)

    def seconds(self, q: Queries) -> Number:
        """Seconds of ``q``: whole prompts, or one rank's keys in decode."""
        c, chip, heads = self.constants, self.chip, self.heads
        if isinstance(c, MlaPrefillConstants):
            return mla_prefill_seconds(
                c,
                chip,
                heads=heads,
                batch=q.batch,
                position=q.position,
                context=q.context,
                item=self.item,
                cache_item=self.cache_item,
            )
        return mla_decode_seconds(
            c, chip, heads=heads * q.position, batch=q.batch, context=q.own, item=self.item, cache_item=self.cache_item
        )

    def mixed(self, constants: MixedConstants, call: Mixed) -> Number | None:
        """None: prefill unpacks keys and decode does not, so there are two kernels."""
        return None


def latent_attention(op: LatentAttention, site: Site) -> Softmax:
    """``2 (d_qk + d_v)`` FLOPs per head and visible pair of query and key, unpacked or packed.

    A packed key is also the value, and moves once. Heads of DeepSeek's sizes have a fitted form of their own; other
    sizes take the form of attention, with a KV head for each head where keys are unpacked, else with one KV head.
    """
    local = site.extents.local
    batch, position, heads, d_q = op.q.type.dims
    rope, d_v = local(op.k_rope.type.dims[-1]), local(op.v.type.dims[-1])
    d_qk, own = local(d_q) + rope, len(op.k.type.dims) == 4
    per_row = local(heads) * (d_qk * item_bytes(op.q.type.dtype) + d_v * item_bytes(op.out.type.dtype))
    per_key = rope * item_bytes(op.k_rope.type.dtype)
    for x in {op.k, op.v}:
        per_key = per_key + site.extents.product(x.type.dims[2:]) * item_bytes(x.type.dtype)
    flops = 2 * (d_qk + d_v) * _computed_heads(op, site)
    shape = Heads(local(heads), local(heads) if own else 1, (d_qk + d_v) / 2, per_row, per_key)
    form = _latent_form(op, site) or fitted_form(op, site, shape)
    rate, bandwidth, launch = reached_rates(op, site, form)
    made = Softmax(
        op, position, batch,
        flops_per_pair=flops, bytes_per_row=per_row, bytes_per_key=per_key,
        rate=rate, bandwidth=bandwidth, launch=launch, form=form, picks=picked_keys(op, site),
    )  # fmt: skip
    around = site.rings.get(op.k_rope)
    blocks = 1 if around is None else site.extents.mesh[around]
    return made._replace(context=op.k_rope.type.dim("context"), blocks=blocks)


def _computed_heads(op: LatentAttention, site: Site) -> Number:
    """The heads that a kernel computes on a rank, padding included."""
    heads = site.extents.local(op.q.type.dims[2])
    return heads if op.among is None else ceil_div(heads, PADDED_HEADS) * PADDED_HEADS


def fills_cache(op: CacheWrite, site: Site) -> bool:
    """Whether the measured seconds of attention include filling the cache: with fitted constants, in prefill."""
    if site.program.phase != PREFILL:
        return False
    region = next(r for r in site.program.regions if op in r.ops)
    source = cache_sources(region)
    readers = (x for x in region.ops if isinstance(x, LatentAttention))
    return any(source.get(x.k_rope.name, x.k_rope.name) == op.outs[-1].name and _latent_form(x, site) for x in readers)


def _latent_form(op: LatentAttention, site: Site) -> LatentForm | None:
    """The fitted form, where the calibration has one and heads have the measured sizes."""
    m, sizes, phase = site.machine, site.extents.sizes, site.program.phase
    prefill = phase == PREFILL
    width = sizes[op.q.type.names[-1]] + sizes[op.k_rope.type.names[-1]], sizes[op.v.type.names[-1]]
    if m.gpu.units is None or width != (UNPACKED if prefill else PACKED) or op.window or op.chunk or not op.causal:
        return None
    form: type[MlaPrefillConstants] | type[MlaDecodeConstants] = MlaPrefillConstants if prefill else MlaDecodeConstants
    q, cache = op.q.type.dtype, op.k_rope.type.dtype
    stored = cache if cache in ("bf16", "fp16") else "fp8"
    names = [q if stored == q else f"{q}_{stored}", f"bf16_{stored}", q, "bf16"]
    for name in (f"{n}{library}" for n in names for library in m.suffixes):
        if constants := m.calibration.constants(form, f"mla_{phase}.{name}"):
            chip, heads = Chip(m.gpu.units, m.peak(q), m.gpu.bandwidth), _computed_heads(op, site)
            return LatentForm(constants, chip, heads, item_bytes(q), item_bytes(cache))
    return None
