"""The closed set of operations."""

from __future__ import annotations

from typing import TypeAlias

from plandsl.ir.base import BaseOp
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Recv,
    ReduceScatter,
    Rescale,
    Reshard,
    Ring,
    Send,
    Slice,
)
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
from plandsl.ir.experts import Combine, Dispatch, GroupedGemm, TopK
from plandsl.ir.latent import HeadGemm, LatentAttention

Collective: TypeAlias = AllReduce | ReduceScatter | AllGather | AllToAll
Op: TypeAlias = (
    Embed
    | Norm
    | AddNorm
    | Gemm
    | Rope
    | Map
    | Concat
    | Scale
    | Quantize
    | CacheWrite
    | Attention
    | HeadGemm
    | LatentAttention
    | LastToken
    | TopK
    | Dispatch
    | GroupedGemm
    | Combine
    | Reshard
    | AllReduce
    | ReduceScatter
    | AllGather
    | AllToAll
    | Rescale
    | Ring
    | Slice
    | Split
    | Join
    | Send
    | Recv
)

COLLECTIVES = (AllReduce, ReduceScatter, AllGather, AllToAll)
"""Ops that a group of ranks runs together."""

OPS: tuple[type[BaseOp], ...] = (
    Embed,
    Norm,
    AddNorm,
    Gemm,
    Rope,
    Map,
    Concat,
    Scale,
    Quantize,
    CacheWrite,
    Attention,
    HeadGemm,
    LatentAttention,
    LastToken,
    TopK,
    Dispatch,
    GroupedGemm,
    Combine,
    Reshard,
    AllReduce,
    ReduceScatter,
    AllGather,
    AllToAll,
    Rescale,
    Ring,
    Slice,
    Split,
    Join,
    Send,
    Recv,
)
"""Every op class, for the textual form and for tests that ask each one for its rule."""
