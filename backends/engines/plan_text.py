"""Servers as the text of a `.plan` file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from plandsl.backends.engines.server import Degrees, Draft, Server
from plandsl.spec.model import ModelSpec
from plandsl.spec.scheduler import SchedulerName

HOST_RATE = "50 GB/s"
"""Bandwidth between a GPU and host memory that an import writes, with a comment: no command line says it."""

DISK_RATE = "6 GB/s"
"""Bandwidth of a disk that an import writes, with a comment."""

ASSUMED_ACCEPTANCE = "70 %"
"""Acceptance of guesses that an import writes, with a comment: no command line says it."""


def write_plan(
    name: str, servers: tuple[Server, ...], engine: SchedulerName, *, model: ModelSpec, declared: str,
    nodes: tuple[str, ...], load: Mapping[str, str], catalog: Callable[[str], str],
) -> str:  # fmt: skip
    """The plan of one server, or of the servers of two pools (prefill first).

    ``declared`` is what the plan says for its model; ``nodes`` the node of each server; ``load`` the fields of the
    workload, empty where no benchmark says them; ``catalog`` gives the catalog's name of a published model.
    """
    served = _served(servers[0], model, declared)
    lines = list(_declarations(servers, engine, model, served))
    lines.append(f"plan {name} {{")
    lines.append(f"  model = {served.name}")
    fields = dict(load) or {"input": "1024", "output": "128", "batch": "8"}
    if servers[0].encodes:
        fields["output"] = "0"
    said = "" if load else "  # no benchmark says the load: yours here"
    lines.append(f"  workload {{ {', '.join(f'{key} = {value}' for key, value in fields.items())} }}{said}")
    if len(servers) == 1:
        lines += [f"  {line}" for line in _fields(servers[0], model, nodes[0], _tag(servers[0], servers), catalog)]
    else:
        for server, node in zip(servers, nodes, strict=True):
            inner = _fields(server, model, node, _tag(server, servers), catalog)
            lines += [f"  {server.role} {{", *(f"    {line}" for line in inner), "  }"]
        lines.append("  transfer { bandwidth = 50 GB/s, latency = 10 us }  # assumed: 400 Gbit/s for each GPU")
    return "\n".join([*lines, "}"]) + "\n"


def _tag(server: Server, servers: tuple[Server, ...]) -> str:
    return f"_{server.role}" if len(servers) > 1 else ""


class _Served(NamedTuple):
    """The model as it is served: its name, and the lines that declare it, none for one that is as it was declared."""

    name: str
    lines: tuple[str, ...] = ()


def _served(first: Server, model: ModelSpec, declared: str) -> _Served:
    given = {"weights": (first.weights, model.weights), "kv_cache": (first.kv_cache, model.kv_cache),
             "activations": (first.activations, model.activations),
             "state_cache": (first.state_cache, model.state_cache or model.activations),
             "max_context": (first.max_context, model.max_context)}  # fmt: skip
    comments: list[str] = []
    changes = [f"{name} = {ours}" for name, (ours, theirs) in given.items() if ours and ours != theirs]
    if first.lora is not None:
        targets = f"[{', '.join(first.lora.targets)}]" if first.lora.targets else "all"
        inner = [f"adapters = {first.lora.adapters}", f"rank = {first.lora.rank}", f"targets = {targets}"]
        if first.lora.host is not None:
            comments.append(
                f"# bandwidths to host memory and disks, {HOST_RATE} and {DISK_RATE}, are assumed; put yours there"
            )
            inner += [f"host_bandwidth = {HOST_RATE}", f"host_adapters = {first.lora.host}",
                      f"disk_bandwidth = {DISK_RATE}"]  # fmt: skip
        changes.append(f"lora {{ {', '.join(inner)} }}")
    if not changes:
        return _Served(declared)
    name = f"{declared}_served"
    return _Served(name, (*comments, f"model {name} = {declared} with {{ {', '.join(changes)} }}\n"))


def _declarations(
    servers: tuple[Server, ...], engine: SchedulerName, model: ModelSpec, served: _Served
) -> Iterator[str]:
    """The model as it is served, and each server's engine and shardings."""
    yield from served.lines
    for server in servers:
        tag = _tag(server, servers)
        fields = {"max_requests": server.max_requests, "kv_block": server.kv_block,
                  "prefix_cache": server.prefix_cache, **dict(server.options)}  # fmt: skip
        set_ = [f"{name} = {_show(value)}" for name, value in fields.items() if value is not None]
        host = server.host_cache
        if host is not None and host.size:
            yield f"# host memory behind the KV cache: its bandwidth, {HOST_RATE}, is assumed; put yours there"
            set_.append(f"kv_tiers = [[{round(host.size / 1e9, 6):.15g} GB, {HOST_RATE}]]")
            set_ += [f"kv_write = {host.write}"] if host.write else []
        yield f"engine own{tag} = {engine}" + (f" with {{ {', '.join(set_)} }}" if set_ else "") + "\n"
        if server.shift is not None:
            d = server.degrees
            yield f"sharding many{tag} {{ {', '.join(_sharding(d, model))} }}"
            yield f"sharding few{tag} {{"
            yield from (f"  {line}" for line in _few(d, model))
            yield "}\n"


