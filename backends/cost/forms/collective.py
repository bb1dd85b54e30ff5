"""The fitted form of collectives, inside a node and across: the faster of a quick way and a pipelined way.

The quick way is for small messages, the pipelined one for large messages.

Sizes follow nccl-tests: an all_reduce names the buffer of a rank, an all_gather all of its output, a reduce_scatter
all of its input, an all_to_all the buffer of a rank, a p2p the message.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import are_numbers, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import CollectiveConstants, NodesConstants
from plandsl.spec.hardware import LinkSpec

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")

EXCHANGES = ("all_to_all", "p2p")
"""Operations that send to each peer directly."""

FULL = 300e9
"""Bytes/s of the NVLink port that ``half`` was fitted to; on a slower PCIe port, or one that a slower way through the
host holds back, it is less, in proportion."""

HOST_PORT = 50e9
"""Bytes/s each way of the port that a GPU has to other nodes, in reference designs: 400 Gb/s."""

BLEND = 2.0
"""Exponent of `smooth_max` between the time to fill a pipeline and the time to move the bytes."""


class Way(NamedTuple):
    """One way to run a collective: messages that wait for each other, and bytes sent per GPU and byte of payload."""

    steps: Number
    volume: Number


def port_bandwidth(link: LinkSpec, n: Number) -> Number:
    """Bytes/s that one of ``n`` GPUs sends to the others over all its links.

    Through a mesh run ``n - 1`` rings at once, each over links of its own, as in NCCL and RCCL. On a ring or a torus a
    GPU has one link for each dimension.
    """
    if link.topology == "mesh":
        return link.bandwidth * maximum(n - 1, 1)
    if link.topology in ("ring", "torus"):
        return link.bandwidth * max(1, sum(d > 1 for d in link.dims))
    return link.bandwidth


def least_seconds(
    link: LinkSpec, op: str, n: Number, payload: Number, inside: Number = 1, volume: Number | None = None
) -> Number:
    """Seconds that no library beats: one message, and the bytes that have to leave a GPU through its port.

    An all_reduce sends ``2 (n - 1) / n`` of its payload, or all of it where a switch may add it up; an all_gather, a
    reduce_scatter and an all_to_all send ``(n - 1) / n``. Where ``inside`` ranks of each of ``n`` nodes share what
    passes ``link``, a network, a rank sends its part. A GPU on a ring or a torus has two neighbours along it.
    ``volume``: the share of its payload that a GPU sends, where it is known that it sends more than that.
    """
    if volume is None:
        volume = 1.0 if op == "p2p" else (n - 1) / n
        if op == "all_reduce":
            volume = minimum(2 * volume, 1.0) if link.topology == "switch" else 2 * volume
    shared = 1 if op in EXCHANGES else inside
    sides = 2 if link.topology in ("ring", "torus") else 1
    return where(n > 1, link.latency + payload * volume / (shared * sides * port_bandwidth(link, n)), 0.0)


def ring_way(op: str, n: Number, own: float = 0.0) -> Way:
    """The pipelined way: a ring, or for all_to_all and p2p a message to each peer.

    - all_reduce (Patarasuk and Yuan 2009): ``2 (n - 1)`` steps, ``2 (n - 1) / n`` of the payload;
    - all_gather, reduce_scatter: half of that;
    - all_to_all: ``n - 1`` messages, ``(n - 1) / n``; p2p: one message, all of it.

    A rank also copies its own n-th, which takes ``own`` (at most 1) times as long as sending it. This matters most for
    n = 2.
    """
    if op == "p2p":
        return Way(1, 1.0)
    own = min(own, 1.0)
    if op == "all_reduce":
        return Way(2 * (n - 1), (2 * (n - 1) + own) / n)
    return Way(n - 1, (n - 1 + own) / n)


def shot_ways(n: Number) -> tuple[Way, Way]:
    """An all_reduce through peers' memory: one-shot reads ``n - 1`` whole buffers, two-shot scatters and gathers.

    As in the custom kernels of TensorRT-LLM, vLLM and SGLang, and in `links.all_reduce` (one_shot, direct).
    """
    return Way(1, n - 1), Way(2, 2 * (n - 1) / n)


def switch_way(n: Number) -> Way:
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

    ``P`` is `port_bandwidth`. The quick way is a `ring_way` with flags in the data (NCCL's protocols LL and LL128; its
    src/graph/tuning.cc has latency and share of bandwidth by protocol), or for ``custom`` all_reduce kernels
    the better of `shot_ways`. The bulk way is a `ring_way` in chunks that fill a pipeline, ``step`` seconds for each
    step (NCCL's protocol Simple; custom kernels use it for large messages too). An all_to_all serves all peers at
    once, in one such step. ``half`` bytes moved reach half of the rate. ``bulk`` and ``quick`` are shares of ``P``.
    On a switch, ``switch`` > 0 is the share of ``P`` that `switch_way` reaches; more than two GPUs take that way where
    it is faster. On PCIe, ``switch`` is the share among more than two GPUs, whose ring passes the host; there custom
    kernels do not run (vLLM and SGLang: "not supported on more than two PCIe-only GPUs"). Through the memory of the
    host they never run, and nothing exceeds the rate of that way.

    Constants are for links of the usual latency; `late_seconds` adds what the latency of ``link`` differs from it, for
    the fewest messages of the operation that wait for one another: an all_reduce may go up and down a tree.
    """
    return collective_course(c, link, op=op, n=n, custom=custom).seconds(payload)


