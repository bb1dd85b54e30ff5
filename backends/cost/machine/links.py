"""Collectives in time: algorithms over a group of ranks, each affine in the payload.

Every algorithm takes ``a + b * payload`` seconds. The fastest is a minimum, of numbers or of arrays.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from plandsl.backends.cost.machine.torus import Spread, spread
from plandsl.backends.cost.num import are_numbers, maximum, minimum
from plandsl.ir.types import Number
from plandsl.spec.hardware import LinkSpec


class Algorithm(NamedTuple):
    """One way to run a collective: ``fixed`` seconds and ``per_byte`` seconds for each byte of payload.

    A rank sends ``volume`` bytes over the links for each byte of payload.
    """

    name: str
    fixed: Number
    per_byte: Number
    volume: Number = 1


class Fabric(NamedTuple):
    """The links that a group of ranks uses: ``bandwidth`` in bytes/s one way as achieved, ``latency`` per message.

    ``topology`` says what ``bandwidth`` belongs to: a pair of GPUs (mesh), a GPU's port (switch, pcie), or a
    neighbour (ring, torus). ``stride`` is the distance between members in ranks. ``dims`` are the sizes of a torus, and
    ``wrap`` tells whether its axes close to rings. ``peers`` tells whether a kernel reaches the memory of the other
    GPUs: only then is there a direct or one-shot form.
    """

    topology: str
    bandwidth: float
    latency: float
    stride: int = 1
    dims: tuple[int, ...] = ()
    wrap: bool = True
    peers: bool = True

    def spread(self, n: Number) -> Spread:
        """How ``n`` ranks lie on a torus."""
        return spread(self.dims, self.wrap, n, self.stride)


def fabric(link: LinkSpec, share: float, stride: int = 1) -> Fabric:
    """The links of a node at the ``share`` of their nominal bandwidth that collectives reach."""
    rate = link.bandwidth * share
    found = Fabric(link.topology, rate, link.latency, stride, dims=link.dims, wrap=link.wrap)
    if link.host is None:
        return found
    rate, latency = min(found.bandwidth, link.host.rate), found.latency + link.host.latency
    return found._replace(bandwidth=rate, latency=latency, peers=False)


def _algorithm(name: str, fixed: Number, volume: Number, rate: Number) -> Algorithm:
    """An algorithm that sends ``volume`` bytes for each byte of payload, at ``rate`` bytes/s."""
    return Algorithm(name, fixed, volume / rate, volume)


def _port_bandwidth(f: Fabric, n: Number) -> Number:
    """Bytes/s that one GPU can send to the ``n - 1`` others at once."""
    if f.topology == "mesh":
        return f.bandwidth * maximum(n - 1, 1)
    return _ring_bandwidth(f)


def _log2(n: Number) -> Number:
    if are_numbers(n):
        return math.ceil(math.log2(n)) if n > 1 else 0
    import numpy as np

    return np.ceil(np.log2(n))


def _ring_bandwidth(f: Fabric) -> float:
    """Bytes/s of one ring through the group; on a mesh each hop of the ring is one link.

    On a ring, groups of a stride share the links between them.
    """
    return f.bandwidth / f.stride if f.topology == "ring" else f.bandwidth


def _has_direct(f: Fabric) -> bool:
    """Whether a GPU reaches every other one without passing a third."""
    return f.topology not in ("ring", "torus")


def all_reduce(f: Fabric, n: Number) -> list[Algorithm]:
    """Sum ``V`` bytes that each of ``n`` ranks holds; every rank ends with the sum.

    - ring (Patarasuk and Yuan 2009): ``2 (n - 1) (a + V / n / B)``, B one link;
    - direct, or two-shot: every rank reduces one n-th from all peers, then hands it to all:
      ``2 (a + (n - 1) / n V / P)``, P all links of a GPU towards the group (on a mesh ``2 (a + V / (n B))``);
    - one_shot: every rank sends all of it to all peers: ``a + (n - 1) V / P``, best for small payloads;
    - tree (Sanders, Speck and Traeff 2009): ``2 log2(n) a + 2 V / B``.

    On a torus it is a reduce_scatter and an all_gather, by the rings of all axes at once.
    """
    if f.topology == "torus":
        (half,) = all_gather(f, n)
        return [Algorithm("ring", 2 * half.fixed, 2 * half.per_byte, 2 * half.volume)]
    a, port, ring = f.latency, _port_bandwidth(f, n), _ring_bandwidth(f)
    ways = [_algorithm("ring", 2 * (n - 1) * a, 2 * (n - 1) / n, ring)]
    if _has_direct(f) and f.peers:
        ways += [
            _algorithm("direct", 2 * a, 2 * (n - 1) / n, port),
            _algorithm("one_shot", a, n - 1, port),
        ]
    return ways + ([_algorithm("tree", 2 * _log2(n) * a, 2, ring)] if _has_direct(f) else [])


def all_gather(f: Fabric, n: Number) -> list[Algorithm]:
    """Collect ``V`` bytes in all, ``V / n`` from each rank: half of an all_reduce, in each algorithm.

    On a torus the payload is cut into a part for each axis, and each part goes around all axes, in another order than
    the others, so that no link idles (Jain and Sabharwal, "Optimal bucket algorithms for large MPI collectives on
    torus interconnects", ICS 2010): ``h a + (n - 1) / n V / (l B)``. Of an axis that the group goes all around, l
    counts two links and h half of its members; of a line, one link and all members but one.
    """
    if f.topology == "torus":
        at = f.spread(n)
        return [_algorithm("ring", at.reach * f.latency, (n - 1) / n, f.bandwidth * at.links)]
    a, port, ring = f.latency, _port_bandwidth(f, n), _ring_bandwidth(f)
    ways = [_algorithm("ring", (n - 1) * a, (n - 1) / n, ring)]
    if _has_direct(f) and f.peers:
        ways.append(_algorithm("direct", a, (n - 1) / n, port))
    return ways


reduce_scatter = all_gather
"""Sum ``V`` bytes of input and keep ``V / n``: the bytes of an all_gather move the other way."""


def all_to_all(f: Fabric, n: Number) -> list[Algorithm]:
    """Exchange ``V`` bytes per rank, ``V / n`` with each: direct ``a + (n - 1) / n V / P``.

    Around a ring each link carries ``(n - 1) / 2 V``. On a torus the links of a rank carry what it sends, and those of
    a cut through the middle of an axis what the halves send one another (`torus.Stretch.cut`); the slower counts.
    """
    if f.topology == "torus":
        at = f.spread(n)
        held = maximum((n - 1) / n / at.links, at.cut)
        return [Algorithm("torus", at.reach * f.latency, held / f.bandwidth, at.distance)]
    if _has_direct(f):
        return [_algorithm("direct", f.latency, (n - 1) / n, _port_bandwidth(f, n))]
    return [_algorithm("ring", (n - 1) * f.latency, (n - 1) / 2, _ring_bandwidth(f))]


def send(f: Fabric) -> list[Algorithm]:
    """One message of ``V`` bytes to one peer: ``a + V / B``."""
    return [_algorithm("direct", f.latency, 1, f.bandwidth)]


COLLECTIVES = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
}


def choose(ways: list[Algorithm], forced: str) -> list[Algorithm]:
    """Only the algorithm that the plan asks for, where this collective has it."""
    return [w for w in ways if w.name == forced] or ways


def seconds(ways: Sequence[Algorithm], payload: Number) -> Number:
    """The seconds of the fastest of ``ways`` for ``payload`` bytes."""
    best = ways[0].fixed + ways[0].per_byte * payload
    for way in ways[1:]:
        best = minimum(best, way.fixed + way.per_byte * payload)
    return best


def fastest(ways: Sequence[Algorithm], payload: float) -> Algorithm:
    """The algorithm whose time `seconds` gives."""
    return min(ways, key=lambda w: w.fixed + w.per_byte * payload)
