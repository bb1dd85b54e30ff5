"""Expert all-to-all: tokens to the ranks of their experts (dispatch), and results back (combine).

A library sends in one of two ways. `packed_traffic`: a few units of the GPU send one copy of a token to each rank that
holds one of its experts (DeepEP's normal kernels). `direct_traffic`: one copy for each expert, and every expert has
units that send to it and wait for it (DeepEP's low-latency kernels). `dispatch_seconds` times both.

Token counts are of one rank. ``copy`` is the bytes of a token as sent: `wire_bytes`.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.forms.collective import HOST_PORT, port_bandwidth
from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import ceil_div, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import DispatchConstants
from plandsl.spec.hardware import LinkSpec

BLEND = 3.0
"""Exponent of `smooth_max` between two limits of one copy loop."""

ROW = 4096
"""Elements that a unit walks through in ``row`` seconds."""

UNITS = 24
"""Units that DeepEP's normal kernels take by default."""

GROUPS = 4
"""Nodes that a token may reach: the routing limit of DeepSeek-V3, which DeepEP's tests keep (top-4 groups)."""


def occupied_places(places: Number, experts: Number, topk: Number) -> Number:
    """How many of ``places`` hold at least one of ``topk`` different experts drawn evenly, on average.

    A place holds ``g = experts / places`` of the ``E`` experts. The chance that all draws miss it is
    ``(E-g)/E * (E-g-1)/(E-1) * ...``, with ``topk`` factors.
    """
    missed: Number = 1.0 + 0.0 * places * experts * topk
    held = experts / places
    draw = 0
    most = int(topk) if isinstance(topk, (int, float)) else int(topk.max())
    while draw < most:
        chance = maximum(experts - held - draw, 0.0) / maximum(experts - draw, 1.0)
        missed = missed * where(draw < topk, chance, 1.0)
        draw += 1
    return places * (1 - missed)


class Traffic(NamedTuple):
    """What one rank sends: copies in all, bytes on the node's links, bytes and messages on its network port."""

    copies: Number
    near: Number
    far: Number
    messages: Number


def packed_traffic(
    tokens: Number, copy: Number, ranks: Number, nodes: Number, experts: Number, topk: Number
) -> Traffic:
    """One copy of a token for each rank that needs it: sent to each node once, then passed on over the node's links."""
    copies = tokens * occupied_places(ranks, experts, topk)
    groups = minimum(nodes, GROUPS)
    reached = tokens * occupied_places(groups, experts * groups / nodes, topk)
    inside = ranks / nodes
    return Traffic(copies, copies * copy * (inside - 1) / inside, reached * copy * (nodes - 1) / nodes, 0.0 * tokens)


def direct_traffic(tokens: Number, copy: Number, ranks: Number, nodes: Number, copies: Number) -> Traffic:
    """``copies`` of each token, distributed evenly over the ranks, each a message of its own."""
    sent = tokens * copies
    far = (nodes - 1) / nodes
    near = (ranks / nodes - 1) / ranks
    return Traffic(sent, sent * copy * near, sent * copy * far, sent * far)


def wire_bytes(hidden: Number, narrow: Number) -> Number:
    """Bytes of a token on the wire: bf16, or fp8 with a 32-bit scale for 128 elements where ``narrow``."""
    return hidden * where(narrow, 1 + 4 / 128, 2.0)


def wire_seconds(c: DispatchConstants, link: LinkSpec, inside: Number, t: Traffic) -> Number:
    """Seconds on the node's links or on a 400 Gb/s host port, whichever is busier.

    The links reach the share ``port`` of their bandwidth, the host port the share ``network``. Every message to another
    node takes ``message`` seconds more.
    """
    near = t.near / (port_bandwidth(link, inside) * c.port)
    far = t.far / (HOST_PORT * c.network) + t.messages * c.message
    return maximum(near, far)


def busy_units(experts: Number, units: int) -> Number:
    """Units that the low-latency kernels keep busy: one for each expert, or fewer where experts share units.

    As num_warp_groups and num_sms in DeepEP's csrc/kernels/internode_ll.cu.
    """
    return experts / ceil_div(experts, units)


def dispatch_seconds(
    c: DispatchConstants,
    link: LinkSpec,
    inside: Number,
    t: Traffic,
    walked: Number,
    copy: Number,
    units: Number,
    waits: Number,
) -> Number:
    """Seconds of a dispatch or combine that ``units`` of the GPU drive.

        walk = walked / ROW * row / units
        sent = copies * (each + copy / (unit GB/s)) / units
        work = max'(walk, sent, wires),    seconds = fixed + waits * expert + work + filling
        filling = work * ramp / (work + ramp)

    ``walked`` elements pass through the units, ROW of them in ``row`` seconds. A copy takes ``each`` to set up, and a
    unit moves ``unit`` GB/s. ``waits`` is the number of experts whose counts are sent and awaited one by one,
    ``expert`` seconds each (low-latency kernels, whose buffers hold all tokens). Where ``waits`` is 0, queues are
    bounded: until they are full, work takes twice as long, ``ramp`` seconds more at most. ``max'`` is a smooth maximum,
    ``inside`` the ranks of a node. Structure as in DeepEP's csrc/kernels: intranode.cu (queues between pairs of units),
    internode_ll.cu.
    """
    walk = walked / ROW * c.row / units
    sent = t.copies * (c.each + copy / (c.unit * 1e9)) / units
    work = smooth_max(smooth_max(walk, sent, BLEND), wire_seconds(c, link, inside, t), BLEND)
    filling = where(waits > 0, 0.0, work * c.ramp / maximum(work + c.ramp, 1e-30))
    return c.fixed + waits * c.expert + work + filling