def _show(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fields(server: Server, model: ModelSpec, node: str, tag: str, catalog: Callable[[str], str]) -> Iterator[str]:
    yield node
    if server.shift is None:
        lines = _sharding(server.degrees, model)
        if any("->" in line for line in lines):
            yield "sharding {"
            yield from (f"  {line}" for line in lines)
            yield "}"
        else:
            yield f"sharding {{ {', '.join(lines)} }}" if lines else "sharding { tp = 1 }"
    else:
        yield f"shift {{ base = many{tag}, tensor = few{tag}, threshold = {server.shift} }}"
    yield f"engine = own{tag}"
    if server.step_tokens is not None:
        yield f"step_tokens = {server.step_tokens}"
    if server.chunk is not None:
        yield f"chunked_prefill = {server.chunk}"
    if server.memory_fraction is not None:
        yield f"memory_fraction = {round(server.memory_fraction * 100, 9):g} %"
    if server.whole_images:
        yield from _tower(server.degrees)
    if server.draft is not None:
        yield _draft(server.draft, server.degrees, catalog) + "  # the acceptance is assumed: put yours here"


def _tower(d: Degrees) -> Iterator[str]:
    """The sharding of a tower of which each rank encodes whole images."""
    ranks = d.ranks // d.pipeline
    yield f"tower {{ sharding {{ mesh images = {ranks}; batch -> images }} }}"


def _draft(draft: Draft, degrees: Degrees, catalog: Callable[[str], str]) -> str:
    fields = [f"tokens = {draft.tokens}", f"acceptance = {ASSUMED_ACCEPTANCE}"]
    if draft.kind != "ngram":
        fields.insert(0, f"draft = {'mtp' if draft.kind == 'mtp' else catalog(draft.model)}")
    if draft.kind == "model" and draft.tensor != degrees.tensor:
        fields.append(f"sharding {{ tp = {draft.tensor} }}")
    return f"speculate {{ {', '.join(fields)} }}"


# ---- shardings


def _sharding(d: Degrees, model: ModelSpec) -> list[str]:
    """The lines of a sharding: degrees where they say it, else a mesh and rules."""
    lines = _sized(pp=d.pipeline, dp=d.replicas, cp=d.context, sp=d.sequence)
    if not model.routed or (d.attention == d.experts and d.tensor == d.expert_tensor):
        lines = [*_sized(tp=d.tensor, ep=d.attention), *lines]
    else:
        lines += _experts(d, dict(model.sizes))
    if d.layers:
        lines.append(f"cut = [{', '.join(map(str, d.layers))}]")
    return lines


def _sized(**degrees: int) -> list[str]:
    return [f"{name} = {size}" for name, size in degrees.items() if size > 1]


def _experts(d: Degrees, sizes: Mapping[str, int]) -> list[str]:
    """A mesh and rules for experts that lie otherwise than `ep` and `tp` say."""
    axes = _factors(d)
    lines = ["mesh " + ", ".join(f"{name} = {size}" for name, size, _, _ in axes)]
    attention = [name for name, _, heads, _ in axes if not heads]
    heads = [name for name, _, heads, _ in axes if heads]
    experts = [name for name, _, _, whole in axes if whole]
    cuts = [name for name, _, _, whole in axes if not whole]
    if attention:
        lines.append(f"batch -> {', '.join(attention)}")
    if heads:
        dims = [dim for dim in ("heads", "kv_heads", "ffn", "vocab") if dim in sizes]
        lines.append(f"{', '.join(dims)} -> {', '.join(heads)}")
    if experts:
        lines.append(f"experts -> {', '.join(experts)}")
    if cuts:
        lines.append(f"expert_ffn -> {', '.join(cuts)}")
    return lines


def _factors(d: Degrees) -> list[tuple[str, int, bool, bool]]:
    """Axes of the ranks of a stage, major first: name, size, whether heads lie over it, and whether experts do."""
    from math import gcd

    a = gcd(d.attention, d.experts)
    t = d.experts // a if d.tensor % (d.experts // a) == 0 else 1
    parts = [("whole", a, False, True), ("dealt", d.attention // a, False, False),
             ("outer" if d.tensor > t else "heads", t, True, True),
             ("inner", d.tensor // t, True, False)]  # fmt: skip
    return [part for part in parts if part[1] > 1]


def _few(d: Degrees, model: ModelSpec) -> Iterator[str]:
    """The sharding of small steps: heads over the axes of both tensor and sequence."""
    sizes = dict(model.sizes)
    yield f"mesh seq = {d.sequence}" + (f", tensor = {d.tensor}" if d.tensor > 1 else "")
    if d.replicas > 1:
        yield f"dp = {d.replicas}"
    if d.pipeline > 1:
        yield f"pp = {d.pipeline}"
    dims = [dim for dim in ("heads", "kv_heads", "ffn", "expert_ffn", "vocab") if dim in sizes]
    yield f"{', '.join(dims)} -> {'tensor, ' if d.tensor > 1 else ''}seq  # heads alone"
