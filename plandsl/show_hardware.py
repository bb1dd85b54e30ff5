"""GPUs, nodes, clusters and calibrations as `.plan` text; `plandsl.show` writes the rest of a plan."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from plandsl.show_words import Section, declaration, show_list, show_name, show_number
from plandsl.spec.hardware import (
    CalibrationSpec,
    ClusterSpec,
    GpuSpec,
    LinkSpec,
    NodeSpec,
    TableSpec,
    constant_dimension,
)
from plandsl.units import BYTES, NUMBER, TIME


def show_gpu(gpu: GpuSpec, calibration: str = "") -> str:
    """A gpu as text. A gpu made from others becomes an alias of the first, so that tables may name any of them."""
    section = Section(gpu.assumed)
    if calibration:
        section.known.append(("calibration", show_name(calibration, "calibration")))
    section.put("memory", f"{show_number(gpu.memory)} B")
    if gpu.memory_total is not None:
        section.put("memory_total", f"{show_number(gpu.memory_total)} B")
    section.put("bandwidth", f"{show_number(gpu.bandwidth)} B/s")
    if gpu.units is not None:
        section.put("units", str(gpu.units))
    for dtype, peak in gpu.compute:
        section.put(f"compute.{dtype}", f"{show_number(peak)} FLOP/s")
    if gpu.power is not None:
        section.put("power", f"{show_number(gpu.power)} W")
    if not gpu.p2p:
        section.put("p2p", "off")
    if gpu.power_max is not None:
        section.put("power_max", f"{show_number(gpu.power_max)} W")
    if gpu.power_idle is not None:
        section.put("power_idle", f"{show_number(gpu.power_idle)} W")
    _put_prices(section, gpu)
    if gpu.measured:
        section.put("measured", show_paths(gpu.measured))
    *names, first = (gpu.name, *gpu.bases)
    aliases = (
        f"gpu {show_name(alias, 'gpu')} = {show_name(base, 'gpu')}\n" for alias, base in pairwise((*names, first))
    )
    return "".join((declaration("gpu", first, section.lines()), *aliases))


def _put_prices(section: Section, of: GpuSpec | NodeSpec) -> None:
    for name in ("price", "price_reserved"):
        if (price := getattr(of, name)) is not None:
            section.put(name, f"{show_number(price)} USD / 1 s")
    if of.price_source:
        section.put("price_source", f'"{of.price_source}"')


def show_paths(tables: Iterable[TableSpec]) -> str:
    """The value of `measured`: the tables by their paths."""
    return show_list(f'"{table.shown}"' for table in tables)


def show_node(node: NodeSpec) -> str:
    """A node as text, which names its gpu."""
    section = Section(node.assumed)
    if node.gpus:
        section.put("gpus", show_list(f"{count} * {show_name(gpu.name, 'gpu')}" for count, gpu in node.gpus))
    else:
        section.put("gpu", show_name(node.gpu.name, "gpu"))
        section.put("count", str(node.count))
    _put_link(section, "link", node.link)
    if node.link.bridge:
        section.put("link.bridge", f"{show_number(node.link.bridge)} B/s")
    if node.link.topology == "pcie" and all(gpu.p2p for _, gpu in node.groups) != (node.link.host is None):
        section.put("link.p2p", "on" if node.link.host is None else "off")
    if node.network:
        _put_link(section, "network", node.network)
    if node.host_memory is not None:
        section.put("host_memory", f"{show_number(node.host_memory)} B")
    _put_prices(section, node)
    if node.overhead is not None:
        section.put("overhead", f"{show_number(node.overhead)} W")
    if node.pue != 1:
        section.put("pue", show_number(node.pue))
    return declaration("node", node.name, section.lines())


def show_cluster(cluster: ClusterSpec) -> str:
    """A cluster as text, which names its node."""
    section = Section(cluster.assumed)
    if cluster.nodes:
        section.put("nodes", show_list(f"{count} * {show_name(node.name, 'node')}" for count, node in cluster.nodes))
    else:
        section.put("node", show_name(cluster.node.name, "node"))
        section.put("count", str(cluster.count))
    _put_link(section, "network", cluster.network)
    return declaration("cluster", cluster.name, section.lines())


def _put_link(section: Section, name: str, link: LinkSpec) -> None:
    section.put(f"{name}.topology", _topology(link))
    section.put(f"{name}.bandwidth", f"{show_number(link.bandwidth)} B/s")
    section.put(f"{name}.latency", f"{show_number(link.latency)} s")
    if not link.wrap:
        section.put(f"{name}.wrap", "off")


def _topology(link: LinkSpec) -> str:
    return f"{link.topology}({', '.join(map(str, link.dims))})" if link.dims else link.topology


def show_calibration(calibration: CalibrationSpec) -> str:
    """A calibration as text."""
    section = Section(calibration.assumed)
    for name, value in calibration.values:
        unit = {TIME: " s", BYTES: " B"}.get(constant_dimension(name) or NUMBER, "")
        section.put(name, show_number(value) + unit)
    return declaration("calibration", calibration.name, section.lines())
