"""Collectives inside a node and across: a quick way for small messages, a pipelined one for large; the faster counts.

Sizes follow nccl-tests: an all_reduce names the buffer of a rank, an all_gather all of its output, a reduce_scatter
all of its input, an all_to_all the buffer of a rank, a p2p the message.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import maximum, minimum, plain, where
from plandsl.ir.types import Number
from plandsl.spec.constants import CollectiveConstants, NodesConstants
from plandsl.spec.hardware import LinkSpec

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")

EXCHANGES = ("all_to_all", "p2p")
"""Operations that send to each peer directly."""

FULL = 300e9
"""Bytes/s of the NVLink port for which ``half`` holds on a slower PCIe port: fewer channels fill that."""

HOST_PORT = 50e9
"""Bytes/s each way of the port that a GPU has to other nodes, in reference designs: 400 Gb/s."""

BLEND = 2.0
"""How far the time to fill a pipeline and the time to move the bytes add up: as the sides of a right angle."""


class Way(NamedTuple):
    """One way to run a collective: messages that wait for each other, and bytes sent per GPU and byte of payload."""

    steps: Number
    volume: Number


def port(link: LinkSpec, n: Number) -> Number:
    """Bytes/s that one of ``n`` GPUs sends to the others over all its links.

    A ring through a mesh runs ``n - 1`` times at once, over other links each time, as NCCL and RCCL lay their rings.
    A ring or torus lends the links of its dimensions.
    """
    if link.topology == "mesh":
        return link.bandwidth * maximum(n - 1, 1)
    if link.topology in ("ring", "torus"):
        return link.bandwidth * max(1, sum(d > 1 for d in link.dims))
    return link.bandwidth


def ring(op: str, n: Number, own: float = 0.0) -> Way:
    """The pipelined way: a ring, or for all_to_all and p2p a message to each peer.

    - all_reduce (Patarasuk and Yuan 2009): ``2 (n - 1)`` steps, ``2 (n - 1) / n`` of the payload;
    - all_gather, reduce_scatter: half of that;
    - all_to_all: ``n - 1`` messages, ``(n - 1) / n``; p2p: one message, all of it.

    A rank's own n-th is copied too, which costs ``own`` (at most 1) of what sending it would: n = 2 shows it most.
    """
    if op == "p2p":
        return Way(1, 1.0)
    own = min(own, 1.0)
    if op == "all_reduce":
        return Way(2 * (n - 1), (2 * (n - 1) + own) / n)
    return Way(n - 1, (n - 1 + own) / n)


def shots(n: Number) -> tuple[Way, Way]:
    """An all_reduce through peers' memory: one-shot reads ``n - 1`` whole buffers, two-shot scatters and gathers.

    As in the custom kernels of TensorRT-LLM, vLLM and SGLang, and in `links.all_reduce` (one_shot, direct).
    """
    return Way(1, n - 1), Way(2, 2 * (n - 1) / n)


def in_switch(n: Number) -> Way:
    """An all_reduce that the switch adds up (NVLink SHARP).

    A GPU sends its buffer once for the reduction and its n-th of the sum once for the multicast: ``1 + 1/n``
    (Klenk et al. 2020, "An In-Network Architecture for Accelerating Shared-Memory Multiprocessor Collectives").
    """
    return Way(2, 1 + 1 / n)


def collective_seconds(
    c: CollectiveConstants, link: LinkSpec, op: str, n: Number, payload: Number, custom: bool = False
) -> Number:
    """Seconds of ``op`` over ``n`` ranks of one node with ``payload`` bytes; 0 for a single rank.

        seconds = fixed + min(quick ways, bulk way)
        quick way: steps * latency + payload * volume / (P * quick)
        bulk way:  ((steps * step)^2 + ((payload * volume + half) / (P * bulk))^2)^(1/2)

    ``P`` is `port`. The quick way is a `ring` with flags in the data (NCCL's LL and LL128 protocols, see
    src/graph/tuning.cc there for latency and share of bandwidth by protocol), or for ``custom`` all_reduce kernels
    the better of `shots`. The bulk way is a `ring` in chunks that fill a pipeline, ``step`` seconds for each step
    (NCCL's Simple protocol; custom kernels leave large messages to it too). All peers of an all_to_all are served at
    once, in one such step. ``half`` bytes moved reach half of the rate. ``bulk`` and ``quick`` are shares of ``P``.
    On a switch, ``switch`` > 0 is the share that `in_switch` reaches, taken among more than two where it is faster.
    On PCIe it is the share among more than two, whose ring passes the host; custom kernels leave those to the ring
    (vLLM and SGLang: "not supported on more than two PCIe-only GPUs").
    """
    p, pcie = port(link, n), link.topology == "pcie"
    way = ring(op, n, c.own)
    quick = [_quick(c, p, ring(op, n, c.own), payload)]
    if custom and op == "all_reduce":
        one, two = (_quick(c, p, w, payload) for w in shots(n))
        quick = [where(n > 2, quick[0], minimum(one, two))] if pcie else [one, two]
    half = c.half * min(1.0, link.bandwidth / FULL) if pcie else c.half
    share = where(n > 2, c.switch, c.bulk) if pcie and c.switch > 0 else c.bulk
    filled = (1 if op in EXCHANGES else way.steps) * c.step
    moved = (payload * way.volume + half) / (p * share)
    if op == "all_reduce" and link.topology == "switch" and c.switch > 0:
        reduced = (payload * in_switch(n).volume + half) / (p * c.switch)
        moved = where(n > 2, minimum(moved, reduced), moved)
    best = smooth_max(filled, moved, BLEND)
    for time in quick:
        best = minimum(best, time)
    return where(n > 1, c.fixed + best, 0.0)


def _quick(c: CollectiveConstants, p: Number, way: Way, payload: Number) -> Number:
    return way.steps * c.latency + payload * way.volume / (p * c.quick)


def collective_volume(
    c: CollectiveConstants, link: LinkSpec, op: str, n: float, payload: float, custom: bool = False
) -> Number:
    """Bytes that a rank sends for each byte of ``payload``, in the way that `collective_seconds` takes, for numbers.

    What a rank copies to itself is not sent.
    """
    own, shot = ring(op, n, c.own), custom and op == "all_reduce" and not (link.topology == "pcie" and n > 2)
    quick = [(_quick(c, port(link, n), way, payload), way.volume) for way in (shots(n) if shot else ())]
    time, volume = min(quick, default=(math.inf, 0.0))
    if shot and c.fixed + time <= collective_seconds(c, link, op=op, n=n, payload=payload, custom=custom):
        return volume
    switched = op == "all_reduce" and link.topology == "switch" and c.switch > 0 and n > 2
    reduced = (payload * in_switch(n).volume + c.half) / c.switch if switched else math.inf
    around = (payload * own.volume + c.half) / c.bulk
    return in_switch(n).volume if reduced < around else ring(op, n).volume


def _levels(nodes: Number) -> Number:
    """Levels of a binary tree over ``nodes``."""
    if plain(nodes):
        return math.ceil(math.log2(nodes)) if nodes > 1 else 0
    import numpy as np

    return np.ceil(np.log2(np.maximum(nodes, 1)))


def crossing(op: str, n: Number, nodes: Number) -> Way:
    """What passes the network: messages one after the other, and bytes that a node sends per byte of payload.

    Rings through all ranks enter and leave each node once, so that a node sends what a rank of the ring does, over as
    many ports as rings; the small messages of a tree go up and down ``log2(nodes)`` levels. An all_to_all sends from
    each of the ``n / nodes`` ranks to those elsewhere, a p2p one message.
    """
    levels = _levels(nodes)
    if op == "p2p":
        return Way(1, 1.0)
    if op == "all_to_all":
        return Way(1, n / nodes * (nodes - 1) / nodes)
    return Way(levels * (2 if op == "all_reduce" else 1), ring(op, n).volume)


def nodes_seconds(
    c: NodesConstants,
    link: LinkSpec,
    op: str,
    n: Number,
    nodes: Number,
    payload: Number,
    host_port: float = HOST_PORT,
) -> Number:
    """Seconds of ``op`` over ``n`` ranks of several nodes with ``payload`` bytes.

        seconds = fixed + min(quick, bulk)
        quick:   steps * latency + hops * hop + moved / quick
        bulk:    ((steps * step + hops * hop)^2 + (moved + half / rate)^2)^(1/2)
        moved:   max(payload * volume / (P * bulk), payload * crossing / rate)
        rate:    host_port * network * min(ports, rails)

    ``steps`` and ``volume`` are those of a ring inside a node, `crossing` gives hops and bytes between nodes. A node
    has ``rails`` ports to the network for its ranks, each of which reaches ``network`` of a 400 Gb/s one, or of
    ``host_port``; a p2p uses one. What the fabric is nobody says: ``network``, ``rails`` and ``hop`` stand for it.
    """
    inside = n / nodes
    rate = host_port * c.network * minimum(1 if op == "p2p" else inside, c.rails)
    out, steps = crossing(op, n, nodes), ring(op, inside).steps
    moved = maximum(payload * ring(op, n).volume / (port(link, inside) * c.bulk), payload * out.volume / rate)
    hops = out.steps * c.hop
    quick = steps * c.latency + hops + moved / c.quick
    filled = (1 if op in EXCHANGES else steps) * c.step + hops
    bulk = smooth_max(filled, moved + c.half / rate, BLEND)
    return c.fixed + minimum(quick, bulk)
