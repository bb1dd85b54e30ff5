"""The work of collectives and hops that pass the network between the nodes of a cluster.

Loaded for plans on several nodes. A group along an axis lies on ``m`` nodes with ``k`` ranks in each, ``n = k m``
(`plandsl.ir.nodes.NodeSpan`). Inside a node it uses the node's links; between nodes each GPU has a port of its own.
Payloads ``V`` count as in `machine.links`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from plandsl.backends.cost.forms.collective import (
    EXCHANGES,
    collective_seconds,
    late_nodes,
    least_seconds,
    nodes_seconds,
    ring_way,
)
from plandsl.backends.cost.machine import links
from plandsl.backends.cost.machine.links import COLLECTIVES, Algorithm, Fabric, choose, fabric
from plandsl.backends.cost.machine.machine import Machine
from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.work.exchange import Exchange, Fastest
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import Work
from plandsl.ir.collectives import Ring, Send
from plandsl.ir.names import axes_of
from plandsl.ir.nodes import Boundary, NodeSpan, boundaries, node_span
from plandsl.ir.program import Program
from plandsl.ir.types import Number
from plandsl.spec.constants import CollectiveConstants, NodesConstants
from plandsl.spec.hardware import CLOS, ClusterSpec, LinkSpec, over_network
from plandsl.values import sum_up

Seconds = Callable[[Number], Number]
"""Seconds by the payload in bytes."""

ONE_KERNEL = ("direct", "one_shot")
"""Algorithms in which a kernel reads the memory of all peers: no engine runs one between nodes unless a plan asks."""

OWN_PORTS = 6.0
"""The fitted number of ports of a node of eight GPUs from which each GPU counts as having a port."""


HOP = NodeSpan(1, 2, 1, 2)
"""A message from a rank to another one in the next node."""


class Leg(NamedTuple):
    """One step of a collective: its seconds, and the bytes that a rank sends per byte of payload."""

    seconds: Seconds
    volume: Callable[[float], Number]


class Route(NamedTuple):
    """One way to run a collective: its name, seconds, bytes sent per byte of payload, and its constants if fitted."""

    name: str
    seconds: Seconds
    volume: Callable[[float], Number]
    constants: NodesConstants | None = None


class Crossing(NamedTuple):
    """A collective or hop ``op`` over ``network`` between ranks that lie ``at`` nodes: the fastest of ``routes``."""

    routes: tuple[Route, ...]
    network: LinkSpec
    op: str
    at: NodeSpan

    def seconds(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Seconds for ``payload`` bytes."""
        best = self.routes[0].seconds(payload)
        for route in self.routes[1:]:
            best = minimum(best, route.seconds(payload))
        return best

    def _route(self, payload: float) -> Route:
        return min(self.routes, key=lambda route: float(route.seconds(payload)))

    def fastest(self, ranks: Number, payload: float) -> Fastest:
        """The fastest route."""
        route = self._route(payload)
        return Fastest(route.name, route.volume(payload), route.constants)

    def least(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """A message over the network, and the bytes that pass a GPU's port to it."""
        at = self.at
        together = at.inside if at.even else at.nodes - at.spans + 1  # the most ranks of one node
        return least_seconds(self.network, self.op, at.spans, payload, together)

    @property
    def port(self) -> None:
        """None: bytes take time on the network alone."""

    def span_nodes(self, nodes: int, port: float) -> Crossing:
        """Itself: it is between nodes already."""
        return self


def cross_nodes(made: Work, site: Site, cluster: ClusterSpec) -> Work:
    """``made`` over the network; unchanged where its ranks are in one node."""
    if not isinstance(made, Exchange):
        return made
    mesh, roads = site.program.mesh, Roads(site.machine, cluster)
    if isinstance(made.op, Send):
        far = [hop for hop in boundaries(mesh, site.program.stage_axes, cluster.node.count) if hop.far]
        return made._replace(form=roads.crossing(roads.hop(far), "p2p", HOP), nodes=2) if far else made
    if not made.axis:
        return made
    at = node_span(mesh, made.axis, cluster.node.count)
    if at.nodes == 1:
        return made
    own = made.form.span_nodes(at.nodes, roads.port("all_to_all", at))
    if own is not None:
        return made._replace(form=own, nodes=at.spans)
    if isinstance(made.op, Ring):  # in each step some send to their own node, and the last of a node to the next one
        together = at.inside > 1 or not at.even
        form = roads.crossing(roads.hop([Boundary(True, together, together)]), "p2p", HOP)
    else:
        word = made.op.measured_as
        form = roads.crossing(roads.routes(word, at, mesh.stride(axes_of(made.axis)[-1])), word, at)
    return made._replace(form=form, nodes=at.spans)


def near_boundaries(program: Program, cluster: ClusterSpec | None) -> list[bool]:
    """For each boundary between stages, whether its hop stays inside a node for all ranks."""
    if cluster is None:
        return [True] * (len(program.stages) - 1)
    return [not hop.far for hop in boundaries(program.mesh, program.stage_axes, cluster.node.count)]


class Roads:
    """The links of a machine's nodes and the network between them, with the rates that a calibration gives."""

    def __init__(self, machine: Machine, cluster: ClusterSpec) -> None:
        self.machine, self.cluster, self.network = machine, cluster, over_network(cluster.network)
        self.link: LinkSpec = machine.link
        self.share, self.launch = machine.link_share, machine.launch_collective

    # ---- parts

    def network_fabric(self, op: str, at: NodeSpan) -> Fabric:
        """The network for a group with one rank in each node.

        fat_tree, rail and switch give every port its full bandwidth (Leiserson, "Fat-trees", 1985). A dragonfly does
        so for uniform traffic alone; other traffic takes detours that halve its bandwidth (Valiant routing; Kim, Dally,
        Scott and Abts, "Technology-Driven, Highly-Scalable Dragonfly Topology", ISCA 2008). On a rail network a GPU
        reaches GPUs on other rails through the links of its node first.
        """
        net, bandwidth = self.network, self.network.bandwidth * self.share
        latency = net.latency + (self.link.latency if net.topology == "rail" and not at.even else 0.0)
        peers = self.machine.algorithm in ONE_KERNEL
        if net.topology in CLOS or not at.even:  # a mesh lends an uneven group one link
            detours = net.topology == "dragonfly" and op != "all_to_all"
            return Fabric("switch", bandwidth / 2 if detours else bandwidth, latency, peers=peers)
        return fabric(net, self.share, at.distance)._replace(latency=latency, peers=peers)

    def ways(self, op: str, n: int, at: NodeSpan) -> list[Algorithm]:
        """Algorithms of `links` between ``n`` ranks, each in a node of its own."""
        return choose(COLLECTIVES[op](self.network_fabric(op, at), n), self.machine.algorithm)

    def node_leg(self, op: str, k: int, stride: int) -> Leg:
        """The step between ``k`` ranks of a node: with fitted constants, or by `machine.links`."""
        section = "collective.nccl_exchange" if op in EXCHANGES else "collective.nccl"
        constants = self.machine.calibration.constants(CollectiveConstants, section)
        if constants is not None and self.machine.algorithm == "auto":
            return Leg(partial(collective_seconds, constants, self.link, op, k), _constant(ring_way(op, k).volume))
        return _fastest_leg(choose(COLLECTIVES[op](fabric(self.link, self.share, stride), k), self.machine.algorithm))

    def _fitted_constants(self, op: str, at: NodeSpan) -> NodesConstants | None:
        """Constants of collectives between nodes, for the kinds of network that were measured; None for others.

        The measured share of a port's bandwidth, ``network``, is used where the measured nodes had a port for each GPU,
        as this cluster has. Otherwise the calibration's share of links replaces it, and only the library's own times
        count (launch, steps, hops, protocols).
        """
        if self.machine.algorithm != "auto" or self.network.topology not in CLOS:
            return None
        names = ("nccl_exchange", "torch_exchange", "nccl", "torch") if op in EXCHANGES else ("nccl", "torch")
        for name in names:
            found = self.machine.calibration.constants(NodesConstants, f"collective_nodes.{name}")
            if found is not None:
                network = found.network if found.rails >= OWN_PORTS else self.share
                found = found._replace(rails=float(self.cluster.node.count), network=network)
                return late_nodes(found, self.link, self.network, op, at.inside)
        return None

    def crossing(self, routes: tuple[Route, ...], op: str, at: NodeSpan) -> Crossing:
        """The fastest of ``routes``."""
        return Crossing(routes, self.network, op, at)

    def port(self, op: str, at: NodeSpan) -> float:
        """Nominal bytes/s of a GPU's port; fitted constants have their own share of it."""
        return self.network_fabric(op, at).bandwidth / self.share

    # ---- the whole

    def routes(self, op: str, at: NodeSpan, stride: int) -> tuple[Route, ...]:
        """The ways to run ``op``: fitted, else flat over the network, and by levels where a node has several ranks.

        - all_reduce: reduce_scatter of V inside, all_reduce of V / k between, all_gather of V inside;
        - reduce_scatter: of V inside, then of V / k between; all_gather: of V / k between, then of V inside;
        - all_to_all: V / m inside while V goes between, each to its own ranks; on a rail network V inside first,
          to the GPU whose rail it leaves by.

        Between nodes a rank then sends ``2 (m - 1) / m * V / k``, ``(m - 1) / m * V / k`` and ``(m - 1) / m * V``.
        Sources: Cho, Finkler, Serrano, Kung and Hunter, "BlueConnect", MLSys 2019; Thakur, Rabenseifner and Gropp,
        "Optimization of Collective Communication Operations in MPICH", 2005, for the two halves of an all_reduce.
        """
        k, m = at.inside, at.nodes
        if constants := self._fitted_constants(op, at):
            return (self._fitted_route(constants, op, at, ring_way(op, k * m).volume),)
        flat = at if k == 1 else NodeSpan(1, k * m, 1, m, False)
        if op == "all_to_all":
            return (self._exchange_route(at, stride),)
        ways = self.ways(op, k * m, flat)
        routes = [self._flat_route(way) for way in ways]
        if k > 1 and self.network.topology not in CLOS:
            routes = []  # neighbours of a rank are not those of its node
        if k > 1:
            routes.append(self._levels_route("levels", self._legs(op, at, stride)))
        return tuple(routes)

    def _fitted_route(self, constants: NodesConstants, op: str, at: NodeSpan, volume: Number) -> Route:
        """``op`` by fitted constants."""
        link, port, n = self.link, self.port(op, at), at.inside * at.nodes

        def seconds(payload: Number) -> Number:
            return nodes_seconds(constants, link, op, n=n, nodes=at.nodes, payload=payload, host_port=port)

        return Route("fitted", seconds, _constant(volume), constants)

    def _flat_route(self, way: Algorithm) -> Route:
        """A route of one algorithm between all ranks."""
        return Route(way.name, partial(_affine_seconds, way.fixed + self.launch, way.per_byte), _constant(way.volume))

    def _levels_route(self, name: str, legs: list[tuple[Leg, float]]) -> Route:
        """A route of several steps, one after the other, each with its part of the payload."""
        return Route(name, partial(_level_seconds, legs, self.launch), partial(_sent_bytes, legs))

    def _legs(self, op: str, at: NodeSpan, stride: int) -> list[tuple[Leg, float]]:
        """The steps of ``op`` by levels, each with its part of the payload."""
        k = at.inside
        between = _fastest_leg(self.ways(op, at.nodes, at)), 1 / k
        if op == "all_gather":
            return [between, (self.node_leg(op, k, stride), 1.0)]
        if op == "reduce_scatter":
            return [(self.node_leg(op, k, stride), 1.0), between]
        return [
            (self.node_leg("reduce_scatter", k, stride), 1.0),
            between,
            (self.node_leg("all_gather", k, stride), 1.0),
        ]

    def _exchange_route(self, at: NodeSpan, stride: int) -> Route:
        k, m = at.inside, at.nodes
        far = _fastest_leg(self.ways("all_to_all", m, at))
        if k == 1:
            return self._levels_route("direct", [(far, 1.0)])
        near = self.node_leg("all_to_all", k, stride)
        if self.network.topology == "rail":
            return self._levels_route("rails", [(near, 1.0), (far, 1.0)])
        return Route(
            "split",
            partial(_parallel_seconds, near, 1 / m, far, self.launch),
            partial(_sent_bytes, [(near, 1 / m), (far, 1.0)]),
        )

    def hop(self, far: list[Boundary]) -> tuple[Route, ...]:
        """A message to the next stage in another node; the slowest rank of a boundary counts."""
        constants = self._fitted_constants("p2p", HOP)
        if constants is not None:
            return (self._fitted_route(constants, "p2p", HOP, 1),)
        (way,) = links.send(self.network_fabric("send", HOP))
        (step,) = links.send(fabric(self.link, self.share))
        if self.network.topology == "rail" and any(hop.turns for hop in far):
            way = Algorithm(way.name, way.fixed + step.fixed, way.per_byte + step.per_byte, way.volume + step.volume)
        passing = self._flat_route(way)
        if any(hop.near for hop in far):
            return (
                passing._replace(seconds=partial(_slower_seconds, passing.seconds, self._flat_route(step).seconds)),
            )
        return (passing,)


def _affine_seconds(fixed: float, per_byte: float, payload: Number) -> Number:
    return fixed + per_byte * payload


def _level_seconds(legs: list[tuple[Leg, float]], launch: float, payload: Number) -> Number:
    """Seconds of steps one after the other."""
    total: Number = launch
    for leg, part in legs:
        total = total + leg.seconds(payload * part)
    return total


def _sent_bytes(legs: list[tuple[Leg, float]], payload: float) -> Number:
    """Bytes that a rank sends in all steps."""
    return sum_up(part * leg.volume(payload * part) for leg, part in legs)


def _fastest_leg(ways: list[Algorithm]) -> Leg:
    """The step by the fastest of ``ways``."""
    return Leg(partial(links.seconds, ways), lambda payload: links.fastest(ways, payload).volume)


def _constant(volume: Number) -> Callable[[float], Number]:
    """A function that returns ``volume`` for every payload."""
    return lambda payload: volume


def _parallel_seconds(near: Leg, part: float, far: Leg, launch: float, payload: Number) -> Number:
    """Seconds of both at once: they use different links."""
    return maximum(near.seconds(payload * part), far.seconds(payload)) + launch


def _slower_seconds(a: Seconds, b: Seconds, payload: Number) -> Number:
    return maximum(a(payload), b(payload))