class Stretch(NamedTuple):
    """Seconds of a payload: ``start + payload * volume / rate``."""

    start: Number
    volume: Number
    rate: Number

    def seconds(self, payload: Number) -> Number:
        """Seconds of ``payload`` bytes."""
        return self.start + payload * self.volume / self.rate


class Course(NamedTuple):
    """How long a collective of ``ranks`` takes, by its payload: all of `collective_seconds` that does not depend on it.

    The bulk way moves ``payload * volume + half`` bytes at ``rate``, by the fastest (volume, rate) of ``bulk``.
    """

    ranks: Number
    fixed: float
    quick: tuple[Stretch, ...]
    filled: Number
    half: Number
    bulk: tuple[tuple[Number, Number], ...]

    def seconds(self, payload: Number) -> Number:
        """Seconds of ``payload`` bytes."""
        (volume, rate), *others = self.bulk
        moved = (payload * volume + self.half) / rate
        for volume, rate in others:
            moved = minimum(moved, (payload * volume + self.half) / rate)
        best = smooth_max(self.filled, moved, BLEND)
        for way in self.quick:
            best = minimum(best, way.seconds(payload))
        return where(self.ranks > 1, self.fixed + best, 0.0)


def collective_course(c: CollectiveConstants, link: LinkSpec, op: str, n: Number, custom: bool = False) -> Course:
    """The course of ``op`` over ``n`` ranks of one node, as `collective_seconds` describes it."""
    p, pcie = port_bandwidth(link, n), link.topology == "pcie"
    limit = math.inf if link.host is None else link.host.rate
    way, waits = ring_way(op, n, c.own), _waits(op, n)
    quick = [_quick_way(c, link, minimum(p * c.quick, limit), way=way, waits=waits)]
    if custom and op == "all_reduce" and link.host is None:
        shots = _shots(c, link, n)
        quick = [_either(n > 2, quick[0], shot) for shot in shots] if pcie else shots
    share = where(n > 2, c.switch, c.bulk) if pcie and c.switch > 0 else c.bulk
    half = c.half * minimum(1.0, minimum(p, limit / share) / FULL) if pcie else c.half
    steps = 1 if op in EXCHANGES else way.steps
    filled = steps * c.step + minimum(steps, waits) * (late_seconds(c.step, link) - c.step)
    bulk = [(way.volume, minimum(p * share, limit))]
    if op == "all_reduce" and link.topology == "switch" and c.switch > 0:
        (volume, rate), reduced = bulk[0], switch_way(n).volume
        bulk.append((where(n > 2, reduced, volume), where(n > 2, p * c.switch, rate)))
    return Course(n, fixed=c.fixed, quick=tuple(quick), filled=filled, half=half, bulk=tuple(bulk))


def _either(first: Number, a: Stretch, b: Stretch) -> Stretch:
    """``a`` where ``first`` holds, ``b`` elsewhere."""
    return Stretch(*(where(first, x, y) for x, y in zip(a, b, strict=True)))


def late_seconds(seconds: float, link: LinkSpec) -> float:
    """What a message that takes ``seconds`` over links of the usual latency takes over ``link``.

    It takes longer by as much as the latency exceeds the usual one, and by the way through the host. Below the usual
    latency it is shorter by the difference, but keeps at least its share of the latency that is left.
    """
    more = link.latency - link.usual
    if more < 0:
        seconds = max(seconds + more, seconds * link.latency / link.usual)
    else:
        seconds += more
    return seconds if link.host is None else seconds + link.host.latency


def _waits(op: str, n: Number) -> Number:
    """The fewest messages of ``op`` that wait for one another: those of an all_reduce pass a binary tree twice."""
    steps = ring_way(op, n).steps
    return minimum(steps, 2 * _tree_levels(n)) if op == "all_reduce" else steps


