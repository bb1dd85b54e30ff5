"""Entries of the catalog by name, and a line about each: what they are without a plan that uses them."""

from __future__ import annotations

from functools import cache

from plandsl.grammar.modules import catalog_find
from plandsl.grammar.resolve import Spec, load
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, EngineSpec, GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.units import show_bytes, show_rate, show_time


@cache
def _entry(kind: str, name: str) -> Spec | None:
    """An entry of the catalog, resolved once; None where it has no such entry."""
    return load("", "<catalog>").spec(kind, name)


def catalog_has(kind: str, name: str) -> bool:
    """Whether the catalog has an entry of that kind and name; a "dimension" is one of a model, as in `model.ffn`."""
    if kind == "dimension":
        model, _, dim = name.partition(".")
        spec = _entry("model", model)
        return isinstance(spec, ModelSpec) and dim in dict(spec.sizes)
    return catalog_find(kind, name) is not None


def catalog_gpu(name: str) -> GpuSpec | None:
    """A GPU of the catalog, None where it has no such entry."""
    spec = _entry("gpu", name)
    return spec if isinstance(spec, GpuSpec) else None


def catalog_calibration(name: str) -> CalibrationSpec:
    """A calibration of the catalog."""
    spec = _entry("calibration", name)
    assert isinstance(spec, CalibrationSpec), f"the catalog has the calibration {name}"
    return spec


def catalog_link(gpu: str) -> LinkSpec | None:
    """The links of the catalog's node of eight such GPUs."""
    spec = _entry("node", f"{gpu}_8")
    return spec.link if isinstance(spec, NodeSpec) else None


def catalog_line(kind: str, name: str) -> str:
    """What an entry of the catalog is, in its own figures."""
    from plandsl.backends.cost.answers.counts import kv_bytes_per_token, parameters
    from plandsl.passes.build import build_model

    spec = _entry(kind, name)
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
            each = "pair" if spec.link.topology == "mesh" else "GPU"
            rate = show_rate(spec.link.bandwidth)
            by_host = ", by the memory of the host" if spec.link.host else ""
            return f"{spec.composition}, {spec.link.topology} of {rate} per {each} and direction{by_host}"
        case ClusterSpec():
            rate = show_rate(spec.network.bandwidth)
            return f"{spec.composition}, {spec.network.topology} of {rate} per GPU and direction"
        case CalibrationSpec():
            return spec.source
        case _:
            return ""
