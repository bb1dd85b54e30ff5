"""Accelerators, nodes and clusters: from records to specs."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.measured import read_paths, read_tables
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import PRICES, Layer, Record
from plandsl.grammar.schema import Reader, unknown_format
from plandsl.grammar.values import span_of, whole
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import (
    HOST_PATH,
    LANE_RATES,
    LANES,
    ClusterSpec,
    GpuSpec,
    LinkSpec,
    NodeSpec,
)
from plandsl.spec.power import LEAST_LIMIT
from plandsl.units import BYTE_RATE, BYTES, FLOP_RATE, MONEY_RATE, NUMBER, POWER, TIME
from plandsl.values import sum_up

GPU = (
    "memory",
    "memory_total",
    "bandwidth",
    "units",
    "compute",
    "calibration",
    "power",
    "p2p",
    "power_max",
    "power_idle",
    *PRICES,
    "source",
    "measured",
)
NODE = (
    "gpu", "gpus", "count", "link", "network", "host_memory", *PRICES, "overhead", "pue", "source", "measured",
)  # fmt: skip
CLUSTER = ("node", "nodes", "count", "network", "source", "measured")
LINK = ("topology", "bandwidth", "pcie", "lanes", "latency", "bridge", "p2p", "wrap")
NETWORK = ("topology", "bandwidth", "latency", "wrap")
PAIRED = ("pcie", "ring", "mesh")
"""Topologies beside whose links bridges may join pairs of GPUs."""
PCIE_WORDS = {
    "pcie": "is the generation of PCIe ports",
    "lanes": "counts the lanes of PCIe ports",
    "p2p": "says whether GPUs reach one another over PCIe",
}
"""Fields of a link that only the topology `pcie` has, and what they say."""
MOST_PUE = 5.0
TOPOLOGIES = ("mesh", "switch", "pcie", "ring", "torus")
NETWORKS = ("fat_tree", "rail", "dragonfly", "switch", "mesh", "ring", "torus")


# ---- gpu


def gpu_spec(context: Context, record: Record) -> GpuSpec | None:
    """An accelerator."""
    reader = Reader(context, record, GPU)
    memory = reader.number("memory", BYTES, "memory = 256 GB")
    memory_total = _memory_total(reader, memory)
    bandwidth = reader.number("bandwidth", BYTE_RATE, "bandwidth = 6 TB/s")
    units = reader.whole("units", most=limits.MAX_COUNT)
    compute = _peaks(reader)
    power, power_max = _power(reader)
    idle = _idle(reader, power_max or power)
    prices = read_prices(reader)
    p2p = reader.word("p2p", ("on", "off")) != "off"
    source = reader.source()
    measured = read_tables(reader)
    calibration = calibration_name(reader)
    if not reader.ok or memory is None or bandwidth is None:
        return None
    return GpuSpec(
        record.name,
        memory=memory,
        bandwidth=bandwidth,
        compute=compute,
        memory_total=memory_total,
        calibration=calibration,
        power=power,
        power_max=power_max,
        power_idle=idle,
        price=prices.price,
        price_reserved=prices.reserved,
        price_source=prices.source,
        units=units,
        source=source,
        assumed=tuple(a for a in reader.assumed_fields() if a[0] != "memory_total" or memory_total is not None),
        measured=measured,
        bases=record.bases,
        p2p=p2p,
        span=record.span,
    )


def _memory_total(reader: Reader, memory: float | None) -> float | None:
    """What the driver reports; None where ``memory`` was changed later than that was stated."""
    total = reader.number("memory_total", BYTES)
    if memory is None or total is None or reader.times("memory") > reader.times("memory_total"):
        return None
    if total < memory:
        why = "`memory_total` must be at least `memory`: a program sees no more than the driver reports"
        reader.fail(Wrong("E244", why, span_of(reader.record.fields["memory_total"][-1])))
    return total


def _power(reader: Reader) -> tuple[float | None, float | None]:
    """What the GPU may draw, and the power of its board if that is more: `power_max`, or the first `power` stated."""
    limit, board = reader.number("power", POWER), reader.number("power_max", POWER)
    layers = reader.record.fields.get("power", ())
    if board is None and layers:
        board = reader.attempt(lambda: float(reader.quantity(layers[0], POWER).value))
    if limit is None or board is None or limit == board:
        return limit or board, None
    if limit > board:
        why = f"`power` is {limit:g} W, but the board draws at most {board:g} W"
        hint, at = "state the power of another board as `power_max`", layers[-1]
        if stated := reader.layer("power_max"):
            hint, at = f"a limit of this board is `power = {board:g} W` or less", stated
        reader.fail(Wrong("E244", why, span_of(at), hint=hint))
    elif limit < LEAST_LIMIT * board:
        why = f"a limit of {limit:g} W is too low for a board of {board:g} W"
        reader.fail(Wrong("E244", why, span_of(layers[-1]), hint=f"drivers take {LEAST_LIMIT * board:g} W at least"))
    return limit, board


def _idle(reader: Reader, board: float | None) -> float | None:
    """What the GPU draws without work: less than its board."""
    idle = reader.number("power_idle", POWER)
    if idle is not None and board is not None and idle >= board:
        why = f"`power_idle` is {idle:g} W, but the board draws at most {board:g} W"
        reader.fail(Wrong("E244", why, span_of(reader.record.fields["power_idle"][-1]), hint="`power_idle = 70 W`"))
    return idle


class Prices(NamedTuple):
    """The prices of a GPU or a node, in USD/s, and where they come from."""

    price: float | None
    reserved: float | None
    source: str


def read_prices(reader: Reader) -> Prices:
    """`price`, `price_reserved` and `price_source`.

    A price that is stated anew leaves out the other two, unless they are stated anew as well: they belong to the offer
    of the entry that it was made from.
    """
    price, reserved = (reader.number(name, MONEY_RATE, zero=True) for name in PRICES[:2])
    source = reader.text("price_source") or ""
    stated = {name: reader.times(name) for name in PRICES}
    if stated["price"] > stated["price_reserved"]:
        reserved = None
    if max(stated["price"], stated["price_reserved"]) > stated["price_source"]:
        source = ""
    return Prices(price, reserved, source)


def _peaks(reader: Reader) -> tuple[tuple[str, float], ...]:
    section = reader.section("compute", "compute { bf16 = 1307 TFLOP/s }")
    if section is None:
        return ()
    peaks = Reader(reader.context, section, None)
    out = []
    for dtype, layers in section.fields.items():
        if dtype not in BITS:
            peaks.fail(unknown_format(reader.context.library, layers[-1].name))
        elif peak := peaks.number(dtype, FLOP_RATE):
            out.append((dtype, peak))
    if not section.fields:
        peaks.report_missing("bf16", "bf16 = 1307 TFLOP/s")
    reader.ok &= peaks.ok
    return tuple(out)


def calibration_name(reader: Reader) -> str | None:
    """The name of the calibration that a gpu or plan picks."""
    record = reader.declaration("calibration")
    return record.name if record else None


# ---- node and cluster


def node_spec(context: Context, record: Record) -> NodeSpec | None:
    """A node with GPUs of one kind (`gpu`, `count`) or of several kinds (`gpus`)."""
    reader = Reader(context, record, NODE)
    groups = _unlike_gpus(reader) if "gpus" in record.fields else _like_gpus(reader)
    count = sum_up(many for many, _ in groups) or None
    gpu = groups[0][1] if groups else None
    source = reader.source()
    read_paths(reader)
    link = _node_link(reader, groups, count)
    prices, overhead, pue = read_prices(reader), reader.number("overhead", POWER, zero=True), _pue(reader)
    host_memory, network = reader.number("host_memory", BYTES), None
    if "network" in record.fields and (section := reader.section("network")):
        network = _network(reader, section)
    if not reader.ok or gpu is None or count is None or link is None:
        return None
    gpus = groups if any(other != gpu for _, other in groups) else ()
    return NodeSpec(
        record.name,
        gpu,
        count,
        link,
        source=source,
        assumed=tuple(a for a in reader.assumed_fields() if not a[0].startswith("network.")),
        span=record.span,
        gpus=gpus,
        price=prices.price,
        price_reserved=prices.reserved,
        price_source=prices.source,
        overhead=overhead,
        pue=pue,
        network=network,
        host_memory=host_memory,
    )


def _pue(reader: Reader) -> float:
    """The power of the building over the power of its machines; 1 where the plan does not say."""
    pue = reader.number("pue", NUMBER)
    if pue is not None and not 1 <= pue <= MOST_PUE:
        why = f"`pue` is the power of the building over the power of its machines, from 1 to {MOST_PUE:g}"
        reader.fail(Wrong("E244", why, span_of(reader.record.fields["pue"][-1]), hint="`pue = 1.2`"))
    return pue or 1.0


def _like_gpus(reader: Reader) -> tuple[tuple[int, GpuSpec], ...]:
    """`gpu` and `count` as one group (how many, of which kind)."""
    inner = reader.declaration("gpu", "gpu = mi325x")
    gpu = gpu_spec(reader.context, inner) if inner else None
    count = reader.whole("count", "count = 8", most=limits.MAX_COUNT)
    reader.ok &= gpu is not None
    return ((count, gpu),) if gpu and count else ()


def _unlike_gpus(reader: Reader) -> tuple[tuple[int, GpuSpec], ...]:
    """`gpus` as groups (how many, of which kind), in the order of ranks."""
    from plandsl.grammar.unlike import members

    found = [(many, reader.context.make(gpu_spec, record)) for many, record in members(reader, "gpu")]
    groups = [(many, gpu) for many, gpu in found if gpu]
    if not reader.ok or len(groups) < len(found):
        reader.ok = False
        return ()
    if sum_up(many for many, _ in groups) > limits.MAX_COUNT:
        total = sum_up(many for many, _ in groups)
        why = f"a node has at most {limits.MAX_COUNT:,} GPUs, found {total:,}"
        hint = limits.MAX_COUNT.hint("make a `cluster` of nodes", total)
        reader.fail(Wrong("E214", why, span_of(reader.record.fields["gpus"][-1]), hint=hint))
    return tuple(groups)


def _node_link(reader: Reader, groups: tuple[tuple[int, GpuSpec], ...], count: int | None) -> LinkSpec | None:
    gpu = groups[0][1] if groups else None
    if count == 1 and "link" not in reader.record.fields:
        # never used: a single GPU communicates with no other
        return LinkSpec("switch", gpu.bandwidth if gpu else 1.0, 0.0)
    example = "link { topology = mesh, bandwidth = 64 GB/s, latency = 2 us }"
    section = reader.section("link", example)
    return _link(reader, section, count, all(gpu.p2p for _, gpu in groups)) if section else None


def _link(outer: Reader, section: Record, count: int | None, p2p: bool) -> LinkSpec | None:
    """A `link` section of a node whose GPUs reach one another over PCIe if ``p2p``, unless the section says."""
    reader = Reader(outer.context, section, LINK)
    topology, dims = _topology(reader, TOPOLOGIES, count)
    ports = {"pcie", "lanes"} & section.fields.keys()
    bandwidth = _pcie_bandwidth(reader, topology == "pcie") if ports else _bandwidth(reader)
    latency = reader.number("latency", TIME, "latency = 2 us", zero=True)
    bridge, stated = reader.number("bridge", BYTE_RATE), reader.word("p2p", ("on", "off"))
    wrap = _wrap(reader, topology)
    if (layer := reader.layer("bridge")) and topology not in (None, *PAIRED):
        beside = ", ".join(f"`{t}`" for t in PAIRED)
        why = f"`bridge` joins pairs of GPUs beside {beside}, but the topology is `{topology}`"
        reader.fail(Wrong("E250", why, span_of(layer), hint="`topology = pcie`, or leave out `bridge`"))
    for name, what in PCIE_WORDS.items():
        if (layer := reader.layer(name)) and topology not in (None, "pcie"):
            why = f"`{name}` {what}, but the topology is `{topology}`"
            reader.fail(Wrong("E250", why, span_of(layer), hint=f"`topology = pcie`, or leave out `{name}`"))
    outer.ok &= reader.ok
    if not reader.ok or topology is None or bandwidth is None or latency is None:
        return None
    peers = topology != "pcie" or (p2p if stated is None else stated == "on")
    host = None if peers else HOST_PATH
    return LinkSpec(topology, bandwidth, latency, dims, bridge or 0.0, host=host, wrap=wrap)


def _network(outer: Reader, section: Record) -> LinkSpec | None:
    """A `network` section."""
    reader = Reader(outer.context, section, NETWORK)
    topology, dims = _topology(reader, NETWORKS, None)
    bandwidth, latency = _bandwidth(reader), reader.number("latency", TIME, "latency = 2 us", zero=True)
    wrap = _wrap(reader, topology)
    outer.ok &= reader.ok
    if not reader.ok or topology is None or bandwidth is None or latency is None:
        return None
    return LinkSpec(topology, bandwidth, latency, dims, wrap=wrap)


def _wrap(reader: Reader, topology: str | None) -> bool:
    """Whether links join the ends of the axes of a torus."""
    wrap = reader.word("wrap", ("on", "off")) != "off"
    if (layer := reader.layer("wrap")) and topology not in (None, "torus"):
        why = f"`wrap` says whether links join the ends of a torus' axes, but the topology is `{topology}`"
        reader.fail(Wrong("E490", why, span_of(layer), hint="`topology = torus(4, 2)`, or leave out `wrap`"))
    return wrap


def _bandwidth(reader: Reader) -> float | None:
    return reader.number("bandwidth", BYTE_RATE, "bandwidth = 64 GB/s")


def _pcie_bandwidth(reader: Reader, pcie: bool) -> float | None:
    """Bytes/s each way of a PCIe port, by its generation and lanes (16 if not given).

    ``pcie``: whether the topology is `pcie`; elsewhere the generation and the lanes are refused in any case.
    """
    generation, lanes = reader.whole("pcie", most=max(LANE_RATES)), reader.whole("lanes", most=max(LANES))
    layer = reader.layer("lanes")
    if layer and not reader.layer("pcie") and pcie:
        hint = f"`pcie = 4, lanes = {lanes or 8}`"
        reader.fail(Wrong("E250", "`lanes` needs `pcie`, the generation of the ports", span_of(layer), hint=hint))
    if lanes is not None and lanes not in LANES and layer:
        reader.fail(Wrong("E250", f"a PCIe port has 1, 2, 4, 8 or 16 lanes, found {lanes}", span_of(layer)))
    if other := reader.layer("bandwidth"):
        said = reader.layer("pcie") or layer
        why, hint = "`pcie` and `lanes` give the bandwidth, which is stated too", "leave out `bandwidth`"
        also = Label(span_of(said), "the same by generation and lanes") if said else None
        reader.fail(Wrong("E250", why, span_of(other), hint=hint, labels=(also,) if also else ()))
    return None if generation is None else LANE_RATES[generation] * (lanes or max(LANES))


def _topology(reader: Reader, topologies: tuple[str, ...], count: int | None) -> tuple[str | None, tuple[int, ...]]:
    """The topology, and the sizes of a torus."""
    dims: tuple[int, ...] = ()
    layer = reader.layer("topology")
    if layer and isinstance(layer.value, s.Call) and layer.value.func.text == "torus":
        return "torus", reader.attempt(lambda: _torus(reader, layer, count)) or ()
    topology = reader.word("topology", topologies)
    if layer is None:
        reader.report_missing("topology", "topology = mesh")
    elif topology == "torus":
        reader.fail(Wrong("E207", "`torus` needs its sizes", span_of(layer), hint="`topology = torus(4, 2)`"))
    return topology, dims


def _torus(reader: Reader, layer: Layer, count: int | None) -> tuple[int, ...]:
    call = layer.value
    assert isinstance(call, s.Call)
    if len(call.args) not in (2, 3) or call.kwargs:
        raise Wrong("E210", "a torus has two or three sizes", call.span, hint="`topology = torus(4, 2)`")
    dims: list[int] = []
    total = 1
    for arg in call.args:
        value = reader.context.evaluator.value(arg, layer.unit)
        dims.append(whole(value, Layer(s.Name("torus", arg.span), arg, layer.unit), 1, limits.MAX_COUNT))
        total *= dims[-1]
    if count is not None and total != count:
        sizes = " x ".join(map(str, dims))
        hint = f"state sizes whose product is {count}, or `count = {total}`"
        raise Wrong("E214", f"torus({sizes}) has {total} places, but the node has {count} GPUs", call.span, hint=hint)
    return tuple(dims)


def cluster_spec(context: Context, record: Record) -> ClusterSpec | None:
    """A cluster: nodes of one kind or of several kinds, and their network."""
    reader = Reader(context, record, CLUSTER)
    groups = _unlike_nodes(reader) if "nodes" in record.fields else _like_nodes(reader)
    count = sum_up(many for many, _ in groups) or None
    node = groups[0][1] if groups else None
    source = reader.source()
    read_paths(reader)
    if "network" not in record.fields and node and node.network:
        network: LinkSpec | None = node.network
    else:
        section = reader.section("network", "network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }")
        network = _network(reader, section) if section else None
    if network and network.dims and count and prod(network.dims) != count:
        sizes = " x ".join(map(str, network.dims))
        why = f"torus({sizes}) has {prod(network.dims)} places, but the cluster has {count} nodes"
        reader.fail(Wrong("E214", why, span_of(reader.record.fields["network"][-1])))
    if node and count and node.count * count > limits.MAX_COUNT:
        why = f"{count:,} nodes of {node.count:,} GPUs are too many"
        hint = limits.MAX_COUNT.hint(f"a cluster has at most {limits.MAX_COUNT:,} GPUs", node.count * count)
        layers = record.fields.get("count") or record.fields["nodes"]
        reader.fail(Wrong("E214", why, span_of(layers[-1]), hint=hint))
    if not reader.ok or node is None or count is None or network is None:
        return None
    nodes = groups if any(other != node for _, other in groups) else ()
    assumed = reader.assumed_fields()
    if "network" not in record.fields and (inner := reader.declaration("node")):
        assumed += tuple(a for a in Reader(context, inner, NODE).assumed_fields() if a[0].startswith("network."))
    return ClusterSpec(record.name, node, count, network, source=source, assumed=assumed, span=record.span, nodes=nodes)


def _like_nodes(reader: Reader) -> tuple[tuple[int, NodeSpec], ...]:
    """`node` and `count` as one group (how many, of which kind)."""
    inner = reader.declaration("node", "node = mi325x_8")
    node = node_spec(reader.context, inner) if inner else None
    count = reader.whole("count", "count = 4", most=limits.MAX_COUNT)
    reader.ok &= node is not None
    return ((count, node),) if node and count else ()


def _unlike_nodes(reader: Reader) -> tuple[tuple[int, NodeSpec], ...]:
    """`nodes` as groups (how many, of which kind), in the order of ranks; all nodes have equally many GPUs."""
    from plandsl.grammar.unlike import members

    found = [(many, reader.context.make(node_spec, record)) for many, record in members(reader, "node")]
    groups = [(many, node) for many, node in found if node]
    if not reader.ok or len(groups) < len(found):
        reader.ok = False
        return ()
    if len({node.count for _, node in groups}) > 1:
        have = ", ".join(dict.fromkeys(f"`{node.name}` {node.count}" for _, node in groups))
        why = f"the nodes of a cluster must have equally many GPUs, found {have}"
        most = max(groups, key=lambda group: group[1].count)[1]
        least = min(node.count for _, node in groups)
        hint = f"use nodes of {least} GPUs: `{most.name} with {{ count = {least} }}`"
        reader.fail(Wrong("E222", why, span_of(reader.record.fields["nodes"][-1]), hint=hint))
    return tuple(groups)