def late_nodes(c: NodesConstants, link: LinkSpec, network: LinkSpec, op: str, inside: int) -> NodesConstants:
    """Constants across nodes with the times of their messages over ``link`` and ``network``."""
    steps, waits = ring_way(op, inside).steps, _waits(op, inside)
    part = waits / steps if inside > 1 else 1.0
    latency, step = (time + part * (late_seconds(time, link) - time) for time in (c.latency, c.step))
    return c._replace(latency=latency, step=step, hop=late_seconds(c.hop, network))


def _quick_way(c: CollectiveConstants, link: LinkSpec, rate: Number, way: Way, waits: Number) -> Stretch:
    late = late_seconds(c.latency, link) - c.latency
    return Stretch(way.steps * c.latency + waits * late, way.volume, rate)


def _shots(c: CollectiveConstants, link: LinkSpec, n: Number) -> list[Stretch]:
    """One shot and two shots."""
    rate = port_bandwidth(link, n) * c.quick
    return [_quick_way(c, link, rate, way=w, waits=w.steps) for w in shot_ways(n)]


def collective_volume(
    c: CollectiveConstants,
    link: LinkSpec,
    op: str,
    n: float,
    payload: float,
    custom: bool = False,
    seconds: float | None = None,
) -> Number:
    """Bytes that a rank sends for each byte of ``payload``, in the way that `collective_seconds` takes.

    Takes numbers, no arrays; ``seconds`` are those of `collective_seconds`, if they are known. What a rank copies to
    itself is not sent.
    """
    own, shot = ring_way(op, n, c.own), custom and op == "all_reduce" and not (link.topology == "pcie" and n > 2)
    shot = shot and link.host is None
    times = [way.seconds(payload) for way in _shots(c, link, n)] if shot else []
    time, volume = min(zip(times, (w.volume for w in shot_ways(n)), strict=False), default=(math.inf, 0.0))
    if shot and seconds is None:
        seconds = collective_seconds(c, link, op=op, n=n, payload=payload, custom=custom)
    if seconds is not None and c.fixed + time <= seconds:
        return volume
    switched = op == "all_reduce" and link.topology == "switch" and c.switch > 0 and n > 2
    reduced = (payload * switch_way(n).volume + c.half) / c.switch if switched else math.inf
    around = (payload * own.volume + c.half) / c.bulk
    return switch_way(n).volume if reduced < around else ring_way(op, n).volume


def _tree_levels(nodes: Number) -> Number:
    """Levels of a binary tree over ``nodes``."""
    if are_numbers(nodes):
        return math.ceil(math.log2(nodes)) if nodes > 1 else 0
    import numpy as np

    return np.ceil(np.log2(np.maximum(nodes, 1)))


def network_way(op: str, n: Number, nodes: Number) -> Way:
    """What passes the network: messages one after the other, and bytes that a node sends per byte of payload.

    A ring through all ranks enters and leaves each node once, so a node sends as much as one rank of the ring, over as
    many ports as there are rings. The small messages of a tree go up and down ``log2(nodes)`` levels. In an all_to_all
    each of the ``n / nodes`` ranks of a node sends to all ranks of other nodes; a p2p is one message.
    """
    levels = _tree_levels(nodes)
    if op == "p2p":
        return Way(1, 1.0)
    if op == "all_to_all":
        return Way(1, n / nodes * (nodes - 1) / nodes)
    return Way(levels * (2 if op == "all_reduce" else 1), ring_way(op, n).volume)


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

    ``steps`` is for a ring inside a node, ``volume`` for a ring of all ranks; `network_way` gives hops and bytes
    between nodes. The ranks of a node share ``rails`` ports to the network, each of which reaches the share ``network``
    of ``host_port`` (400 Gb/s unless given); a p2p uses one port. The measurements do not say what fabric they were
    taken on: ``network``, ``rails`` and ``hop`` describe it.
    """
    inside, port = n / nodes, port_bandwidth(link, n / nodes) * c.bulk
    port = port if link.host is None else minimum(port, link.host.rate)
    rate = host_port * c.network * minimum(1 if op == "p2p" else inside, c.rails)
    out, steps = network_way(op, n, nodes), ring_way(op, inside).steps
    moved = maximum(payload * ring_way(op, n).volume / port, payload * out.volume / rate)
    hops = out.steps * c.hop
    quick = steps * c.latency + hops + moved / c.quick
    filled = (1 if op in EXCHANGES else steps) * c.step + hops
    bulk = smooth_max(filled, moved + c.half / rate, BLEND)
    return c.fixed + minimum(quick, bulk)
