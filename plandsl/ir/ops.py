"""The closed set of operations: the union of all ops in the other modules."""

from __future__ import annotations

from typing import TypeAlias, get_args

from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.base import BaseOp
from plandsl.ir.chunks import Chunks
from plandsl.ir.collectives import Collective, Layout
from plandsl.ir.compute import CacheWrite, Compute
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.experts import Routing
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import Latent
from plandsl.ir.norms import NormSums
from plandsl.ir.states import Handovers, Recurrence, ShortConv, States
from plandsl.ir.streams import Streams

Op: TypeAlias = (
    Compute
    | NormSums
    | AdapterGemm
    | CacheWrite
    | Earlier
    | Item
    | Latent
    | PickKeys
    | States
    | Handovers
    | Streams
    | Routing
    | Layout
    | Chunks
)

OPS: tuple[type[BaseOp], ...] = get_args(Op)
"""Every op class: the textual form reads them by keyword, and tests check the facts of each."""

COLLECTIVES: tuple[type[Collective], ...] = get_args(Collective)
"""The ops that communication libraries call collectives."""

KEEPS = (CacheWrite, ShortConv, Recurrence)
"""The ops whose results `kept` outlive a step: caches and states of requests."""


def cache_name(op: CacheWrite | States) -> str:
    """What a cache or a state is called in its region."""
    return op.cache if isinstance(op, CacheWrite) else op.state
