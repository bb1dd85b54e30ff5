"""Expert all-to-all: tokens to the ranks of their experts (dispatch), and results back (combine).

Two ways to send, by the mode of the library: `packed`, one copy of a token for each rank that holds one of its experts,
driven by a few units of the GPU (DeepEP's normal kernels); `direct`, one copy for each expert, where every expert has
units that send to it and wait for it (its low-latency kernels). `dispatch_seconds` times either.

Tokens are those of one rank. ``copy`` is the bytes of a token as sent: `wire_bytes`.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.forms.collective import HOST_PORT, port
from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import ceil_div, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import DispatchConstants
from plandsl.spec.hardware import LinkSpec

BLEND = 3.0
"""How far two limits of one copy loop add up."""

ROW = 4096
"""Elements that a unit walks through in ``row`` seconds."""

UNITS = 24
"""Units that DeepEP's normal kernels take where nobody says otherwise."""

GROUPS = 4
"""Nodes that a token may reach: the routing limit of DeepSeek-V3, which DeepEP's tests keep (top-4 groups)."""


def spread(places: Number, experts: Number, topk: Number) -> Number:
    """Places out of ``places`` that hold at least one of ``topk`` different experts drawn evenly.

    A place holds ``g = experts / places`` of them and is missed with the chance to draw all from the others:
    ``(E-g)/E * (E-g-1)/(E-1) * ...``, ``topk`` factors.
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
    """What one rank sends: copies in all, bytes on the links of its node, bytes and messages on its port to others."""

    copies: Number
    near: Number
    far: Number
    messages: Number


def packed(tokens: Number, copy: Number, ranks: Number, nodes: Number, experts: Number, topk: Number) -> Traffic:
    """One copy per rank that wants the token: to each node once, from there over the links of the node."""
    copies = tokens * spread(ranks, experts, topk)
    groups = minimum(nodes, GROUPS)
    reached = tokens * spread(groups, experts * groups / nodes, topk)
    inside = ranks / nodes
    return Traffic(copies, copies * copy * (inside - 1) / inside, reached * copy * (nodes - 1) / nodes, 0.0 * tokens)


def direct(tokens: Number, copy: Number, ranks: Number, nodes: Number, copies: Number) -> Traffic:
    """``copies`` of each token, spread evenly over the ranks, each a message of its own."""
    sent = tokens * copies
    far = (nodes - 1) / nodes
    near = (ranks / nodes - 1) / ranks
    return Traffic(sent, sent * copy * near, sent * copy * far, sent * far)


def wire_bytes(hidden: Number, narrow: Number) -> Number:
    """Bytes of a token on the wire: bf16, or fp8 with a 32-bit scale for 128 elements where ``narrow``."""
    return hidden * where(narrow, 1 + 4 / 128, 2.0)


def wires(c: DispatchConstants, link: LinkSpec, inside: Number, t: Traffic) -> Number:
    """Seconds on the busier of the node's links (``port`` of them) and a 400 Gb/s host port (``network`` of it).

    Every message that leaves takes ``message`` on top.
    """
    near = t.near / (port(link, inside) * c.port)
    far = t.far / (HOST_PORT * c.network) + t.messages * c.message
    return maximum(near, far)


def engines(experts: Number, units: int) -> Number:
    """Units that the low-latency kernels keep busy: each expert has one, or shares it where they outnumber them.

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
    unit moves ``unit`` GB/s. ``waits`` are the experts whose counts are sent and awaited one by one, ``expert``
    seconds each (low latency, whose buffers hold everything). Where they are 0, queues are bounded, and until they
    run full work costs as much again, ``ramp`` seconds at most. ``max'`` is a smooth maximum, ``inside`` the ranks of
    a node. Structure as in DeepEP's csrc/kernels: intranode.cu (queues between pairs of units), internode_ll.cu.
    """
    walk = walked / ROW * c.row / units
    sent = t.copies * (c.each + copy / (c.unit * 1e9)) / units
    work = smooth_max(smooth_max(walk, sent, BLEND), wires(c, link, inside, t), BLEND)
    filling = where(waits > 0, 0.0, work * c.ramp / maximum(work + c.ramp, 1e-30))
    return c.fixed + waits * c.expert + work + filling
