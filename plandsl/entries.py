"""Entries of the catalog by name, and a line about each: what they are without a plan that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from plandsl.grammar.modules import catalog_find
from plandsl.grammar.resolve import Spec, load
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, EngineSpec, GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.units import HOUR, show_bytes, show_money, show_rate, show_time


@cache
def _entry(kind: str, name: str) -> Spec | None:
    """An entry of the catalog, resolved once; None where it has no such entry."""
    return load("", "<catalog>").spec(kind, name)


def catalog_has(kind: str, name: str) -> bool:
    """Whether the catalog has an entry of that kind and name; a "dimension" is one of a model, as in `model.ffn`."""
    if kind == "dimension":
        model, _, dim = name.partition(".")
        spec = catalog_model(model)
        return spec is not None and dim in dict(spec.sizes)
    return catalog_find(kind, name) is not None


def catalog_gpu(name: str) -> GpuSpec | None:
    """A GPU of the catalog, None where it has no such entry."""
    spec = _entry("gpu", name)
    return spec if isinstance(spec, GpuSpec) else None


def catalog_model(name: str) -> ModelSpec | None:
    """A model of the catalog, None where it has no such entry."""
    spec = _entry("model", name)
    return spec if isinstance(spec, ModelSpec) else None


def catalog_node(name: str) -> NodeSpec | None:
    """A node of the catalog, None where it has no such entry."""
    spec = _entry("node", name)
    return spec if isinstance(spec, NodeSpec) else None


def catalog_calibration(name: str) -> CalibrationSpec:
    """A calibration of the catalog."""
    spec = _entry("calibration", name)
    assert isinstance(spec, CalibrationSpec), f"the catalog has the calibration {name}"
    return spec


def catalog_link(gpu: str) -> LinkSpec | None:
    """The links of the catalog's node of eight such GPUs."""
    node = catalog_node(f"{gpu}_8")
    return node.link if node is not None else None


def catalog_line(kind: str, name: str) -> str:
    """What an entry of the catalog is, in its own figures."""
    return spec_line(_entry(kind, name))


def spec_line(spec: object) -> str:
    """What a model, a GPU, a node, a cluster, a calibration or an engine is, in its own figures; empty for others."""
    from plandsl.backends.cost.answers.counts import kv_bytes_per_token, parameters
    from plandsl.passes.build import build_model

    match spec:
        case EngineSpec():
            step = f"{show_time(spec.step)} a step and {show_time(spec.request)} a request"
            return f"{step}; kernels at {spec.prefill:.0%} in prefill, {spec.decode:.0%} in decode"
        case ModelSpec():
            program = build_model(spec, "prefill", spec.activations)
            kv = show_bytes(kv_bytes_per_token(program))
            return f"{parameters(program):,} parameters, {spec.layers} layers, {kv} of {spec.kv_cache} KV per token"
        case GpuSpec():
            peaks = ", ".join(f"{dtype} {show_rate(rate, 'FLOP/s')}" for dtype, rate in spec.compute[:3])
            memory = f"{spec.memory / 2**30:.2f} of {spec.reported_memory / 2**30:.2f} GiB"
            return f"{memory} at {show_rate(spec.bandwidth)}; {peaks}"
        case NodeSpec():
            return spec.composition + "".join(_node_facts(spec))
        case ClusterSpec():
            return f"{spec.composition}, {_show_network(spec.network)}"
        case CalibrationSpec():
            return spec.source
        case _:
            return ""


def _node_facts(node: NodeSpec) -> Iterator[str]:
    """What a line says of a node behind its GPUs: links, network, memory of the host, and the price of the whole."""
    link, rate = node.link, show_rate(node.link.bandwidth)
    if node.count > 1:
        each = {"mesh": "pair", "ring": "neighbour", "torus": "link"}.get(link.topology, "GPU")
        shape = f"({', '.join(map(str, link.dims))}){'' if link.wrap else ' with open ends'}" if link.dims else ""
        yield f", {link.topology}{shape} of {rate} per {each} and direction"
        yield f", bridged pairs {show_rate(link.bridge)}" if link.bridge else ""
        yield ", by the memory of the host" if link.host else ""
    if node.network:
        yield f", network {_show_network(node.network)}"
    if node.host_memory:
        yield f", host {show_bytes(node.host_memory)}"
    if node.price is not None:
        yield f", {show_money(node.price * HOUR)} an hour"


def _show_network(network: LinkSpec) -> str:
    return f"{network.topology} of {show_rate(network.bandwidth)} per GPU and direction"
