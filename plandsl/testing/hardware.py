"""Strategies for GPUs, links, nodes, clusters and calibrations."""

from __future__ import annotations

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.spec.hardware import HOST_PATH, CalibrationSpec, ClusterSpec, GpuSpec, LinkSpec, NodeSpec

TOPOLOGIES = ("mesh", "switch", "pcie", "ring", "torus")
SHARES = ("gemm", "attention_prefill", "attention_decode", "hbm", "link")
NETWORKS = ("fat_tree", "rail", "dragonfly", "switch", "mesh", "ring")
LAUNCHES = ("launch", "launch_elementwise", "launch_collective")


@composite
def gpus(draw: DrawFn) -> GpuSpec:
    """An accelerator that multiplies in bf16 and fp16 at least."""
    base = draw(st.integers(1, 4000)) * 1e12
    peaks = {"bf16": base, "fp16": base}
    for dtype, factor in (("fp8", 2), ("fp4", 4), ("fp32", 0.5)):
        if draw(st.booleans()):
            peaks[dtype] = base * factor
    memory = draw(st.integers(1, 300)) * 1e9
    power = draw(st.none() | st.integers(100, 1500).map(float))
    return GpuSpec(
        name="g",
        memory=memory,
        memory_total=draw(st.sampled_from((None, memory, 1.01 * memory))),
        bandwidth=draw(st.integers(1, 100)) * 1e11,
        compute=tuple(peaks.items()),
        power=power,
        power_max=draw(st.sampled_from((None, 1.25 * power, 2 * power))) if power else None,
        power_idle=draw(st.none() | st.sampled_from((0.05, 0.2)).map(lambda share: share * power)) if power else None,
        price=draw(st.none() | _cents()),
        price_reserved=draw(st.none() | _cents()),
        p2p=draw(st.sampled_from((True, True, False))),
    )


def _cents() -> SearchStrategy[float]:
    """A price in USD/s."""
    return st.integers(0, 900).map(lambda cents: cents / 360_000)


@composite
def links(draw: DrawFn, count: int = 8) -> LinkSpec:
    """The links of a node of ``count`` GPUs, of any topology."""
    topology = draw(st.sampled_from(TOPOLOGIES))
    dims: tuple[int, ...] = ()
    if topology == "torus":
        x = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
        dims = (x, count // x)
    bandwidth, latency = draw(st.integers(1, 900)) * 1e9, draw(st.integers(0, 20)) * 1e-6
    if topology != "pcie":
        wrap = topology != "torus" or draw(st.booleans())
        bridge = draw(st.sampled_from((0.0, 300e9))) if topology in ("ring", "mesh") else 0.0
        return LinkSpec(topology, bandwidth, latency, dims, bridge, wrap=wrap)
    bridge = draw(st.sampled_from((0.0, 0.0, 300e9)))
    return LinkSpec(topology, bandwidth, latency, bridge=bridge, host=draw(st.sampled_from((None, HOST_PATH))))


@composite
def nodes(draw: DrawFn, counts: SearchStrategy[int] | None = None) -> NodeSpec:
    """A node of 1 to 16 GPUs, or of a number drawn from ``counts``; sometimes with two kinds of GPU."""
    count = draw(st.sampled_from((2, 4, 8, 8, 16, 16, 1, 6, 12)) if counts is None else counts)
    overhead, pue = draw(st.none() | st.integers(0, 500).map(float)), draw(st.sampled_from((1.0, 1.25)))
    node = NodeSpec("n", draw(gpus()), count, draw(links(count)), overhead=overhead, pue=pue)
    if count == 1 or draw(st.sampled_from((True, True, False))):
        return node
    first = draw(st.integers(1, count - 1))
    return evolve(node, gpus=((first, node.gpu), (count - first, evolve(draw(gpus()), name="h"))))


@composite
def clusters(draw: DrawFn, node: SearchStrategy[NodeSpec] | None = None) -> ClusterSpec:
    """One to eight equal nodes behind a network; the node is drawn from ``node``."""
    home = draw(nodes(st.sampled_from((1, 2, 4, 8))) if node is None else node)
    return ClusterSpec("c", home, draw(st.sampled_from((2, 4, 8, 3, 1))), draw(networks()))


@composite
def networks(draw: DrawFn) -> LinkSpec:
    """The network between the nodes of a cluster."""
    return LinkSpec(draw(st.sampled_from(NETWORKS)), draw(st.integers(1, 100)) * 1e9, 5e-6)


def first_gpus(node: NodeSpec, count: int) -> NodeSpec:
    """``node`` with its first ``count`` GPUs."""
    groups, left = [], count
    for many, gpu in node.groups:
        groups += [(min(many, left), gpu)] if left else []
        left -= min(many, left)
    return evolve(node, count=count, gpus=tuple(groups) if len(groups) > 1 else ())


@composite
def calibrations(draw: DrawFn) -> CalibrationSpec:
    """Shares of peak and launch times, some of them left out."""
    values: dict[str, float] = {}
    for name in SHARES:
        if draw(st.booleans()):
            values[name] = draw(st.integers(1, 100)) / 100
    for name in LAUNCHES:
        if draw(st.booleans()):
            values[name] = draw(st.integers(0, 20)) * 1e-6
    return CalibrationSpec("c", tuple(values.items()))
